# SPDX-License-Identifier: GPL-2.0-or-later
"""What each rule of the timer's state machine means, by what a guest or a trace sees with and without it.

Each test takes the profile `series` and exchanges one rule. At 1 GHz a cycle is a nanosecond.
"""

from dataclasses import replace

import pytest

from tests.support.apic_bench import BOTH_BACK_ENDS, Apic, Bench, armed, counting, delivered, expiries
from tests.support.apic_pages import moved, next_vector, started, with_words, word
from vlapic.apic import registers as reg
from vlapic.apic.backends import uses_hv_timer
from vlapic.apic.check import check
from vlapic.apic.state import from_kvm_page, to_kvm_page
from vlapic.apic.timer import TimerMode
from vlapic.kernels import rules as r
from vlapic.kernels.profiles import SERIES
from vlapic.tsc import U64, ns_to_cycles

ONE_SHOT, PERIODIC, DEADLINE, RESERVED = TimerMode
FAR = 1 << 40  # more than the preemption timer's counter holds


def series(**rules):
    """`series` with some of its rules exchanged."""
    return replace(SERIES, **rules)


# -- Records, HvExit: which expiries are waited for --


def waits_for(mode, profile, *, ahead=20_000, advance=1000):
    """The deadline that the next entry waits for, after an expiry on the preemption timer."""
    bench = {"preemption": True, "advance": advance, "profile": profile}
    it = armed(ahead, **bench) if mode is DEADLINE else counting(ahead, mode, **bench)
    deadline_tsc = it.timer.deadline_tsc
    it.pass_time(ahead - advance)
    assert it.timer.pending
    assert it.timer.expired_deadline_tsc in (0, deadline_tsc)
    return it.timer.expired_deadline_tsc


@pytest.mark.parametrize("mode", [ONE_SHOT, PERIODIC])
def test_counts_on_the_preemption_timer_are_waited_for_if_recorded_before_the_cancel(mode):
    ahead = 300_000
    assert waits_for(mode, series(), ahead=ahead) != 0
    assert waits_for(mode, series(records=r.Records.TSC_DEADLINE), ahead=ahead) == 0
    # v5.2 to v5.12 record them, but not on this path: the flag that they ask has just been cleared.
    assert waits_for(mode, series(hv_exit=r.HvExit.CANCEL_FIRST), ahead=ahead) == 0


@pytest.mark.parametrize("records", r.Records)
@pytest.mark.parametrize("hv_exit", r.HvExit)
def test_a_tsc_deadline_is_always_waited_for(records, hv_exit):
    assert waits_for(DEADLINE, series(records=records, hv_exit=hv_exit)) != 0


@pytest.mark.parametrize(
    ("records", "recorded"), [(r.Records.TSC_DEADLINE, False), (r.Records.HV_TIMER, True)]
)
def test_a_one_shot_past_when_it_is_set_is_what_v5_2_did_wait_for(records, recorded):
    profile = series(records=records, hv_exit=r.HvExit.CANCEL_FIRST)
    it = counting(800, advance=1000, preemption=True, profile=profile)
    assert it.timer.pending
    assert bool(it.timer.expired_deadline_tsc) is recorded


# -- PreExpired: pretend that setting the preemption timer failed, or cancel it --


def test_a_one_shot_past_when_it_is_set_is_traced_only_if_it_is_cancelled():
    # TMICT 800 with an advancement of 1000 ns.
    told = {}
    for rule in r.PreExpired:
        it = counting(800, advance=1000, preemption=True, profile=series(pre_expired=rule))
        assert it.timer.pending
        assert not it.timer.running
        told[rule] = it.traced
    assert told == {r.PreExpired.PRETEND_FAILURE: [], r.PreExpired.CANCEL: [False]}


def pending_as_one_shot_with_a_period_running(profile):
    """A periodic expiry held back while the next period runs, and LVTT made one-shot then."""
    it = counting(300_000, PERIODIC, preemption=True, profile=profile)
    it.pass_time(300_000)
    it.timer.set_mode(ONE_SHOT)
    assert it.timer.pending
    assert it.timer.hv_timer_in_use
    it.traced.clear()
    return it


def test_a_pending_expiry_stops_the_running_timer_where_failure_is_pretended():
    it = pending_as_one_shot_with_a_period_running(series(pre_expired=r.PreExpired.PRETEND_FAILURE))
    it.timer.write_divide(0)
    assert not it.timer.running
    assert it.traced == []


def test_a_pending_expiry_leaves_the_running_timer_as_it_is_since_v5_2():
    it = pending_as_one_shot_with_a_period_running(series())
    it.timer.write_divide(0)
    assert it.timer.hv_timer_in_use
    assert it.traced == []


# -- ModeChange, CountWrite: what is left behind --


def left_armed(**rules):
    """A count on the preemption timer, and LVTT made TSC-deadline."""
    it = counting(50_000, preemption=True, profile=series(**rules))
    it.timer.set_mode(DEADLINE)
    return it


def test_a_count_on_the_preemption_timer_outlives_its_mode_up_to_v5_4():
    it = left_armed(mode_change=r.ModeChange.HRTIMER)
    assert it.timer.hv_timer_in_use
    assert expiries(it, 100_000) == [50_000]
    assert expiries(left_armed(mode_change=r.ModeChange.BOTH), 100_000) == []


def test_a_count_on_the_hrtimer_never_outlives_its_mode():
    for rule in r.ModeChange:
        it = counting(50_000, profile=series(mode_change=rule))
        it.timer.set_mode(DEADLINE)
        assert expiries(it, 100_000) == []


@pytest.mark.parametrize(
    ("rule", "outlives"),
    [(r.ModeChange.HRTIMER, True), (r.ModeChange.BOTH, True), (r.ModeChange.BOTH_AND_PENDING, False)],
)
def test_an_expiry_that_the_mask_held_back_outlives_its_mode_up_to_v5_17(rule, outlives):
    it = counting(5_000, profile=series(mode_change=rule))
    it.pass_time(5_000)
    it.timer.set_mode(DEADLINE)
    assert delivered(it) is outlives


@pytest.mark.parametrize(
    ("rule", "spurious"),
    [(r.CountWrite.HRTIMER, True), (r.CountWrite.BOTH, False), (r.CountWrite.BOTH_AND_PENDING, False)],
)
def test_writing_count_0_leaves_a_spurious_interrupt_up_to_v5_11(rule, spurious):
    it = counting(50_000, preemption=True, profile=series(count_write=rule))
    it.pass_time(10_000)
    it.timer.write_initial_count(0)
    assert it.timer.current_count() == 0
    assert expiries(it, 100_000) == ([40_000] if spurious else [])


def test_writing_count_0_stops_the_hrtimer_in_every_kernel():
    for rule in r.CountWrite:
        it = counting(50_000, profile=series(count_write=rule))
        it.timer.write_initial_count(0)
        assert expiries(it, 100_000) == []


def test_a_pending_expiry_is_forgotten_by_a_new_count_in_every_kernel():
    for rule in r.CountWrite:
        it = counting(5_000, profile=series(count_write=rule))
        it.pass_time(5_000)
        it.timer.write_initial_count(90_000)
        assert not it.timer.pending


@pytest.mark.parametrize(("rule", "survives"), [(r.ModeChange.HRTIMER, True), (r.ModeChange.BOTH, False)])
def test_a_deadline_on_the_preemption_timer_outlives_reset_where_a_mode_change_leaves_it(rule, survives):
    it = armed(50_000, preemption=True, profile=series(mode_change=rule))
    it.timer.reset()
    assert (expiries(it, 100_000) == [50_000]) is survives


# -- DeadlineWrite: the reserved mode --


def in_reserved_mode(rule, *, preemption, ahead=50_000):
    it = Bench(preemption=preemption, profile=series(deadline_write=rule))
    it.timer.set_mode(RESERVED)
    it.timer.write_tsc_deadline(it.guest_tsc + ahead)
    return it


def test_the_reserved_mode_arms_a_deadline_on_the_preemption_timer_up_to_v5_9():
    it = in_reserved_mode(r.DeadlineWrite.NOT_COUNTING, preemption=True)
    assert it.timer.read_tsc_deadline() == 0
    assert expiries(it, 100_000) == [50_000]
    it = in_reserved_mode(r.DeadlineWrite.TSC_DEADLINE, preemption=True)
    assert expiries(it, 100_000) == []


def test_the_reserved_mode_never_starts_an_hrtimer_for_a_deadline():
    it = in_reserved_mode(r.DeadlineWrite.NOT_COUNTING, preemption=False)
    assert it.traced == [False]
    assert expiries(it, 100_000) == []
    it = in_reserved_mode(r.DeadlineWrite.NOT_COUNTING, preemption=True, ahead=FAR)
    assert not it.timer.running


@pytest.mark.parametrize("mode", [ONE_SHOT, PERIODIC])
def test_the_modes_that_count_ignore_a_deadline_in_every_kernel(mode):
    for rule in r.DeadlineWrite:
        it = Bench(preemption=True, profile=series(deadline_write=rule))
        it.timer.set_mode(mode)
        it.timer.write_tsc_deadline(it.guest_tsc + 50_000)
        assert not it.timer.running
        assert it.timer.armings == 0


# -- DeadlineRead: an APIC that IA32_APIC_BASE disables --


def test_a_disabled_apic_reads_an_armed_deadline_up_to_v5_9():
    for rule, shows in ((r.DeadlineRead.DEADLINE, True), (r.DeadlineRead.ZERO, False)):
        apic = started(DEADLINE, 50_000, profile=series(deadline_read=rule))
        deadline_tsc = apic.lapic.read_msr(reg.MSR_IA32_TSC_DEADLINE)
        assert deadline_tsc == apic.guest_tsc + 50_000
        apic.lapic.write_base(reg.APIC_BASE_DEFAULT)
        assert apic.lapic.read_msr(reg.MSR_IA32_TSC_DEADLINE) == (deadline_tsc if shows else 0)


# -- DirectInjection, PostedWait: APICv --

AT_ONCE = (r.DirectInjection.APICV, r.DirectInjection.APICV_IDLE_IN_GUEST, r.DirectInjection.APICV_IN_KVM_RUN)


def expired_on_the_preemption_timer(rule, *, apicv=True, masked=False):
    profile = series(direct_injection=rule)
    apic = started(DEADLINE, 5_000, masked=masked, preemption=True, apicv=apicv, profile=profile)
    apic.pass_time(5_000)
    return apic


@pytest.mark.parametrize("rule", r.DirectInjection)
def test_with_apicv_an_expiry_on_the_preemption_timer_is_accepted_at_once_since_v5_8(rule):
    apic = expired_on_the_preemption_timer(rule)
    at_once = rule in AT_ONCE
    assert apic.vectors == ([0x41] if at_once else [])
    assert apic.timer.pending is not at_once
    # What is over is forgotten where it is accepted; else the delivery does that.
    assert (apic.timer.deadline_tsc == 0) is at_once
    assert apic.timer.expired_deadline_tsc
    check(apic.lapic)


@pytest.mark.parametrize("rule", r.DirectInjection)
def test_without_apicv_an_expiry_is_pending_in_every_kernel(rule):
    apic = expired_on_the_preemption_timer(rule, apicv=False)
    assert apic.timer.pending
    assert apic.vectors == []


@pytest.mark.parametrize("rule", r.DirectInjection)
def test_with_apicv_an_expiry_that_is_masked_is_lost_where_it_is_accepted_at_once(rule):
    apic = expired_on_the_preemption_timer(rule, masked=True)
    assert apic.timer.pending is (rule not in AT_ONCE)
    assert apic.vectors == []


@pytest.mark.parametrize("rule", r.DirectInjection)
def test_with_apicv_an_hrtimer_that_may_not_post_leaves_its_expiry_pending_in_every_kernel(rule):
    apic = started(DEADLINE, 5_000, apicv=True, profile=series(direct_injection=rule))
    apic.pass_time(5_000)
    assert apic.timer.pending
    assert apic.vectors == []


@pytest.mark.parametrize("rule", r.DirectInjection)
def test_with_apicv_what_expires_while_user_space_restores_it_is_pending_since_v7_2(rule):
    profile = series(direct_injection=rule)
    new = moved(started(DEADLINE, 5_000, 5_000, masked=True, profile=profile), profile=profile, apicv=True)
    pending = rule not in AT_ONCE or rule is r.DirectInjection.APICV_IN_KVM_RUN
    assert new.timer.pending is pending
    # The vCPU runs again from here on.
    assert new.timer.wants_to_run


@pytest.mark.parametrize(("rule", "waits"), [(r.PostedWait.BODY, True), (r.PostedWait.NEVER, False)])
def test_what_is_posted_is_not_waited_for_where_the_vector_is_looked_for(rule, waits):
    it = armed(5_000, advance=1000, profile=series(posted_wait=rule))
    it.pass_time(4_000)
    deadline_tsc = it.timer.expired_deadline_tsc
    waited = it.timer.wait_before_posting(1)
    assert (waited is not None) is waits
    assert it.timer.expired_deadline_tsc == (0 if waits else deadline_tsc)
    if waits:
        assert (waited.delta_cycles, waited.cycles) == (-1000, 1000)


# -- HvOff: a preemption timer that counts fast --


@pytest.mark.parametrize("rule", r.HvOff)
def test_a_preemption_timer_that_may_run_out_in_10_s_is_not_used_since_v5_3(rule):
    # 429 496 729 is a tenth of the counter's greatest value.
    used = [uses_hv_timer(rule, khz, rate) for khz, rate in ((2_500_000, 5), (429_496, 0), (429_497, 0))]
    assert used == [True, True, rule is r.HvOff.PIN_CONTROL]


# -- Divide: what TDCR reads back --


def test_tdcr_reads_back_its_reserved_bits_up_to_v5_8():
    for rule, read in ((r.Divide.RAW, 0xFFFF_FFF7), (r.Divide.MASKED, 0x3)):
        it = Apic(profile=series(divide=rule))
        it.set(reg.TDCR, 0xFFFF_FFF7)
        assert it.get(reg.TDCR) == read
        it.set(reg.TMICT, 1000)
        # Bits 0, 1 and 3 choose the divisor in either case.
        assert it.timer.period_ns == 16 * 1000
        check(it.lapic)


# -- PeriodicAdvance: what becomes of periods that the host was late for --

PERIOD = 300_000


def after_a_pause(rule, *, periods=5, preemption=False, khz=1_000_000):
    """A periodic count whose host keeps interrupts off for some periods and a third."""
    it = counting(PERIOD, PERIODIC, preemption=preemption, khz=khz, profile=series(periodic_advance=rule))
    it.pass_time(PERIOD)
    it.timer.deliver()
    it.clock.elapse(periods * PERIOD + PERIOD // 3)
    return it


def test_late_periods_of_the_hrtimer_come_in_a_burst_up_to_v6_18():
    it = after_a_pause(r.PeriodicAdvance.OLD_TARGET)
    it.kicks.clear()
    it.clock.take_interrupts()
    # One fires after the other; the first is delivered, the others find it pending.
    assert len(it.kicks) == 5
    assert (it.kicks.count(True), it.timer.missed) == (1, 4)
    # The next keeps the beat of the first.
    assert delivered(it)
    assert expiries(it, 2 * PERIOD) == [PERIOD * 2 // 3, PERIOD * 5 // 3]


def test_late_periods_of_the_hrtimer_collapse_to_one_that_ends_now_since_v6_19():
    it = after_a_pause(r.PeriodicAdvance.NOT_BEFORE_NOW)
    it.kicks.clear()
    it.clock.take_interrupts()
    assert len(it.kicks) == 2
    assert delivered(it)
    assert expiries(it, 2 * PERIOD) == [PERIOD, 2 * PERIOD]


def test_a_period_that_is_past_makes_a_deadline_centuries_ahead_and_a_burst_up_to_v6_18():
    it = after_a_pause(r.PeriodicAdvance.OLD_TARGET, preemption=True)
    it.timer.preemption_timer_ran_out()
    late_ns = it.hrtimer.now_ns() - it.timer.target_ns
    assert late_ns > 2 * PERIOD
    assert it.timer.deadline_tsc == it.guest_tsc + ns_to_cycles(-late_ns & U64, 1_000_000) & U64
    assert it.timer.deadline_tsc > 1 << 62
    # The preemption timer's counter does not hold that. The hrtimer is armed in the past, period by period.
    assert it.hrtimer.active
    it.clock.take_interrupts()
    assert it.timer.missed == 4
    assert it.timer.target_ns > it.hrtimer.now_ns()


def test_a_late_periods_interrupt_is_measured_from_its_target():
    for rule in r.PeriodicAdvance:
        it = after_a_pause(rule, preemption=True)
        target_tsc = it.guest_tsc - (5 * PERIOD + PERIOD // 3) + PERIOD
        it.timer.preemption_timer_ran_out()
        assert it.timer.fired_deadline_tsc == target_tsc


def test_periods_in_time_are_the_same_in_every_kernel():
    for rule in r.PeriodicAdvance:
        for preemption in (False, True):
            it = counting(PERIOD, PERIODIC, preemption=preemption, profile=series(periodic_advance=rule))
            assert expiries(it, 4 * PERIOD) == [PERIOD, 2 * PERIOD, 3 * PERIOD, 4 * PERIOD]


# -- AfterBlock: where the timer goes when the vCPU wakes up --


def woken_with_a_deadline_that_came_near(rule):
    """A deadline armed on the hrtimer because it was too far, and near enough after a sleep."""
    it = armed(FAR, preemption=True, profile=series(after_block=rule))
    assert it.hrtimer.active
    was = it.timer.before_block()
    it.clock.elapse(FAR - 50_000)
    it.timer.after_block(was)
    return it


def test_a_timer_on_the_hrtimer_moves_to_the_preemption_timer_after_a_sleep_up_to_v5_16():
    assert woken_with_a_deadline_that_came_near(r.AfterBlock.ALWAYS_RESTART).timer.hv_timer_in_use
    assert not woken_with_a_deadline_that_came_near(r.AfterBlock.RESTART_IF_MOVED).timer.hv_timer_in_use


def test_waking_up_with_nothing_armed_is_traced_up_to_v5_16():
    for rule, traced in ((r.AfterBlock.ALWAYS_RESTART, [False]), (r.AfterBlock.RESTART_IF_MOVED, [])):
        it = Bench(preemption=True, profile=series(after_block=rule))
        it.timer.after_block(it.timer.before_block())
        assert it.traced == traced


def test_a_one_shot_that_is_over_comes_once_more_after_a_sleep_up_to_v5_16():
    """Delivering it sets the target to 0, and TMICT is still there: a start finds it past."""
    for rule, again in ((r.AfterBlock.ALWAYS_RESTART, True), (r.AfterBlock.RESTART_IF_MOVED, False)):
        it = counting(5_000, preemption=True, profile=series(after_block=rule))
        it.pass_time(5_000)
        it.timer.deliver()
        it.timer.after_block(it.timer.before_block())
        assert it.timer.pending is again


def test_without_a_preemption_timer_waking_up_restarts_nothing():
    for rule in r.AfterBlock:
        it = armed(50_000, profile=series(after_block=rule))
        it.traced.clear()
        it.timer.after_block(it.timer.before_block())
        assert it.traced == []


# -- SavedCount, Restore: KVM_GET_LAPIC and KVM_SET_LAPIC --


def test_a_migrated_count_starts_from_its_beginning_up_to_v5_7():
    left = {}
    for rule in r.SavedCount:
        profile = series(saved_count=rule)
        apic = started(ONE_SHOT, 300_000, 100_000, profile=profile)
        left[rule] = word(to_kvm_page(apic.lapic), reg.TMCCT), next_vector(moved(apic, profile=profile))
    assert left == {
        r.SavedCount.INITIAL: (0, 300_000),
        r.SavedCount.CURRENT: (200_000, 200_000),
        r.SavedCount.CURRENT_OR_NOW: (200_000, 200_000),
    }


def test_a_restored_one_shot_at_0_runs_its_whole_period_again_up_to_v6_2():
    for rule, comes in ((r.SavedCount.CURRENT, 300_000), (r.SavedCount.CURRENT_OR_NOW, 0)):
        profile = series(saved_count=rule)
        page = with_words(to_kvm_page(started(ONE_SHOT, 300_000, 100, profile=profile).lapic), TMCCT=0)
        new = Apic(enabled=False, profile=profile)
        from_kvm_page(new.lapic, page)
        assert next_vector(new) == comes


def test_a_restored_periodic_count_at_0_begins_a_period_in_every_kernel():
    for rule in r.SavedCount:
        profile = series(saved_count=rule)
        page = with_words(to_kvm_page(started(PERIODIC, 300_000, 100, profile=profile).lapic), TMCCT=0)
        new = Apic(enabled=False, profile=profile)
        from_kvm_page(new.lapic, page)
        assert next_vector(new) == 300_000


@pytest.mark.parametrize(
    ("rule", "forgotten"),
    [(r.Restore.HRTIMER, False), (r.Restore.HRTIMER_AND_EXPIRED, True), (r.Restore.ALL, True)],
)
def test_a_restored_guest_waits_for_a_deadline_of_before_up_to_v5_11(rule, forgotten):
    apic = started(DEADLINE, 5_000, 5_000, profile=series(restore=rule))
    assert apic.timer.expired_deadline_tsc
    from_kvm_page(apic.lapic, to_kvm_page(apic.lapic))
    assert (apic.timer.expired_deadline_tsc == 0) is forgotten


def test_restoring_a_stopped_count_leaves_a_preemption_timer_armed_up_to_v5_16():
    for rule, spurious in (
        (r.Restore.HRTIMER, True),
        (r.Restore.HRTIMER_AND_EXPIRED, True),
        (r.Restore.ALL, False),
    ):
        apic = started(ONE_SHOT, 50_000, 0, preemption=True, profile=series(restore=rule))
        from_kvm_page(apic.lapic, with_words(to_kvm_page(apic.lapic), TMICT=0, TMCCT=0))
        assert (next_vector(apic) == 50_000) is spurious


# -- the deadlines of before are still there for measurement --


@BOTH_BACK_ENDS
def test_an_expiry_is_measured_from_its_deadline_with_every_rule(preemption):
    for rule in r.PeriodicAdvance:
        it = armed(20_000, preemption=preemption, profile=series(periodic_advance=rule))
        deadline_tsc = it.timer.deadline_tsc
        it.pass_time(20_000)
        assert it.timer.fired_deadline_tsc == deadline_tsc
