# SPDX-License-Identifier: GPL-2.0-or-later
"""State of a local APIC, in and out: complete, and as the page that KVM saves.

:func:`save` and :func:`restore` keep everything: from there on the future is the same. :func:`to_kvm_page`
and :func:`from_kvm_page` speak the format of KVM_GET_LAPIC and KVM_SET_LAPIC, which does not hold everything;
the rules are those of `kvm/lapic.c: kvm_apic_set_state`, those of a count by the profile, and docs/device.md
lists what they change.
The guest's TSC is the vCPU's, and its own to keep.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vlapic.apic import registers as r
from vlapic.apic.backends import NOT_SET
from vlapic.apic.ipi import x2apic_logical_id
from vlapic.apic.lapic import LocalApic
from vlapic.apic.timer import Timer, TimerMode
from vlapic.errors import StateError

KVM_PAGE_BYTES = 4096
#: Where KVM's page has the upper half of x2APIC mode's ICR, in either mode (`apic_set_reg64`).
ICR_HIGH = r.ICR + 4
_WORD = struct.Struct("<I")
_ICR, _ = r.expand()[r.ICR]


@dataclass(frozen=True)
class TimerState:
    """A timer, its host timers and its advancement; names are those of :class:`~vlapic.apic.timer.Timer`.

    Attributes:
        hrtimer_expires_ns: None if the hrtimer is not armed.
        hv_deadline_tsc: `NOT_SET` if the preemption timer is not.
    """

    mode: TimerMode
    initial_count: int
    tdcr: int
    period_ns: int
    target_ns: int
    deadline_tsc: int
    expired_deadline_tsc: int
    pending: bool
    hv_timer_in_use: bool
    fired_deadline_tsc: int
    missed: int
    armed_early: bool
    advanced: int
    armings: int
    hrtimer_expires_ns: int | None
    hv_deadline_tsc: int
    advance_ns: int
    done: bool


_TIMER_FIELDS = (
    "mode", "initial_count", "tdcr", "period_ns", "target_ns", "deadline_tsc", "expired_deadline_tsc",
    "pending", "fired_deadline_tsc", "missed", "advanced", "armings",
)  # fmt: skip
_HOST_TIMER_FIELDS = ("hv_timer_in_use", "armed_early")
_CONTROLLER_FIELDS = (
    "base", "errors", "nmi_pending", "extint_pending", "extint_message", "init_pending", "startup_page",
    "wait_for_sipi",
)  # fmt: skip


@dataclass(frozen=True)
class ApicState:
    """A local APIC; names are those of :class:`~vlapic.apic.lapic.LocalApic`.

    Attributes:
        stored: registers that are plain storage, as (offset, value) in order of offset.
    """

    apic_id: int
    base: int
    xapic_id: int
    errors: int
    nmi_pending: int
    extint_pending: bool
    extint_message: bool
    init_pending: bool
    startup_page: int | None
    wait_for_sipi: bool
    irr: int
    isr: int
    tmr: int
    tpr: int
    stored: tuple[tuple[int, int], ...]
    timer: TimerState


def save(lapic: LocalApic) -> ApicState:
    """The whole state of a local APIC, its timer and its advancement."""
    interrupts = lapic.interrupts
    return ApicState(
        apic_id=lapic.apic_id,
        xapic_id=lapic.xapic_id,
        **{name: getattr(lapic.controller, name) for name in _CONTROLLER_FIELDS},
        irr=interrupts.irr,
        isr=interrupts.isr,
        tmr=interrupts.tmr,
        tpr=interrupts.tpr,
        stored=tuple(sorted(lapic.stored.items())),
        timer=_save_timer(lapic.timer),
    )


def _save_timer(timer: Timer) -> TimerState:
    timers = timer.host_timers
    return TimerState(
        **{name: getattr(timer, name) for name in _TIMER_FIELDS},
        **{name: getattr(timers, name) for name in _HOST_TIMER_FIELDS},
        hrtimer_expires_ns=timers.hrtimer.expires_ns if timers.hrtimer.active else None,
        hv_deadline_tsc=timers.preemption.hv_deadline_tsc if timers.preemption else NOT_SET,
        advance_ns=timer.advancement.advance_ns,
        done=timer.advancement.done,
    )


def restore(lapic: LocalApic, state: ApicState) -> None:
    """Put a local APIC into a saved state, host timers and all; the host's time goes on from where it is.

    Raises:
        StateError: the state is of another APIC ID, or its timer runs on a preemption timer and this vCPU has
            none. Nothing is changed.
    """
    if state.apic_id != lapic.apic_id:
        raise StateError(
            f"the saved state is that of APIC ID {state.apic_id}, this one has {lapic.apic_id};"
            " restore it into the vCPU it came from"
        )
    if state.timer.hv_timer_in_use and lapic.timer.host_timers.preemption is None:
        raise StateError(
            "the saved timer runs on a preemption timer, and this vCPU has none; create it with one"
        )
    lapic.xapic_id = state.xapic_id
    for name in _CONTROLLER_FIELDS:
        setattr(lapic.controller, name, getattr(state, name))
    interrupts = lapic.interrupts
    interrupts.irr, interrupts.isr = state.irr, state.isr
    interrupts.tmr, interrupts.tpr = state.tmr, state.tpr
    lapic.stored.update(state.stored)
    lapic.wire()
    lapic.client.address_changed()
    _restore_timer(lapic.timer, state.timer)


def _restore_timer(timer: Timer, state: TimerState) -> None:
    timers = timer.host_timers
    for name in _TIMER_FIELDS:
        setattr(timer, name, getattr(state, name))
    for name in _HOST_TIMER_FIELDS:
        setattr(timers, name, getattr(state, name))
    timers.hrtimer.cancel()
    if state.hrtimer_expires_ns is not None:
        timers.hrtimer.start(state.hrtimer_expires_ns)
    if timers.preemption is not None:
        timers.preemption.hv_deadline_tsc = state.hv_deadline_tsc
    timer.advancement.advance_ns = state.advance_ns
    timer.advancement.done = state.done


def to_kvm_page(lapic: LocalApic) -> bytes:
    """The 4096 bytes of KVM_GET_LAPIC: TMCCT computed, the APIC ID in bits 31:24 in either mode.

    An expiry that can be delivered is delivered first, as `vcpu_run` does before it goes back to user space.
    The TSC deadline is not in the page: read IA32_TSC_DEADLINE with it. TMCCT of a count that runs is 1 or
    more there: 0 stands for one that is over, and a periodic one would skip an interrupt. Up to v5.7 it is 0
    always.
    """
    lapic.controller.deliver_timer()
    page = bytearray(KVM_PAGE_BYTES)
    for offset, value in _registers_of(lapic).items():
        _WORD.pack_into(page, offset, value & r.WHOLE)
    return bytes(page)


def _registers_of(lapic: LocalApic) -> dict[int, int]:
    values = dict(lapic.stored)
    interrupts, timer = lapic.interrupts, lapic.timer
    for bank, bits in ((r.ISR, interrupts.isr), (r.TMR, interrupts.tmr), (r.IRR, interrupts.irr)):
        values.update((bank + 0x10 * index, bits >> 32 * index) for index in range(8))
    values[r.ID] = (lapic.apic_id if lapic.x2apic else lapic.xapic_id) << 24
    values[r.TPR], values[r.PPR] = interrupts.tpr, interrupts.ppr
    values[r.LDR] = lapic.read_ldr()
    left = timer.saved_count()
    values[r.TMICT], values[r.TMCCT], values[r.TDCR] = timer.initial_count, left, timer.tdcr
    values[ICR_HIGH] = values[r.ICR] >> 32
    if lapic.x2apic:
        values[r.ICR2] = values[ICR_HIGH]
    return values


def from_kvm_page(lapic: LocalApic, page: bytes) -> None:
    """KVM_SET_LAPIC: registers from the page, a count that goes on or begins anew, by the profile.

    IA32_APIC_BASE comes before the page, IA32_TSC_DEADLINE after it.

    Raises:
        StateError: the page has another size; or switching the timer's mode would lose a timer that runs
            here, or the count that the page brings. Nothing is changed.
    """
    if len(page) != KVM_PAGE_BYTES:
        raise StateError(f"a page of KVM_GET_LAPIC has {KVM_PAGE_BYTES} bytes, got {len(page)}")
    word = {offset: _WORD.unpack_from(page, offset)[0] for offset in (*r.expand(), ICR_HIGH)}
    mode = TimerMode(word[r.LVTT] >> r.LVT_MODE_SHIFT & 3)
    _refuse_to_lose_a_timer(lapic.timer, mode, word[r.TMICT])

    _restore_registers(lapic, word)
    timer = lapic.timer
    timer.set_mode(mode)
    timer.tdcr = word[r.TDCR] & timer.tdcr_bits
    timer.initial_count = word[r.TMICT] if mode is not TimerMode.TSC_DEADLINE else 0
    with _outside_kvm_run(timer):
        timer.restore_count(word[r.TMCCT])


@contextmanager
def _outside_kvm_run(timer: Timer) -> Iterator[None]:
    """An ioctl of user space that is not KVM_RUN."""
    timer.wants_to_run = False
    try:
        yield
    finally:
        timer.wants_to_run = True


def _restore_registers(lapic: LocalApic, word: dict[int, int]) -> None:
    """All but the timer's; what a guest could not have written is dropped, so that any page makes a legal
    APIC.
    """
    stored = {row.offset: word[row.offset] & row.writable for row in r.REGISTERS if row.offset in r.STORED}
    x2apic_ldr = x2apic_logical_id(lapic.apic_id)
    stored[r.VERSION] = r.VERSION_VALUE
    stored[r.DFR] |= r.DFR_RESERVED
    stored[r.ESR] &= r.ESR_DETECTED
    if not stored[r.SVR] & r.SVR_ENABLED:
        stored.update((lvt, stored[lvt] | r.LVT_MASKED) for lvt in r.LVTS)
    if lapic.x2apic:
        stored[r.ICR] = (stored[r.ICR] | word[r.ICR2] << 32) & _ICR.writable_in(x2apic=True)
        # This one is xAPIC mode's.
        stored[r.ICR2] = lapic.stored[r.ICR2]
        stored[r.LDR] = x2apic_ldr
    else:
        stored[r.ICR] |= word[ICR_HIGH] << 32
        if word[r.LDR] == x2apic_ldr:
            stored[r.LDR] = x2apic_ldr
        lapic.xapic_id = word[r.ID] >> 24
    lapic.stored.update(stored)
    lapic.controller.see_lint0()
    lapic.client.address_changed()
    interrupts = lapic.interrupts
    interrupts.isr, interrupts.tmr, interrupts.irr = (
        sum(word[bank + 0x10 * index] << 32 * index for index in range(8))
        >> r.FIRST_LEGAL_VECTOR
        << r.FIRST_LEGAL_VECTOR
        for bank in (r.ISR, r.TMR, r.IRR)
    )
    interrupts.tpr = word[r.TPR] & 0xFF


def _refuse_to_lose_a_timer(timer: Timer, mode: TimerMode, initial_count: int) -> None:
    if mode is timer.mode or TimerMode.TSC_DEADLINE not in (mode, timer.mode):
        return
    if timer.deadline_tsc or timer.pending:
        raise StateError(
            f"the page switches the timer from {timer.mode.name} to {mode.name} and would stop the one that"
            " runs; restore the page first, IA32_TSC_DEADLINE after it"
        )
    if initial_count and timer.mode is TimerMode.TSC_DEADLINE:
        raise StateError(
            f"the page's count {initial_count} would be lost by leaving TSC_DEADLINE mode;"
            " restore into a vCPU that was reset"
        )


def restore_tsc_deadline(lapic: LocalApic, deadline_tsc: int) -> None:
    """KVM_SET_MSRS of IA32_TSC_DEADLINE, after the page.

    Raises:
        StateError: a deadline is given and the timer is not in TSC-deadline mode: KVM would ignore it, and
            the timer would be lost.
    """
    if deadline_tsc and lapic.timer.mode is not TimerMode.TSC_DEADLINE:
        raise StateError(
            f"IA32_TSC_DEADLINE {deadline_tsc:#x} would be ignored: the timer is in {lapic.timer.mode.name}"
            " mode; restore the page first"
        )
    with _outside_kvm_run(lapic.timer):
        lapic.write_msr(r.MSR_IA32_TSC_DEADLINE, deadline_tsc)
