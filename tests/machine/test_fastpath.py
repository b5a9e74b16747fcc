# SPDX-License-Identifier: GPL-2.0-or-later
"""Exits handled in the middle of a run: results and traces are those of the loop, byte for byte."""

import pytest

import vlapic
from tests.machine.guests.test_guest_checks import STEPS
from tests.support.guest_runs import GuestRun
from vlapic.machine.guests.programs import PROGRAMS
from vlapic.machine.vcpu import Vcpu

GUESTS = sorted(PROGRAMS) if isinstance(PROGRAMS, dict) else sorted(each.name for each in PROGRAMS)


def outcome(monkeypatch, tmp_path, fastpath, **options):
    """A run's result, without and with a trace, and the trace."""
    monkeypatch.setattr(Vcpu, "FASTPATH", fastpath)
    trace = tmp_path / "trace.txt"
    untraced = vlapic.run(events=150, **options)
    return untraced, vlapic.run(events=150, trace=trace, **options), trace.read_bytes()


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("timer", ["preemption", "hrtimer"])
@pytest.mark.parametrize("guest", GUESTS)
def test_results_and_traces_are_the_same_without_it(monkeypatch, tmp_path, guest, timer, seed):
    with_it, without = (
        outcome(monkeypatch, tmp_path, fastpath, guest=guest, timer=timer, seed=seed)
        for fastpath in (True, False)
    )
    assert with_it == without


@pytest.mark.parametrize(("check", "vcpus"), [*((name, 1) for name in STEPS), ("triple", 1), ("cpus", 4)])
def test_checks_of_the_machine_go_the_same_way_without_it(monkeypatch, check, vcpus):
    runs = []
    for fastpath in (True, False):
        monkeypatch.setattr(Vcpu, "FASTPATH", fastpath)
        run = GuestRun(f"checks/{check}", vcpus=vcpus, events=True)
        runs.append((run.value, run.console, run.events))
    assert runs[0] == runs[1]


def test_a_guest_that_sends_itself_nmis_is_not_left_for_them(monkeypatch):
    """300 times an NMI comes behind a WRMSR, and one behind the IRET of its handler."""
    rounds = []
    step = Vcpu.step
    monkeypatch.setattr(Vcpu, "step", lambda vcpu, *rest: rounds.append(0) or step(vcpu, *rest))
    counts = []
    for fastpath in (True, False):
        rounds.clear()
        monkeypatch.setattr(Vcpu, "FASTPATH", fastpath)
        GuestRun("checks/x2apic_nmi")
        counts.append(len(rounds))
    assert counts[1] > 10 * counts[0] > 0


@pytest.mark.parametrize("seconds", [0.001, 0.01])
@pytest.mark.parametrize("guest", ["storm", "ipi"])
def test_a_limit_of_time_ends_the_run_at_the_same_place(monkeypatch, tmp_path, guest, seconds):
    with_it, without = (
        outcome(monkeypatch, tmp_path, fastpath, guest=guest, seconds=seconds) for fastpath in (True, False)
    )
    assert with_it == without


@pytest.mark.parametrize("instructions", [500, 5_000, 50_000])
def test_a_limit_of_instructions_ends_the_run_at_the_same_place(monkeypatch, tmp_path, instructions):
    with_it, without = (
        outcome(monkeypatch, tmp_path, fastpath, guest="storm", instructions=instructions)
        for fastpath in (True, False)
    )
    assert with_it == without


def test_a_guest_that_writes_deadlines_is_not_left_for_them(monkeypatch):
    """What the fast path is for; else the tests above would compare the loop with itself."""
    rounds = []
    step = Vcpu.step
    monkeypatch.setattr(Vcpu, "step", lambda vcpu, *rest: rounds.append(0) or step(vcpu, *rest))
    counts = []
    for fastpath in (True, False):
        rounds.clear()
        monkeypatch.setattr(Vcpu, "FASTPATH", fastpath)
        vlapic.run("deadline-hlt", events=100)
        counts.append(len(rounds))
    assert counts[1] - counts[0] > 190  # a deadline and an EOI an interrupt
