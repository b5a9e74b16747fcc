# SPDX-License-Identifier: GPL-2.0-or-later
"""What is told of one vCPU: its events, each with its time and place, in the order of its kernel.

Where kernels differ is when the busy wait's events are told: in the wait, or after the next exit; before
kvm_exit or behind it. Follows `kvm/lapic.c: __kvm_wait_lapic_expire` and, from v5.3 to v5.17,
`kvm/x86.c: vcpu_enter_guest`, where `advance_expire_delta` waits for the next exit. The marker with the
advancement that it was tuned to follows each kvm_wait_lapic_expire.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVarTuple

from vlapic.apic.ipi import Message, icr_of_message
from vlapic.clock import Clock
from vlapic.events import (
    AdvanceSample,
    ApicIpi,
    Entry,
    Event,
    Exit,
    HrtimerExpire,
    TimerInterrupt,
    WaitLapicExpire,
)
from vlapic.kernels.profiles import Profile
from vlapic.kernels.rules import ExitTrace, WaitTrace
from vlapic.machine.engines.contract import CpuEngine
from vlapic.tsc import ktime_ns

#: Whether kvm_wait_lapic_expire is traced in the wait; else it is after the next exit.
IN_WAIT = {WaitTrace.IN_WAIT: True, WaitTrace.AFTER_EXIT: False}
#: Whether kvm_exit comes before what else is traced after an exit.
EXIT_FIRST = {ExitTrace.IN_HANDLER: False, ExitTrace.AT_ONCE: True}

Fields = TypeVarTuple("Fields")


class Tracer:
    """Tells the events of one vCPU to a function, or tells none.

    Nothing else asks whether events are told. What an event needs computed is computed here, behind that
    question: a run without a trace pays a call.
    """

    def __init__(
        self, clock: Clock, vm: int, vcpu: int, profile: Profile, to: Callable[[Event], None] | None
    ) -> None:
        """Events of vCPU number `vcpu` of VM number `vm`, at a clock's time; `to` None tells none."""
        self._clock = clock
        self._vm = vm
        self._vcpu = vcpu
        self._to = to
        self._in_wait = IN_WAIT[profile.wait_trace]
        self._exit_first = EXIT_FIRST[profile.exit_trace]
        # The delta that the next exit traces, and what it was tuned to. The kernel's field starts at 0: the
        # first exit of all traces a delta that never was, and that tuned nothing.
        self._delta: int | None = None if self._in_wait else 0
        self._advance_ns: int | None = None

    def tell(self, kind: Callable[[int, int, int, *Fields], Event], *fields: *Fields) -> None:
        """An event of a kind: made of what leads every event (host TSC, VM, vCPU) and these fields."""
        if self._to is not None:
            self._to(kind(self._clock.now, self._vm, self._vcpu, *fields))

    def interrupt(self, event: TimerInterrupt) -> None:
        """A timer interrupt has reached its handler."""
        if self._to is not None:
            self._to(event)

    def entry(self, engine: CpuEngine) -> None:
        """The guest is about to be entered."""
        if self._to is not None:
            self.tell(Entry, engine.rip)

    def exit(self, reason: str, rip: int) -> None:
        """The guest was left, by the exit's VMX name; with what the kernel has kept back until then."""
        if self._to is None:
            return
        if self._exit_first:
            self.tell(Exit, reason, rip, 0, 0)
        if self._delta is not None:
            self.tell(WaitLapicExpire, self._delta)
            if self._advance_ns is not None:
                self.tell(AdvanceSample, self._advance_ns)
            self._delta = self._advance_ns = None
        if not self._exit_first:
            self.tell(Exit, reason, rip, 0, 0)

    def waited(self, delta_cycles: int) -> None:
        """The guest TSC was read for a busy wait."""
        if self._in_wait:
            self.tell(WaitLapicExpire, delta_cycles)
        else:
            # Only the last one since an exit is ever told.
            self._delta = delta_cycles

    def tuned(self, advance_ns: int) -> None:
        """Wait and tuning are over."""
        if self._in_wait:
            self.tell(AdvanceSample, advance_ns)
        else:
            self._advance_ns = advance_ns

    def ipi(self, message: Message) -> None:
        """The APIC sends a message."""
        if self._to is not None:
            self.tell(ApicIpi, icr_of_message(message), message.destination)

    def hrtimer_expire(self, host_khz: int) -> None:
        """The APIC timer's hrtimer has come, on a host of this frequency in kHz."""
        if self._to is not None:
            number = self._vm << 16 | self._vcpu
            self.tell(HrtimerExpire, number, "apic_timer_fn", ktime_ns(self._clock.now, host_khz))
