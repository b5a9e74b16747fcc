# SPDX-License-Identifier: GPL-2.0-or-later
"""The timer's state machine, on a bench without APIC and vCPU. At 1 GHz a cycle is a nanosecond."""

import pytest

from tests.support.apic_bench import Bench, delivered
from vlapic.apic.advance_state import Waited
from vlapic.apic.timer import TimerMode, divide_count

DEADLINE, ONE_SHOT, PERIODIC = TimerMode.TSC_DEADLINE, TimerMode.ONE_SHOT, TimerMode.PERIODIC


def armed(ahead=10_000, **bench):
    """A bench whose timer is armed `ahead` guest cycles from now in TSC-deadline mode."""
    it = Bench(**bench)
    it.timer.set_mode(DEADLINE)
    it.timer.write_tsc_deadline(it.guest_tsc + ahead)
    return it


@pytest.mark.parametrize(
    ("tdcr", "divisor"),
    [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1), (4, 2), (15, 1)],
)
def test_the_divide_register_skips_its_bit_2(tdcr, divisor):
    assert divide_count(tdcr) == divisor


# -- TSC-deadline on the hrtimer --


def test_a_deadline_expires_on_the_hrtimer_early_by_the_advancement():
    it = armed(10_000, advance=700)
    assert it.hrtimer.expires_ns == 1_000_000 + 10_000 - 700
    it.clock.work(9_299)
    assert not it.timer.pending
    it.clock.work(1)
    assert it.timer.pending
    assert it.kicks == [True]
    assert it.timer.expired_deadline_tsc == 1_010_000
    assert it.traced == [False]


def test_an_advancement_beyond_the_deadline_arms_for_the_past_and_fires_at_once():
    it = armed(500, advance=700)
    assert it.hrtimer.active
    assert not it.timer.pending
    it.clock.take_interrupts()
    assert it.timer.pending


@pytest.mark.parametrize("ahead", [0, -1, -100_000])
def test_a_deadline_that_is_past_expires_at_once_without_a_host_timer(ahead):
    it = armed(ahead)
    assert it.timer.pending
    assert not it.hrtimer.active
    assert it.timer.expired_deadline_tsc == 1_000_000 + ahead


def test_deadline_zero_disarms():
    it = armed(10_000)
    it.timer.write_tsc_deadline(0)
    assert not it.hrtimer.active
    it.clock.work(1_000_000)
    assert not it.timer.pending
    assert it.timer.read_tsc_deadline() == 0


def test_a_new_deadline_replaces_the_old_one():
    it = armed(10_000)
    it.timer.write_tsc_deadline(it.guest_tsc + 20_000)
    it.clock.work(19_999)
    assert not it.timer.pending
    it.clock.work(1)
    assert it.timer.pending


def test_the_deadline_reads_back_until_it_is_delivered_and_0_after():
    it = armed(10_000)
    assert it.timer.read_tsc_deadline() == 1_010_000
    it.clock.work(10_000)
    assert it.timer.read_tsc_deadline() == 1_010_000
    assert delivered(it)
    assert it.timer.read_tsc_deadline() == 0
    assert not delivered(it)


@pytest.mark.parametrize("mode", [ONE_SHOT, PERIODIC, TimerMode.RESERVED])
def test_a_deadline_written_in_another_mode_is_ignored_and_reads_0(mode):
    it = Bench()
    it.timer.set_mode(mode)
    it.timer.write_tsc_deadline(it.guest_tsc + 100)
    assert it.timer.read_tsc_deadline() == 0
    assert not it.hrtimer.active


def test_a_scaled_guests_deadline_is_counted_in_its_own_time():
    it = armed(10_000, khz=500_000)
    assert it.hrtimer.expires_ns - it.hrtimer.now_ns() == 20_000


# -- TSC-deadline on the preemption timer --


def test_a_deadline_goes_to_the_preemption_timer_where_there_is_one():
    it = armed(10_000, preemption=True, advance=700)
    assert it.timer.hv_timer_in_use
    assert it.preemption.hv_deadline_tsc == 1_000_000 + 9_300
    assert not it.hrtimer.active
    assert it.traced == [True]


def test_running_out_expires_then_cancels_so_that_the_deadline_is_known():
    it = armed(10_000, preemption=True)
    it.clock.elapse(10_000)
    it.timer.preemption_timer_ran_out()
    assert it.timer.pending
    assert it.timer.expired_deadline_tsc == 1_010_000
    assert not it.timer.hv_timer_in_use
    assert it.preemption.entry_value() is None


def test_a_deadline_past_already_expires_is_cancelled_and_traced():
    # The series' sixth patch.
    it = armed(600, preemption=True, advance=700)
    assert it.timer.pending
    assert it.timer.expired_deadline_tsc == 1_000_600
    assert not it.timer.hv_timer_in_use
    assert not it.hrtimer.active
    assert it.traced == [False]


def test_a_deadline_too_far_for_the_counter_falls_back_to_the_hrtimer():
    it = armed(1 << 37, preemption=True)
    assert not it.timer.hv_timer_in_use
    assert it.hrtimer.active
    assert it.traced == [False]


def test_rearming_near_from_a_far_deadline_cancels_the_hrtimer():
    it = armed(1 << 37, preemption=True)
    it.timer.write_tsc_deadline(it.guest_tsc + 5000)
    assert it.timer.hv_timer_in_use
    assert not it.hrtimer.active


def test_rearming_far_from_a_near_deadline_cancels_the_preemption_timer():
    it = armed(5000, preemption=True)
    it.timer.write_tsc_deadline(it.guest_tsc + (1 << 37))
    assert not it.timer.hv_timer_in_use
    assert it.preemption.entry_value() is None
    assert it.hrtimer.active


def test_sleeping_hands_over_to_the_hrtimer_and_waking_takes_back():
    it = armed(10_000, preemption=True)
    assert it.timer.before_block()
    assert it.hrtimer.active
    assert not it.timer.hv_timer_in_use
    it.clock.work(4_000)
    it.timer.after_block(True)
    assert it.timer.hv_timer_in_use
    assert not it.hrtimer.active
    assert it.preemption.hv_deadline_tsc == 1_010_000
    assert it.traced == [True, False, True]


def test_an_expiry_while_asleep_stays_and_nothing_is_armed_again():
    it = armed(10_000, preemption=True)
    it.timer.before_block()
    it.clock.work(10_000)
    it.timer.after_block(True)
    assert it.timer.pending
    assert not it.timer.hv_timer_in_use
    assert it.traced == [True, False]


def test_sleeping_on_the_hrtimer_changes_nothing():
    it = armed(10_000)
    assert not it.timer.before_block()
    it.timer.after_block(False)
    assert it.hrtimer.active
    assert it.traced == [False]


def test_a_stray_exit_without_the_timer_in_use_does_nothing():
    it = armed(10_000)
    it.timer.preemption_timer_ran_out()
    assert not it.timer.pending


# -- one-shot and periodic --


def test_one_shot_counts_bus_cycles_times_the_divisor():
    it = Bench()
    it.timer.write_divide(0b0011)
    it.timer.write_initial_count(1000)
    assert it.timer.period_ns == 16_000
    it.clock.work(4_000)
    assert it.timer.current_count() == 750
    it.clock.work(11_999)
    assert not it.timer.pending
    it.clock.work(1)
    assert it.timer.pending
    assert it.timer.fired_deadline_tsc == 1_016_000


def test_one_shot_on_the_hrtimer_is_not_advanced_and_leaves_nothing_to_wait_for():
    it = Bench(advance=5000)
    it.timer.write_divide(0b1011)
    it.timer.write_initial_count(10_000)
    assert it.hrtimer.expires_ns == 1_010_000
    it.clock.work(10_000)
    assert it.timer.pending
    assert it.timer.expired_deadline_tsc == 0


def test_one_shot_on_the_preemption_timer_is_advanced_and_waited_for():
    # The series' fifth patch.
    it = Bench(advance=700, preemption=True)
    it.timer.write_divide(0b1011)
    it.timer.write_initial_count(10_000)
    assert it.preemption.hv_deadline_tsc == 1_009_300
    it.clock.elapse(9_300)
    it.timer.preemption_timer_ran_out()
    assert it.timer.expired_deadline_tsc == 1_010_000
    it.timer.deliver()
    assert it.timer.wait(True, 1) == Waited(-700, 700)


def test_initial_count_zero_stops():
    for preemption in (False, True):
        it = Bench(preemption=preemption)
        it.timer.write_initial_count(1000)
        it.timer.write_initial_count(0)
        assert not it.hrtimer.active
        assert not it.timer.hv_timer_in_use
        assert it.timer.current_count() == 0


def test_a_new_divisor_rescales_what_is_left():
    it = Bench()
    it.timer.write_divide(0b1011)
    it.timer.write_initial_count(10_000)
    it.clock.work(4_000)
    it.timer.write_divide(0b0001)
    assert it.hrtimer.expires_ns == 1_004_000 + 6_000 * 4
    assert it.timer.deadline_tsc == 1_004_000 + 24_000
    assert it.timer.current_count() == 6_000


def test_periodic_comes_again_and_again_without_drift():
    it = Bench()
    it.timer.set_mode(PERIODIC)
    it.timer.write_divide(0b1011)
    it.timer.write_initial_count(250_000)
    for period in range(1, 5):
        it.clock.work(250_000)
        assert it.timer.pending
        assert it.timer.fired_deadline_tsc == 1_000_000 + period * 250_000
        it.timer.deliver()
    assert it.timer.missed == 0


def test_a_period_below_200_us_is_stretched_to_it():
    it = Bench()
    it.timer.set_mode(PERIODIC)
    it.timer.write_initial_count(10)
    assert it.timer.period_ns == 200_000


def test_late_periods_collapse_to_one_now():
    it = Bench()
    it.timer.set_mode(PERIODIC)
    it.timer.write_divide(0b1011)
    it.timer.write_initial_count(250_000)
    it.clock.elapse(1_100_000)
    it.clock.take_interrupts()
    # The expiry of 250 us, and the one re-based to now; 500, 750 and 1000 us are gone.
    assert it.timer.target_ns == 1_000_000 + 1_100_000 + 250_000
    assert it.timer.missed == 3


def test_an_expired_periodic_preemption_timer_stays_armed_and_rebases_at_its_exit():
    # The series' sixth patch, the periodic half.
    it = Bench(preemption=True, advance=0)
    it.timer.set_mode(PERIODIC)
    it.timer.write_divide(0b1011)
    it.timer.write_initial_count(250_000)
    it.clock.elapse(900_000)
    it.timer.preemption_timer_ran_out()
    assert it.timer.hv_timer_in_use
    assert it.preemption.entry_value() == 0
    assert it.timer.pending
    it.timer.deliver()
    it.timer.preemption_timer_ran_out()
    assert it.timer.pending
    assert it.preemption.hv_deadline_tsc == 1_000_000 + 900_000 + 250_000


# -- modes, pending, reset --


@pytest.mark.parametrize("preemption", [False, True])
def test_leaving_deadline_mode_stops_and_clears_the_timer(preemption):
    it = armed(10_000, preemption=preemption)
    it.timer.set_mode(ONE_SHOT)
    assert not it.hrtimer.active
    assert not it.timer.hv_timer_in_use
    it.clock.work(100_000)
    assert not it.timer.pending


@pytest.mark.parametrize("preemption", [False, True])
def test_entering_deadline_mode_stops_and_clears_the_count(preemption):
    it = Bench(preemption=preemption)
    it.timer.write_initial_count(1000)
    it.timer.set_mode(DEADLINE)
    assert it.timer.initial_count == 0
    assert it.timer.current_count() == 0
    assert not it.hrtimer.active
    assert not it.timer.hv_timer_in_use


def test_one_shot_to_periodic_keeps_the_count_running():
    it = Bench()
    it.timer.write_divide(0b1011)
    it.timer.write_initial_count(300_000)
    it.timer.set_mode(PERIODIC)
    it.clock.work(300_000)
    assert it.timer.pending
    it.timer.deliver()
    it.clock.work(300_000)
    assert it.timer.pending


def test_an_undelivered_expiry_takes_no_second_one_beside_it():
    it = Bench()
    it.timer.set_mode(PERIODIC)
    it.timer.write_initial_count(125_000)
    it.clock.work(3 * 250_000)
    assert delivered(it)
    assert not delivered(it)
    assert it.timer.missed == 2


def test_reset_stops_the_hrtimer_and_keeps_advancement_and_expired_deadline():
    it = armed(10_000, advance=700)
    it.clock.work(10_000)
    it.timer.reset()
    assert not it.timer.pending
    assert it.timer.mode is ONE_SHOT
    assert it.timer.expired_deadline_tsc == 1_010_000
    assert it.advancement.advance_ns == 700


# -- waiting --


def expired(lateness, advance, **bench):
    """A bench whose deadline has expired, delivered, `lateness` cycles before or after its deadline."""
    it = armed(10_000, advance=advance, **bench)
    it.timer.expire()
    it.timer.deliver()
    it.clock.elapse(10_000 + lateness)
    return it


def test_the_wait_reports_the_delta_before_it_and_clears_the_deadline():
    it = expired(-300, advance=700)
    assert it.timer.wait(True, 1) == Waited(-300, 300)
    assert it.timer.expired_deadline_tsc == 0
    assert it.timer.wait(True, 1) is None


def test_a_late_interrupt_is_not_waited_for():
    assert expired(40, advance=700).timer.wait(True, 1) == Waited(40, 0)


def test_nothing_is_waited_for_while_the_vector_is_not_in_service():
    it = expired(-300, advance=700)
    assert it.timer.wait(False, 1) is None
    assert it.timer.expired_deadline_tsc != 0


def test_advancement_zero_never_waits():
    assert expired(-300, advance=0).timer.wait(True, 1) is None


def test_tuning_sees_the_tsc_from_before_the_wait():
    it = expired(-300, advance=None)
    assert it.timer.wait(True, 1) == Waited(-300, 300)
    assert it.advancement.advance_ns == 1000 - 125
    assert not it.advancement.done


def test_a_small_delta_ends_tuning():
    it = expired(50, advance=None)
    it.timer.wait(True, 1)
    assert it.advancement.done
    assert it.advancement.advance_ns == 1050


def test_a_fixed_advancement_stays():
    it = expired(-300, advance=700)
    it.timer.wait(True, 1)
    assert it.advancement.advance_ns == 700
