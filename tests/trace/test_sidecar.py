# SPDX-License-Identifier: GPL-2.0-or-later
"""What a sidecar may say; a number that cannot be is named, in one line."""

import pytest

from tests.support.replay_text import KHZ, wait
from vlapic.errors import TraceError
from vlapic.replay.run import replay
from vlapic.trace.sidecar import sidecar_of


def beside(tmp_path, text):
    (tmp_path / "trace.toml").write_text(text)
    trace = tmp_path / "trace.txt"
    trace.write_text(wait(5, 800))
    return str(trace)


def test_numbers_at_the_ends_of_their_ranges_are_taken(tmp_path):
    said = sidecar_of(beside(tmp_path, f"tsc_khz = {(1 << 32) - 1}\ntsc_ratio = 1\nfrac_bits = 63\n"))
    assert (said.tsc_khz, said.tsc_ratio, said.frac_bits) == ((1 << 32) - 1, 1, 63)


@pytest.mark.parametrize(
    "line",
    [
        "tsc_khz = 0",
        "tsc_khz = -1",
        f"tsc_khz = {1 << 32}",
        "tsc_khz = true",
        "tsc_khz = 2.5e6",
        "tsc_khz = nan",
        "tsc_khz = '2500000'",
        "frac_bits = 64",
        "tsc_ratio = 0",
        "tsc_khz = " + "9" * 4000,
        "tsc_khz = " + "9" * 5000,
        "tsc_khz = 0x" + "f" * 5000,
        "x = " + "[" * 3000,
        "x = " + "[" * 3000 + "]" * 3000,
        "kernel = 6.1",
        "parameters = 1",
    ],
)
def test_what_cannot_be_is_refused_in_one_line(line, tmp_path):
    with pytest.raises(TraceError, match="the sidecar") as error:
        sidecar_of(beside(tmp_path, line))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 350


@pytest.mark.parametrize("value", ["0x" + "f" * 5000, "[1]", "1.5", "-2", "'1_0'", "'+5'", str(1 << 32)])
def test_a_parameter_that_cannot_be_is_refused(value, tmp_path):
    trace = beside(tmp_path, f"[parameters]\nlapic_timer_advance_ns = {value}")
    with pytest.raises(
        TraceError, match=r"the sidecar .*(lapic_timer_advance_ns = |more than 40 digits)"
    ) as error:
        replay(trace, tsc_khz=KHZ)
    assert len(str(error.value)) < 350


def test_a_parameter_that_its_kernel_cannot_have_had_is_the_files_fault(tmp_path):
    trace = beside(tmp_path, 'kernel = "6.12.9"\n[parameters]\nlapic_timer_advance_ns = 1500')
    with pytest.raises(TraceError, match=r"the sidecar has it, but profile v6.12 takes auto or 0"):
        replay(trace, tsc_khz=KHZ)
