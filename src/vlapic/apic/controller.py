# SPDX-License-Identifier: GPL-2.0-or-later
"""The interrupt controller in a local APIC: takes messages, latches, hands the processor vectors, ends them.

Follows SDM vol. 3A "Handling Interrupts", "Local Vector Table", "Error Handling", and `kvm/lapic.c` of v6.19
(`__apic_accept_irq`, `kvm_apic_accept_events`, `kvm_apic_local_deliver`). It knows nothing of how a guest
accesses registers: that is `lapic.py`'s.
"""

from __future__ import annotations

from typing import Protocol

from vlapic.apic import registers as r
from vlapic.apic.ipi import (
    DELIVERY_MODES,
    EXTINT,
    FIXED,
    INIT,
    LOWEST_PRIORITY,
    NMI,
    SMI,
    STARTUP,
    DeliveryMode,
)
from vlapic.apic.priority import InterruptRegisters
from vlapic.apic.timer import Timer

#: The most NMIs that are latched (`kvm/x86.c: process_nmi`); the vCPU keeps one of them while one is handled.
NMI_LIMIT = 2


class ControllerClient(Protocol):
    """What the controller asks of its surroundings."""

    def remote_eoi(self, vector: int) -> None:
        """A level-triggered interrupt has ended: tell the I/O APICs."""

    def trace_accept_irq(self, vector: int, mode: int, level: bool) -> None:
        """kvm_apic_accept_irq: a message was taken."""

    def trace_eoi(self, vector: int) -> None:
        """kvm_eoi: -1 if nothing was in service."""

    def trace_smi_ignored(self) -> None:
        """An SMI came; there is no system management mode here."""


class InterruptController:
    """The interrupts of one local APIC, and the registers that they go by.

    Attributes:
        base: IA32_APIC_BASE.
        interrupts: IRR, ISR, TMR, TPR; always the same object.
        timer: the APIC timer.
        stored: registers that are plain storage, by offset (`registers.STORED`); always the same
            dict.
        errors: ESR bits detected since ESR was last written.
        nmi_pending: NMIs latched, 0 to 2; `take_nmi` takes one.
        extint_pending: True while an external controller's interrupt waits, on LINT0 or by a message. The
            vCPU asks that controller for the vector, and tells `take_extint`.
        extint_message: True while it waits because of a message.
        init_pending: True from an INIT message until `take_init`.
        startup_page: page of a start-up message, 0 to 255, until `take_startup`; None if none has come.
        wait_for_sipi: True from INIT until the start-up message.
    """

    def __init__(self, bootstrap: bool, timer: Timer, client: ControllerClient) -> None:
        """`bootstrap` is whether its processor is the one that starts by itself."""
        self._bootstrap = bootstrap
        self.timer = timer
        self._client = client
        self.interrupts = InterruptRegisters()
        self.base = self._reset_base()
        self.stored = dict(r.STORED)
        self.errors = 0
        self.nmi_pending = 0
        # The level of the pin, on a PC the 8259As' INT: part of the wiring, not of the APIC's state.
        self._lint0 = False
        self.extint_pending = False
        self.extint_message = False
        self.init_pending = False
        self.startup_page: int | None = None
        self.wait_for_sipi = False

    def _reset_base(self) -> int:
        return r.APIC_BASE_DEFAULT | r.BASE_ENABLE | (r.BASE_BSP if self._bootstrap else 0)

    @property
    def enabled(self) -> bool:
        """Enabled in IA32_APIC_BASE (not: by software, in SVR)."""
        return self.base & r.BASE_ENABLE != 0

    @property
    def software_enabled(self) -> bool:
        """Enabled in SVR."""
        return self.stored[r.SVR] & r.SVR_ENABLED != 0

    # -- taking messages --

    def accept(self, mode: DeliveryMode, vector: int, level: bool = False, asserted: bool = True) -> bool:
        """Take an interrupt message (`__apic_accept_irq`).

        Args:
            mode: its delivery mode.
            vector: 0 to 255.
            level: whether it is level-triggered.
            asserted: the level, of a level-triggered message.

        Returns:
            Whether it was taken: a fixed one needs an enabled APIC and a legal vector.
        """
        if not self.base & r.BASE_ENABLE:
            return False
        if mode is FIXED or mode is LOWEST_PRIORITY:
            if not self.software_enabled or (level and not asserted):
                return False
            if vector < r.FIRST_LEGAL_VECTOR:
                self.detect(r.ESR_RECEIVE_ILLEGAL_VECTOR)
                return False
            self._client.trace_accept_irq(vector, mode, level)
            self.interrupts.request(vector, level)
            return True
        if mode is NMI:
            self._client.trace_accept_irq(vector, mode, level)
            if self.nmi_pending < NMI_LIMIT:
                self.nmi_pending += 1
            return True
        return self._accept_other(mode, vector, level, asserted)

    def _accept_other(self, mode: DeliveryMode, vector: int, level: bool, asserted: bool) -> bool:
        if mode is INIT and level and not asserted:
            # SDM vol. 3A "Interrupt Command Register (ICR)": no processor since the Pentium 4 does anything.
            return False
        self._client.trace_accept_irq(vector, mode, level)
        if mode is INIT:
            self.init_pending = True
            self.startup_page = None
        elif mode is STARTUP:
            self.startup_page = vector
        elif mode is EXTINT:
            self.extint_pending = self.extint_message = True
        elif mode is SMI:
            self._client.trace_smi_ignored()
        return True

    def local_interrupt(self, lvt: int) -> None:
        """A local source (thermal, performance, a pin, an error) fires through its LVT
        (`kvm_apic_local_deliver`).

        Args:
            lvt: the offset of its LVT register.
        """
        entry = self.stored[lvt]
        if entry & r.LVT_MASKED:
            return
        level = bool(entry & r.LVT_LEVEL)
        taken = self.accept(DELIVERY_MODES[entry >> 8 & 7], entry & r.LVT_VECTOR, level)
        if taken and lvt == r.LVT_PERFORMANCE:
            self.stored[lvt] |= r.LVT_MASKED

    def set_lint0(self, level: bool) -> None:
        """Change the level of LINT0. ExtINT follows the level; to any other mode its rise is an interrupt."""
        rose = level and not self._lint0
        self._lint0 = level
        if rose and self.enabled and not self._lint0_is(EXTINT):
            self.local_interrupt(r.LVT_LINT0)
        self.see_lint0()

    def see_lint0(self) -> None:
        """LINT0's level, its LVT register or IA32_APIC_BASE has changed: see whether ExtINT waits."""
        self.extint_pending = self.extint_message or (
            self._lint0 and (not self.enabled or self._lint0_is(EXTINT))
        )

    def accepts_lint0(self) -> bool:
        """Whether a rise of LINT0 would be taken (`kvm_apic_accept_pic_intr`).

        An APIC disabled in IA32_APIC_BASE leaves the pin to the processor, as INTR (SDM vol. 3A "Enabling or
        Disabling the Local APIC"), whatever the LVT says.
        """
        return not self.enabled or not self.stored[r.LVT_LINT0] & r.LVT_MASKED

    def lint0_sends_nmi(self) -> bool:
        """Whether a rise of LINT0 would be an NMI."""
        return self.enabled and self._lint0_is(NMI)

    def _lint0_is(self, mode: DeliveryMode) -> bool:
        entry = self.stored[r.LVT_LINT0]
        return not entry & r.LVT_MASKED and DELIVERY_MODES[entry >> 8 & 7] is mode

    def take_extint(self) -> None:
        """The external controller has given a vector; its wire says whether another one waits."""
        self.extint_message = False
        self.see_lint0()

    def detect(self, error: int) -> None:
        """Note an error; the first since ESR was written raises the error interrupt."""
        first = not self.errors
        self.errors |= error
        if first:
            self.local_interrupt(r.LVT_ERROR)

    def take_nmi(self) -> bool:
        """Take one latched NMI; False if there is none."""
        taken = self.nmi_pending > 0
        self.nmi_pending -= taken
        return taken

    def take_init(self) -> bool:
        """Take the INIT message that has come; False if there is none.

        The bootstrap processor runs on from its reset vector, any other waits for a start-up message.
        """
        taken, self.init_pending = self.init_pending, False
        if taken:
            self.wait_for_sipi = not self.base & r.BASE_BSP
        return taken

    def take_startup(self) -> int | None:
        """Take the start-up message that has come: its page, 0 to 255.

        Returns:
            None if there is none, or the processor does not wait for one: then it is dropped.
        """
        page, self.startup_page = self.startup_page, None
        if page is None or not self.wait_for_sipi:
            return None
        self.wait_for_sipi = False
        return page

    # -- the timer's interrupt --

    @property
    def timer_vector(self) -> int:
        """LVTT's vector."""
        return self.stored[r.LVTT] & r.LVT_VECTOR

    @property
    def timer_masked(self) -> bool:
        """LVTT's mask bit."""
        return self.stored[r.LVTT] & r.LVT_MASKED != 0

    @property
    def timer_vector_in_service(self) -> bool:
        """Whether the timer's interrupt was taken and not ended: what the busy wait asks."""
        vector = self.stored[r.LVTT] & r.LVT_VECTOR
        return self.base & r.BASE_ENABLE != 0 and self.interrupts.isr >> vector & 1 != 0

    @property
    def timer_vector_requested(self) -> bool:
        """Whether the timer's interrupt waits in the IRR: what the busy wait asks with APICv."""
        vector = self.stored[r.LVTT] & r.LVT_VECTOR
        return self.base & r.BASE_ENABLE != 0 and self.interrupts.irr >> vector & 1 != 0

    def inject_timer(self) -> bool:
        """Accept the timer's vector without a look at what is pending (`kvm_apic_inject_pending_timer_irqs`).

        Returns:
            Whether it was accepted; masked, it is not.
        """
        return not self.timer_masked and self.accept(FIXED, self.timer_vector)

    @property
    def timer_requested(self) -> bool:
        """Whether an expiry waits to be delivered: one is pending, the APIC is enabled, LVTT does not mask it
        (`kvm_cpu_has_pending_timer`).
        """
        return (
            self.timer.pending and self.base & r.BASE_ENABLE != 0 and self.stored[r.LVTT] & r.LVT_MASKED == 0
        )

    def deliver_timer(self) -> bool:
        """Accept the timer's vector if an expiry waits to be delivered.

        Returns:
            Whether it was accepted.
        """
        if not self.timer_requested:
            return False
        self.timer.deliver()
        return self.accept(FIXED, self.timer_vector)

    # -- taking and ending --

    def deliverable(self) -> int | None:
        """The vector that the processor would take now: the highest requested one above PPR's class.

        None if there is none.
        """
        interrupts = self.interrupts
        return interrupts.highest_request() if interrupts.irr and self.base & r.BASE_ENABLE else None

    def acknowledge(self, vector: int | None = None) -> int:
        """Move the deliverable vector from request to service: the processor takes it.

        Args:
            vector: what `deliverable` has just returned; None asks it, and then there must be one.

        Returns:
            The vector.
        """
        if vector is None:
            vector = self.deliverable()
            assert vector is not None, "nothing to acknowledge"
        self.interrupts.take(vector)
        return vector

    def eoi(self) -> None:
        """End the highest interrupt in service, if there is one; a level-triggered one is broadcast unless
        SVR suppresses that.
        """
        vector = self.interrupts.end()
        self._client.trace_eoi(vector)
        suppressed = self.stored[r.SVR] & r.SVR_SUPPRESS_EOI_BROADCAST
        if vector >= 0 and self.interrupts.tmr >> vector & 1 and not suppressed:
            self._client.remote_eoi(vector)

    def reset(self, init: bool = False) -> None:
        """Power-up reset, or INIT, which keeps IA32_APIC_BASE and the APIC ID (`kvm_lapic_reset`)."""
        if not init:
            self.base = self._reset_base()
            self.init_pending = self.wait_for_sipi = False
            self.startup_page = None
        self.stored.update(r.STORED)
        self.interrupts.reset()
        self.errors = 0
        self.nmi_pending = 0
        self.extint_message = False
        self.see_lint0()
        self.timer.reset()
