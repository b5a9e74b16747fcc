# SPDX-License-Identifier: GPL-2.0-or-later
"""trace-cmd is the reference: what it prints of a file and what is read from it are the same events."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.dat_files import Made
from tests.support.dat_ring import Machine, Ring
from tests.support.limits import run
from vlapic.events import Event, Lost
from vlapic.trace import open_trace
from vlapic.trace.dat import open_dat
from vlapic.trace.reader import Clock

RECORDING = Path(__file__).parent.parent / "data/svm-tscdeadline-latency.dat"

pytestmark = pytest.mark.skipif(
    shutil.which("trace-cmd") is None, reason="trace-cmd is not installed; try `apt install trace-cmd`"
)


def trace_cmd(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return run(["trace-cmd", *map(str, arguments)], capture_output=True, check=True)


def printed_by_trace_cmd(path: Path, tmp_path: Path) -> list[Event]:
    """The events of `trace-cmd report`, by the text reader; raw time stamps, and the kernel's own forms."""
    text = tmp_path / "report.txt"
    text.write_bytes(trace_cmd("report", "-t", "-N", "--raw-ts", path).stdout)
    return [event for event in open_trace(text).events() if not isinstance(event, Lost)]


def of_dat(path: Path) -> list[Event]:
    return [event for event in open_dat(path).events() if not isinstance(event, Lost)]


def test_the_recording_has_the_events_that_trace_cmd_prints(tmp_path: Path) -> None:
    events = of_dat(RECORDING)
    assert len(events) == 30_000
    assert events == printed_by_trace_cmd(RECORDING, tmp_path)


@pytest.mark.parametrize("version", ["6", "7"])
def test_a_converted_recording_has_the_same_events(version: str, tmp_path: Path) -> None:
    other = tmp_path / "other.dat"
    plain = ("--compression", "none") if version == "7" else ()
    trace_cmd("convert", "--file-version", version, *plain, "-i", RECORDING, "-o", other)
    trace = open_dat(other)
    assert trace.form == f"trace.dat {version}"
    assert list(trace.events()) == list(open_dat(RECORDING).events())


@pytest.mark.parametrize("file", ["v6", "none", "zstd"])
@pytest.mark.parametrize("machine", [Machine(order, size) for order in "<>" for size in (4, 8)])
def test_a_made_file_has_the_events_that_trace_cmd_prints(
    machine: Machine, file: str, tmp_path: Path
) -> None:
    path = tmp_path / "made.dat"
    rings = []
    for cpu in range(3):
        ring, time = Ring(machine), 1000 + cpu
        for number in range(200):
            time += (number * 7919 + cpu) % 5000 << (number % 17)
            reason = 1 << 31 | 52 if number % 50 == 9 else 12
            tid, at = 1000 + cpu, {"absolute": number % 13 == 1, "long": number % 11 == 2}
            ring.add(
                time,
                machine.payload("kvm_exit", tid, vcpu_id=cpu, exit_reason=reason, isa=1, info1=number),
                **at,
            )
            if number % 10 == 5:
                ring.discard(16)
                time += 1
            ring.add(time, machine.payload("kvm_msr", tid, write=1, ecx=0x6E0, data=number << 40), **at)
            if number in (50, 120):
                ring.miss(number)
            ring.add(time + 9, machine.payload("kvm_entry", tid, vcpu_id=cpu, rip=number), **at)
            ring.add(time + 30, machine.payload("kvm_wait_lapic_expire", tid, vcpu_id=cpu, delta=number - 99))
        rings.append(b"".join(ring.finish()))
    made = Made({"": rings}, machine)
    path.write_bytes(made.v6() if file == "v6" else made.v7(file))
    events = of_dat(path)
    assert len(events) == 2400
    assert events == printed_by_trace_cmd(path, tmp_path)
    trace = open_dat(path)
    assert trace.clock is Clock.TSC
    assert sum(1 for event in trace.events() if isinstance(event, Lost)) == 6
    report = trace_cmd("report", path).stdout
    assert report.count(b"EVENTS DROPPED") == 6
