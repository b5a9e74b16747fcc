# SPDX-License-Identifier: GPL-2.0-or-later
"""Requested and in-service interrupts of a local APIC, and which of them the processor takes.

SDM vol. 3A "Interrupt Acceptance for Fixed Interrupts", "Interrupt, Task, and Processor Priority". The
request, service and trigger-mode registers are 256-bit integers: bit n is vector n, and the highest vector is
the highest bit.
"""

from __future__ import annotations

PRIORITY_CLASS = 0xF0


class InterruptRegisters:
    """IRR, ISR, TMR and TPR.

    Attributes:
        irr: requested; a bit is set by acceptance and cleared when the processor takes the vector.
        isr: in service; a bit is set when the processor takes the vector and cleared by its EOI.
        tmr: level-triggered; a bit is written at acceptance.
        tpr: task priority, 8 bits.
    """

    def __init__(self) -> None:
        self.irr = self.isr = self.tmr = self.tpr = 0

    def reset(self) -> None:
        """Nothing is requested or in service; the task priority is 0."""
        self.irr = self.isr = self.tmr = self.tpr = 0

    def request(self, vector: int, level: bool) -> None:
        """Accept a vector: it is requested once, however often it comes before it is taken."""
        bit = 1 << vector
        self.irr |= bit
        self.tmr = self.tmr | bit if level else self.tmr & ~bit

    @property
    def ppr(self) -> int:
        """Processor priority: the task's, or the class of what is in service if that is higher."""
        in_service = self.isr.bit_length() - 1
        if in_service < 0 or self.tpr & PRIORITY_CLASS >= in_service & PRIORITY_CLASS:
            return self.tpr
        return in_service & PRIORITY_CLASS

    @property
    def apr(self) -> int:
        """Arbitration priority (SDM vol. 3A "Arbitration Priority Register")."""
        task = self.tpr & PRIORITY_CLASS
        requested = max(self.irr.bit_length() - 1, 0) & PRIORITY_CLASS
        in_service = max(self.isr.bit_length() - 1, 0) & PRIORITY_CLASS
        if task >= requested and task > in_service:
            return self.tpr
        return max(task & in_service, requested)

    def highest_request(self) -> int | None:
        """The vector above the processor's priority that is taken first, None if there is none."""
        vector = self.irr.bit_length() - 1
        if vector < 0:
            return None
        priority = self.ppr if self.isr else self.tpr
        return vector if vector & PRIORITY_CLASS > priority & PRIORITY_CLASS else None

    def take(self, vector: int) -> None:
        """Move a vector from request to service."""
        bit = 1 << vector
        self.irr &= ~bit
        self.isr |= bit

    def end(self) -> int:
        """End the highest vector in service, -1 if none is."""
        vector = self.isr.bit_length() - 1
        if vector >= 0:
            self.isr &= ~(1 << vector)
        return vector
