# SPDX-License-Identifier: GPL-2.0-or-later
"""Spans: the way of each timer interrupt, from the write that armed its timer to its handler.

A fold over events, in the order of docs/timing.md: :class:`Spans` takes them one by one and gives a
:class:`Span` for each interrupt that reached its handler. It knows no machine; a trace read back gives the
same spans. Memory is bounded: what is on its way, a vector each.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from vlapic.apic.registers import LVTT, MSR_IA32_TSC_DEADLINE, MSR_X2APIC_FIRST, TMICT
from vlapic.events import (
    AcceptIrq,
    ApicAccess,
    Entry,
    Event,
    Exit,
    HrtimerExpire,
    InjectVirq,
    Msr,
    TimerInterrupt,
    VcpuStart,
)
from vlapic.json_data import json_data
from vlapic.tsc import cycles_as_ns, to_s64

X2APIC_LVTT = MSR_X2APIC_FIRST + (LVTT >> 4)
X2APIC_TMICT = MSR_X2APIC_FIRST + (TMICT >> 4)
#: Writes that arm the timer, as people call them.
ARMING_MSRS = {MSR_IA32_TSC_DEADLINE: "WRMSR TSC_DEADLINE", X2APIC_TMICT: "WRMSR TMICT"}


class Step(StrEnum):
    """A moment on the way of a timer interrupt, in their order."""

    ARMED = "armed"
    FIRED = "fired"
    EXIT = "exit"
    ACCEPT = "accept"
    INJECT = "inject"
    ENTRY = "entry"
    WAIT = "wait"
    HANDLER = "handler"


class Moment(NamedTuple):
    """When a step was done.

    Attributes:
        step: which one.
        host_tsc: its end.
        what: more about it, for people; may be empty.
    """

    step: Step
    host_tsc: int
    what: str


class Duration(NamedTuple):
    """A step as time.

    Attributes:
        step: which one.
        what: more about it.
        host_tsc: its end.
        took_ns: since the step before.
        sum_ns: since the first step.
        after_deadline_ns: since the deadline; negative before it.
    """

    step: Step
    what: str
    host_tsc: int
    took_ns: int
    sum_ns: int
    after_deadline_ns: int


@dataclass(frozen=True)
class Span:
    """One timer interrupt on its way.

    Attributes:
        interrupt: what was measured at its handler.
        number: which of its vCPU's interrupts it is, from 1.
        tsc_khz, host_khz: of the guest's TSC and of the host's.
        moments: the steps there were, in order of time.
    """

    interrupt: TimerInterrupt
    number: int
    tsc_khz: int
    host_khz: int
    moments: tuple[Moment, ...]

    @property
    def lateness_cycles(self) -> int:
        """Guest TSC at the handler's first instruction minus the deadline."""
        return to_s64(self.interrupt.handler_tsc - self.interrupt.deadline_tsc)

    @property
    def lateness_ns(self) -> int:
        """The same in ns, rounded down."""
        return cycles_as_ns(self.lateness_cycles, self.tsc_khz)

    @property
    def blocked_ns(self) -> int:
        """The part of it with the guest's IF, shadow, TPR or LVTT mask against the interrupt."""
        return cycles_as_ns(self.interrupt.blocked_cycles, self.tsc_khz)

    def durations(self) -> list[Duration]:
        """The steps in ns. What each took adds up to the sums, to the ns."""
        first = self.moments[0].host_tsc
        sums = [cycles_as_ns(moment.host_tsc - first, self.host_khz) for moment in self.moments]
        return [
            Duration(*moment[::2], moment.host_tsc, now - before, now, self.lateness_ns - (sums[-1] - now))
            for moment, before, now in zip(self.moments, [0, *sums], sums, strict=False)
        ]

    def as_json(self) -> dict[str, Any]:
        """An entry of `worst` in the schema `vlapic.run/1`."""
        return {
            "vm": self.interrupt.vm,
            "vcpu": self.interrupt.vcpu,
            "interrupt": self.number,
            "deadline_tsc": self.interrupt.deadline_tsc,
            "lateness_ns": self.lateness_ns,
            "lateness_cycles": self.lateness_cycles,
            "blocked_ns": self.blocked_ns,
            "steps": json_data(self.durations()),
        }


@dataclass
class _Flight:
    """An interrupt that its APIC accepted, and what is known of it so far."""

    moments: list[Moment]
    inject_tsc: int | None = None


@dataclass
class _Vcpu:
    """What is known of one vCPU.

    Attributes:
        tsc_khz: its guest's TSC.
        interrupts: how many have reached their handler.
        vector: the timer's, as LVTT was last written; None before that.
        armed: the last write that armed the timer, or the expiry that a periodic timer was armed again by.
        fired: the host's timer event since then, None before it.
        exit: the last exit.
        entry_tsc: the last entry.
        flights: accepted interrupts by vector.
    """

    tsc_khz: int
    interrupts: int = 0
    vector: int | None = None
    armed: Moment | None = None
    fired: Moment | None = None
    exit: Moment | None = None
    entry_tsc: int = 0
    flights: dict[int, _Flight] = field(default_factory=dict)


class Spans:
    """Puts spans together from events, which come in order of time for each vCPU."""

    def __init__(self, host_khz: int, tsc_khz: int | None = None) -> None:
        """Begin without events.

        Args:
            host_khz: frequency of the host's TSC.
            tsc_khz: of guests whose start is not among the events; None is the host's.
        """
        self._host_khz = host_khz
        self._tsc_khz = host_khz if tsc_khz is None else tsc_khz
        self._vcpus: dict[tuple[int, int], _Vcpu] = {}
        self._steps: dict[type[Any], Callable[[_Vcpu, Any], None]] = {
            VcpuStart: self._start,
            Msr: self._msr,
            ApicAccess: self._apic_access,
            HrtimerExpire: self._hrtimer,
            Exit: self._exit,
            AcceptIrq: self._accept,
            InjectVirq: self._inject,
            Entry: self._entry,
        }

    def add(self, event: Event) -> Span | None:
        """Go on with an event; the span that it completes, if it does."""
        step = self._steps.get(type(event))
        if step is not None:
            step(self._vcpu(event), event)
        elif type(event) is TimerInterrupt:
            return self._handler(self._vcpu(event), event)
        return None

    def _vcpu(self, event: Event) -> _Vcpu:
        key = (event.vm, event.vcpu)
        vcpu = self._vcpus.get(key)
        if vcpu is None:
            vcpu = self._vcpus[key] = _Vcpu(self._tsc_khz)
        return vcpu

    def _start(self, vcpu: _Vcpu, event: VcpuStart) -> None:
        vcpu.tsc_khz = event.tsc_khz

    def _msr(self, vcpu: _Vcpu, event: Msr) -> None:
        if not event.write or event.fault:
            return
        if event.msr in ARMING_MSRS and event.value:
            self._arm(vcpu, event.host_tsc, ARMING_MSRS[event.msr])
        elif event.msr == X2APIC_LVTT:
            vcpu.vector = event.value & 0xFF

    def _apic_access(self, vcpu: _Vcpu, event: ApicAccess) -> None:
        if not event.write:
            return
        if event.register == TMICT and event.value:
            self._arm(vcpu, event.host_tsc, "write of TMICT")
        elif event.register == LVTT:
            vcpu.vector = event.value & 0xFF

    def _arm(self, vcpu: _Vcpu, host_tsc: int, what: str) -> None:
        vcpu.armed = Moment(Step.ARMED, host_tsc, what)
        vcpu.fired = None

    def _hrtimer(self, vcpu: _Vcpu, event: HrtimerExpire) -> None:
        vcpu.fired = Moment(Step.FIRED, event.host_tsc, "host hrtimer")

    def _exit(self, vcpu: _Vcpu, event: Exit) -> None:
        vcpu.exit = Moment(Step.EXIT, event.host_tsc, event.reason)
        if event.reason == "PREEMPTION_TIMER":
            vcpu.fired = Moment(Step.FIRED, event.host_tsc, "VMX preemption timer")

    def _accept(self, vcpu: _Vcpu, event: AcceptIrq) -> None:
        if vcpu.vector not in (None, event.vector):
            return
        moments = self._on_its_way(vcpu)
        moments.append(Moment(Step.ACCEPT, event.host_tsc, f"vector {event.vector}"))
        flight = vcpu.flights.get(event.vector)
        if flight is None or self._delivered(vcpu, flight):
            vcpu.flights[event.vector] = _Flight(moments)
        # Else one interrupt stands for both expiries: its way is that of the first.

    def _on_its_way(self, vcpu: _Vcpu) -> list[Moment]:
        """What led to the expiry that is accepted now; the timer may be armed again from here."""
        armed, fired = vcpu.armed, vcpu.fired
        if armed is None:
            return []
        if fired is None:
            if vcpu.entry_tsc >= armed.host_tsc:
                return []  # the guest ran since, and no timer fired: this is no expiry
            fired = Moment(Step.FIRED, armed.host_tsc, "already past when armed")
        moments = [armed, fired]
        if vcpu.exit is not None and vcpu.exit.host_tsc >= fired.host_tsc:
            moments.append(vcpu.exit)
        # A periodic timer goes on from here; any other is armed by a write before it can fire again.
        vcpu.armed = Moment(Step.ARMED, fired.host_tsc, "by the expiry before")
        vcpu.fired = None
        return moments

    def _delivered(self, vcpu: _Vcpu, flight: _Flight) -> bool:
        """Whether an interrupt has gone into the guest, and was not the timer's."""
        injected = flight.inject_tsc
        return injected is not None and vcpu.exit is not None and vcpu.exit.host_tsc > injected

    def _inject(self, vcpu: _Vcpu, event: InjectVirq) -> None:
        flight = vcpu.flights.get(event.vector)
        if flight is not None:
            flight.inject_tsc = event.host_tsc

    def _entry(self, vcpu: _Vcpu, event: Entry) -> None:
        vcpu.entry_tsc = event.host_tsc

    def _handler(self, vcpu: _Vcpu, event: TimerInterrupt) -> Span:
        vcpu.interrupts += 1
        flight = vcpu.flights.pop(event.vector, None)
        moments = [] if flight is None else flight.moments
        if flight is not None and flight.inject_tsc is not None:
            blocked = " (the guest was not ready)" if event.blocked_cycles else ""
            moments.append(Moment(Step.INJECT, flight.inject_tsc, f"into the entry{blocked}"))
        if vcpu.entry_tsc:
            moments.append(Moment(Step.ENTRY, vcpu.entry_tsc, "kvm_entry"))
            if event.waited:
                early = -event.delta_cycles
                found = f"{early} cycles early" if early > 0 else f"{-early} cycles late: none needed"
                moments.append(Moment(Step.WAIT, vcpu.entry_tsc + event.wait_cycles, found))
        moments.append(Moment(Step.HANDLER, event.host_tsc, "first instruction"))
        return Span(event, vcpu.interrupts, vcpu.tsc_khz, self._host_khz, tuple(moments))


class Worst:
    """The latest interrupts of all, in bounded memory; an observer of events."""

    def __init__(self, spans: Spans, keep: int) -> None:
        """Keep so many of what `spans` completes."""
        self._spans = spans
        self._keep = keep
        # Least late first; of equals the later one, so that it goes first.
        self._heap: list[tuple[int, int, Span]] = []
        self._seen = 0

    def __call__(self, event: Event) -> None:
        """Go on with an event."""
        span = self._spans.add(event)
        if span is None:
            return
        self._seen += 1
        entry = (span.lateness_ns, -self._seen, span)
        if len(self._heap) < self._keep:
            heapq.heappush(self._heap, entry)
        elif entry > self._heap[0]:
            heapq.heapreplace(self._heap, entry)

    def spans(self) -> tuple[Span, ...]:
        """The latest ones, the very latest first; of equals the one that came first."""
        return tuple(span for _, _, span in sorted(self._heap, reverse=True))
