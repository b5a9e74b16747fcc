# SPDX-License-Identifier: GPL-2.0-or-later
"""What holds of a local APIC whatever its guest, its host and other local APICs have done to it.

Tests call :func:`check` after every step. It reads everything and changes nothing. An assertion that fails is
a bug of vlapic, never the guest's.
"""

from __future__ import annotations

from vlapic.apic import registers as r
from vlapic.apic.backends import NOT_SET
from vlapic.apic.controller import NMI_LIMIT
from vlapic.apic.ipi import x2apic_logical_id
from vlapic.apic.lapic import LocalApic
from vlapic.apic.priority import PRIORITY_CLASS
from vlapic.apic.timer import (
    APIC_BUS_CYCLE_NS,
    MIN_TIMER_PERIOD_NS,
    Timer,
    TimerMode,
    divide_count,
)
from vlapic.kernels.rules import ModeChange
from vlapic.tsc import U32, U64

_MODES = r.BASE_ENABLE | r.BASE_X2APIC
_BASE_BITS = _MODES | r.BASE_BSP | r.BASE_PAGE
_ILLEGAL_VECTORS = (1 << r.FIRST_LEGAL_VECTOR) - 1
_VECTORS = 256
_STORED_ROWS = tuple(row for row in r.REGISTERS if row.offset in r.STORED)


def check(lapic: LocalApic) -> None:
    """Assert what holds of the whole state of a local APIC, its timer and the host timers under it."""
    _check_base(lapic)
    _check_interrupts(lapic)
    _check_stored(lapic)
    _check_latches(lapic)
    _check_timer(lapic.timer)
    mode = lapic.stored[r.LVTT] >> r.LVT_MODE_SHIFT & 3
    assert lapic.timer.mode == mode, (
        f"LVTT says {TimerMode(mode).name}, the timer is in {lapic.timer.mode.name}"
    )


def _check_base(lapic: LocalApic) -> None:
    assert not lapic.controller.base & ~_BASE_BITS, (
        f"a reserved bit of IA32_APIC_BASE is set: {lapic.controller.base:#x}"
    )
    assert lapic.controller.base & _MODES != r.BASE_X2APIC, (
        "IA32_APIC_BASE has x2APIC mode without the enable bit"
    )
    assert 0 <= lapic.xapic_id <= 0xFF, f"an xAPIC ID has 8 bits, not {lapic.xapic_id:#x}"


def _check_interrupts(lapic: LocalApic) -> None:
    interrupts = lapic.interrupts
    for name, bits in (("IRR", interrupts.irr), ("ISR", interrupts.isr), ("TMR", interrupts.tmr)):
        assert not bits & _ILLEGAL_VECTORS, f"{name} has a vector below 16: {bits:#x}"
        assert not bits >> _VECTORS, f"{name} has a vector above 255: {bits:#x}"
    assert 0 <= interrupts.tpr <= 0xFF, f"TPR has 8 bits, not {interrupts.tpr:#x}"
    # A vector is taken only above the class in service, and only the highest in service ends.
    in_service = interrupts.isr
    while in_service:
        vector = in_service.bit_length() - 1
        in_service ^= 1 << vector
        below = in_service.bit_length() - 1
        assert below < vector & PRIORITY_CLASS, f"vectors {below:#x}, {vector:#x} of a class are in service"
    ppr = interrupts.ppr & PRIORITY_CLASS
    in_service_class = max(interrupts.isr.bit_length() - 1, 0) & PRIORITY_CLASS
    assert ppr == max(interrupts.tpr & PRIORITY_CLASS, in_service_class), f"PPR's class is {ppr:#x}"
    vector_or_none = lapic.controller.deliverable()
    if vector_or_none is not None:
        assert interrupts.irr >> vector_or_none == 1, f"{vector_or_none:#x} is not the highest requested"
        assert vector_or_none & PRIORITY_CLASS > ppr, f"{vector_or_none:#x} is not above PPR's class {ppr:#x}"


def _check_stored(lapic: LocalApic) -> None:
    stored = lapic.stored
    assert stored.keys() == r.STORED.keys(), "a register is stored that has another place"
    for row in _STORED_ROWS:
        allowed = row.writable | row.reset
        if row.offset == r.ICR:
            allowed |= row.writable_in(x2apic=True)
        elif row.offset == r.LDR:
            allowed |= x2apic_logical_id(lapic.apic_id)  # left by x2APIC mode
        assert not stored[row.offset] & ~allowed, f"{row.name} holds a reserved bit: {stored[row.offset]:#x}"
    if lapic.x2apic:
        assert stored[r.LDR] == x2apic_logical_id(lapic.apic_id), f"LDR is {stored[r.LDR]:#x} in x2APIC mode"
    assert stored[r.VERSION] == r.VERSION_VALUE, "VERSION was written"
    assert stored[r.DFR] & r.DFR_RESERVED == r.DFR_RESERVED, "DFR's low bits are ones"
    assert not stored[r.ESR] & ~r.ESR_DETECTED, f"ESR has a bit that nothing sets: {stored[r.ESR]:#x}"
    if not lapic.controller.software_enabled:
        unmasked = [lvt for lvt in r.LVTS if not stored[lvt] & r.LVT_MASKED]
        assert not unmasked, (
            f"LVTs {[hex(lvt) for lvt in unmasked]} are unmasked with the APIC disabled in SVR"
        )


def _check_latches(lapic: LocalApic) -> None:
    assert not lapic.controller.errors & ~r.ESR_DETECTED, (
        f"an error was detected that there is not: {lapic.controller.errors:#x}"
    )
    assert 0 <= lapic.controller.nmi_pending <= NMI_LIMIT, f"{lapic.controller.nmi_pending} NMIs are latched"
    assert lapic.controller.startup_page is None or 0 <= lapic.controller.startup_page <= 0xFF, (
        f"page {lapic.controller.startup_page}"
    )


def _check_timer(timer: Timer) -> None:
    mode = timer.mode
    timers = timer.host_timers
    assert not (timers.hrtimer.active and timers.hv_timer_in_use), "two host timers are armed"
    hv_set = timers.preemption is not None and timers.preemption.hv_deadline_tsc != NOT_SET
    assert timers.hv_timer_in_use == hv_set, (
        f"hv_timer_in_use is {timers.hv_timer_in_use}, its deadline {hv_set}"
    )
    for name in ("deadline_tsc", "expired_deadline_tsc", "fired_deadline_tsc"):
        assert 0 <= getattr(timer, name) <= U64, f"{name} has more than 64 bits"
    assert 0 <= timer.initial_count <= U32, f"TMICT is {timer.initial_count:#x}"
    assert not timer.tdcr & ~timer.tdcr_bits, f"TDCR has a reserved bit: {timer.tdcr:#x}"
    assert 0 <= timer.advancement.advance_ns <= U32, f"the advancement is {timer.advancement.advance_ns} ns"
    count = timer.current_count()
    counted_ns = count * divide_count(timer.tdcr) * APIC_BUS_CYCLE_NS
    assert 0 <= counted_ns <= timer.period_ns, f"TMCCT {count} is beyond the period of {timer.period_ns} ns"
    if mode is TimerMode.TSC_DEADLINE:
        assert timer.initial_count == timer.period_ns == 0, "a count is left in TSC-deadline mode"
        # Some kernels leave behind what the mode before has armed, or what has come of it.
        rule = timer.profile.mode_change
        if rule is not ModeChange.HRTIMER:
            assert timer.deadline_tsc or not timer.running, "a host timer runs for no deadline"
        if rule is ModeChange.BOTH_AND_PENDING:
            assert timer.deadline_tsc or not timer.pending, "an expiry is pending that no deadline caused"
            assert not (timer.pending and timer.running), "a host timer runs though the deadline has expired"
    if mode is TimerMode.PERIODIC:
        assert timer.period_ns == 0 or timer.period_ns >= MIN_TIMER_PERIOD_NS, (
            f"{timer.period_ns} ns of period"
        )
    if timer.pending or timer.running or timer.expired_deadline_tsc:
        assert timer.armings, "a timer runs or has expired that was never started"
