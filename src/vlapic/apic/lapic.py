"""A local APIC: registers, priorities, and interrupts on their way from request to service to end.

Follows SDM vol. 3A "Advanced Programmable Interrupt Controller" and, where that leaves a choice,
`kvm/lapic.c` of v6.19. The request, service and trigger-mode registers are 256-bit integers; the highest
vector is the highest bit.

It knows no machine: its vCPU calls it, and is handed what should happen next. Left out until a row of
`registers.py` names them: local interrupts other than the timer's, interprocessor interrupts, error status.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from vlapic.apic import registers as r
from vlapic.apic.timer import Timer, TimerClient, TimerMode


class ApicClient(TimerClient, Protocol):
    """What the APIC tells its surroundings: the kernel's tracepoints."""

    def trace_accept_irq(self, vector: int) -> None:
        """kvm_apic_accept_irq: a fixed, edge-triggered message was taken."""

    def trace_eoi(self, vector: int) -> None:
        """kvm_eoi: -1 if nothing was in service."""


class LocalApic:
    """The local APIC of one vCPU.

    Attributes:
        apic_id: initial APIC ID, 0 to 254.
        base: IA32_APIC_BASE.
        irr, isr, tmr: bit n stands for vector n.
        timer: the APIC timer.
    """

    def __init__(self, apic_id: int, timer: Timer, client: ApicClient) -> None:
        self.apic_id = apic_id
        self.timer = timer
        self._client = client
        self.base = r.APIC_BASE_DEFAULT | r.BASE_ENABLE | (r.BASE_BSP if apic_id == 0 else 0)
        self.irr = self.isr = self.tmr = 0
        self.tpr = 0
        self._stored = {row.offset: row.reset for row in r.REGISTERS}
        self._rows: dict[int, r.Register] = {}
        self._readers: dict[int, Callable[[], int]] = {}
        self._writers: dict[int, Callable[[int], None]] = {}
        for row in r.REGISTERS:
            for index in range(row.count):
                self._wire(row, row.offset + 0x10 * index, index)

    def _wire(self, row: r.Register, offset: int, index: int) -> None:
        """Bind the methods that a row names to an offset."""
        self._rows[offset] = row
        bank = (index,) if row.count > 1 else ()
        if row.access.readable:
            if row.read is None:
                self._readers[offset] = partial(self._stored.__getitem__, offset)
            else:
                self._readers[offset] = partial(getattr(self, row.read), *bank)
        if row.access.writable:
            if row.write is None:
                self._writers[offset] = partial(self._stored.__setitem__, offset)
            else:
                self._writers[offset] = partial(getattr(self, row.write), *bank)

    # -- the modes of IA32_APIC_BASE --

    @property
    def enabled(self) -> bool:
        """Enabled in IA32_APIC_BASE (not: by software, in SVR)."""
        return bool(self.base & r.BASE_ENABLE)

    @property
    def x2apic(self) -> bool:
        """In x2APIC mode: registers are MSRs, there is no page."""
        return bool(self.base & r.BASE_X2APIC)

    @property
    def software_enabled(self) -> bool:
        """Enabled in SVR."""
        return bool(self._stored[r.SVR] & r.SVR_ENABLED)

    def decodes(self, address: int) -> bool:
        """Whether a physical address lies in the register page as it is now."""
        return self.base & (r.BASE_ENABLE | r.BASE_X2APIC) == r.BASE_ENABLE and address & ~(
            r.APIC_WINDOW - 1
        ) == self.base & ~(r.APIC_WINDOW - 1)

    def write_base(self, value: int) -> None:
        """WRMSR IA32_APIC_BASE (SDM vol. 3A "x2APIC State Transitions").

        Raises:
            GeneralProtection: a reserved bit, or a transition the architecture does not have.
        """
        modes = r.BASE_ENABLE | r.BASE_X2APIC
        old, new = self.base & modes, value & modes
        reserved = value & ~(modes | r.BASE_BSP | 0xF_FFFF_F000)
        from_x2apic_to_xapic = old == modes and new == r.BASE_ENABLE
        from_disabled_to_x2apic = old == 0 and new == modes
        if reserved or new == r.BASE_X2APIC or from_x2apic_to_xapic or from_disabled_to_x2apic:
            raise r.GeneralProtection
        self.base = value

    # -- accesses --

    def read(self, offset: int, size: int = 4) -> int:
        """Read 1, 2 or 4 bytes within a register's first four of the page; anything else reads 0."""
        within = offset & 0xF
        reader = self._readers.get(offset & 0xFF0)
        if reader is None or within + size > 4:
            return 0
        return reader() >> 8 * within & (1 << 8 * size) - 1

    def write(self, offset: int, value: int, size: int = 4) -> None:
        """Write a whole register of the page; anything else is ignored, and so are reserved bits."""
        writer = self._writers.get(offset)
        if writer is not None and size == 4:
            writer(value & self._rows[offset].writable)

    def read_msr(self, msr: int) -> int:
        """RDMSR of a register that is the APIC's.

        Raises:
            GeneralProtection: not readable in this mode.
        """
        if msr == r.MSR_IA32_TSC_DEADLINE:
            return self.timer.read_tsc_deadline()
        if msr == r.MSR_IA32_APIC_BASE:
            return self.base
        reader = self._readers.get((msr - r.MSR_X2APIC_FIRST) << 4)
        if reader is None or not self.x2apic:
            raise r.GeneralProtection
        return reader()

    def write_msr(self, msr: int, value: int) -> None:
        """WRMSR of a register that is the APIC's.

        Raises:
            GeneralProtection: not writable in this mode, or a reserved bit is set.
        """
        if msr == r.MSR_IA32_TSC_DEADLINE:
            if self.enabled:
                self.timer.write_tsc_deadline(value)
            return
        if msr == r.MSR_IA32_APIC_BASE:
            self.write_base(value)
            return
        offset = (msr - r.MSR_X2APIC_FIRST) << 4
        writer = self._writers.get(offset)
        if writer is None or not self.x2apic or value & ~self._rows[offset].writable:
            raise r.GeneralProtection
        writer(value)

    # -- what a read gives, by the name in the row --

    def read_id(self) -> int:
        return self.apic_id if self.x2apic else self.apic_id << 24

    def read_ppr(self) -> int:
        in_service = self.isr.bit_length() - 1
        if in_service < 0 or self.tpr & 0xF0 >= in_service & 0xF0:
            return self.tpr
        return in_service & 0xF0

    def read_isr(self, index: int) -> int:
        return self.isr >> 32 * index & 0xFFFF_FFFF

    def read_tmr(self, index: int) -> int:
        return self.tmr >> 32 * index & 0xFFFF_FFFF

    def read_irr(self, index: int) -> int:
        return self.irr >> 32 * index & 0xFFFF_FFFF

    def read_tmict(self) -> int:
        return self.timer.initial_count

    def read_tmcct(self) -> int:
        return self.timer.current_count()

    def read_tdcr(self) -> int:
        return self.timer.tdcr

    # -- what a write does, by the name in the row --

    def write_tpr(self, value: int) -> None:
        self.tpr = self._stored[r.TPR] = value

    def write_eoi(self, value: int) -> None:
        self.eoi()

    def write_svr(self, value: int) -> None:
        self._stored[r.SVR] = value
        if not value & r.SVR_ENABLED:
            # SDM vol. 3A "Local APIC State After It Has Been Software Disabled": LVT masks are set; a running
            # timer runs on.
            self.write_lvtt(self._stored[r.LVTT])
            self.timer.pending = False

    def write_lvtt(self, value: int) -> None:
        if not self.software_enabled:
            value |= r.LVT_MASKED
        self._stored[r.LVTT] = value
        self.timer.set_mode(TimerMode(value >> r.LVT_MODE_SHIFT & 3))

    def write_tmict(self, value: int) -> None:
        self.timer.write_initial_count(value)

    def write_tdcr(self, value: int) -> None:
        self.timer.write_divide(value)

    # -- interrupts --

    @property
    def timer_vector(self) -> int:
        """LVTT's vector."""
        return self._stored[r.LVTT] & r.LVT_VECTOR

    @property
    def timer_masked(self) -> bool:
        """LVTT's mask bit."""
        return bool(self._stored[r.LVTT] & r.LVT_MASKED)

    @property
    def timer_vector_in_service(self) -> bool:
        """Whether the timer's interrupt was taken and not ended: what the busy wait asks."""
        return bool(self.enabled and self.isr >> self.timer_vector & 1)

    def deliver_timer(self) -> bool:
        """Accept the timer's vector if an expiry is pending and LVTT lets it through; True if it did."""
        if not self.timer.pending or not self.enabled or self.timer_masked:
            return False
        self.timer.deliver()
        self.accept(self.timer_vector)
        return True

    def accept(self, vector: int) -> None:
        """Take a fixed, edge-triggered interrupt: it is requested now, once, however often it comes."""
        self._client.trace_accept_irq(vector)
        self.irr |= 1 << vector
        self.tmr &= ~(1 << vector)

    def deliverable(self) -> int | None:
        """The vector that the processor would take now: the highest requested one above PPR's class."""
        vector = self.irr.bit_length() - 1
        if vector < 0 or vector & 0xF0 <= self.read_ppr() & 0xF0 or not self.enabled:
            return None
        return vector

    def acknowledge(self) -> int:
        """The processor takes the deliverable vector: from request to service.

        Returns:
            The vector; there must be one.
        """
        vector = self.deliverable()
        assert vector is not None, "nothing to acknowledge"
        self.irr &= ~(1 << vector)
        self.isr |= 1 << vector
        return vector

    def eoi(self) -> int:
        """End the highest interrupt in service.

        Returns:
            Its vector, -1 if there was none.
        """
        vector = self.isr.bit_length() - 1
        if vector >= 0:
            self.isr &= ~(1 << vector)
        self._client.trace_eoi(vector)
        return vector
