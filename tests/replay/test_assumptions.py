# SPDX-License-Identifier: GPL-2.0-or-later
"""A TSC frequency that is computed is one that a TSC can have."""

import numpy as np
import pytest

from vlapic.replay.assumptions import khz_of_conversion
from vlapic.replay.frequency import fit_line
from vlapic.trace.reader import TscConversion
from vlapic.tsc import U32


def line(cycles_each_ms, points=40):
    return np.arange(points, dtype=np.uint64) * np.uint64(10**6), (
        np.arange(points, dtype=np.uint64) * np.uint64(cycles_each_ms)
    )


@pytest.mark.parametrize("khz", [1, 2_600_000, U32])
def test_a_line_of_a_possible_slope_is_a_frequency(khz):
    assert round(fit_line(*line(khz)).khz) == khz


@pytest.mark.parametrize("khz", [0, U32 + 10_000, 10**12])
def test_a_line_that_no_tsc_can_have_is_none(khz):
    assert fit_line(*line(khz)) is None


def test_a_slope_below_one_khz_is_no_frequency():
    times, tsc = line(1)
    assert fit_line(times * np.uint64(4), tsc) is None


@pytest.mark.parametrize(
    ("mult", "shift", "khz"),
    [
        (1 << 31, 31, 1_000_000),
        (825_804_561, 31, 2_600_474),
        (0, 31, None),
        (-1, 31, None),
        (1, 64, None),
        (1, -1, None),
        (1, 63, None),
        ((1 << 32) - 1, 0, None),
        (1, 12, 4_096_000_000),
        (1, 13, None),
    ],
)
def test_a_conversion_that_no_tsc_can_have_is_none(mult, shift, khz):
    assert khz_of_conversion(TscConversion(mult, shift, 0)) == khz
