"""Replay: the deltas that a kernel recorded through a kernel's rules, and what came of its advancement."""
