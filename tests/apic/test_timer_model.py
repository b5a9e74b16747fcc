# SPDX-License-Identifier: GPL-2.0-or-later
"""When timer interrupts come: by a second model that is nothing but arithmetic, and by the timer.

The model takes the guest's writes with their times and knows no host timer: sleeping, waking and what the
timer runs on must not make a difference. All times are ns; advancement is off, and the frequencies are such
that ns are whole cycles.
"""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.apic_bench import Bench
from vlapic.apic.timer import TimerMode

ONE_SHOT, PERIODIC, DEADLINE, RESERVED = TimerMode
SHORTEST_PERIOD = 200_000
DIVISORS = {0: 2, 1: 4, 2: 8, 3: 16, 8: 32, 9: 64, 10: 128, 11: 1}


def interrupts_by_arithmetic(writes, until):
    """When interrupts come, given (time, name, value) of each write in order, up to a time.

    `end` is when the count or deadline runs out, None if nothing runs; `held` is an expiry that the mask
    holds back.
    """
    come = set()
    mode, masked, divisor, count, period, end, held = ONE_SHOT, False, 2, 0, 0, None, False
    for (now, name, value), (then, *_) in pairwise([*writes, (until, "end", 0)]):
        free_from = now
        if name == "lvtt":
            new, masked = value
            masked = masked and new is mode  # see `Played`
            if new is not mode and DEADLINE in (new, mode):
                count, period, end, held = 0, 0, None, False
            mode = new
            if mode is PERIODIC and period:
                period = max(period, SHORTEST_PERIOD)
            if held and not masked:
                come.add(now)
                held = False
        elif name == "count" and mode is not DEADLINE:
            count, held = value, False
            period = count * divisor
            if mode is PERIODIC and period:
                period = max(period, SHORTEST_PERIOD)
            end = now + period if period else None
        elif name == "divide":
            old, divisor = divisor, DIVISORS[value]
            if period and divisor != old:
                period = count * divisor
                if mode is PERIODIC:
                    period = max(period, SHORTEST_PERIOD)
                if end is not None:
                    end = now + (end - now) * divisor // old
                elif not held or mode is PERIODIC:
                    end = now  # a count that is over runs out again: `lapic.c` has it so
        elif name == "deadline" and mode is DEADLINE:
            end, held = (max(now, now + value) if value is not None else None), False
        elif name == "late":
            free_from = now + value  # the host kept interrupts off until then
        while end is not None and max(end, free_from) <= then:
            at = max(end, free_from)
            if masked:
                held = True
            else:
                come.add(at)
            end = max(end + period, at) if mode is PERIODIC and period else None
    return sorted(come)


class Played:
    """The same writes, played to a timer; a change of mode always unmasks."""

    def __init__(self, writes, until, *, preemption, guest_ghz, host_ghz):
        self.host_ghz = host_ghz
        self.guest_ghz = guest_ghz
        self.bench = Bench(
            preemption=preemption, khz=guest_ghz * 10**6, host_khz=host_ghz * 10**6, now=1_000_000 * host_ghz
        )
        self.origin = self.now
        self.masked = False
        self.asleep = None
        self.come = set()
        for at, name, value in writes:
            self.pass_until(at)
            if name != "late":
                self.wake()
            getattr(self, name)(value)
            self.deliver()
        self.pass_until(until)

    @property
    def now(self):
        assert self.bench.clock.now % self.host_ghz == 0
        return self.bench.clock.now // self.host_ghz

    def wake(self):
        if self.asleep is not None:
            self.bench.timer.after_block(self.asleep)
            self.asleep = None

    def deliver(self):
        if self.bench.timer.pending and not self.masked:
            self.wake()  # an expiry that can be delivered ends the sleep first
            self.bench.timer.deliver()
            self.come.add(self.now - self.origin)

    def pass_until(self, at):
        """Let time pass, from one host timer to the next."""
        clock, timer = self.bench.clock, self.bench.timer
        goal = (self.origin + at) * self.host_ghz
        while True:
            hv = self.bench.preemption.hv_deadline_tsc if timer.hv_timer_in_use else goal + 1
            due = max(min(hv, goal + 1 if (alarm := clock.next_due) is None else alarm), clock.now)
            if due > goal:
                clock.elapse(max(goal - clock.now, 0))
                return
            clock.elapse(due - clock.now)
            if timer.hv_timer_in_use:
                timer.preemption_timer_ran_out()
            else:
                clock.take_interrupts()
            self.deliver()

    def lvtt(self, value):
        mode, masked = value
        self.masked = masked and mode is self.bench.timer.mode
        self.bench.timer.set_mode(mode)

    def count(self, value):
        self.bench.timer.write_initial_count(value)

    def divide(self, value):
        self.bench.timer.write_divide(value)

    def deadline(self, ahead):
        guest_tsc = self.bench.guest_tsc
        self.bench.timer.write_tsc_deadline(0 if ahead is None else guest_tsc + ahead * self.guest_ghz)

    def late(self, ns):
        self.bench.clock.elapse(ns * self.host_ghz)

    def sleep(self, _):
        if not (self.bench.timer.pending and not self.masked):
            self.asleep = self.bench.timer.before_block()


modes = st.sampled_from(TimerMode)
actions = st.one_of(
    st.tuples(st.just("lvtt"), st.tuples(modes, st.booleans())),
    st.tuples(st.just("count"), st.sampled_from([0, 1, 10, 5_000, 100_000, 150_000, 300_000, 2**32 - 1])),
    st.tuples(st.just("count"), st.integers(0, 400_000)),
    st.tuples(st.just("divide"), st.sampled_from(sorted(DIVISORS))),
    st.tuples(st.just("deadline"), st.one_of(st.none(), st.integers(-1000, 600_000))),
    st.tuples(st.just("deadline"), st.sampled_from([0, 1, 2**36, 2**40])),
    st.tuples(st.just("late"), st.sampled_from([1, 1000, 250_000, 900_000])),
    st.tuples(st.just("sleep"), st.none()),
)
gaps = st.one_of(st.sampled_from([0, 1, 1000, 200_000, 300_000]), st.integers(0, 500_000))
#: (guest's GHz, host's GHz): unscaled, and scaled down and up.
FREQUENCIES = [(1, 1), (2, 2), (1, 2), (4, 2)]


def timed(steps):
    """Writes with the times that their gaps come to; a stretch with interrupts off takes its time."""
    writes, now = [], 0
    for gap, (name, value) in steps:
        now += gap
        writes.append((now, name, value))
        if name == "late":
            now += value
    return writes, now + 1_000_000


@pytest.mark.parametrize("preemption", [False, True], ids=["hrtimer", "preemption"])
@given(st.lists(st.tuples(gaps, actions), max_size=14), st.sampled_from(FREQUENCIES))
@settings(max_examples=400, deadline=None)
@example([(0, ("count", 150_000)), (0, ("lvtt", (PERIODIC, False))), (10**6, ("divide", 11))], (1, 1))
@example([(0, ("lvtt", (PERIODIC, False))), (0, ("count", 1)), (7, ("lvtt", (PERIODIC, True)))], (1, 2))
@example([(0, ("count", 10)), (100, ("divide", 3)), (0, ("sleep", None))], (2, 2))
@example([(0, ("lvtt", (PERIODIC, False))), (0, ("count", 125_000)), (5, ("late", 900_000))], (4, 2))
def test_interrupts_come_when_arithmetic_says_on_either_back_end(preemption, steps, frequencies):
    writes, until = timed(steps)
    guest_ghz, host_ghz = frequencies
    played = Played(writes, until, preemption=preemption, guest_ghz=guest_ghz, host_ghz=host_ghz)
    assert sorted(played.come) == interrupts_by_arithmetic(writes, until)


@given(st.lists(st.tuples(gaps, actions), max_size=14), st.sampled_from(FREQUENCIES))
@settings(max_examples=200, deadline=None)
def test_sleeping_and_the_host_timer_make_no_difference_to_when_interrupts_come(steps, frequencies):
    guest_ghz, host_ghz = frequencies
    writes, until = timed(steps)
    awake = [write for write in writes if write[1] != "sleep"]
    come = {
        tuple(sorted(Played(each, until, preemption=preemption, guest_ghz=guest_ghz, host_ghz=host_ghz).come))
        for each in (writes, awake)
        for preemption in (False, True)
    }
    assert len(come) == 1


def test_the_arithmetic_itself_is_right_on_examples_worked_by_hand():
    one_shot = [(0, "divide", 11), (10, "count", 1_000)]
    assert interrupts_by_arithmetic(one_shot, 5_000) == [1_010]
    assert interrupts_by_arithmetic([*one_shot, (510, "divide", 1)], 5_000) == [2_510]
    periodic = [(0, "lvtt", (PERIODIC, False)), (0, "count", 150_000)]
    assert interrupts_by_arithmetic(periodic, 1_000_000) == [300_000, 600_000, 900_000]
    assert interrupts_by_arithmetic([*periodic, (1, "late", 700_000)], 1_100_000) == [700_001, 1_000_001]
    deadline = [(0, "lvtt", (DEADLINE, False)), (0, "deadline", 70), (10, "lvtt", (DEADLINE, True))]
    assert interrupts_by_arithmetic(deadline, 1_000) == []
    assert interrupts_by_arithmetic([*deadline, (100, "lvtt", (DEADLINE, False))], 1_000) == [100]
