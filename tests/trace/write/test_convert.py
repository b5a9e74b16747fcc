# SPDX-License-Identifier: GPL-2.0-or-later
"""A trace written as another file holds the same events."""

import csv

import pytest

from tests.support.dat_files import Made
from tests.support.dat_ring import Machine, Ring
from tests.support.recordings import opened, path_of
from tests.trace.test_round_trip import carried
from vlapic.events import Lost
from vlapic.trace import Clock, open_trace
from vlapic.trace.tracefs import trace_kernel
from vlapic.trace.write.convert import convert


def of_trace(path):
    """Events, without VMs' numbers, which a text's own markers may tell otherwise, and losses' places."""
    return [
        event._replace(place=0) if type(event) is Lost else event._replace(vm=0)
        for event in open_trace(path).events()
    ]


@pytest.mark.parametrize("name", ["vmx-bochs27-settsc-adaptive", "svm-shift0-secondvm-adaptive"])
@pytest.mark.parametrize("kernel", ["v5.2", "v6.1", "v6.19"])
def test_a_recording_as_a_kernels_text_is_what_that_kernel_prints_of_it(name, kernel, tmp_path):
    path = tmp_path / "out.txt"
    done = convert(path_of(name), path, kernel=kernel)
    events = of_trace(path_of(name))
    assert of_trace(path) == [carried(event, trace_kernel(kernel)) for event in events]
    assert (done.events, done.left_out) == (len(events), 0)
    before, after = open_trace(path_of(name)), open_trace(path)
    assert (after.clock, after.facts.samples) == (Clock.TSC, before.facts.samples)
    assert (after.facts.kernel, after.facts.tsc_khz) == (before.facts.kernel, before.facts.tsc_khz)


def dat(clock):
    """A trace.dat of this clock with a loss in it."""
    machine = Machine()
    ring = Ring(machine)
    for number in range(50):
        ring.add(14_919_135_813_304 + number * 977, machine.payload("kvm_entry", 1000, vcpu_id=0, rip=number))
        if number == 20:
            ring.miss(9)
    return Made({"": [b"".join(ring.finish())]}, machine, clock=clock).v7()


@pytest.mark.parametrize(
    ("clock", "kind"),
    [
        *(("local", Clock.NS), ("mono_raw", Clock.NS), ("x86-tsc", Clock.TSC)),
        *(("counter", Clock.UNKNOWN), ("uptime", Clock.UNKNOWN)),
    ],
)
@pytest.mark.parametrize("turns", [1, 2])
def test_times_of_every_clock_stay_what_they_are(clock, kind, turns, tmp_path):
    trace = tmp_path / "0.dat"
    trace.write_bytes(dat(clock))
    events = of_trace(trace)
    assert open_trace(trace).clock is kind
    for turn in range(turns):
        convert(trace, trace := tmp_path / f"{turn + 1}.txt", kernel="v6.1")
    assert of_trace(trace) == events
    assert (open_trace(trace).clock, open_trace(trace).facts.trace_clock) == (kind, clock)
    assert any(type(event) is Lost for event in events)


def test_what_was_lost_goes_over_with_its_cause(tmp_path):
    line = " x-10 [000] d..1. {}: kvm_entry: vcpu 0, rip 0x1\n"
    text = "# entries-in-buffer/entries-written: 2/5   #P:1\n" + line.format(5) + "rubbish\n" + line.format(7)
    before = list(opened(tmp_path, text).events())
    assert [event.cause for event in before if type(event) is Lost] == ["overrun", "damaged"]
    convert(tmp_path / "trace.txt", tmp_path / "out.txt", kernel="v6.1")
    assert of_trace(tmp_path / "out.txt") == of_trace(tmp_path / "trace.txt")


def test_columns_hold_each_event_with_its_thread_and_null_where_it_has_no_such_field(tmp_path):
    name = "vmx-bochs27-settsc-adaptive"
    done = convert(path_of(name), tmp_path / "out.csv")
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    trace = open_trace(path_of(name))
    events = list(trace.events())
    assert len(rows) == done.events == len(events)
    tids = [str(tid) for batch in trace.batches() for tid in batch.tids.tolist()]
    for row, event, tid in zip(rows, events, tids, strict=True):
        assert (row["event"], row["timestamp"], row["tid"]) == (
            type(event).__name__,
            str(event.host_tsc),
            tid,
        )
        for field in set(row) - {"timestamp", "event", "cpu", "tid", "vm", "vcpu"}:
            value = getattr(event, field, None)
            text = str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
            assert row[field] == text


def test_a_loss_of_no_cpu_has_nothing_in_that_column(tmp_path):
    line = "       CPU 0/KVM 1821753 4831258.258053:  kvm:kvm_entry: vcpu 0, rip 0xfff0\n"
    (tmp_path / "perf.txt").write_text(f"{line}\0{line}{line}")
    convert(tmp_path / "perf.txt", tmp_path / "out.csv")
    rows = [row.split(",")[1:3] for row in (tmp_path / "out.csv").read_text().splitlines()[1:]]
    assert rows == [["Entry", ""], ["Lost", ""], ["Entry", ""]]
