# SPDX-License-Identifier: GPL-2.0-or-later
"""Clocks: what the time is, and who wants to be called at a later one.

A :class:`Clock` counts cycles of the host's TSC, as an int. :class:`SimClock` is virtual time: nobody waits,
the clock goes from event to event. Each physical CPU has its own, all of one (invariant) TSC.

Events of equal times run in the order in which they were asked for, so that a run has one order only.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Protocol


class Alarm:
    """A call asked for at a time; a token to cancel it with."""

    __slots__ = ("_call", "host_tsc")

    def __init__(self, host_tsc: int, call: Callable[[], None]) -> None:
        self.host_tsc = host_tsc
        self._call: Callable[[], None] | None = call

    @property
    def active(self) -> bool:
        """True until the call was made or cancelled."""
        return self._call is not None


class Clock(Protocol):
    """The time of one physical CPU, in cycles of the host TSC."""

    @property
    def now(self) -> int:
        """The host TSC."""

    def at(self, host_tsc: int, call: Callable[[], None]) -> Alarm:
        """Ask for a call at the first moment not before `host_tsc` at which the CPU takes interrupts."""

    def cancel(self, alarm: Alarm) -> None:
        """Forget a call; one already made or cancelled is left as it is."""


#: Alarms among which cancelled ones are looked for, at the earliest.
CROWD = 64


class SimClock:
    """Virtual time. `elapse` passes time with interrupts off, `work` with interrupts on.

    Attributes:
        next_due: the time of the earliest call that is due or to come, None if there is none.
    """

    def __init__(self, now: int = 0) -> None:
        self.now = now
        self.next_due: int | None = None
        self._alarms: list[tuple[int, int, Alarm]] = []
        self._asked = 0
        self._crowded = CROWD

    def at(self, host_tsc: int, call: Callable[[], None]) -> Alarm:
        alarm = Alarm(host_tsc, call)
        self._asked += 1
        heapq.heappush(self._alarms, (host_tsc, self._asked, alarm))
        if self.next_due is None or host_tsc < self.next_due:
            self.next_due = host_tsc
        return alarm

    def cancel(self, alarm: Alarm) -> None:
        alarm._call = None
        # Far alarms that a guest sets and cancels over and over must not pile up until their time comes.
        if len(self._alarms) > self._crowded:
            self._alarms = [entry for entry in self._alarms if entry[2].active]
            heapq.heapify(self._alarms)
            self._crowded = 2 * len(self._alarms) + CROWD
        if alarm.host_tsc == self.next_due:
            self._find_next()

    def _find_next(self) -> None:
        """The earliest call was made or cancelled: see which is next."""
        alarms = self._alarms
        while alarms and alarms[0][2]._call is None:
            heapq.heappop(alarms)
        self.next_due = alarms[0][0] if alarms else None

    def awaits_other_than(self, alarm: Alarm | None) -> bool:
        """Whether a call is due or to come that is not `alarm`."""
        return any(entry[2].active and entry[2] is not alarm for entry in self._alarms)

    def elapse(self, cycles: int) -> None:
        """Let time pass with interrupts off: calls that fall due wait."""
        self.now += cycles

    def take_interrupts(self) -> None:
        """Make every call that is due by now, earliest first, those that become due meanwhile too."""
        while (due := self.next_due) is not None and due <= self.now:
            alarm = self._alarms[0][2]
            call, alarm._call = alarm._call, None
            assert call is not None
            self._find_next()
            call()

    def work(self, cycles: int) -> None:
        """Spend `cycles` with interrupts on: a call that falls due interrupts, then the work goes on."""
        due = self.next_due
        if due is None or due > self.now + cycles:
            self.now += cycles
            return
        self.take_interrupts()
        while (due := self.next_due) is not None and due <= self.now + cycles:
            cycles -= due - self.now
            self.now = due
            self.take_interrupts()
        self.now += cycles

    def sleep(self) -> bool:
        """Jump to the next call and make it. False if there is none: nothing will ever wake this CPU."""
        due = self.next_due
        if due is None:
            return False
        self.now = max(self.now, due)
        self.take_interrupts()
        return True
