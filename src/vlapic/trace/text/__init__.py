# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces as text: what tracefs, `trace-cmd report` and `perf script` print, read many lines at a time."""
