# SPDX-License-Identifier: GPL-2.0-or-later
"""A local APIC as its guest sees it: the page, the MSRs, and what each register's write does.

Follows SDM vol. 3A "Local APIC", "Extended XAPIC (x2APIC)" and, where they leave a choice, `kvm/lapic.c` of
v6.19; docs/device.md lists where it differs from either. What becomes of its interrupts is
`controller.py`'s, of its timer `timer.py`'s. It knows no machine: its vCPU calls it, and it asks its
surroundings through an :class:`ApicClient`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

from vlapic.apic import registers as r
from vlapic.apic.controller import ControllerClient, InterruptController
from vlapic.apic.ipi import (
    EXTINT,
    FIXED,
    ICR_SHORTHAND_SHIFT,
    LOWEST_PRIORITY,
    RESERVED_3,
    Address,
    Message,
    Shorthand,
    message_of_icr,
    x2apic_logical_id,
)
from vlapic.apic.timer import MODES, Timer, TimerClient
from vlapic.kernels.rules import DeadlineRead
from vlapic.tsc import U64

#: A register's write: the method, the bits it takes, and those that raise #GP in an MSR.
Writer = tuple[Callable[[int], None], int, int]


def _ignore(value: int) -> None:
    """What a disabled APIC does with a deadline."""


class ApicClient(TimerClient, ControllerClient, Protocol):
    """What a local APIC asks of its surroundings."""

    def send_ipi(self, message: Message) -> None:
        """Bring a message to the local APICs that it is for."""

    def address_changed(self) -> None:
        """Messages find the APIC by something else from now on (`kvm_recalculate_apic_map`)."""


class Startup(NamedTuple):
    """What INIT and start-up messages do to a processor.

    Attributes:
        init: INIT has reset it.
        page: the page at which it starts, 0 to 255; None if it does not.
    """

    init: bool
    page: int | None


class LocalApic:
    """The local APIC of one vCPU, as its guest sees it.

    Attributes:
        apic_id: initial APIC ID; in x2APIC mode the only one.
        xapic_id: APIC ID in xAPIC mode, 8 bits, which the guest may write.
        controller: what it does with interrupts; it keeps IA32_APIC_BASE and the latches.
        interrupts, stored: the controller's registers, which the guest reads and writes here.
        timer: the APIC timer.
        client: its surroundings.
    """

    def __init__(self, apic_id: int, timer: Timer, client: ApicClient) -> None:
        self.apic_id = apic_id
        self.xapic_id = apic_id & 0xFF
        self.controller = InterruptController(apic_id == 0, timer, client)
        self.interrupts = self.controller.interrupts
        self.stored = self.controller.stored
        self.timer = timer
        self.client = client
        self._rows = r.expand()
        self._readers: dict[int, Callable[[], int]] = {}
        self._writers: dict[int, Writer] = {}
        self._msr_readers: dict[int, Callable[[], int]] = {}
        self._msr_writers: dict[int, Writer] = {}
        self.wire()

    def wire(self) -> None:
        """Bind the methods that the rows name to the offsets that the current mode has."""
        self._readers.clear()
        self._writers.clear()
        x2apic = self.x2apic
        for offset, (row, index) in self._rows.items():
            bank = (index,) if row.count > 1 else ()
            if row.access(x2apic).readable:
                self._readers[offset] = (
                    partial(self.stored.__getitem__, offset)
                    if row.read is None
                    else partial(getattr(self, row.read), *bank)
                )
            if row.access(x2apic).writable:
                if row.write is None:
                    writer: Callable[[int], None] = partial(self.stored.__setitem__, offset)
                elif row.write == "write_lvt":
                    writer = partial(self.write_lvt, offset)
                else:
                    writer = getattr(self, row.write)
                writable = row.writable_in(x2apic)
                if offset == r.TDCR and not x2apic:
                    writable |= self.timer.tdcr_bits
                self._writers[offset] = writer, writable, ~(writable | row.status)
        timer = self.timer
        readable = self.enabled or timer.profile.deadline_read is DeadlineRead.DEADLINE
        self._msr_readers = {
            r.MSR_IA32_APIC_BASE: self.read_base,
            r.MSR_IA32_TSC_DEADLINE: timer.read_tsc_deadline if readable else int,
        }
        self._msr_writers = {
            r.MSR_IA32_APIC_BASE: (self.write_base, U64, 0),
            r.MSR_IA32_TSC_DEADLINE: (timer.write_tsc_deadline if self.enabled else _ignore, U64, 0),
        }
        if x2apic:
            for offset, reader in self._readers.items():
                self._msr_readers[r.MSR_X2APIC_FIRST + (offset >> 4)] = reader
            for offset, found in self._writers.items():
                self._msr_writers[r.MSR_X2APIC_FIRST + (offset >> 4)] = found

    # -- the modes of IA32_APIC_BASE --

    @property
    def enabled(self) -> bool:
        """Enabled in IA32_APIC_BASE (not: by software, in SVR)."""
        return self.controller.enabled

    @property
    def x2apic(self) -> bool:
        """In x2APIC mode: registers are MSRs, there is no page."""
        return self.controller.base & r.BASE_X2APIC != 0

    @property
    def address(self) -> Address:
        """What messages find it by."""
        return Address(
            self.x2apic,
            self._current_id(),
            self.read_ldr(),
            self.stored[r.DFR] >> 28,
            self.controller.software_enabled,
        )

    def decodes(self, address: int) -> bool:
        """Whether a physical address lies in the register page as it is now."""
        modes = r.BASE_ENABLE | r.BASE_X2APIC
        base = self.controller.base
        return base & modes == r.BASE_ENABLE and address & ~0xFFF == base & r.BASE_PAGE

    def write_base(self, value: int) -> None:
        """WRMSR IA32_APIC_BASE (SDM vol. 3A "x2APIC State Transitions"); registers survive being disabled.

        Raises:
            GeneralProtection: a reserved bit, or a transition the architecture does not have.
        """
        modes = r.BASE_ENABLE | r.BASE_X2APIC
        old, new = self.controller.base & modes, value & modes
        reserved = value & ~(modes | r.BASE_BSP | r.BASE_PAGE)
        from_x2apic_to_xapic = old == modes and new == r.BASE_ENABLE
        from_disabled_to_x2apic = old == 0 and new == modes
        if reserved or new == r.BASE_X2APIC or from_x2apic_to_xapic or from_disabled_to_x2apic:
            raise r.GeneralProtection
        self.controller.base = value
        if new != old:
            if new == r.BASE_ENABLE:
                self.xapic_id = self.apic_id & 0xFF
            elif new == modes:
                # It stays when the APIC goes back to xAPIC mode (`__kvm_apic_set_base`).
                self.stored[r.LDR] = x2apic_logical_id(self.apic_id)
            self.wire()
            self.controller.see_lint0()
            self.client.address_changed()

    # -- accesses --

    def read(self, offset: int, size: int = 4) -> int:
        """Read 1, 2 or 4 bytes within a register's first four of the page; anything else reads 0."""
        within = offset & 0xF
        if within + size > 4:
            return 0
        reader = self._readers.get(offset & 0xFF0)
        if reader is None:
            self._detect_hole(offset & 0xFF0)
            return 0
        return reader() >> 8 * within & (1 << 8 * size) - 1

    def write(self, offset: int, value: int, size: int = 4) -> None:
        """Write a whole register of the page; anything else is ignored, and so are reserved bits."""
        if size != 4 or offset & 0xF:
            return
        found = self._writers.get(offset)
        if found is None:
            self._detect_hole(offset)
            return
        writer, writable, _ = found
        writer(value & writable)

    def _detect_hole(self, offset: int) -> None:
        """An access that the page does not take is an error where there is no register at all."""
        if offset not in self._readers and offset not in self._writers:
            self.controller.detect(r.ESR_ILLEGAL_REGISTER)

    def read_msr(self, msr: int) -> int:
        """RDMSR of a register that is the APIC's.

        Raises:
            GeneralProtection: no such register, or not readable in this mode.
        """
        reader = self._msr_readers.get(msr)
        if reader is None:
            raise r.GeneralProtection
        return reader()

    def write_msr(self, msr: int, value: int) -> None:
        """WRMSR of a register that is the APIC's.

        Raises:
            GeneralProtection: no such register, not writable in this mode, or a reserved bit is set.
        """
        found = self._msr_writers.get(msr)
        if found is None:
            raise r.GeneralProtection
        writer, writable, reserved = found
        if value & reserved:
            raise r.GeneralProtection
        writer(value & writable)

    # -- what a read gives, by the name in the row --

    def read_base(self) -> int:
        """IA32_APIC_BASE."""
        return self.controller.base

    def _current_id(self) -> int:
        return self.apic_id if self.x2apic else self.xapic_id

    def read_id(self) -> int:
        """ID: bits 31:24 in xAPIC mode, all 32 in x2APIC mode."""
        return self.apic_id if self.x2apic else self.xapic_id << 24

    def read_tpr(self) -> int:
        """TPR, 8 bits."""
        return self.interrupts.tpr

    def read_apr(self) -> int:
        """APR, 8 bits."""
        return self.interrupts.apr

    def read_ppr(self) -> int:
        """PPR, 8 bits."""
        return self.interrupts.ppr

    def read_ldr(self) -> int:
        """LDR, 32 bits."""
        return self.stored[r.LDR]

    def read_isr(self, index: int) -> int:
        """Register `index` of ISR, 0 to 7: vectors 32 * index on."""
        return self.interrupts.isr >> 32 * index & r.WHOLE

    def read_tmr(self, index: int) -> int:
        """Register `index` of TMR, likewise."""
        return self.interrupts.tmr >> 32 * index & r.WHOLE

    def read_irr(self, index: int) -> int:
        """Register `index` of IRR, likewise."""
        return self.interrupts.irr >> 32 * index & r.WHOLE

    def read_tmict(self) -> int:
        """TMICT, the initial count."""
        return self.timer.initial_count

    def read_tmcct(self) -> int:
        """TMCCT, what is left of the count."""
        return self.timer.current_count()

    def read_tdcr(self) -> int:
        """TDCR."""
        return self.timer.tdcr

    # -- what a write does, by the name in the row --

    def write_id(self, value: int) -> None:
        """ID: messages find it by another one."""
        self.xapic_id = value >> 24
        self.client.address_changed()

    def write_tpr(self, value: int) -> None:
        """TPR."""
        self.interrupts.tpr = value

    def write_eoi(self, value: int) -> None:
        """EOI, whatever the value."""
        self.controller.eoi()

    def write_ldr(self, value: int) -> None:
        """LDR: messages find it by another logical ID."""
        self.stored[r.LDR] = value
        self.client.address_changed()

    def write_dfr(self, value: int) -> None:
        """DFR: its low 28 bits stay ones."""
        self.stored[r.DFR] = value | r.DFR_RESERVED
        self.client.address_changed()

    def write_svr(self, value: int) -> None:
        """SVR: a disabled APIC has every LVT masked and forgets an expiry of its timer that is pending."""
        self.stored[r.SVR] = value
        self.client.address_changed()
        if not value & r.SVR_ENABLED:
            # SDM vol. 3A "Local APIC State After It Has Been Software Disabled": every LVT is masked, a
            # running timer runs on.
            for offset in r.LVTS:
                self.stored[offset] |= r.LVT_MASKED
            self.controller.see_lint0()
            self.timer.pending = False

    def write_esr(self, value: int) -> None:
        """ESR, whatever the value: what was detected since the last write can be read now."""
        self.stored[r.ESR] = self.controller.errors
        self.controller.errors = 0

    def write_lvt(self, offset: int, value: int) -> None:
        """An LVT register by its offset; it stays masked while SVR disables the APIC."""
        self.stored[offset] = value if self.controller.software_enabled else value | r.LVT_MASKED
        if offset == r.LVT_LINT0:
            self.controller.see_lint0()

    def write_lvtt(self, value: int) -> None:
        """LVTT: its mode bits are the timer's mode."""
        self.write_lvt(r.LVTT, value)
        self.timer.set_mode(MODES[value >> r.LVT_MODE_SHIFT & 3])

    def write_icr(self, value: int) -> None:
        """ICR: send a message. Its destination is ICR2's in xAPIC mode, the high half in x2APIC mode."""
        if self.x2apic:
            destination = value >> 32
            self.stored[r.ICR] = value
        else:
            destination = self.stored[r.ICR2] >> 24
            # The destination of x2APIC mode is not xAPIC mode's to change; it is there again after it.
            self.stored[r.ICR] = self.stored[r.ICR] & ~r.WHOLE | value
        self._send(message_of_icr(value & r.WHOLE, destination))

    def write_self_ipi(self, value: int) -> None:
        """SELF_IPI: send the vector to itself."""
        self._send(message_of_icr(value | Shorthand.SELF << ICR_SHORTHAND_SHIFT, 0))

    def write_tmict(self, value: int) -> None:
        """TMICT: start the count."""
        self.timer.write_initial_count(value)

    def write_tdcr(self, value: int) -> None:
        """TDCR: divide the count by another number."""
        self.timer.write_divide(value)

    # -- messages --

    def _send(self, message: Message) -> None:
        """Send an interprocessor interrupt, unless it is one that no APIC would take."""
        mode = message.mode
        if (mode is FIXED or mode is LOWEST_PRIORITY) and message.vector < r.FIRST_LEGAL_VECTOR:
            self.controller.detect(r.ESR_SEND_ILLEGAL_VECTOR)
        elif mode is not RESERVED_3 and mode is not EXTINT:
            self.client.send_ipi(message)

    def accept_events(self) -> Startup:
        """Act on INIT and start-up messages that have come (`kvm_apic_accept_events`)."""
        init = self.controller.take_init()
        if init:
            self.reset(init=True)
        return Startup(init, self.controller.take_startup())

    def reset(self, init: bool = False) -> None:
        """Power-up reset, or INIT, which keeps IA32_APIC_BASE and the APIC ID (`kvm_lapic_reset`)."""
        self.controller.reset(init)
        if not init:
            self.xapic_id = self.apic_id & 0xFF
            self.wire()
        elif self.x2apic:
            self.stored[r.LDR] = x2apic_logical_id(self.apic_id)
        self.client.address_changed()
