# SPDX-License-Identifier: GPL-2.0-or-later
"""The way of each timer interrupt, put together from events."""

import itertools
from typing import Any

import pytest

import vlapic
from tests.support import machines as m
from vlapic import events as ev
from vlapic.analysis.spans import Spans, Step, Worst
from vlapic.machine.hostmodel.model import constant_model
from vlapic.trace import open_trace

KHZ = 2_500_000
ALL = [Step.ARMED, Step.FIRED, Step.EXIT, Step.ACCEPT, Step.INJECT, Step.ENTRY, Step.WAIT, Step.HANDLER]


def spans_of(events, host_khz=KHZ):
    fold = Spans(host_khz)
    return [span for event in events if (span := fold.add(event)) is not None]


def steps(span):
    return [moment.step for moment in span.moments]


def took(span):
    return {duration.step: duration.took_ns for duration in span.durations()}


#: Costs of `constant_model`: exit handling 1100, hrtimer 1500, waking up 2700, entry 1200 cycles.
def ns(cycles):
    return cycles * 10**6 // KHZ


@pytest.mark.parametrize("guest_khz", [1_000_000, KHZ, 5_000_000])
@pytest.mark.parametrize("guest", [m.spinning, m.halting])
@pytest.mark.parametrize("preemption", [True, False])
@pytest.mark.parametrize("advance", [0, 3000, None])
def test_every_interrupt_has_a_span_whose_steps_go_forward_and_add_up(guest, preemption, advance, guest_khz):
    run = m.Run(guest(20), preemption=preemption, advance=advance, guest_khz=guest_khz)
    spans = spans_of(run.events)
    assert [span.interrupt for span in spans] == run.interrupts
    assert [span.number for span in spans] == list(range(1, 21))
    for span in spans:
        durations = span.durations()
        assert [duration.step for duration in durations][:2] == [Step.ARMED, Step.FIRED]
        assert all(duration.took_ns >= 0 for duration in durations)
        assert sum(duration.took_ns for duration in durations) == durations[-1].sum_ns
        assert durations[-1].after_deadline_ns == span.lateness_ns
        assert durations[-1].host_tsc == span.interrupt.host_tsc


def test_on_the_preemption_timer_the_exit_is_the_host_s_event():
    run = m.Run(m.spinning(3), advance=3000)
    span = spans_of(run.events)[1]
    assert steps(span) == ALL
    assert {moment.step: moment.what for moment in span.moments}[Step.FIRED] == "VMX preemption timer"
    assert took(span)[Step.EXIT] == 0
    assert took(span)[Step.ACCEPT] == ns(1100)
    assert took(span)[Step.WAIT] == ns(span.interrupt.wait_cycles) > 1000
    assert took(span)[Step.HANDLER] == ns(1200)


def test_asleep_in_hlt_the_hrtimer_fires_without_an_exit():
    run = m.Run(m.halting(3), advance=0)
    span = spans_of(run.events)[1]
    assert steps(span) == [Step.ARMED, Step.FIRED, Step.ACCEPT, Step.INJECT, Step.ENTRY, Step.HANDLER]
    assert {moment.step: moment.what for moment in span.moments}[Step.FIRED] == "host hrtimer"
    assert took(span)[Step.ACCEPT] == ns(1500 + 2700)


def test_an_hrtimer_that_fires_under_a_running_guest_leaves_it_by_an_exit():
    run = m.Run(m.spinning(3), preemption=False)
    span = spans_of(run.events)[1]
    assert steps(span)[:4] == [Step.ARMED, Step.FIRED, Step.EXIT, Step.ACCEPT]
    assert span.moments[2].what == "EXTERNAL_INTERRUPT"


def test_a_deadline_that_is_past_fires_where_it_is_armed():
    def guest(cpu):
        yield from m.set_up(cpu)
        yield 100_000
        yield cpu.wrmsr(m.DEADLINE_MSR, 1)
        while not cpu.handled:
            yield 5000
        yield cpu.out(0xF4, 0)

    (span,) = spans_of(m.Run(guest, preemption=False).events)
    assert took(span)[Step.FIRED] == 0
    assert span.lateness_ns > 40_000


def test_a_periodic_timer_is_armed_again_by_the_expiry_before():
    def guest(cpu):
        yield from m.set_up(cpu, lvtt=0x20000 | m.VECTOR)
        yield cpu.store(m.TMICT, 100_000)
        while len(cpu.handled) < 4:
            yield 5000
        yield cpu.out(0xF4, 0)

    spans = spans_of(m.Run(guest).events)
    assert [span.moments[0].what for span in spans] == ["write of TMICT", *["by the expiry before"] * 3]
    for before, span in itertools.pairwise(spans):
        assert span.moments[0].host_tsc == before.moments[1].host_tsc


def test_time_that_the_guest_was_not_ready_is_its_own():
    def guest(cpu):
        yield from m.set_up(cpu)
        cpu.interrupts_enabled = False
        yield cpu.wrmsr(m.DEADLINE_MSR, cpu.rdtsc() + 20_000)
        yield 200_000
        cpu.interrupts_enabled = True
        while not cpu.handled:
            yield 5000
        yield cpu.out(0xF4, 0)

    (span,) = spans_of(m.Run(guest).events)
    assert span.blocked_ns > 60_000
    assert took(span)[Step.INJECT] > 60_000
    assert "the guest was not ready" in span.moments[-3].what


def test_an_interrupt_of_another_source_is_no_span_and_disturbs_none():
    at: dict[str, Any] = {"vm": 0, "vcpu": 0}
    accept: dict[str, Any] = {"apic_id": 0, "delivery_mode": 0, "level": False}
    events = [
        ev.ApicAccess(100, **at, write=True, register=0x320, value=0x40000 | 0xE0),
        ev.Msr(200, **at, write=True, msr=0x6E0, value=5000, fault=False),
        ev.Entry(200, **at, rip=0),
        ev.Exit(300, **at, reason="EXTERNAL_INTERRUPT", rip=0, info1=0, info2=0),
        ev.AcceptIrq(310, **at, vector=0xD0, **accept),
        ev.InjectVirq(310, **at, vector=0xD0),
        ev.Entry(320, **at, rip=0),
        ev.Exit(1000, **at, reason="PREEMPTION_TIMER", rip=0, info1=0, info2=0),
        ev.AcceptIrq(1010, **at, vector=0xE0, **accept),
        ev.InjectVirq(1010, **at, vector=0xE0),
        ev.Entry(1020, **at, rip=0),
        ev.TimerInterrupt(1030, **at, vector=0xE0, deadline_tsc=900, handler_tsc=1030, instructions=1,
                          missed=0, blocked_cycles=0, waited=False, delta_cycles=0, wait_cycles=0,
                          advance_ns=0),
    ]  # fmt: skip
    (span,) = spans_of(events)
    assert [tuple(moment)[:2] for moment in span.moments] == [
        ("armed", 200), ("fired", 1000), ("exit", 1000), ("accept", 1010), ("inject", 1010), ("entry", 1020),
        ("handler", 1030),
    ]  # fmt: skip


def test_without_the_events_before_it_an_interrupt_still_has_a_span():
    run = m.Run(m.spinning(2))
    (span,) = spans_of([run.interrupts[0]])
    assert steps(span) == [Step.HANDLER]
    assert span.durations()[0].after_deadline_ns == span.lateness_ns


def test_the_worst_are_the_latest_of_all_and_of_equals_the_first():
    run = m.Run(m.spinning(60), model=constant_model(), advance=None)
    spans = spans_of(run.events)
    worst = Worst(Spans(KHZ), 5)
    for event in run.events:
        worst(event)
    expected = sorted(spans, key=lambda span: (-span.lateness_ns, span.number))[:5]
    assert list(worst.spans()) == expected


def test_fewer_interrupts_than_asked_for_are_all_given():
    run = m.Run(m.spinning(3))
    worst = Worst(Spans(KHZ), 10)
    for event in run.events:
        worst(event)
    assert len(worst.spans()) == 3


def test_the_json_has_every_step_in_ns():
    run = m.Run(m.spinning(2), advance=3000)
    printed = spans_of(run.events)[1].as_json()
    assert list(printed) == [
        "vm", "vcpu", "interrupt", "deadline_tsc", "lateness_ns", "lateness_cycles", "blocked_ns", "steps",
    ]  # fmt: skip
    assert [step["step"] for step in printed["steps"]] == [str(step) for step in ALL]
    assert list(printed["steps"][0]) == [
        "step", "what", "host_tsc", "took_ns", "sum_ns", "after_deadline_ns",
    ]  # fmt: skip


@pytest.mark.parametrize("guest", ["deadline", "deadline-hlt", "periodic", "storm", "scaled", "interrupt"])
@pytest.mark.parametrize("timer", ["preemption", "hrtimer"])
def test_a_trace_read_back_gives_the_same_spans(tmp_path, guest, timer):
    path = tmp_path / "trace.txt"
    result = vlapic.run(guest, timer=timer, events=60, trace=path, worst=1000)
    worst = Worst(Spans(KHZ), 1000)
    for event in open_trace(path).events():
        worst(event)
    told = [(span.interrupt.vcpu, span.number, span.durations()) for span in worst.spans()]
    assert told == [(span.interrupt.vcpu, span.number, span.durations()) for span in result.worst]
