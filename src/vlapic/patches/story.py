# SPDX-License-Identifier: GPL-2.0-or-later
"""One interrupt in events: from the write that armed its timer to its handler."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from vlapic import events as e
from vlapic.apic.registers import MSR_IA32_TSC_DEADLINE, TMICT
from vlapic.machine.vcpu import Vcpu
from vlapic.tsc import cycles_as_ns


def _arms(event: e.Event) -> bool:
    """Whether it is a write that arms the timer."""
    if isinstance(event, e.Msr):
        return event.write and event.msr == MSR_IA32_TSC_DEADLINE
    return isinstance(event, e.ApicAccess) and event.write and event.register == TMICT


def last_of(events: Iterable[e.Event], vcpu: Vcpu) -> tuple[e.Event, ...]:
    """A vCPU's last interrupt, from the exit of the write that armed its timer to its handler.

    What arming does is traced before the write itself is, so the story begins at the exit before.
    """
    place = vcpu.vm.index, vcpu.index
    own = [event for event in events if (event.vm, event.vcpu) == place]
    end = max(index for index, event in enumerate(own) if isinstance(event, e.TimerInterrupt))
    write = max(index for index in range(end) if _arms(own[index]))
    begin = max((index for index in range(write) if isinstance(own[index], e.Exit)), default=write)
    return tuple(own[begin : end + 1])


def _on_off(event: e.HvTimerState) -> str:
    return f"kvm_hv_timer_state {event.hv_timer_in_use:d}"


def _delta(event: e.WaitLapicExpire) -> str:
    return f"wait: delta {event.delta_cycles} ({'early' if event.delta_cycles < 0 else 'late'})"


def _write(event: e.Msr) -> str:
    if event.msr == MSR_IA32_TSC_DEADLINE:
        return "guest writes TSC_DEADLINE"
    return f"guest {'writes' if event.write else 'reads'} MSR {event.msr:#x}"


def _register(event: e.ApicAccess) -> str:
    what = "TMICT" if event.register == TMICT else f"APIC {event.register:#x}"
    return f"guest {'writes' if event.write else 'reads'} {what}"


def _handler(event: e.TimerInterrupt) -> str:
    late = event.handler_tsc - event.deadline_tsc
    at_once = ", 0 insns" if not event.instructions else ""
    return f"handler at {late:+d} cycles{at_once}"


_WORDS: dict[type[Any], Callable[[Any], str]] = {
    e.Exit: lambda event: f"exit {event.reason}",
    e.Entry: lambda event: "entry",
    e.Msr: _write,
    e.ApicAccess: _register,
    e.HvTimerState: _on_off,
    e.AcceptIrq: lambda event: f"vector {event.vector} accepted",
    e.InjectVirq: lambda event: f"vector {event.vector} injected",
    e.WaitLapicExpire: _delta,
    e.AdvanceSample: lambda event: f"advancement {event.advance_ns} ns",
    e.TimerInterrupt: _handler,
}


def lines(events: Iterable[e.Event], host_khz: int) -> list[tuple[str, int, str]]:
    """The events in words: a class's name, ns since the first one, a line of 29 characters or so."""
    told = list(events)
    return [
        (
            type(event).__name__,
            cycles_as_ns(event.host_tsc - told[0].host_tsc, host_khz),
            _WORDS[type(event)](event),
        )
        for event in told
        if type(event) in _WORDS
    ]
