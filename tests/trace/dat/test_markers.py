# SPDX-License-Identifier: GPL-2.0-or-later
"""Markers in a trace.dat are held to the same limits as in text."""

import pytest

from vlapic.trace.dat.markers import read_marker


@pytest.mark.parametrize(
    ("text", "there"),
    [
        (b"vlapic: vm=65535 vcpu=16383 advance_ns=5", True),
        (b"vlapic: vm=65536 vcpu=0 advance_ns=5", False),
        (b"vlapic: vcpu=16384 advance_ns=5", False),
        (b"LAB start khz=1000 offset=0 ratio=5 frac=63 advance=1000", True),
        (b"LAB start khz=1000 offset=0 ratio=-1 frac=-1 advance=1000", True),
        (b"LAB start khz=1000 offset=0 ratio=5 frac=64 advance=1000", False),
    ],
)
def test_a_marker_that_says_what_cannot_be_is_none(text, there):
    assert (read_marker(text) is not None) is there


def test_a_host_without_scaling_has_no_ratio():
    _, said = read_marker(b"LAB start khz=1000 offset=-3 ratio=-1 frac=-1 advance=1000")
    assert (said["tsc_ratio"], said["frac_bits"], said["tsc_offset"]) == (0, 0, (1 << 64) - 3)
