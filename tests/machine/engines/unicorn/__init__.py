"""Tests of the emulated CPU, on real Unicorn."""
