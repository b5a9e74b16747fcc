# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole files: the same events from every version, compression, byte order and size of long; in one order."""

from __future__ import annotations

import gzip
import itertools
import lzma
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.dat_files import Made
from tests.support.dat_ring import Machine, Ring
from vlapic.cli import main
from vlapic.errors import TraceError
from vlapic.events import (
    NO_VCPU,
    Entry,
    Event,
    Exit,
    HrtimerExpire,
    Lost,
    Msr,
    Sample,
    SchedSwitch,
    VcpuStart,
    WaitLapicExpire,
)
from vlapic.replay import replay
from vlapic.trace import open_trace
from vlapic.trace.dat import merge, open_dat
from vlapic.trace.dat.reader import DatReader
from vlapic.trace.reader import Clock, TscConversion
from vlapic.trace.source import Origin
from vlapic.trace.write.convert import convert

DATA = Path(__file__).parent.parent / "data"
MACHINES = [Machine(order, size) for order in "<>" for size in (4, 8)]
FILES = ("v6", "none", "zlib", "zstd")


def write(made: Made, file: str) -> bytes:
    return made.v6() if file == "v6" else made.v7(file)


def read(data: bytes) -> DatReader:
    return DatReader("x.dat", memoryview(data))


def one_of_each(machine: Machine) -> bytes:
    """Pages with an event of each kind that a made file has."""
    ring = Ring(machine)
    mask = (1 << 8 * machine.long_size) - 1
    events: list[tuple[str, int, dict[str, int | bytes]]] = [
        ("kvm_entry", 1000, {"vcpu_id": 0, "rip": 0x1234, "immediate_exit": 1}),
        ("kvm_wait_lapic_expire", 1000, {"vcpu_id": 0, "delta": -768}),
        ("kvm_exit", 1000, {"exit_reason": 52, "isa": 1, "guest_rip": 7, "info1": 1 << 63, "error_code": 9}),
        ("kvm_exit", 1000, {"exit_reason": 0x60, "isa": 2}),
        ("kvm_exit", 1000, {"exit_reason": 0xFFFF_FFFF, "isa": 2}),
        ("kvm_exit", 1000, {"exit_reason": 1 << 31 | 77, "isa": 1}),
        ("kvm_msr", 1000, {"write": 1, "ecx": 0x6E0, "data": (1 << 64) - 5, "exception": 1}),
        ("hrtimer_expire_entry", 7, {"hrtimer": 5, "now": -3, "function": 0xFFFFFFFF81234560 & mask}),
        (
            "sched_switch",
            1000,
            {
                "prev_comm": b"CPU 0/KVM",
                "prev_pid": 1000,
                "prev_prio": 120,
                "prev_state": 0x101,
                "next_comm": b"a b",
                "next_pid": 7,
                "next_prio": -2,
            },
        ),
        ("kvm_fpu", 1000, {"load": 1}),
        ("print", 1000, {"buf": b"LAB sample done=5 advance=1234 offset=-10\n\0"}),
        (
            "print",
            9,
            {"buf": b"vlapic: vm=3 vcpu=2 start khz=1 ratio=2 frac=48 offset=-1 profile=v5.2 advance=0\n"},
        ),
        ("print", 9, {"buf": b"somebody's own words\n\0"}),
    ]
    for number, (name, tid, values) in enumerate(events):
        ring.add(1000 + number, machine.payload(name, tid, **values))
    return b"".join(ring.finish())


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("file", FILES)
def test_events_are_decoded_by_the_formats_that_the_file_carries(machine: Machine, file: str) -> None:
    trace = read(write(Made({"": [one_of_each(machine)]}, machine), file))
    function = "apic_timer_fn" if machine.long_size == 8 else "0x81234560"
    # A marker says that it is of VM 3; the thread that KVM traces is of another one, the next.
    vm = 4
    assert list(trace.events()) == [
        Entry(1000, vm, 0, 0x1234, True, 0, 0),
        WaitLapicExpire(1001, vm, 0, -768),
        Exit(1002, vm, 0, "PREEMPTION_TIMER", 7, 1 << 63, 0, 0, 9),
        Exit(1003, vm, 0, "interrupt", 0, 0, 0, 0, 0),
        Exit(1004, vm, 0, "invalid", 0, 0, 0, 0, 0),
        Exit(1005, vm, 0, "0x4d FAILED_VMENTRY", 0, 0, 0, 0, 0),
        Msr(1006, vm, 0, True, 0x6E0, (1 << 64) - 5, True),
        HrtimerExpire(1007, NO_VCPU, NO_VCPU, 5, function, -3),
        SchedSwitch(1008, vm, 0, "CPU 0/KVM", 1000, 120, "S+", "a b", 7, -2),
        Sample(1010, vm, 0, 5, 1234, (1 << 64) - 10),
        VcpuStart(1011, 3, 2, 1, 2, 48, (1 << 64) - 1, "v5.2", 0),
    ]
    assert trace.passed_over == {"kvm_fpu": 1, "tracing_mark_write": 1}
    assert trace.lost == []
    assert trace.clock is Clock.TSC
    assert trace.threads[1000].comm == "CPU 0/KVM"
    assert trace.threads[1000].vm_inferred
    assert (trace.threads[9].vm, trace.threads[9].vcpu) == (3, 2)
    assert list(trace.events()) == list(trace), "it can be read again"


moments = st.lists(st.integers(0, 1 << 16), min_size=0, max_size=120).map(sorted)


@settings(deadline=None)
@given(st.lists(moments, min_size=1, max_size=4), st.sampled_from(FILES), st.integers(9, 20))
def test_cpus_are_merged_by_time_and_equal_times_by_cpu(
    times: list[list[int]], file: str, stretch_bits: int
) -> None:
    machine = Machine(page_size=512)
    rings = []
    for cpu, moments_of_cpu in enumerate(times):
        ring = Ring(machine)
        for number, time in enumerate(moments_of_cpu):
            ring.add(time, machine.payload("kvm_entry", 1000 + cpu, vcpu_id=cpu, rip=number))
        rings.append(b"".join(ring.finish()))
    wanted = sorted((time, cpu, n) for cpu, of in enumerate(times) for n, time in enumerate(of))
    size = merge.STRETCH_BYTES
    merge.STRETCH_BYTES = 1 << stretch_bits
    try:
        trace = read(write(Made({"": rings}, machine), file))
        found = [(event.host_tsc, event.vcpu, event.rip) for event in trace.events()]  # type: ignore[union-attr]
    finally:
        merge.STRETCH_BYTES = size
    assert found == wanted
    assert trace.facts.disordered == 0
    assert trace.lost == []


@pytest.mark.parametrize("file", FILES)
def test_instances_are_read_with_the_top_buffer(file: str) -> None:
    machine = Machine()
    rings = {}
    for index, name in enumerate(("", "first", "second")):
        ring = Ring(machine)
        for time in range(3):
            ring.add(10 * time + index, machine.payload("kvm_entry", 1000, rip=index))
        rings[name] = [b"".join(ring.finish())]
    trace = read(write(Made(rings, machine), file))
    assert [event.rip for event in trace.columns(Entry)] == [0, 1, 2] * 3
    assert [buffer.name for buffer in trace.container.buffers] == ["", "first", "second"]


@pytest.mark.parametrize("page_size", [8192, 16384, 65536])
@pytest.mark.parametrize("file", FILES)
def test_large_sub_buffers_are_read(file: str, page_size: int) -> None:
    machine = Machine(page_size=page_size)
    ring = Ring(machine)
    for time in range(5000):
        ring.add(time, machine.payload("kvm_entry", 1000, rip=time))
    trace = read(write(Made({"": [b"".join(ring.finish())]}, machine), file))
    assert np.array_equal(trace.columns(Entry)["rip"], np.arange(5000))


def test_a_buffer_with_pages_of_its_own_size_is_read_beside_the_others() -> None:
    pages = {}
    for name, size in (("", 4096), ("large", 16384)):
        machine = Machine(page_size=size)
        ring = Ring(machine)
        for time in range(600):
            ring.add(time, machine.payload("kvm_entry", 1000, rip=size))
        pages[name] = [b"".join(ring.finish())]
    trace = read(Made(pages).v7(page_sizes={"large": 16384}))
    assert [event.rip for event in trace.columns(Entry)] == [4096, 16384] * 600


@pytest.mark.parametrize("file", FILES)
def test_what_the_kernel_lost_is_an_event_at_its_place(file: str) -> None:
    machine = Machine()
    ring = Ring(machine)
    ring.miss(4)
    for time in (10, 20, 30, 40):
        ring.add(time, machine.payload("kvm_entry", 1000, rip=time))
        if time < 30:
            ring.miss(99 if time == 10 else 0)
    other = Ring(machine)
    for time in (5, 15, 25, 35):
        other.add(time, machine.payload("kvm_entry", 1001, vcpu_id=1, rip=time))
    trace = read(write(Made({"": [b"".join(ring.finish()), b"".join(other.finish())]}, machine), file))
    told: list[Event] = list(trace.events())
    lost = [Lost(time, NO_VCPU, NO_VCPU, 0, n, "overrun", 0) for time, n in ((0, 4), (10, 99), (20, 0))]
    assert [event for event in told if isinstance(event, Lost)] == lost == trace.lost
    assert [event.host_tsc for event in told] == [0, 5, 10, 10, 15, 20, 20, 25, 30, 35, 40]
    assert told[3] == lost[1]
    assert told[6] == lost[2]


def test_a_clock_in_ns_takes_what_date_and_offset_add() -> None:
    machine = Machine()
    ring = Ring(machine)
    ring.add(1000, machine.payload("kvm_entry", 1000))
    options = [(1, b"0x10\0"), (7, b"-3\0")]
    for clock, wanted in (("local", 1000 + 16_000 - 3), ("x86-tsc", 1000)):
        made = Made({"": [b"".join(ring.finish())]}, machine, clock=clock, options=options)
        for file in FILES:
            trace = read(write(made, file))
            assert trace.clock is (Clock.NS if clock == "local" else Clock.TSC)
            assert [event.host_tsc for event in trace.events()] == [wanted]


@pytest.mark.parametrize("file", FILES)
def test_a_guests_file_keeps_its_times_and_replay_asks_for_the_hosts(file: str, tmp_path: Path) -> None:
    machine = Machine()
    ring = Ring(machine)
    ring.add(7000, machine.payload("hrtimer_expire_entry", 1000, hrtimer=1, function=2, now=3))
    shift = machine.pack("QIIIQQQ", 0x1234, 0, 1, 1, 7000, 5, 1)
    made = Made({"": [b"".join(ring.finish())]}, machine, options=[(12, shift)])
    trace = read(write(made, file))
    assert [event.host_tsc for event in trace.events()] == [7000]
    assert trace.facts.of_guest
    path = tmp_path / "guest.dat"
    path.write_bytes(write(made, file))
    with pytest.raises(TraceError, match=r"was recorded inside a guest .* Give the host's trace of that"):
        replay(path)


@pytest.mark.parametrize("file", FILES)
def test_options_tell_the_kernel_the_conversion_and_a_guests_threads(file: str) -> None:
    machine = Machine()
    ring = Ring(machine)
    ring.add(1, machine.payload("kvm_entry", 1001, vcpu_id=5))
    options = [
        (5, b"Linux host 6.1.0-56-amd64 x86_64\0"),
        (14, machine.pack("IIQ", 1 << 20, 21, 77)),
        (13, b"guest\0" + machine.pack("QI", 9, 2) + machine.pack("IIII", 0, 1000, 1, 1001)),
        (99, b"of a later trace-cmd"),
    ]
    trace = read(write(Made({"": [b"".join(ring.finish())]}, machine, options=options), file))
    assert trace.columns(Entry).rows["vm"].tolist() == [0]
    assert trace.facts.kernel == "6.1.0-56-amd64"
    assert trace.facts.conversion == TscConversion(1 << 20, 21, 77)
    assert (trace.threads[1001].vm, trace.threads[1001].vcpu, trace.threads[1001].vm_inferred) == (
        0,
        1,
        False,
    )


def test_a_kernel_without_a_field_gives_zero_and_one_with_another_name_is_known() -> None:
    machine = Machine()
    old = machine.format_text("kvm_msr").replace("kvm_msr", "kvm_inj_virq").replace("write", "irq")
    ring = Ring(machine)
    ring.add(1, machine.payload("kvm_msr", 1000, write=236))
    trace = read(Made({"": [b"".join(ring.finish())]}, machine, formats=[("kvm", old)]).v6())
    [event] = trace.events()
    assert event[3:] == (236, False, False)


@pytest.mark.parametrize("machine", [Machine("<"), Machine(">")])
def test_a_name_ends_at_its_nul_whatever_stands_behind_it(machine: Machine, tmp_path: Path) -> None:
    ring = Ring(machine)
    names = [b"sh\0o\0)\0\0" + b"0", b"fifteen letters", b"", b"\0rest", "kö".encode() + b"\0x"]
    for time, name in enumerate(names):
        ring.add(time, machine.payload("sched_switch", 7, prev_comm=name, next_comm=b"n\0" + name[:14]))
    cmdlines = "1000 CPU 0/KVM\n7 rcu\0_preempt\n"
    data = Made({"": [b"".join(ring.finish())]}, machine, cmdlines=cmdlines).v6()
    trace = read(data)
    events = trace.columns(SchedSwitch)
    assert [event.previous_comm for event in events] == ["sh", "fifteen letters", "", "", "kö"]
    assert {event.next_comm for event in events} == {"n"}
    assert trace.threads[7].comm == "rcu"
    (tmp_path / "trace.dat").write_bytes(data)
    for form in ("csv", "txt"):
        convert(tmp_path / "trace.dat", tmp_path / f"out.{form}")
        assert b"\0" not in (tmp_path / f"out.{form}").read_bytes()


@pytest.mark.parametrize("file", FILES)
def test_an_option_ends_at_its_nul(file: str) -> None:
    machine = Machine()
    ring = Ring(machine)
    ring.add(1, machine.payload("kvm_entry", 1001))
    options = [(5, b"Linux host 6.1.0\0left over")]
    made = Made({"": [b"".join(ring.finish())]}, machine, options=options)
    assert read(write(made, file)).container.uname == "Linux host 6.1.0"


def test_a_record_shorter_than_its_event_is_told_as_lost() -> None:
    machine = Machine()
    ring = Ring(machine)
    ring.add(1, machine.payload("kvm_entry", 1000)[:12])
    ring.add(2, machine.payload("kvm_entry", 1000, rip=3))
    ring.add(3, b"")
    trace = read(Made({"": [b"".join(ring.finish())]}, machine).v6())
    assert [type(event) for event in trace.events()] == [Lost, Entry, Lost]
    assert {(lost.cause, lost.events) for lost in trace.lost} == {("damaged", 1)}


def test_the_recording_is_whole_and_its_deltas_are_there() -> None:
    trace = open_dat(DATA / "svm-tscdeadline-latency.dat")
    tables = trace.read()
    assert sum(map(len, tables.values())) == 30_000
    assert len(tables[WaitLapicExpire]) == 1969
    assert {event.reason for event in itertools.islice(tables[Exit], 100)} >= {"npf", "io"}
    assert trace.form == "trace.dat 7"
    assert not trace.lost


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(TraceError, match=r"zstandard; pip install zstandard"):
        open_dat(DATA / "svm-tscdeadline-latency.dat")


def test_a_file_that_is_not_there_or_empty_is_told(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="No such file"):
        open_dat(tmp_path / "nothing.dat")
    (tmp_path / "empty.dat").touch()
    with pytest.raises(TraceError, match=r"ends \(after 0 bytes\)"):
        open_dat(tmp_path / "empty.dat")


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zstandard.compress])
def test_a_file_compressed_as_a_whole_is_opened_by_what_is_in_it(
    pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    plain = DATA / "svm-tscdeadline-latency.dat"
    packed = tmp_path / "trace.packed"
    packed.write_bytes(pack(plain.read_bytes()))
    trace = open_trace(packed)
    assert trace.form == "trace.dat 7"
    assert len(trace.columns(Entry)) == len(open_trace(plain).columns(Entry)) == 8079
    assert trace.lost == []


def test_a_compressed_file_that_ends_too_early_is_told(tmp_path: Path) -> None:
    packed = tmp_path / "trace.dat.gz"
    packed.write_bytes(gzip.compress((DATA / "svm-tscdeadline-latency.dat").read_bytes())[:-9])
    trace = open_trace(packed)
    assert len(trace.columns(Entry)) > 7000
    assert "unfinished" in {lost.cause for lost in trace.lost}


# What was written to /dev/full cannot be flushed when it is closed either.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("size", [1000, 3_000_000])
def test_a_temporary_folder_without_room_is_named(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = tmp_path / "trace.dat.gz"
    packed.write_bytes(gzip.compress(b"\x17\x08\x44tracing6\0" + bytes(size)))
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **how: open("/dev/full", "wb", **how))  # noqa: SIM115
    assert main(["replay", str(packed)]) == 1
    said = capsys.readouterr().err
    where = f"in {tempfile.gettempdir()!r}: No space left on device; set TMPDIR"
    assert said.startswith(f"vlapic: cannot unpack the trace {str(packed)!r} {where}")
    pipe = subprocess.Popen(["cat", packed], stdout=subprocess.PIPE)
    assert pipe.stdout is not None
    with pytest.raises(TraceError, match=rf"cannot keep what comes through .* {where}"):
        Origin(f"/dev/fd/{pipe.stdout.fileno()}")
    pipe.communicate()
