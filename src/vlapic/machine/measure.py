# SPDX-License-Identifier: GPL-2.0-or-later
"""Measuring a vCPU's timer interrupts on their way: armed, accepted, blocked by the guest, in the handler.

Watches the machine and changes nothing in it. Its result is one :class:`~vlapic.events.TimerInterrupt` for
each handler.
"""

from __future__ import annotations

from typing import NamedTuple

from vlapic.apic.advance_state import Waited
from vlapic.apic.timer import Timer
from vlapic.events import TimerInterrupt
from vlapic.tsc import U64, GuestTsc


class InFlight(NamedTuple):
    """A timer interrupt between its acceptance and its handler."""

    vector: int
    deadline_tsc: int
    armed_at_instruction: int


class Measure:
    """What is known so far of one vCPU's next timer interrupt.

    Attributes:
        in_flight: the accepted interrupt whose handler has not been reached; None most of the time.
    """

    def __init__(self, timer: Timer, tsc: GuestTsc) -> None:
        self._timer = timer
        self._tsc = tsc
        self.in_flight: InFlight | None = None
        self._armings = 0
        self._armed_at_instruction = 0
        self._missed = 0  # the timer's count of collapsed periods at the last handler
        self._merged = 0  # expiries accepted since then that share its interrupt
        self._blocked_from: int | None = None
        self._blocked_until = 0

    def armed(self, instructions: int) -> None:
        """A write has retired that may have armed the timer; `instructions` includes it."""
        if self._timer.armings != self._armings:
            self._armings = self._timer.armings
            self._armed_at_instruction = instructions

    def accepted(self, vector: int, deadline_tsc: int | None = None) -> None:
        """The APIC took the timer's vector; one that is still in flight stands for the earlier of the two.

        Args:
            deadline_tsc: of its expiry, if another one may have come since; None is the timer's last.
        """
        if deadline_tsc is None:
            deadline_tsc = self._timer.fired_deadline_tsc
        if self.in_flight is not None:
            self._merged += 1
            deadline_tsc = min(self.in_flight.deadline_tsc, deadline_tsc)
            self.in_flight = self.in_flight._replace(deadline_tsc=deadline_tsc)
            return
        self.in_flight = InFlight(vector, deadline_tsc, self._armed_at_instruction)

    def tsc_moved(self, cycles: int) -> None:
        """The guest's TSC was set: the deadline of an interrupt in flight is another number now."""
        if self.in_flight is not None:
            deadline_tsc = (self.in_flight.deadline_tsc + cycles) & U64
            self.in_flight = self.in_flight._replace(deadline_tsc=deadline_tsc)

    def blocked(self, host_tsc: int) -> None:
        """At this entry the guest cannot take its timer interrupt: IF, shadow, TPR or LVTT mask."""
        if self._blocked_from is None and (self.in_flight is not None or self._timer.pending):
            self._blocked_from = host_tsc

    def injected(self, host_tsc: int) -> None:
        """The guest takes an interrupt: from now on nothing blocks it."""
        self._blocked_until = host_tsc

    def handled(
        self,
        host_tsc: int,
        vm: int,
        vcpu: int,
        vector: int,
        instructions: int,
        waited: Waited | None,
        wait_cycles: int,
    ) -> TimerInterrupt | None:
        """A handler's first instruction is next.

        Returns:
            The interrupt measured, None if the vector was not the timer's.
        """
        flight = self.in_flight
        if flight is None or flight.vector != vector:
            return None
        blocked_cycles = 0
        if self._blocked_from is not None:
            begin = max(self._tsc.at(self._blocked_from), flight.deadline_tsc)
            blocked_cycles = max(self._tsc.at(self._blocked_until) - begin, 0)
        missed = self._timer.missed - self._missed + self._merged
        self.in_flight = None
        self._missed = self._timer.missed
        self._merged = 0
        self._blocked_from = None
        # A periodic timer is not armed again: the next count of instructions begins here.
        self._armed_at_instruction = instructions
        return TimerInterrupt(
            host_tsc,
            vm,
            vcpu,
            vector,
            flight.deadline_tsc,
            self._tsc.at(host_tsc),
            instructions - flight.armed_at_instruction,
            missed,
            blocked_cycles,
            waited is not None,
            waited.delta_cycles if waited else 0,
            wait_cycles,
            self._timer.advancement.tuned.advance_ns,
        )
