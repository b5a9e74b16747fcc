# SPDX-License-Identifier: GPL-2.0-or-later
"""TMICT, TMCCT and TDCR: what a count does, rule by rule and on both back ends.

At 1 GHz a cycle is a nanosecond.
"""

import pytest

from tests.support.apic_bench import BOTH_BACK_ENDS as BOTH
from tests.support.apic_bench import Bench, armed, counting, expiries
from vlapic.apic import registers as r
from vlapic.apic.timer import MIN_TIMER_PERIOD_NS, TimerMode

PERIODIC = TimerMode.PERIODIC
BY_ONE = 0b1011


# -- TMICT --


@BOTH
def test_tmict_written_again_starts_over(preemption):
    it = counting(preemption=preemption)
    it.pass_time(60_000)
    it.timer.write_initial_count(100_000)
    assert it.timer.current_count() == 100_000
    assert expiries(it, 300_000) == [100_000]


@BOTH
def test_tmict_written_again_drops_an_expiry_that_was_not_delivered(preemption):
    it = counting(preemption=preemption)
    it.pass_time(100_000)
    assert it.timer.pending
    it.timer.write_initial_count(50_000)
    assert not it.timer.pending
    assert expiries(it, 200_000) == [50_000]


@BOTH
def test_tmict_written_as_0_stops_the_count_and_drops_its_expiry(preemption):
    it = counting(preemption=preemption)
    it.pass_time(100_000)
    it.timer.write_initial_count(0)
    assert not it.timer.pending
    assert not it.timer.running
    assert (it.timer.period_ns, it.timer.deadline_tsc, it.timer.current_count()) == (0, 0, 0)


@BOTH
def test_tmict_written_in_deadline_mode_is_ignored(preemption):
    it = armed(50_000, preemption=preemption)
    it.timer.write_initial_count(10)
    assert it.timer.initial_count == 0
    assert it.timer.current_count() == 0
    assert expiries(it, 200_000) == [50_000]


@BOTH
def test_tmict_of_a_full_count_at_the_largest_divisor_is_held_without_loss(preemption):
    it = counting(r.WHOLE, tdcr=0b1010, preemption=preemption)
    assert it.timer.period_ns == r.WHOLE * 128
    assert it.timer.current_count() == r.WHOLE
    assert it.timer.running


# -- TMCCT --


@BOTH
def test_tmcct_counts_down_from_the_first_nanosecond_to_0_and_stays(preemption):
    it = counting(1_000, tdcr=0b0001, preemption=preemption)
    assert it.timer.current_count() == 1_000
    it.pass_time(1)
    assert it.timer.current_count() == 999
    it.pass_time(3_994)
    assert it.timer.current_count() == 1
    it.pass_time(4)
    assert it.timer.current_count() == 0
    it.pass_time(1)
    assert it.timer.pending
    it.pass_time(10_000)
    assert it.timer.current_count() == 0
    it.timer.deliver()
    it.pass_time(10_000)
    assert it.timer.current_count() == 0


@BOTH
def test_tmcct_of_a_periodic_timer_begins_again_each_period(preemption):
    it = counting(300_000, PERIODIC, preemption=preemption)
    for _ in range(3):
        it.pass_time(100_000)
        assert it.timer.current_count() == 200_000
        it.pass_time(200_000)
        assert it.timer.current_count() == 300_000


@BOTH
def test_tmcct_falls_by_one_every_divisor_ns_for_every_divisor(preemption):
    for tdcr in (0, 1, 2, 3, 8, 9, 10, 11):
        it = counting(50, tdcr=tdcr, preemption=preemption)
        divisor = it.timer.period_ns // 50
        seen = []
        for _ in range(50):
            seen.append(it.timer.current_count())
            it.pass_time(divisor)
        assert seen == list(range(50, 0, -1))


def test_tmcct_in_deadline_mode_is_0():
    assert armed(10_000).timer.current_count() == 0


# -- TDCR --


@BOTH
@pytest.mark.parametrize("tdcr", [0, 1, 2, 3, 8, 9, 10])
def test_tdcr_rescales_what_is_left_of_a_running_count(preemption, tdcr):
    it = counting(10_000, preemption=preemption)
    it.pass_time(4_000)
    it.timer.write_divide(tdcr)
    divisor = it.timer.period_ns // 10_000
    assert it.timer.current_count() == 6_000
    it.pass_time(6_000 * divisor - 1)
    assert not it.timer.pending
    it.pass_time(1)
    assert it.timer.pending


@BOTH
def test_tdcr_of_a_periodic_timer_changes_this_period_and_the_next_ones(preemption):
    it = counting(300_000, PERIODIC, preemption=preemption)
    it.pass_time(100_000)
    it.timer.write_divide(0b0000)
    assert expiries(it, 1_700_000) == [400_000, 1_000_000, 1_600_000]


@BOTH
def test_tdcr_rescaled_below_the_shortest_period_is_stretched(preemption):
    it = counting(2_000, PERIODIC, 0b1010, preemption=preemption)
    it.timer.write_divide(BY_ONE)
    assert it.timer.period_ns == MIN_TIMER_PERIOD_NS


@BOTH
def test_tdcr_written_with_the_same_divisor_changes_nothing(preemption):
    it = counting(preemption=preemption)
    before = it.timer.deadline_tsc, it.timer.target_ns, len(it.traced)
    it.timer.write_divide(0b1111)
    assert (it.timer.deadline_tsc, it.timer.target_ns, len(it.traced)) == before


@BOTH
def test_tdcr_changed_after_a_one_shot_is_over_makes_it_expire_again(preemption):
    # A quirk of `update_target_expiration`: TMICT is still set, nothing is left, and that is due now.
    it = counting(preemption=preemption)
    assert expiries(it, 200_000) == [100_000]
    it.timer.write_divide(0)
    it.pass_time(0)
    assert it.timer.pending


def test_tdcr_changed_while_nothing_was_ever_started_starts_nothing():
    it = Bench()
    it.timer.write_divide(3)
    assert not it.timer.running


# -- expiries that nobody has delivered --


def test_a_second_expiry_beside_a_pending_one_changes_nothing_and_kicks_nobody():
    it = counting(300_000, PERIODIC, preemption=True)
    it.pass_time(700_000)
    assert (it.timer.expired_deadline_tsc, it.timer.fired_deadline_tsc) == (1_300_000, 1_300_000)
    assert it.timer.missed == 1
    it = counting(300_000, PERIODIC)
    it.pass_time(700_000)
    assert it.kicks == [True, False]
    assert it.timer.fired_deadline_tsc == 1_300_000
