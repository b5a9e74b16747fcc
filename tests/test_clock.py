# SPDX-License-Identifier: GPL-2.0-or-later
"""Virtual time goes from event to event, in one order only."""

from vlapic.clock import SimClock


def test_calls_come_in_order_of_time_then_of_asking():
    clock, seen = SimClock(), []
    for name, when in (("late", 30), ("first", 10), ("second", 10)):
        clock.at(when, lambda name=name: seen.append((name, clock.now)))
    clock.work(100)
    assert seen == [("first", 10), ("second", 10), ("late", 30)]
    assert clock.now == 100


def test_interrupts_that_are_off_delay_a_call_and_lose_none():
    clock, seen = SimClock(), []
    clock.at(10, lambda: seen.append(clock.now))
    clock.elapse(50)
    assert seen == []
    clock.take_interrupts()
    assert seen == [50]


def test_an_interrupt_prolongs_the_work_it_interrupts():
    clock = SimClock()
    clock.at(10, lambda: clock.elapse(7))
    clock.work(20)
    assert clock.now == 27


def test_a_call_that_asks_for_another_one_due_gets_it_within_the_same_work():
    clock, seen = SimClock(), []

    def ask():
        clock.at(12, lambda: seen.append(clock.now))

    clock.at(10, ask)
    clock.work(20)
    assert seen == [12]


def test_a_cancelled_call_is_never_made():
    clock, seen = SimClock(), []
    alarm = clock.at(10, lambda: seen.append("cancelled"))
    other = clock.at(20, lambda: seen.append("kept"))
    clock.cancel(alarm)
    assert clock.next_due == 20
    assert not alarm.active
    assert clock.sleep()
    assert seen == ["kept"]
    assert clock.now == 20
    assert not other.active


def test_sleep_without_anything_to_come_says_so_and_keeps_the_time():
    clock = SimClock(now=5)
    assert not clock.sleep()
    assert clock.now == 5


def test_a_call_asked_for_in_the_past_is_made_now_not_then():
    clock, seen = SimClock(now=100), []
    clock.at(10, lambda: seen.append(clock.now))
    clock.work(0)
    assert seen == [100]


def test_alarms_that_are_cancelled_do_not_pile_up():
    clock, seen = SimClock(), []
    kept = [clock.at(500 + n, lambda n=n: seen.append(n)) for n in range(100)]
    for n in range(10_000):
        clock.cancel(clock.at(10**12 + n, lambda: seen.append("never")))
    assert len(clock._alarms) < 400
    clock.cancel(kept[7])
    clock.work(1000)
    assert seen == [n for n in range(100) if n != 7]
