# SPDX-License-Identifier: GPL-2.0-or-later
"""The vCPU's loop keeps the order of docs/timing.md, and lateness is the sum of what the host did."""

from itertools import pairwise

import pytest

from tests.support.machines import (
    DEADLINE_MSR,
    EOI,
    LVTT,
    MASKED,
    SVR,
    TMICT,
    TPR,
    TSC_DEADLINE,
    VECTOR,
    Run,
    end_of_interrupt,
    halting,
    set_up,
    spinning,
)
from vlapic import events as ev
from vlapic.machine.engines.scripted import ScriptedFault
from vlapic.machine.hostmodel.model import DEFAULT, constant_model

# The constant model's costs, in cycles.
PREEMPTION_EXIT, EXTERNAL_EXIT, HRTIMER, WAKE_UP, INJECTION, ENTRY = 1100, 900, 1500, 2700, 300, 1200


def mean(values):
    return sum(values) / len(values)


# -- lateness without advancement is the host model's sum --


def test_spinning_on_the_preemption_timer_is_late_by_exit_injection_and_entry():
    run = Run(spinning(50), advance=0)
    expected = PREEMPTION_EXIT + INJECTION + ENTRY
    assert len(run.interrupts) == 50
    # The counter falls every 32 cycles: up to 64 early.
    assert all(expected - 64 < late <= expected for late in run.lateness)


def test_halting_on_the_hrtimer_is_late_by_interrupt_wake_up_injection_and_entry():
    run = Run(halting(50), advance=0, preemption=False)
    expected = HRTIMER + WAKE_UP + INJECTION + ENTRY
    # The deadline in whole ns, rounded down, is up to 2.5 cycles early.
    assert all(expected - 3 < late <= expected for late in run.lateness)


def test_spinning_on_the_hrtimer_is_late_by_exit_interrupt_injection_and_entry():
    run = Run(spinning(50), advance=0, preemption=False)
    expected = EXTERNAL_EXIT + HRTIMER + INJECTION + ENTRY
    assert all(expected - 3 < late <= expected for late in run.lateness)


@pytest.mark.parametrize("guest_khz", [1_000_000, 5_000_000])
def test_a_scaled_guest_sees_the_same_lateness_in_its_own_cycles(guest_khz):
    run = Run(halting(50), advance=0, preemption=False, guest_khz=guest_khz)
    expected = (HRTIMER + WAKE_UP + INJECTION + ENTRY) * guest_khz / 2_500_000
    assert all(abs(late - expected) <= 3 * guest_khz / 2_500_000 for late in run.lateness)


# -- tuned: what is left after the wait, and never early --


@pytest.mark.parametrize("guest", [spinning, halting])
@pytest.mark.parametrize("preemption", [True, False])
@pytest.mark.parametrize("guest_khz", [1_000_000, 2_500_000, 5_000_000])
def test_tuned_interrupts_are_late_by_the_entry_alone_and_none_is_early(guest, preemption, guest_khz):
    run = Run(guest(300), advance=None, preemption=preemption, guest_khz=guest_khz)
    entry = ENTRY * guest_khz // 2_500_000
    step = -(-3 * guest_khz // 2_500_000)
    assert min(run.lateness) >= entry
    tuned = run.lateness[100:]
    assert max(tuned) <= entry + 100 + step
    assert run.vcpu.advancement.done


def test_a_fixed_advancement_is_waited_out_and_kept():
    run = Run(spinning(20), advance=5000)
    assert all(ENTRY <= late <= ENTRY + 3 for late in run.lateness)
    assert {it.advance_ns for it in run.interrupts} == {5000}
    assert all(it.wait_cycles > 0 for it in run.interrupts)


def test_advancement_off_never_waits_and_traces_no_wait():
    run = Run(spinning(20), advance=0)
    assert not any(it.waited for it in run.interrupts)
    assert run.of(ev.WaitLapicExpire) == []


def test_a_host_slower_than_the_cap_leaves_the_advancement_at_the_cap():
    slow = constant_model(wake_up=40_000)
    run = Run(halting(100), advance=None, preemption=False, model=slow)
    assert run.vcpu.advancement.advance_ns == 5000
    assert not run.vcpu.advancement.done
    assert run.lateness[-1] == pytest.approx(HRTIMER + 40_000 + INJECTION + ENTRY - 12_500, abs=3)


def test_the_delta_at_the_wait_is_the_lateness_there_minus_the_advancement():
    run = Run(halting(3), advance=1000, preemption=False)
    up_to_the_wait = HRTIMER + WAKE_UP + INJECTION
    for interrupt in run.interrupts:
        assert interrupt.delta_cycles == pytest.approx(up_to_the_wait - 2500, abs=3)


# -- the published figures (Linux commit 3b8a5df6c4dc), from the one default host model --

FIGURES = [(halting, False, 0, 5700), (spinning, True, 0, 2600), (spinning, True, None, 1200)]


@pytest.mark.parametrize(("guest", "preemption", "advance", "cycles"), FIGURES)
def test_the_default_host_model_meets_the_published_lateness(guest, preemption, advance, cycles):
    run = Run(guest(1500), advance=advance, preemption=preemption, model=DEFAULT)
    after_tuning = run.lateness[100:]
    assert mean(after_tuning) == pytest.approx(cycles, rel=0.1)


# -- the order of one interrupt --


def names(events):
    return [type(event).__name__ for event in events]


def test_one_interrupt_on_the_preemption_timer_goes_step_by_step():
    run = Run(spinning(1), advance=1000)
    first = next(i for i, event in enumerate(run.events) if isinstance(event, ev.HvTimerState))
    assert names(run.events[first:]) == [
        "HvTimerState",
        "Msr",
        "Entry",
        "Exit",
        "AcceptIrq",
        "InjectVirq",
        "Entry",
        "WaitLapicExpire",
        "AdvanceSample",
        "TimerInterrupt",
        "Exit",
        "ApicAccess",
        "Eoi",
        "Entry",
        "Exit",
        "PortAccess",
    ]
    exits = [event.reason for event in run.events[first:] if isinstance(event, ev.Exit)]
    assert exits == ["PREEMPTION_TIMER", "APIC_ACCESS", "IO_INSTRUCTION"]
    assert [event.hv_timer_in_use for event in run.of(ev.HvTimerState)] == [True]


def test_halting_moves_a_preemption_timer_to_the_hrtimer():
    run = Run(halting(1), advance=1000)
    assert [event.hv_timer_in_use for event in run.of(ev.HvTimerState)] == [True, False]
    exits = [event.reason for event in run.of(ev.Exit)]
    assert exits[3:] == ["MSR_WRITE", "HLT", "APIC_ACCESS", "IO_INSTRUCTION"]


def test_the_times_of_events_never_fall():
    run = Run(halting(30), advance=None)
    assert all(first.host_tsc <= second.host_tsc for first, second in pairwise(run.events))


def test_a_deadline_that_is_past_when_it_is_set_comes_at_the_next_entry():
    # The write's own exit takes longer than the deadline is away.
    run = Run(spinning(10, delta=50), advance=1000)
    assert [event.hv_timer_in_use for event in run.of(ev.HvTimerState)] == [False] * 10
    assert all(it.instructions == 0 for it in run.interrupts)


# -- counting instructions --


def test_instructions_before_the_interrupt_are_those_after_the_write():
    run = Run(spinning(5, delta=200_000), advance=0)
    for interrupt in run.interrupts:
        # From the write, 900 cycles of its handling and 1200 of the entry go by before the guest's first
        # instruction.
        assert interrupt.instructions == pytest.approx(200_000 - 900 - 1200, abs=64)


def test_a_halt_counts_as_one_instruction():
    run = Run(halting(5), advance=0)
    assert [it.instructions for it in run.interrupts] == [1] * 5


# -- what the guest has against its interrupt --


def blocked_by(undo):
    """A guest whose deadline comes while something blocks it, for 50 000 instructions, until `undo` plays."""

    def guest(cpu):
        yield from set_up(cpu)
        cpu.interrupts_enabled = undo is not enable
        if undo is lower_priority:
            yield cpu.store(TPR, 0xF0)
        yield cpu.wrmsr(DEADLINE_MSR, cpu.rdtsc() + 20_000)
        if undo is unmask:
            yield cpu.store(LVTT, TSC_DEADLINE | MASKED | VECTOR)
        yield 50_000
        yield from undo(cpu)
        while not cpu.handled:
            yield 10
        yield cpu.out(0xF4, 0)

    return guest


def enable(cpu):
    cpu.interrupts_enabled = True
    yield 1


def lower_priority(cpu):
    yield cpu.store(TPR, 0)


def unmask(cpu):
    yield cpu.store(LVTT, TSC_DEADLINE | VECTOR)


@pytest.mark.parametrize("undo", [enable, lower_priority, unmask])
@pytest.mark.parametrize("preemption", [True, False])
def test_the_time_the_guest_holds_its_interrupt_off_is_told_apart(undo, preemption):
    run = Run(blocked_by(undo), advance=0, preemption=preemption)
    (interrupt,) = run.interrupts
    late = interrupt.handler_tsc - interrupt.deadline_tsc
    assert late > 30_000
    assert 20_000 < interrupt.blocked_cycles <= late
    assert late - interrupt.blocked_cycles < 7_000


def test_an_unhindered_interrupt_was_not_blocked():
    assert {it.blocked_cycles for it in Run(spinning(20), advance=None).interrupts} == {0}


def test_an_interrupt_waits_for_the_window_and_comes_right_after_it():
    run = Run(blocked_by(enable), advance=0)
    assert "INTERRUPT_WINDOW" in [event.reason for event in run.of(ev.Exit)]
    assert run.engine.handled == [VECTOR]


def test_expiries_while_one_is_in_flight_are_missed_and_said_so():
    def guest(cpu):
        yield from set_up(cpu)
        cpu.interrupts_enabled = False
        for _ in range(3):
            yield cpu.wrmsr(DEADLINE_MSR, cpu.rdtsc() + 5_000)
            yield 20_000
        cpu.interrupts_enabled = True
        while not cpu.handled:
            yield 10
        yield cpu.out(0xF4, 0)

    run = Run(guest, advance=0)
    (interrupt,) = run.interrupts
    assert interrupt.missed == 2


# -- one-shot and periodic --


def test_one_shot_on_the_preemption_timer_is_never_early():
    # The series' fifth patch, end to end.
    def guest(cpu):
        yield from set_up(cpu, lvtt=VECTOR)
        for done in range(1, 101):
            yield cpu.store(TMICT, 40_000)
            while len(cpu.handled) < done:
                yield 50
        yield cpu.out(0xF4, 0)

    run = Run(guest, advance=None)
    assert len(run.interrupts) == 100
    assert min(run.lateness) >= ENTRY
    assert run.vcpu.advancement.done


def test_periodic_interrupts_come_at_every_period():
    def guest(cpu):
        yield from set_up(cpu, lvtt=0x20000 | VECTOR)
        yield cpu.store(TMICT, 400_000)
        while len(cpu.handled) < 20:
            yield 1000
        yield cpu.out(0xF4, 0)

    run = Run(guest, advance=0, preemption=False)
    steps = [second.deadline_tsc - first.deadline_tsc for first, second in pairwise(run.interrupts)]
    assert steps == pytest.approx([1_000_000] * 19, abs=4)
    assert {it.missed for it in run.interrupts} == {0}


# -- guests that fail --


def test_a_guest_that_halts_with_interrupts_off_is_found_at_once():
    def guest(cpu):
        yield from set_up(cpu)
        cpu.interrupts_enabled = False
        yield cpu.wrmsr(DEADLINE_MSR, cpu.rdtsc() + 20_000)
        yield cpu.hlt()

    run = Run(guest)
    assert str(run.vcpu.failure) == "the guest halted with interrupts off (IF=0) at rip 0x0"


def test_a_guest_that_halts_with_nothing_to_come_is_found_at_once():
    def guest(cpu):
        yield from set_up(cpu)
        yield cpu.hlt()

    assert str(Run(guest).vcpu.failure).startswith("the guest halted for ever: no APIC timer is armed")


def test_a_guest_that_shuts_down_is_told_by_its_reason():
    def guest(cpu):
        yield 10

    assert str(Run(guest).vcpu.failure) == "the guest shut down: the script has ended"


# -- accesses --


def ask(*accesses):
    """Play accesses; the answers, a fault as its vector."""
    answers = []

    def guest(cpu):
        for access in accesses:
            try:
                answers.append((yield access(cpu)))
            except ScriptedFault as fault:
                answers.append(f"#{fault.vector}")
        yield cpu.out(0xF4, 7)

    run = Run(guest)
    assert run.vm.ports.exit_value == 7
    return answers


def test_an_unknown_msr_faults_and_a_known_one_answers():
    assert ask(
        lambda cpu: cpu.rdmsr(0x1B),
        lambda cpu: cpu.rdmsr(0x1234),
        lambda cpu: cpu.wrmsr(0x1234, 0),
        lambda cpu: cpu.rdmsr(0x80F),
        lambda cpu: cpu.wrmsr(0x1B, 0xFEE0_0D00),
        lambda cpu: cpu.rdmsr(0x80F),
    ) == [0xFEE0_0900, "#13", "#13", "#13", None, 0xFF]


def test_memory_without_a_device_reads_ones_and_loses_writes():
    assert ask(lambda cpu: cpu.load(0xD000_0000, 2), lambda cpu: cpu.store(0xD000_0000, 1)) == [0xFFFF, None]
    assert ask(lambda cpu: cpu.load(SVR), lambda cpu: cpu.load(EOI)) == [0xFF, 0]


# -- the same run twice --


def sending_itself_an_interrupt(cpu):
    """A guest whose deadline comes while the host injects an interrupt that it sent itself."""
    yield from set_up(cpu)
    yield cpu.wrmsr(DEADLINE_MSR, cpu.rdtsc() + 10_000)
    yield 5000
    yield cpu.store(0xFEE0_0300, 0x40000 | 0x50)
    yield 50_000
    yield cpu.out(0xF4, len(cpu.handled))


def test_an_injection_whose_entry_was_cancelled_is_traced_once_more():
    run = Run(sending_itself_an_interrupt, preemption=False, model=constant_model(injection=8000))
    assert run.vm.ports.exit_value == 2
    told = [(event.vector, event.reinjected) for event in run.of(ev.InjectVirq)]
    assert told == [(0x50, False), (0x50, True), (VECTOR, False)]
    # One entry came of the two.
    first, again, _ = run.of(ev.InjectVirq)
    assert not [it for it in run.of(ev.Entry) if first.host_tsc <= it.host_tsc < again.host_tsc]


def test_the_same_seed_gives_the_same_events_and_another_one_others():
    def events(seed):
        return Run(spinning(40), advance=None, model=DEFAULT, seed=seed).events

    assert events(1) == events(1)
    assert events(1) != events(2)


def test_the_handler_runs_with_interrupts_off_and_returns_with_them_on():
    seen = []

    def handler(cpu, vector):
        seen.append(cpu.interrupts_enabled)
        yield from end_of_interrupt(cpu, vector)

    run = Run(spinning(3), handler)
    assert seen == [False] * 3
    assert run.engine.interrupts_enabled
