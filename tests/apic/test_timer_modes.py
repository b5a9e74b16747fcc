# SPDX-License-Identifier: GPL-2.0-or-later
"""The timer's modes, far deadlines, blocking, a moved TSC, reset: rule by rule and on both back ends.

At 1 GHz a cycle is a nanosecond.
"""

import pytest

from tests.support.apic_bench import BOTH_BACK_ENDS as BOTH
from tests.support.apic_bench import Apic, armed, counting, expiries
from vlapic.apic import registers as r
from vlapic.apic.ipi import DeliveryMode
from vlapic.apic.timer import TimerMode

ONE_SHOT, PERIODIC, DEADLINE, RESERVED = TimerMode
FAR = 1 << 37  # beyond a 32-bit counter that falls every 32 cycles


# -- modes --


@BOTH
@pytest.mark.parametrize("mode", [ONE_SHOT, PERIODIC, RESERVED])
def test_crossing_into_deadline_mode_cancels_zeroes_and_drops(preemption, mode):
    it = counting(300_000, mode, preemption=preemption)
    it.pass_time(300_000)
    assert it.timer.pending
    it.timer.set_mode(DEADLINE)
    timer = it.timer
    assert (timer.pending, timer.running, timer.initial_count, timer.period_ns, timer.deadline_tsc) == (
        False, False, 0, 0, 0,
    )  # fmt: skip


@BOTH
@pytest.mark.parametrize("mode", [ONE_SHOT, PERIODIC, RESERVED])
def test_crossing_out_of_deadline_mode_cancels_and_zeroes(preemption, mode):
    for passed in (0, 50_000):
        it = armed(50_000, preemption=preemption)
        it.pass_time(passed)
        it.timer.set_mode(mode)
        assert (it.timer.pending, it.timer.running, it.timer.deadline_tsc) == (False, False, 0)
        it.timer.set_mode(DEADLINE)
        assert it.timer.read_tsc_deadline() == 0


@BOTH
def test_one_shot_and_periodic_turn_into_each_other_while_they_run(preemption):
    it = counting(300_000, preemption=preemption)
    it.timer.set_mode(PERIODIC)
    assert expiries(it, 700_000) == [300_000, 600_000]
    it.timer.set_mode(ONE_SHOT)
    assert expiries(it, 900_000) == [200_000]


@BOTH
def test_a_short_one_shot_that_turns_periodic_is_stretched_from_its_next_period_on(preemption):
    it = counting(50_000, preemption=preemption)
    it.timer.set_mode(PERIODIC)
    assert expiries(it, 500_000) == [50_000, 250_000, 450_000]


@BOTH
def test_a_period_that_expired_before_the_timer_turned_one_shot_does_not_stop_its_count(preemption):
    it = counting(300_000, PERIODIC, preemption=preemption)
    it.pass_time(300_000)
    it.timer.set_mode(ONE_SHOT)
    it.timer.deliver()
    assert it.timer.current_count() == 300_000
    assert expiries(it, 900_000) == [300_000]


@BOTH
def test_the_reserved_mode_counts_once(preemption):
    it = counting(50_000, RESERVED, preemption=preemption)
    assert expiries(it, 300_000) == [50_000]
    it.timer.write_tsc_deadline(it.guest_tsc + 1000)
    assert not it.timer.running


@BOTH
def test_the_same_mode_again_changes_nothing(preemption):
    it = armed(50_000, preemption=preemption)
    it.timer.set_mode(DEADLINE)
    assert expiries(it, 100_000) == [50_000]


# -- deadlines --


@pytest.mark.parametrize("ahead", [FAR, FAR * 2**10, 1 << 62])
def test_a_deadline_far_beyond_the_counter_goes_to_the_hrtimer(ahead):
    it = armed(ahead, preemption=True)
    assert (it.timer.hv_timer_in_use, it.hrtimer.active) == (False, True)


def test_the_farthest_deadline_that_the_counter_holds_is_the_one_before():
    assert armed(FAR - 1, preemption=True).timer.hv_timer_in_use


def test_a_count_beyond_the_counter_goes_to_the_hrtimer():
    it = counting(r.WHOLE, tdcr=0b1010, preemption=True)
    assert (it.timer.hv_timer_in_use, it.hrtimer.active) == (False, True)
    assert it.hrtimer.expires_ns == it.timer.target_ns


@BOTH
def test_deadline_0_drops_an_expiry_that_was_not_delivered(preemption):
    it = armed(1000, preemption=preemption)
    it.pass_time(1000)
    it.timer.write_tsc_deadline(0)
    assert (it.timer.pending, it.timer.running) == (False, False)


@BOTH
@pytest.mark.parametrize("moved", [1_000_000, -500_000])
def test_an_expiry_that_software_disable_dropped_does_not_come_again_when_the_tsc_is_set(preemption, moved):
    apic = Apic(preemption=preemption)
    apic.set(r.LVTT, 0x400E0)
    apic.lapic.write_msr(r.MSR_IA32_TSC_DEADLINE, apic.guest_tsc + 5_000)
    apic.pass_time(5_000)
    apic.set(r.SVR, 0xFF)
    apic.tsc.move(moved)
    apic.timer.tsc_moved(moved)
    apic.pass_time(2_000_000)
    assert (apic.timer.pending, apic.timer.running) == (False, False)


@BOTH
def test_a_moved_tsc_moves_what_has_expired_along_and_a_count_not_at_all(preemption):
    it = counting(50_000, preemption=preemption)
    target, was_to_end = it.timer.target_ns, it.timer.deadline_tsc
    it.tsc.move(7_000_000)
    it.timer.tsc_moved(7_000_000)
    assert (it.timer.target_ns, it.timer.deadline_tsc) == (target, was_to_end + 7_000_000)
    assert expiries(it, 100_000) == [50_000]
    it = armed(5_000, preemption=preemption, advance=100)
    it.pass_time(5_000)
    it.tsc.move(-400_000)
    it.timer.tsc_moved(-400_000)
    assert it.timer.expired_deadline_tsc == it.timer.fired_deadline_tsc == 1_005_000 - 400_000


@BOTH
def test_a_deadline_that_a_moved_tsc_went_over_came_when_it_was_moved(preemption):
    it = armed(500_000, preemption=preemption, advance=700)
    it.pass_time(1_000)
    it.tsc.move(10**12)
    it.timer.tsc_moved(10**12)
    assert it.timer.pending
    moved_at = it.guest_tsc
    it.timer.deliver()
    it.clock.elapse(300)
    assert it.timer.fired_deadline_tsc == it.timer.expired_deadline_tsc == moved_at
    assert it.timer.wait(True, 1).delta_cycles == 300


@BOTH
def test_a_deadline_that_a_moved_tsc_brought_near_is_still_waited_for(preemption):
    it = armed(500_000, preemption=preemption, advance=700)
    it.tsc.move(499_500)
    it.timer.tsc_moved(499_500)
    it.pass_time(0)
    assert it.timer.pending
    it.timer.deliver()
    assert it.timer.wait(True, 1).delta_cycles == -500


def test_the_delta_of_a_wait_is_signed_however_the_tsc_was_moved():
    # Expired, and the TSC set so low that the deadline is before its 0: unsigned to compare, signed to tell.
    it = armed(5_000, advance=700)
    it.pass_time(5_000)
    it.tsc.move(-2_000_000)
    it.timer.tsc_moved(-2_000_000)
    it.timer.deliver()
    it.clock.elapse(1_500_000)
    waited = it.timer.wait(True, 1)
    assert waited.delta_cycles == it.clock.now - 1_005_000
    assert waited.cycles == 700


def test_a_count_that_a_new_divisor_makes_expire_again_has_now_for_its_deadline():
    it = counting(5_000)
    expiries(it, 10_000)
    it.timer.write_divide(0)
    it.pass_time(0)
    assert it.timer.fired_deadline_tsc == it.guest_tsc


# -- blocking --


@pytest.mark.parametrize("mode", [ONE_SHOT, PERIODIC, RESERVED, DEADLINE])
def test_blocking_moves_any_mode_to_the_hrtimer_and_back_and_loses_nothing(mode):
    it = armed(300_000, preemption=True) if mode is DEADLINE else counting(300_000, mode, preemption=True)
    assert it.timer.hv_timer_in_use
    was = it.timer.before_block()
    assert (was, it.timer.hv_timer_in_use, it.hrtimer.active) == (True, False, True)
    it.pass_time(100_000)
    it.timer.after_block(was)
    assert (it.timer.hv_timer_in_use, it.hrtimer.active) == (True, False)
    assert expiries(it, 300_000) == [200_000]


@pytest.mark.parametrize("mode", [ONE_SHOT, PERIODIC, DEADLINE])
def test_a_deadline_that_passed_before_blocking_expires_there(mode):
    it = armed(300_000, preemption=True) if mode is DEADLINE else counting(300_000, mode, preemption=True)
    it.clock.elapse(300_001)
    it.timer.before_block()
    assert it.timer.pending
    assert it.hrtimer.active is (mode is PERIODIC)


def test_waking_goes_back_only_where_it_was_before():
    it = armed(FAR, preemption=True)
    was = it.timer.before_block()
    it.pass_time(FAR // 2)
    it.timer.after_block(was)
    assert (was, it.timer.hv_timer_in_use, it.hrtimer.active) == (False, False, True)


# -- reset, and what outlives its mode --


def test_a_reset_stops_a_deadline_on_either_timer():
    for preemption in (False, True):
        it = armed(10_000, preemption=preemption)
        it.timer.reset()
        assert not it.timer.running
        assert it.timer.deadline_tsc == 0


def test_a_count_on_the_preemption_timer_survives_a_reset():
    # `kvm_lapic_reset` cancels the hrtimer; a change of mode the other, from or to TSC-deadline only.
    it = counting(preemption=True)
    it.timer.reset()
    assert it.timer.hv_timer_in_use
    assert it.timer.current_count() == 0
    it.pass_time(100_000)
    assert it.timer.pending
    hrtimer = counting()
    hrtimer.timer.reset()
    assert not hrtimer.timer.running


@BOTH
def test_an_expired_deadline_outlives_its_mode_until_an_entry_finds_the_vector_in_service(preemption):
    apic = Apic(preemption=preemption, advance=None)
    apic.set(r.LVTT, 0x400E0 | r.LVT_MASKED)
    deadline_tsc = apic.guest_tsc + 5_000
    apic.lapic.write_msr(r.MSR_IA32_TSC_DEADLINE, deadline_tsc)
    apic.pass_time(5_000)
    assert apic.timer.expired_deadline_tsc == deadline_tsc
    apic.set(r.LVTT, 0x31)
    apic.set(r.SVR, 0xFF)
    apic.lapic.reset(init=True)
    apic.set(r.SVR, 0x1FF)
    apic.set(r.LVTT, 0x31)
    assert apic.timer.expired_deadline_tsc == deadline_tsc
    # Any other source's interrupt of that vector will do.
    apic.clock.elapse(1_000_000)
    assert apic.timer.wait(apic.controller.timer_vector_in_service, 1) is None
    apic.controller.accept(DeliveryMode.FIXED, 0x31)
    apic.controller.acknowledge()
    waited = apic.timer.wait(apic.controller.timer_vector_in_service, 1)
    assert (waited.delta_cycles, waited.cycles) == (apic.guest_tsc - deadline_tsc, 0)
    assert apic.timer.expired_deadline_tsc == 0
    assert apic.advancement.advance_ns == 1125
