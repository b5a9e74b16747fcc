# SPDX-License-Identifier: GPL-2.0-or-later
"""The register table of the local APIC: what each register *is*. What a write *does* is the method its row
names.

SDM vol. 3A "Local APIC Register Address Map" and "x2APIC Register Address Space". The MMIO map, the MSR map,
reset values, access checks, `vlapic regs` and the table in docs/device.md come from these rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

#: Default of IA32_APIC_BASE's page.
APIC_BASE_DEFAULT = 0xFEE0_0000

MSR_IA32_APIC_BASE = 0x1B
MSR_IA32_TSC_DEADLINE = 0x6E0
MSR_X2APIC_FIRST = 0x800
MSR_X2APIC_LAST = 0x8FF

# IA32_APIC_BASE
BASE_BSP = 1 << 8
BASE_X2APIC = 1 << 10
BASE_ENABLE = 1 << 11
#: Bits 12 to MAXPHYADDR - 1: CPUID says 40 (`machine/cpuid.py`).
BASE_PAGE = 0xFF_FFFF_F000

# LVT bits
LVT_VECTOR = 0xFF
LVT_DELIVERY_MODE = 7 << 8
LVT_DELIVERY_STATUS = 1 << 12
LVT_POLARITY = 1 << 13
LVT_REMOTE_IRR = 1 << 14
LVT_LEVEL = 1 << 15
LVT_MASKED = 1 << 16
LVT_MODE_SHIFT = 17
LVT_MODE = 3 << LVT_MODE_SHIFT

# SVR bits
SVR_VECTOR = 0xFF
SVR_ENABLED = 1 << 8
SVR_FOCUS_DISABLED = 1 << 9
SVR_SUPPRESS_EOI_BROADCAST = 1 << 12

# ESR bits (SDM vol. 3A "Error Status Register")
ESR_SEND_ILLEGAL_VECTOR = 1 << 5
ESR_RECEIVE_ILLEGAL_VECTOR = 1 << 6
ESR_ILLEGAL_REGISTER = 1 << 7
ESR_DETECTED = ESR_SEND_ILLEGAL_VECTOR | ESR_RECEIVE_ILLEGAL_VECTOR | ESR_ILLEGAL_REGISTER

#: DFR bits that always read 1.
DFR_RESERVED = 0x0FFF_FFFF

#: Vectors below this are the processor's own: an interrupt message with one is an error.
FIRST_LEGAL_VECTOR = 16

ID, VERSION, TPR, APR, PPR, EOI = 0x20, 0x30, 0x80, 0x90, 0xA0, 0xB0
LDR, DFR, SVR = 0xD0, 0xE0, 0xF0
ISR, TMR, IRR = 0x100, 0x180, 0x200
ESR, LVT_CMCI, ICR, ICR2 = 0x280, 0x2F0, 0x300, 0x310
LVTT, LVT_THERMAL, LVT_PERFORMANCE, LVT_LINT0, LVT_LINT1, LVT_ERROR = 0x320, 0x330, 0x340, 0x350, 0x360, 0x370
TMICT, TMCCT, TDCR, SELF_IPI = 0x380, 0x390, 0x3E0, 0x3F0

LVTS = (LVT_CMCI, LVTT, LVT_THERMAL, LVT_PERFORMANCE, LVT_LINT0, LVT_LINT1, LVT_ERROR)

#: Integrated APIC (0x14), seven LVT entries, EOI broadcasts can be suppressed.
VERSION_VALUE = 1 << 24 | (len(LVTS) - 1) << 16 | 0x14

WHOLE = 0xFFFF_FFFF


class GeneralProtection(Exception):
    """The guest's access raises #GP(0). Not a failure of vlapic: the vCPU loop hands it to the guest."""


class Access(Enum):
    """What a guest may do with a register in one mode; NONE is a hole."""

    NONE = "-"
    READ_ONLY = "ro"
    WRITE_ONLY = "wo"
    READ_WRITE = "rw"

    @property
    def readable(self) -> bool:
        """Whether a read gives its value."""
        return self in (Access.READ_ONLY, Access.READ_WRITE)

    @property
    def writable(self) -> bool:
        """Whether a write does anything."""
        return self in (Access.WRITE_ONLY, Access.READ_WRITE)


@dataclass(frozen=True)
class Register:
    """One register, or a bank of equal ones.

    Attributes:
        offset: in the 4 KiB page; the MSR follows from it.
        xapic, x2apic: access in each mode.
        reset: value after reset.
        writable: bits that a write may set. In xAPIC mode the others are dropped, in x2APIC mode they raise
            #GP.
        x2apic_writable: the same in x2APIC mode where it differs.
        status: read-only bits among the others, which x2APIC mode drops too. They read 0: a message is
            delivered at once.
        read, write: names of the :class:`~vlapic.apic.lapic.LocalApic` methods behind it; None is storage.
            Of a bank, they get the index in it.
        count: registers in the bank, 16 bytes apart.
    """

    name: str
    offset: int
    xapic: Access
    x2apic: Access
    what: str
    reset: int = 0
    writable: int = 0
    x2apic_writable: int | None = None
    status: int = 0
    read: str | None = None
    write: str | None = None
    count: int = 1

    @property
    def msr(self) -> int:
        """Its number in x2APIC mode."""
        return MSR_X2APIC_FIRST + (self.offset >> 4)

    def access(self, x2apic: bool) -> Access:
        """Access in a mode."""
        return self.x2apic if x2apic else self.xapic

    def writable_in(self, x2apic: bool) -> int:
        """Bits that a write in a mode may set."""
        if x2apic and self.x2apic_writable is not None:
            return self.x2apic_writable
        return self.writable


_NO, _RO, _WO, _RW = Access.NONE, Access.READ_ONLY, Access.WRITE_ONLY, Access.READ_WRITE
_LVT_PLAIN = LVT_MASKED | LVT_VECTOR
_LVT_MODE = _LVT_PLAIN | LVT_DELIVERY_MODE
_LVT_PIN = _LVT_MODE | LVT_POLARITY | LVT_LEVEL
#: ICR bits 31:0 that are not reserved. In xAPIC mode a reserved bit is kept as it was written
#: (`kvm_lapic_reg_write`; the kernel's xapic_state_test asserts it), in x2APIC mode it faults.
_ICR_LOW = 0x000C_CFFF
_ICR_DELIVERY_STATUS = 1 << 12
_SVR = SVR_VECTOR | SVR_ENABLED | SVR_FOCUS_DISABLED | SVR_SUPPRESS_EOI_BROADCAST


def _lvt(name: str, offset: int, what: str, writable: int, write: str = "write_lvt") -> Register:
    status = LVT_DELIVERY_STATUS | (LVT_REMOTE_IRR if writable & LVT_LEVEL else 0)
    return Register(name, offset, _RW, _RW, what, LVT_MASKED, writable, status=status, write=write)


REGISTERS = (
    Register("ID", ID, _RW, _RO, "APIC ID", writable=0xFF00_0000, read="read_id", write="write_id"),
    Register("VERSION", VERSION, _RO, _RO, "version, LVT entries", reset=VERSION_VALUE),
    Register("TPR", TPR, _RW, _RW, "task priority", writable=0xFF, read="read_tpr", write="write_tpr"),
    Register("APR", APR, _RO, _NO, "arbitration priority", read="read_apr"),
    Register("PPR", PPR, _RO, _RO, "processor priority", read="read_ppr"),
    Register("EOI", EOI, _WO, _WO, "end of interrupt", writable=WHOLE, x2apic_writable=0, write="write_eoi"),
    Register("LDR", LDR, _RW, _RO, "logical destination", writable=0xFF00_0000,
             read="read_ldr", write="write_ldr"),
    Register("DFR", DFR, _RW, _NO, "destination format", reset=WHOLE, writable=WHOLE ^ DFR_RESERVED,
             write="write_dfr"),
    Register("SVR", SVR, _RW, _RW, "spurious vector, enable", reset=0xFF, writable=_SVR, write="write_svr"),
    Register("ISR", ISR, _RO, _RO, "in service", read="read_isr", count=8),
    Register("TMR", TMR, _RO, _RO, "trigger mode", read="read_tmr", count=8),
    Register("IRR", IRR, _RO, _RO, "requested", read="read_irr", count=8),
    Register("ESR", ESR, _RW, _RW, "error status", writable=WHOLE, x2apic_writable=0, write="write_esr"),
    _lvt("CMCI", LVT_CMCI, "LVT: corrected machine check", _LVT_MODE),
    Register("ICR", ICR, _RW, _RW, "interrupt command", writable=WHOLE ^ _ICR_DELIVERY_STATUS,
             x2apic_writable=WHOLE << 32 | _ICR_LOW, status=_ICR_DELIVERY_STATUS, write="write_icr"),
    Register("ICR2", ICR2, _RW, _NO, "interrupt command, high half", writable=0xFF00_0000),
    _lvt("LVTT", LVTT, "LVT: timer", _LVT_PLAIN | LVT_MODE, write="write_lvtt"),
    _lvt("THERMAL", LVT_THERMAL, "LVT: thermal sensor", _LVT_MODE),
    _lvt("PERFORMANCE", LVT_PERFORMANCE, "LVT: performance counters", _LVT_MODE),
    _lvt("LINT0", LVT_LINT0, "LVT: local pin 0", _LVT_PIN),
    _lvt("LINT1", LVT_LINT1, "LVT: local pin 1", _LVT_PIN),
    _lvt("ERROR", LVT_ERROR, "LVT: APIC errors", _LVT_PLAIN),
    Register("TMICT", TMICT, _RW, _RW, "timer initial count", writable=WHOLE,
             read="read_tmict", write="write_tmict"),
    Register("TMCCT", TMCCT, _RO, _RO, "timer current count", read="read_tmcct"),
    Register("TDCR", TDCR, _RW, _RW, "timer divide", writable=0xB, read="read_tdcr", write="write_tdcr"),
    Register("SELF_IPI", SELF_IPI, _NO, _WO, "self IPI", writable=0xFF, write="write_self_ipi"),
)  # fmt: skip

#: What is kept as it was written, or as reset left it; everything else has a state of its own behind it.
STORED = {
    row.offset: row.reset
    for row in REGISTERS
    if row.offset in (VERSION, LDR, DFR, SVR, ESR, ICR, ICR2, *LVTS)
}


def expand() -> dict[int, tuple[Register, int]]:
    """Every register's offset, those of banks one by one: its row and its index in the bank."""
    return {row.offset + 0x10 * index: (row, index) for row in REGISTERS for index in range(row.count)}


@dataclass(frozen=True)
class Msr:
    """A model-specific register of the local APIC that has no place in the page, there in every mode.

    Attributes:
        number: of RDMSR and WRMSR.
        reset: value of the bootstrap processor after power-up.
        writable: bits that a write may set; the others raise #GP.
    """

    name: str
    number: int
    what: str
    reset: int
    writable: int


#: SDM vol. 3A "Local APIC Status and Location", "TSC-Deadline Mode".
MSRS = (
    Msr(
        "APIC_BASE",
        MSR_IA32_APIC_BASE,
        "the page's place, modes",
        reset=APIC_BASE_DEFAULT | BASE_ENABLE | BASE_BSP,
        writable=BASE_PAGE | BASE_ENABLE | BASE_X2APIC | BASE_BSP,
    ),
    Msr(
        "TSC_DEADLINE",
        MSR_IA32_TSC_DEADLINE,
        "timer: deadline, 0 is none",
        reset=0,
        writable=(1 << 64) - 1,
    ),
)
