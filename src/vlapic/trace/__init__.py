"""Trace formats: one format, one file, events on the other side."""
