"""The register table of the local APIC: what each register *is*. What a write *does* is the method its row
names.

SDM vol. 3A "Local APIC Register Address Map" and "x2APIC Register Address Space". The MMIO map, the MSR map,
reset values and access checks come from these rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

#: Default of IA32_APIC_BASE's page, and the size of the window in it.
APIC_BASE_DEFAULT = 0xFEE0_0000
APIC_WINDOW = 0x1000

MSR_IA32_APIC_BASE = 0x1B
MSR_IA32_TSC_DEADLINE = 0x6E0
MSR_X2APIC_FIRST = 0x800
MSR_X2APIC_LAST = 0x8FF

# IA32_APIC_BASE
BASE_BSP = 1 << 8
BASE_X2APIC = 1 << 10
BASE_ENABLE = 1 << 11

# LVT and SVR bits
LVT_VECTOR = 0xFF
LVT_MASKED = 1 << 16
LVT_MODE_SHIFT = 17
LVT_MODE = 3 << LVT_MODE_SHIFT
SVR_ENABLED = 1 << 8

ID, VERSION, TPR, PPR, EOI, SVR = 0x20, 0x30, 0x80, 0xA0, 0xB0, 0xF0
ISR, TMR, IRR = 0x100, 0x180, 0x200
LVTT, TMICT, TMCCT, TDCR = 0x320, 0x380, 0x390, 0x3E0


class GeneralProtection(Exception):
    """The guest's access raises #GP(0). Not a failure of vlapic: the vCPU loop hands it to the guest."""


class Access(Enum):
    """What a guest may do with a register."""

    READ_ONLY = "ro"
    WRITE_ONLY = "wo"
    READ_WRITE = "rw"

    @property
    def readable(self) -> bool:
        return self is not Access.WRITE_ONLY

    @property
    def writable(self) -> bool:
        return self is not Access.READ_ONLY


@dataclass(frozen=True)
class Register:
    """One register, or a bank of equal ones.

    Attributes:
        offset: in the 4 KiB page; the MSR follows from it.
        reset: value after reset.
        writable: bits a write may set; in x2APIC mode any other bit raises #GP, in xAPIC mode it is dropped.
        read, write: names of the :class:`~vlapic.apic.lapic.LocalApic` methods behind it; None is plain
            storage.
        count: registers in the bank, 16 bytes apart; their methods get the index in the bank.
    """

    name: str
    offset: int
    access: Access
    reset: int = 0
    writable: int = 0
    read: str | None = None
    write: str | None = None
    count: int = 1
    what: str = ""

    @property
    def msr(self) -> int:
        """Its number in x2APIC mode."""
        return MSR_X2APIC_FIRST + (self.offset >> 4)


RO, WO, RW = Access.READ_ONLY, Access.WRITE_ONLY, Access.READ_WRITE

REGISTERS = (
    Register("ID", ID, RO, read="read_id", what="APIC ID"),
    Register("VERSION", VERSION, RO, reset=0x0005_0014, what="version 0x14, six LVT entries"),
    Register("TPR", TPR, RW, writable=0xFF, write="write_tpr", what="task priority"),
    Register("PPR", PPR, RO, read="read_ppr", what="processor priority"),
    Register("EOI", EOI, WO, write="write_eoi", what="end of interrupt"),
    Register("SVR", SVR, RW, reset=0xFF, writable=0x1FF, write="write_svr", what="spurious vector, enable"),
    Register("ISR", ISR, RO, read="read_isr", count=8, what="in service"),
    Register("TMR", TMR, RO, read="read_tmr", count=8, what="trigger mode"),
    Register("IRR", IRR, RO, read="read_irr", count=8, what="requested"),
    Register(
        "LVTT", LVTT, RW, reset=LVT_MASKED, writable=LVT_MODE | LVT_MASKED | LVT_VECTOR, write="write_lvtt",
        what="timer LVT",
    ),
    Register(
        "TMICT", TMICT, RW, writable=0xFFFF_FFFF, read="read_tmict", write="write_tmict",
        what="timer initial count",
    ),
    Register("TMCCT", TMCCT, RO, read="read_tmcct", what="timer current count"),
    Register("TDCR", TDCR, RW, writable=0xB, read="read_tdcr", write="write_tdcr", what="timer divide"),
)  # fmt: skip
