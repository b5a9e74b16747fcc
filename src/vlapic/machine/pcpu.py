# SPDX-License-Identifier: GPL-2.0-or-later
"""A physical CPU: its clock, the vCPUs placed on it, whose turn it is, and other work that takes it away.

Virtual time of a physical CPU passes for all that is on it. While one vCPU has its turn (guest or the host's
work for it) the others wait; an hrtimer of a waiting one interrupts the work of the one that runs. A vCPU
stays on its physical CPU: `kvm_arch_vcpu_load` on another one, which restarts the preemption timer, never
happens.

The rules are two, and they are the host model's figures (docs/hosts.md). A turn lasts for a slice where
another vCPU wants one; a vCPU that wakes up may take over earlier, once the turn has lasted
`min_granularity`. Among those that wait the first to come is the next. It leaves out priorities, fair shares
and load balancing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from vlapic.clock import Alarm, SimClock
from vlapic.errors import GuestFailure
from vlapic.machine.hostmodel.model import Draws, HostModel

#: Draws of a physical CPU are those of the vCPU that nobody has with this number above the physical CPU's.
_DRAWS_OF_PCPUS = 1 << 32


class Runnable(Protocol):
    """What a physical CPU knows of a vCPU that is placed on it.

    Attributes:
        sleeping: it waits, halted, for an event of this CPU.
        failure: why it will never run again, None while it can.
    """

    sleeping: bool
    failure: GuestFailure | None

    @property
    def vm(self) -> object:
        """Its VM, whose vCPUs can send each other messages."""

    @property
    def in_guest(self) -> bool:
        """Whether its guest is only stopped for others, and goes on without an entry."""

    def ready_at(self) -> int | None:
        """The host TSC at which it has something to do if it is alone here; None if only others bring it."""

    def wants_cpu(self, awake: bool = False) -> bool:
        """Whether it would run if it had the CPU: it is awake, or (not if `awake`) woken up."""

    def make_active(self) -> None:
        """It goes on now: devices read its time, limits are looked at for its VM."""

    def step(self, horizon: int | None = None) -> None:
        """Go on by one round; its guest may run up to a host TSC, None is as far as it likes."""


class PhysicalCpu:
    """One physical CPU of a host.

    Attributes:
        index: its number on the host, from 0.
        clock: its time.
        vcpus: those placed on it, in order of creation, without those that were switched off.
        shared: whether there are several. One alone is never asked whether its turn is over.
        others_at: host TSC at which another CPU has something to do, None if none ever has. This one does not
            sleep past it.
        ends_at: host TSC at which the run is stopped, None if no time is set: nor does it sleep past that.
        alone_until: host TSC before which nobody but this CPU has something to do; 0 if somebody has.
    """

    def __init__(self, index: int, start_tsc: int, model: HostModel, seed: int) -> None:
        """An idle CPU at a host TSC; the seed is that of its draws, 0 to 2^64-1."""
        self.index = index
        self.clock = SimClock(start_tsc)
        self.vcpus: list[Runnable] = []
        self.shared = False
        self.others_at: int | None = None
        self.ends_at: int | None = None
        self.alone_until = 0
        self._slice_cycles = model.slice_cycles
        self._min_granularity_cycles = model.min_granularity_cycles
        draws = Draws(seed, _DRAWS_OF_PCPUS + index)
        self._switch_cycles = draws.of("switch", model.switch)
        self._waiting: deque[Runnable] = deque()
        self._running: Runnable | None = None  # whose turn it is
        self._loaded: Runnable | None = None  # whose state the CPU holds
        self._turn_began = start_tsc
        self._turn_ends: Alarm | None = None
        self._burst: Alarm | None = None
        if model.burst is not None:
            self._burst_intervals = draws.of("burst.interval", model.burst.interval)
            self._burst_lengths = draws.of("burst.length", model.burst.length)
            self._burst = self.clock.at(start_tsc + next(self._burst_intervals), self._be_busy)

    @property
    def alone(self) -> Runnable | None:
        """The one vCPU that is here, if there is nothing else; it steps without a look at its CPU."""
        return None if self.shared or self._burst is not None or not self.vcpus else self.vcpus[0]

    def place(self, vcpu: Runnable) -> None:
        """A new vCPU runs here from now on."""
        self.vcpus.append(vcpu)
        self.shared = len(self.vcpus) > 1

    def remove(self, vcpu: Runnable) -> None:
        """A vCPU of this CPU was switched off: it never wants it again."""
        self.vcpus.remove(vcpu)
        self.shared = len(self.vcpus) > 1
        if vcpu in self._waiting:
            self._waiting.remove(vcpu)
        if vcpu is self._running:
            self._end_turn()

    def ready_at(self) -> int | None:
        """The host TSC at which something is to be done here; None if only another CPU can bring it."""
        if not self.shared and self._burst is None:
            return self.vcpus[0].ready_at() if self.vcpus else None
        if any(vcpu.wants_cpu() for vcpu in self.vcpus):
            return self.clock.now
        if all(vcpu.failure for vcpu in self.vcpus) or not self.awaits_anything:
            return None
        due = self.clock.next_due
        return None if due is None else max(due, self.clock.now)

    @property
    def awaits_anything(self) -> bool:
        """Whether its clock has an alarm that may wake a vCPU; other work wakes none."""
        return self.clock.awaits_other_than(self._burst)

    def step(self, until: int | None) -> None:
        """Let the vCPU whose turn it is go on by one round, or go to the next event if all of them sleep.

        Args:
            until: host TSC up to which a guest may run, as :meth:`Runnable.step` takes it.
        """
        if not self.shared:
            vcpu = self.vcpus[0]
        else:
            chosen = self._choose()
            if chosen is None:
                self.sleep()
                return
            vcpu = chosen
        vcpu.make_active()
        vcpu.step(until)

    def sleep(self) -> None:
        """Let time pass to its next event, unless another CPU has something to do before, or the run ends."""
        due = self.clock.next_due
        if (
            due is not None
            and (self.others_at is None or due <= self.others_at)
            and (self.ends_at is None or due <= self.ends_at)
        ):
            self.clock.sleep()

    def interrupt(self, host_tsc: int, call: Callable[[], None]) -> None:
        """Another CPU interrupts this one, whose clock may be behind or ahead of it.

        Ahead it is by the host's work at most, in which interrupts are taken, unless a guest runs: that is
        left for it first.

        Args:
            host_tsc: when.
            call: what the interrupt does.
        """
        if host_tsc > self.clock.now or any(vcpu.in_guest for vcpu in self.vcpus):
            self.clock.at(host_tsc, call)
        else:
            call()

    def turn_is_over(self) -> bool:
        """Whether the vCPU that runs has to give way to another one now (`need_resched`).

        If that comes later, the guest will be left for it.
        """
        if not self._somebody_waits():
            return False
        limit = self._turn_limit()
        if self.clock.now >= limit:
            return True
        if self._turn_ends is None:
            self._turn_ends = self.clock.at(limit, self._notice_end)
        return False

    # -- turns --

    def _choose(self) -> Runnable | None:
        """The vCPU whose turn it is, its state on the CPU; None if all sleep."""
        if self._running is not None and not self._running.wants_cpu(awake=True):
            self._end_turn()
        if self._running is not None:
            if not self.turn_is_over():
                return self._running
            if self._running.in_guest:
                # Somebody has come while it was stopped for other CPUs: the guest is left first.
                if self._turn_ends is None:
                    self._turn_ends = self.clock.at(self.clock.now, self._notice_end)
                return self._running
            self._waiting.append(self._running)
            self._end_turn()
        return self._begin_turn(self._waiting.popleft()) if self._somebody_waits() else None

    def _somebody_waits(self) -> bool:
        """Whether a vCPU wants the turn of the one that has it; those that came now join the others."""
        for vcpu in self.vcpus:
            if vcpu is not self._running and vcpu not in self._waiting and vcpu.wants_cpu():
                self._waiting.append(vcpu)
                # It may have the right to an earlier turn.
                self._cancel_alarm()
        return bool(self._waiting)

    def _turn_limit(self) -> int:
        """The host TSC from which on somebody who waits may have the CPU."""
        woken = any(vcpu.sleeping for vcpu in self._waiting)
        return self._turn_began + (self._min_granularity_cycles if woken else self._slice_cycles)

    def _begin_turn(self, vcpu: Runnable) -> Runnable:
        if self._loaded is not vcpu:
            if self._loaded is not None:
                self.clock.work(next(self._switch_cycles))
            self._loaded = vcpu
        self._running = vcpu
        self._turn_began = self.clock.now
        return vcpu

    def _end_turn(self) -> None:
        self._running = None
        self._cancel_alarm()

    def _cancel_alarm(self) -> None:
        if self._turn_ends is not None:
            self.clock.cancel(self._turn_ends)
            self._turn_ends = None

    def _notice_end(self) -> None:
        """The scheduler's tick: that it made the guest exit is all it does."""
        self._turn_ends = None

    # -- other work --

    def _be_busy(self) -> None:
        """Other work of the host has the CPU for a while; interrupts are on in it."""
        self.clock.work(next(self._burst_lengths))
        self._burst = self.clock.at(self.clock.now + next(self._burst_intervals), self._be_busy)
