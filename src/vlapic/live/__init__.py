"""Hosts as they are: how to record one. Knows no machine of ours."""
