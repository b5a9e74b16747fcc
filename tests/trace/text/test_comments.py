# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers in a text trace's header and markers: taken if they can be, else damage at its place."""

import pytest

from tests.support.replay_text import KHZ, line, wait
from vlapic.errors import TraceError
from vlapic.events import AdvanceSample, Lost, VcpuStart, WaitLapicExpire
from vlapic.replay.run import replay
from vlapic.trace import open_trace

NO_NUMBERS = ["+5", "1_0", "\u0665", "-1", "9" * 5000, "0x10", "1e3", "1.5"]


def read(tmp_path, text):
    path = tmp_path / "trace.txt"
    path.write_text(text, encoding="utf-8")
    trace = open_trace(path)
    return trace, list(trace.events())


def damage(trace):
    assert {lost.cause for lost in trace.lost} <= {"damaged"}
    return [(lost.place, lost.events) for lost in trace.lost]


@pytest.mark.parametrize("khz", ["0", str(1 << 32), *NO_NUMBERS])
def test_a_frequency_that_cannot_be_is_not_believed(khz, tmp_path):
    trace, _ = read(tmp_path, f"# tracer: nop\n# virtual_tsc_khz {khz}\n" + wait(5, 800))
    assert trace.facts.tsc_khz is None
    assert damage(trace) == [(2, 1)]
    with pytest.raises(TraceError, match=r"line 2 has virtual_tsc_khz .*, expected 1 to 4294967295"):
        replay(tmp_path / "trace.txt")


def test_a_frequency_that_can_be_is(tmp_path):
    for khz in (1, 2_599_997, (1 << 32) - 1):
        trace, _ = read(tmp_path, f"# virtual_tsc_khz {khz}\n" + wait(5, 800))
        assert (trace.facts.tsc_khz, trace.lost) == (khz, [])
        assert replay(tmp_path / "trace.txt").vcpus[0].tsc_khz == khz


@pytest.mark.parametrize("number", [str(1 << 64), *NO_NUMBERS])
def test_a_sample_of_the_header_that_cannot_be_is_damage(number, tmp_path):
    trace, _ = read(tmp_path, f"# sample 1 1000 x\n# sample {number} 1000 x\n" + wait(5, 800))
    assert [each.interrupts for each in trace.facts.samples] == [1]
    assert damage(trace) == [(2, 1)]
    trace, _ = read(tmp_path, f"# sample 1 {1 << 32} x\n# sample duration : 12.5 ms\n" + wait(5, 800))
    assert (trace.facts.samples, damage(trace)) == ([], [(1, 1)])


@pytest.mark.parametrize("digit", ["\u0665", "\uff15"])
def test_counts_of_other_scripts_digits_are_no_counts(digit, tmp_path):
    said = (
        f"# entries-in-buffer/entries-written: 1/{digit}\n"
        f"# PER_CPU overrun: {digit}; commit overrun: 0; dropped events: 0\n"
    )
    trace, _ = read(tmp_path, said + wait(5, 800))
    assert trace.lost == []


@pytest.mark.parametrize(
    "marker",
    [
        f"LAB start khz={1 << 32} offset=0 ratio=-1 frac=-1 advance=1000",
        "LAB start khz=1000 offset=0 ratio=5 frac=200 advance=1000",
        "LAB start khz=1000 offset=0 ratio=5 frac=0 advance=1000",
        f"LAB sample done=1 advance={1 << 32} offset=0",
        f"vlapic: vcpu={1 << 14} advance_ns=1000",
        f"vlapic: vm={1 << 16} vcpu=0 advance_ns=1000",
        "vlapic: vcpu=+1 advance_ns=1000",
        "vlapic: vcpu=0 start khz=1000 ratio=7 frac=64 offset=0 profile=v6.1 advance=1000",
        f"debugfs pid={1 << 32} vcpu=0 advance_ns=5",
    ],
)
def test_a_marker_that_says_what_cannot_be_is_damage(marker, tmp_path):
    trace, events = read(tmp_path, line(1, f"tracing_mark_write: {marker}") + wait(5, 800))
    assert [type(event) for event in events] == [Lost, WaitLapicExpire]
    assert damage(trace) == [(1, 1)]
    assert trace.passed_over == {}
    assert replay(tmp_path / "trace.txt", tsc_khz=KHZ).vcpus[0].events == 1


def test_other_writers_markers_are_passed_over(tmp_path):
    trace, events = read(tmp_path, line(1, "tracing_mark_write: LAB phase 3") + wait(5, 800))
    assert (trace.lost, len(events), trace.passed_over) == ([], 1, {"tracing_mark_write": 1})


def test_markers_at_the_ends_of_their_ranges_are_read(tmp_path):
    text = (
        line(1, "tracing_mark_write: vlapic: vm=65535 vcpu=16383 advance_ns=4294967295")
        + line(2, "tracing_mark_write: LAB start khz=4294967295 offset=-1 ratio=1 frac=63 advance=0", tid=7)
    )  # fmt: skip
    _, events = read(tmp_path, text)
    assert [type(event) for event in events] == [AdvanceSample, VcpuStart]
    assert (events[0].vm, events[0].vcpu) == (65_535, 16_383)


@pytest.mark.parametrize("vcpu", [1 << 14, (1 << 32) - 1])
def test_a_vcpu_that_no_kernel_can_have_is_damage(vcpu, tmp_path):
    trace, events = read(tmp_path, wait(4, 800, vcpu=vcpu) + wait(5, 800, vcpu=(1 << 14) - 1))
    assert damage(trace) == [(1, 1)]
    assert events[-1].vcpu == (1 << 14) - 1


def test_a_release_of_thousands_of_digits_is_no_known_kernel_and_said_in_short(tmp_path):
    read(tmp_path, f"# kernel {'9' * 5000}.1\n" + wait(5, 800))
    with pytest.raises(TraceError, match="has no profile") as error:
        replay(tmp_path / "trace.txt", tsc_khz=KHZ)
    assert len(str(error.value)) < 300
