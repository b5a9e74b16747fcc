# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of the emulated CPU, on real Unicorn."""
