# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest TSC and a deadline that are so many cycles apart."""


def ahead_of(delta_cycles):
    """Guest TSC and deadline; a negative delta is early."""
    return (delta_cycles, 0) if delta_cycles >= 0 else (0, -delta_cycles)
