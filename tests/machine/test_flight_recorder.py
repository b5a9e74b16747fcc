# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of a vCPU at all times is what a trace of it ends with."""

import pytest

import vlapic
from tests.support.guest_runs import GUESTS, GuestRun
from vlapic.events import Exit, InjectVirq
from vlapic.machine.flight_recorder import KEPT, LastEvent, Ring, last_events
from vlapic.machine.guests.programs import PROGRAMS
from vlapic.machine.vcpu import Vcpu


@pytest.mark.parametrize("apicv", [False, True])
@pytest.mark.parametrize("guest", ["deadline", "deadline-hlt", "storm", "ipi", "interrupt", "checks/nmi"])
def test_the_exits_kept_are_the_last_of_the_trace(guest, apicv):
    vcpus = PROGRAMS[guest].vcpus if guest in PROGRAMS else 1
    run = GuestRun(guest, events=True, vcpus=vcpus, apicv=apicv, delta=20_000)
    for vcpu in run.vcpus:
        exits = [event for event in run.events if isinstance(event, Exit) and event.vcpu == vcpu.index]
        told = [(event.host_tsc, event.reason, event.rip) for event in exits]
        kept = [each for each in vcpu.last if each[1] in {event.reason for event in exits}]
        assert kept == told[-len(kept) :]
        assert len(vcpu.last) == KEPT


def test_an_interrupt_is_kept_between_the_exits_around_it(monkeypatch):
    monkeypatch.setattr("vlapic.machine.flight_recorder.KEPT", 1000)
    run = GuestRun("deadline", interrupts=5, events=True)
    names = {Exit: lambda event: event.reason, InjectVirq: lambda event: f"interrupt {event.vector}"}
    told = [names[type(event)](event) for event in run.events if type(event) in names]
    assert [what for _, what, _ in run.vcpus[0].last] == told
    assert told.count("interrupt 224") == 5


@pytest.mark.parametrize("guest", ["deadline", "storm", "ipi", "interrupt"])
def test_they_are_the_same_without_the_fast_path_and_without_a_trace(monkeypatch, guest):
    def kept(fastpath, events):
        monkeypatch.setattr(Vcpu, "FASTPATH", fastpath)
        run = GuestRun(guest, vcpus=PROGRAMS[guest].vcpus, delta=5_000, events=events)
        return [list(vcpu.last) for vcpu in run.vcpus]

    assert kept(True, False) == kept(False, False) == kept(True, True)


def test_init_start_up_and_nmis_are_kept(monkeypatch):
    monkeypatch.setattr("vlapic.machine.flight_recorder.KEPT", 1000)
    second = GuestRun("ipi", vcpus=2, interrupts=1).vcpus[1]
    assert [what for _, what, _ in second.last][:2] == ["INIT", "SIPI 8"]
    kept = [what for _, what, _ in GuestRun("checks/nmi").vcpus[0].last]
    assert kept.count("NMI") > kept.count("NMI_WINDOW") > 0


def test_a_guest_that_dies_tells_its_last_events_up_to_the_hlt():
    result = vlapic.run(GUESTS / "checks" / "dead.bin")
    assert result.failure.rip == result.last_events[-1].rip + 1
    assert result.last_events[-1][1:4] == (0, 0, "HLT")
    assert [event.what for event in result.last_events[:-1]] == ["IO_INSTRUCTION"] * (KEPT - 1)
    assert result.as_json()["last_events"][-1] == {
        "host_tsc": result.last_events[-1].host_tsc,
        "vm": 0,
        "vcpu": 0,
        "what": "HLT",
        "rip": result.failure.rip - 1,
    }


def test_a_run_without_a_failure_has_none():
    result = vlapic.run("deadline", events=5)
    assert result.last_events == ()
    assert "last_events" not in result.as_json()


def ends(cpu):
    """A guest that does nothing."""
    yield from ()


def test_of_vcpus_that_fail_together_each_has_its_last_by_time_and_other_vms_have_none():
    rings = [Ring(1, 0), Ring(1, 1), Ring(2, 0)]
    for ring in rings:
        ring.extend((1000 * at + ring.vcpu, f"E{at}", at) for at in range(20))
    assert last_events([]) == ()
    assert last_events(rings) == tuple(
        LastEvent(1000 * at + vcpu, 1, vcpu, f"E{at}", at) for at in range(16, 20) for vcpu in range(2)
    )
    assert [event.what for event in last_events(rings[2:])] == [f"E{at}" for at in range(12, 20)]
