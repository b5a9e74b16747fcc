# SPDX-License-Identifier: GPL-2.0-or-later
"""Thousands of vCPUs: a replay's work and memory grow with them, and each takes some kB."""

import sys
import tracemalloc

import numpy as np

from tests.support.replay_text import HEADER, KHZ, line
from vlapic.analysis.regime import HISTORY_CELLS, AdvanceHistory
from vlapic.replay.run import replay
from vlapic.replay.vcpu_index import VcpuEvents

#: Events of each vCPU.
EACH = 3


def trace_of(tmp_path, vcpus):
    """VMs of four, each vCPU with some deltas, writes and interrupts accepted."""
    path = tmp_path / f"{vcpus}.txt"
    with path.open("w") as file:
        file.write(HEADER)
        for at in range(EACH * vcpus):
            vm, number = divmod(at % vcpus, 4)
            who = {"tid": 1000 + 9 * vm + number, "task": f"CPU {number}/KVM"}
            time = 1000 * at
            file.write(line(time, f"kvm_msr: msr_write 6e0 = {time:#x}", **who))
            file.write(line(time + 1, "kvm_apic_accept_irq: apicid 0 vec 236 (Fixed|edge)", **who))
            said = f"kvm_wait_lapic_expire: vcpu {number}: delta 800 (late)"
            file.write(line(time + 2, said, **who))
    return path


def test_each_vcpu_takes_some_kilobytes(tmp_path):
    peaks = []
    for vcpus in (40, 500, 1500):
        trace = trace_of(tmp_path, vcpus)
        tracemalloc.start()
        result = replay(trace, tsc_khz=KHZ, compiled=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(result.vcpus) == vcpus
        assert {vcpu.events for vcpu in result.vcpus} == {EACH}
    assert (peaks[2] - peaks[1]) / 1000 < 32 * 1024


def test_work_grows_with_the_vcpus_and_not_with_their_pairs(tmp_path, monkeypatch):
    looked_at = 0
    of = VcpuEvents.of

    def counting(self, event_type, number):
        nonlocal looked_at
        found = of(self, event_type, number)
        looked_at += 1 + len(found[1])
        return found

    monkeypatch.setattr(VcpuEvents, "of", counting)

    def calls_of(vcpus):
        nonlocal looked_at
        trace = trace_of(tmp_path, vcpus)
        calls = looked_at = 0

        def count(frame, event, argument):
            nonlocal calls
            calls += event == "call"

        sys.setprofile(count)
        try:
            replay(trace, tsc_khz=KHZ, compiled=False)
        finally:
            sys.setprofile(None)
        return calls, looked_at

    calls_of(8)  # what is made once
    (few_calls, few_rows), (many_calls, many_rows) = calls_of(200), calls_of(800)
    assert many_calls < 4.4 * few_calls
    assert many_rows == 4 * few_rows


def test_a_history_has_room_for_what_it_holds():
    history = AdvanceHistory(1000)
    size = 0
    for events in (1, 100, 10 * HISTORY_CELLS):
        more = events - history.events
        values = list(range(1000, 1000 + more))
        history.add(np.array(values, np.int64), np.zeros(more, np.int64))
        size = sum(getattr(history, name).nbytes for name in ("_first", "_low", "_high", "_last", "_delta"))
        assert size <= max(5 * 8 * 32, 5 * 8 * 2 * min(events, HISTORY_CELLS))
    assert history.final_ns == values[-1]
    assert size == 5 * 8 * HISTORY_CELLS
