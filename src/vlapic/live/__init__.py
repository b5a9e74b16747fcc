# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts as they are: how to record one. Knows no machine of ours."""
