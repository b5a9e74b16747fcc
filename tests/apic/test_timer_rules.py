"""The timer's rules that `test_timer.py` leaves, one by one and on both back ends.

At 1 GHz a cycle is a nanosecond.
"""

import pytest

from tests.apic.bench import Apic, Bench
from vlapic.apic import registers as r
from vlapic.apic.ipi import DeliveryMode
from vlapic.apic.timer import MIN_TIMER_PERIOD_NS, TimerMode

ONE_SHOT, PERIODIC, DEADLINE, RESERVED = TimerMode
BOTH = pytest.mark.parametrize("preemption", [False, True], ids=["hrtimer", "preemption"])
BY_ONE = 0b1011
FAR = 1 << 37  # beyond a 32-bit counter that falls every 32 cycles


def counting(count=100_000, mode=ONE_SHOT, tdcr=BY_ONE, **bench):
    """A bench with a count that runs."""
    it = Bench(**bench)
    it.timer.set_mode(mode)
    it.timer.write_divide(tdcr)
    it.timer.write_initial_count(count)
    return it


def armed(ahead, **bench):
    it = Bench(**bench)
    it.timer.set_mode(DEADLINE)
    it.timer.write_tsc_deadline(it.guest_tsc + ahead)
    return it


def expiries(it, cycles):
    """When expiries come within the next cycles, each delivered as it comes."""
    begin, found = it.clock.now, []
    for _ in range(cycles // 1000):
        it.pass_time(1000)
        if it.timer.deliver():
            found.append(it.clock.now - begin)
    return found


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
    assert apic.timer.wait(apic.lapic.timer_vector_in_service, 1) is None
    apic.lapic.accept(DeliveryMode.FIXED, 0x31)
    apic.lapic.acknowledge()
    waited = apic.timer.wait(apic.lapic.timer_vector_in_service, 1)
    assert (waited.delta_cycles, waited.steps) == (apic.guest_tsc - deadline_tsc, 0)
    assert apic.timer.expired_deadline_tsc == 0
    assert apic.advancement.advance_ns == 1125
