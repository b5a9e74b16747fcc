# SPDX-License-Identifier: GPL-2.0-or-later
"""APICv and posted timer interrupts: which exits and events there are, and when an interrupt comes."""

from collections import Counter
from dataclasses import replace

import pytest

from tests.support.machines import (
    DEADLINE_MSR,
    EOI,
    LVTT,
    MASKED,
    TMICT,
    TPR,
    TSC_DEADLINE,
    VECTOR,
    Run,
    halting,
    set_up,
    spinning,
)
from vlapic import events as ev
from vlapic.errors import UsageError
from vlapic.kernels import rules as r
from vlapic.kernels.profiles import SERIES, V5_2, V5_3, V5_14, V6_1, V6_19
from vlapic.machine.apicv import MAY_POST, check_posting
from vlapic.machine.host import ModuleParameters
from vlapic.machine.hostmodel.model import constant_model

# The constant model's costs, in cycles.
PREEMPTION_EXIT, EXTERNAL_EXIT, HRTIMER, WAKE_UP, INJECTION, ENTRY = 1100, 900, 1500, 2700, 300, 1200
POSTING = 2400
POSTS = {"apicv": True, "pi_inject": True, "mwait_in_guest": True}
ALL_PROFILES = (SERIES, V5_2, V5_3, V5_14, V6_1, V6_19)
MASKED_DEADLINE = TSC_DEADLINE | MASKED | VECTOR


def exits(run):
    return Counter(event.reason for event in run.of(ev.Exit))


def names(run):
    return Counter(type(event).__name__ for event in run.events)


# -- APICv alone --


@pytest.mark.parametrize("profile", ALL_PROFILES, ids=lambda each: each.name)
@pytest.mark.parametrize("guest", [spinning, halting])
def test_with_apicv_nothing_is_injected_and_eoi_neither_exits_nor_is_traced(guest, profile):
    run = Run(guest(20), profile=profile, apicv=True)
    assert len(run.interrupts) == 20
    told = names(run)
    assert told["AcceptIrq"] == 20
    assert (told["InjectVirq"], told["Eoi"], told["ApicAccess"]) == (0, 0, 3)
    assert "APIC_ACCESS" not in exits(run)
    assert exits(run)["APIC_WRITE"] == 3  # SVR, TDCR, LVTT
    assert run.vcpu.lapic.interrupts.isr == 0


def test_without_injection_lateness_is_exit_and_entry():
    run = Run(spinning(50), apicv=True)
    expected = PREEMPTION_EXIT + ENTRY
    assert all(expected - 64 < late <= expected for late in run.lateness)


@pytest.mark.parametrize("profile", ALL_PROFILES, ids=lambda each: each.name)
def test_the_busy_wait_finds_the_vector_in_the_irr(profile):
    run = Run(spinning(20), profile=profile, apicv=True, advance=None)
    assert all(it.waited for it in run.interrupts)
    assert min(run.lateness) >= ENTRY


def blocked_by_priority(cpu):
    """A guest that raises TPR above its timer, waits until the deadline is over, and lowers it."""
    yield from set_up(cpu)
    yield cpu.store(TPR, 0xF0)
    yield cpu.wrmsr(DEADLINE_MSR, cpu.rdtsc() + 20_000)
    yield 50_000
    yield cpu.store(TPR, 0)
    yield 10
    assert cpu.handled == [VECTOR]
    yield cpu.out(0xF4, 0)


def test_lowering_tpr_lets_the_interrupt_in_at_once_and_without_an_exit():
    run = Run(blocked_by_priority, apicv=True)
    (interrupt,) = run.interrupts
    assert exits(run) == {"APIC_WRITE": 3, "MSR_WRITE": 1, "PREEMPTION_TIMER": 1, "IO_INSTRUCTION": 1}
    assert interrupt.blocked_cycles == pytest.approx(interrupt.handler_tsc - interrupt.deadline_tsc, abs=3000)


def blocked_by_if(cpu):
    yield from set_up(cpu)
    cpu.interrupts_enabled = False
    yield cpu.wrmsr(DEADLINE_MSR, cpu.rdtsc() + 20_000)
    yield 50_000
    cpu.interrupts_enabled = True
    yield 10
    assert cpu.handled == [VECTOR]
    yield cpu.out(0xF4, 0)


def test_with_apicv_no_interrupt_window_exits():
    assert exits(Run(blocked_by_if))["INTERRUPT_WINDOW"] == 1
    run = Run(blocked_by_if, apicv=True)
    assert exits(run)["INTERRUPT_WINDOW"] == 0
    assert run.interrupts[0].blocked_cycles > 20_000


def reading(cpu):
    """A guest that reads LVTT and TMCCT, ten times each."""
    yield from set_up(cpu, lvtt=VECTOR)
    yield cpu.store(TMICT, 1 << 30)
    for _ in range(10):
        assert (yield cpu.load(LVTT)) == VECTOR
        assert (yield cpu.load(0xFEE0_0390)) > 0
    yield cpu.out(0xF4, 0)


def test_reads_do_not_exit_but_for_the_current_count():
    assert exits(Run(reading))["APIC_ACCESS"] == 24
    run = Run(reading, apicv=True)
    assert (exits(run)["APIC_ACCESS"], exits(run)["APIC_WRITE"]) == (10, 4)


def no_eoi(cpu, vector):
    yield 5


def two_vectors(cpu):
    """A guest whose timer comes again, with a higher vector, before it has ended the first."""
    yield from set_up(cpu)
    yield cpu.wrmsr(DEADLINE_MSR, cpu.rdtsc() + 20_000)
    while not cpu.handled:
        yield 100
    yield cpu.store(LVTT, TSC_DEADLINE | VECTOR - 0x10)
    yield cpu.wrmsr(DEADLINE_MSR, cpu.rdtsc() + 20_000)
    yield 50_000
    assert cpu.handled == [VECTOR]
    yield cpu.store(EOI, 0)
    yield 1
    assert cpu.handled == [VECTOR, VECTOR - 0x10]
    yield cpu.out(0xF4, 0)


def test_the_end_of_an_interrupt_lets_the_next_in():
    run = Run(two_vectors, handler=no_eoi, apicv=True)
    assert len(run.interrupts) == 2
    assert run.vcpu.lapic.interrupts.isr >> VECTOR - 0x10 == 1


# -- expiries that are never pending --


def masked_on_the_preemption_timer(cpu):
    """A guest whose deadline comes while LVTT is masked, and that unmasks it then."""
    yield from set_up(cpu, lvtt=MASKED_DEADLINE)
    yield cpu.wrmsr(DEADLINE_MSR, cpu.rdtsc() + 20_000)
    yield 50_000
    left = yield cpu.rdmsr(DEADLINE_MSR)
    yield cpu.store(LVTT, TSC_DEADLINE | VECTOR)
    yield 50_000
    yield cpu.out(0xF4, len(cpu.handled) << 1 | (left == 0))


@pytest.mark.parametrize(
    ("direct", "taken", "forgotten"),
    [
        (r.DirectInjection.NONE, 1, 0),
        (r.DirectInjection.POSTED, 1, 0),
        (r.DirectInjection.APICV, 0, 1),
        (r.DirectInjection.APICV_IDLE_IN_GUEST, 0, 1),
        (r.DirectInjection.APICV_IN_KVM_RUN, 0, 1),
    ],
)
def test_an_expiry_on_the_preemption_timer_that_is_masked_is_lost_since_v5_8(direct, taken, forgotten):
    profile = replace(SERIES, direct_injection=direct)
    run = Run(masked_on_the_preemption_timer, profile=profile, apicv=True)
    assert run.vm.ports.exit_value == taken << 1 | forgotten


def test_an_expiry_on_the_hrtimer_that_is_masked_stays_pending_with_apicv_too():
    profile = replace(SERIES, direct_injection=r.DirectInjection.APICV)
    run = Run(masked_on_the_preemption_timer, profile=profile, apicv=True, preemption=False)
    assert run.vm.ports.exit_value == 1 << 1


def test_without_apicv_no_rule_of_direct_injection_changes_anything():
    told = {
        direct: Run(spinning(20), profile=replace(V6_19, direct_injection=direct)).events
        for direct in r.DirectInjection
    }
    assert len({repr(events) for events in told.values()}) == 1


# -- posted --


@pytest.mark.parametrize("profile", [V5_3, V5_14, V6_1, V6_19], ids=lambda each: each.name)
def test_a_posted_interrupt_comes_without_an_exit_and_not_early(profile):
    run = Run(spinning(50), profile=profile, advance=None, **POSTS)
    assert len(run.interrupts) == 50
    assert exits(run) == {"APIC_WRITE": 3, "MSR_WRITE": 50, "IO_INSTRUCTION": 1}
    assert all(it.waited for it in run.interrupts)
    # The other CPU waits and tunes; then there is the way into the guest, for which nothing makes up.
    assert set(run.lateness[20:]) <= {POSTING, POSTING + 1, POSTING + 2}
    assert run.vcpu.advancement.advance_ns == pytest.approx(HRTIMER / 2.5, abs=110)


def test_without_advancement_a_posted_interrupt_is_late_by_hrtimer_and_posting():
    run = Run(spinning(50), profile=V6_19, **POSTS)
    expected = HRTIMER + POSTING
    assert all(expected - 3 < late <= expected for late in run.lateness)


@pytest.mark.parametrize("posting", [0, 700, 5000])
def test_a_posted_interrupt_takes_as_long_as_the_host_model_says(posting):
    run = Run(spinning(20), profile=V6_1, model=constant_model(posting=posting), advance=4000, **POSTS)
    assert run.lateness == pytest.approx([posting] * 20, abs=3)


def test_a_deadline_armed_while_an_interrupt_is_being_posted_is_measured_by_itself():
    def guest(cpu):
        yield from set_up(cpu)
        first = cpu.rdtsc() + 20_000
        yield cpu.wrmsr(DEADLINE_MSR, first)
        while cpu.rdtsc() < first + 2000:  # expired, and on its way here
            yield 100
        assert not cpu.handled
        yield cpu.wrmsr(DEADLINE_MSR, first + 4000)  # expires before the first one is here
        yield 50_000
        yield cpu.out(0xF4, len(cpu.handled))

    run = Run(guest, profile=V6_19, model=constant_model(posting=9000), **POSTS)
    assert run.lateness == pytest.approx([HRTIMER + 9000] * 2, abs=3)


@pytest.mark.parametrize("advance_ns", [2000, 4000])
def test_posting_without_a_wait_is_early_by_what_is_left_of_the_advancement(advance_ns):
    """v5.10 and v5.11 asked for a vector that was not there yet."""
    never = replace(V5_14, posted_wait=r.PostedWait.NEVER)
    run = Run(spinning(20), profile=never, advance=advance_ns, **POSTS)
    left = advance_ns * 5 // 2 - HRTIMER - POSTING
    assert all(late == pytest.approx(-left, abs=3) for late in run.lateness)
    assert Run(spinning(20), profile=V5_14, advance=advance_ns, **POSTS).lateness == pytest.approx(
        [POSTING] * 20, abs=3
    )


def test_whoever_may_be_posted_to_does_not_get_the_preemption_timer():
    for profile in (V5_2, V5_3, V5_14, V6_1):
        posts = MAY_POST[profile.direct_injection](True)
        run = Run(spinning(5), profile=profile, **POSTS | {"mwait_in_guest": False})
        mwait = Run(spinning(5), profile=profile, **POSTS)
        idle_needed = posts and not MAY_POST[profile.direct_injection](False)
        assert (True in hv_states(run)) is (not posts or idle_needed)
        # MWAIT in the guest refuses it by itself.
        assert True not in hv_states(mwait)


def hv_states(run):
    return {event.hv_timer_in_use for event in run.of(ev.HvTimerState)}


def test_a_sleeping_guest_is_woken_by_a_timer_that_could_be_posted():
    run = Run(halting(20), profile=V6_19, **POSTS)
    expected = HRTIMER + WAKE_UP + ENTRY
    assert all(expected - 3 < late <= expected for late in run.lateness)


def masked_and_posted(cpu):
    yield from set_up(cpu, lvtt=MASKED_DEADLINE)
    yield cpu.wrmsr(DEADLINE_MSR, cpu.rdtsc() + 20_000)
    yield 50_000
    yield cpu.store(LVTT, TSC_DEADLINE | VECTOR)
    yield 50_000
    yield cpu.out(0xF4, len(cpu.handled))


def test_a_posted_expiry_that_is_masked_is_lost():
    assert Run(masked_and_posted, profile=V5_3, **POSTS).vm.ports.exit_value == 0
    assert Run(masked_and_posted, profile=V5_3, apicv=True).vm.ports.exit_value == 1


def test_a_new_deadline_in_the_wait_before_a_posting_does_not_get_lost():
    def guest(cpu):
        yield from set_up(cpu)
        first = cpu.rdtsc() + 20_000
        yield cpu.wrmsr(DEADLINE_MSR, first)
        # The callback is over, and waits out what is left of 4000 ns.
        while cpu.rdtsc() < first - 4000:
            yield 100
        yield cpu.wrmsr(DEADLINE_MSR, first + 60_000)
        yield 150_000
        yield cpu.out(0xF4, len(cpu.handled))

    assert Run(guest, profile=V5_14, advance=4000, **POSTS).vm.ports.exit_value == 2


def test_periods_are_posted_too():
    def guest(cpu):
        yield from set_up(cpu, lvtt=0x20000 | VECTOR)
        yield cpu.store(TMICT, 250_000)
        while len(cpu.handled) < 5:
            yield 5000
        yield cpu.out(0xF4, 0)

    run = Run(guest, profile=V6_19, **POSTS)
    assert "EXTERNAL_INTERRUPT" not in exits(run)
    assert all(HRTIMER + POSTING - 3 < late <= HRTIMER + POSTING for late in run.lateness)


# -- what cannot be --


@pytest.mark.parametrize(
    ("profile", "apicv", "mwait_in_guest", "timer", "words"),
    [
        (SERIES, True, True, "auto", "profile series posts no timer interrupts .* v5.3 and later do"),
        (V5_2, True, True, "auto", "profile v5.2 posts no timer interrupts"),
        (V5_3, False, True, "auto", "with APICv only; add --apicv"),
        (V6_1, True, False, "auto", "profile v6.1 .* whose MWAIT does not exit; add --mwait-in-guest"),
        (V5_3, True, False, "preemption", "with --pi-inject KVM does not use the preemption timer"),
    ],
)
def test_posting_that_cannot_be_is_refused_in_a_line(profile, apicv, mwait_in_guest, timer, words):
    parameters = ModuleParameters(enable_apicv=apicv, pi_inject_timer=True)
    with pytest.raises(UsageError, match=words):
        check_posting(profile, parameters, mwait_in_guest, timer)


def test_a_preemption_timer_that_kvm_refuses_is_refused_in_a_line():
    with pytest.raises(UsageError, match="with --mwait-in-guest KVM does not use the preemption timer"):
        check_posting(SERIES, ModuleParameters(), True, "preemption")


def test_posting_that_can_be_is_not_refused():
    for profile, mwait_in_guest in ((V5_3, False), (V5_14, False), (V6_1, True), (V6_19, True)):
        parameters = ModuleParameters(enable_apicv=True, pi_inject_timer=True)
        check_posting(profile, parameters, mwait_in_guest, "auto")
        check_posting(profile, parameters, mwait_in_guest, "hrtimer")
