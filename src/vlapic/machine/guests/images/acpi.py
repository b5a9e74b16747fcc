# SPDX-License-Identifier: GPL-2.0-or-later
"""ACPI tables: which processors and interrupt controllers there are, and how the machine is switched off.

Follows the ACPI Specification 4.0a: "Root System Description Pointer (RSDP)", "Fixed ACPI Description Table
(FADT)", "Multiple APIC Description Table (MADT)", "Firmware ACPI Control Structure (FACS)", and "Definition
Block Encoding" for the one name in the DSDT. The RSDP leads to the RSDT, for readers of ACPI 1.0, and to the
XSDT; both list the FADT and the MADT.

Left out: everything of which the machine has nothing, so no device but these is described, and no HPET, PCI,
general-purpose event or SMI command.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from vlapic.machine.devices import ioapic, power
from vlapic.machine.devices.board import ISA_LINES, TIMER_LINE, TIMER_PIN
from vlapic.machine.devices.rtc import CENTURY

LOCAL_APIC_BASE = 0xFEE0_0000

#: Ports of the fixed hardware, as QEMU's chipset has them: event, control, and the 3.58 MHz timer.
PM1_EVENT, PM1_EVENT_BYTES = power.PM1A_EVENT, power.PM1A_EVENT_LENGTH
PM1_CONTROL, PM1_CONTROL_BYTES = power.PM1A_CONTROL, power.PM1A_CONTROL_LENGTH
PM_TIMER, PM_TIMER_BYTES = power.PM_TIMER, power.PM_TIMER_LENGTH
SCI_LINE = 9
RESET_PORT, RESET_VALUE = power.PCI_ADDRESS + power.RESET_CONTROL, 0x0F
#: What is written to SLP_TYP for S5, soft off.
SLEEP_TYPE_OFF = 5

_OEM, _OEM_TABLE, _CREATOR = b"VLAPIC", b"VLAPIC  ", b"VLAP"
_HEADER = struct.Struct("<4sIBB6s8sI4sI")
_CHECKSUM_AT = 9
_RSDP = struct.Struct("<8sB6sBIIQB3x")
#: What of it ACPI 1.0 knows, with a checksum of its own.
RSDP_1_BYTES = 20

_FADT_BYTES = 244
_NOT_SUPPORTED_C2, _NOT_SUPPORTED_C3 = 101, 1001
# "Fixed ACPI Description Table Boot Architecture Flags (IA-PC)": ISA devices, no VGA, no 8042
# to look for a keyboard at.
_LEGACY_DEVICES, _NO_VGA = 1 << 0, 1 << 2
# "Fixed ACPI Description Table Fixed Feature Flags"; TMR_VAL_EXT is clear: the timer has 24 bits.
_WBINVD, _PROC_C1, _NO_POWER_BUTTON, _NO_SLEEP_BUTTON, _NO_RTC_WAKE, _RESET_REGISTER = (
    1 << bit for bit in (0, 2, 4, 5, 6, 10)
)
_SYSTEM_IO = 1
_ACCESS_BYTES = {1: 1, 2: 2, 4: 3}

_FACS_BYTES = 64
_8259_TOO = 1 << 0
_ENABLED = 1 << 0
#: The first APIC ID that an entry with 8 bits cannot name; 0xff means all.
_FIRST_X2APIC_ID = 0xFF
_ALL, _ALL_X2APIC = 0xFF, 0xFFFF_FFFF
_LINT1 = 1


def checksum(data: bytes | bytearray) -> int:
    """The byte that makes all bytes add up to zero."""
    return -sum(data) & 0xFF


def build(address: int, apic_ids: Sequence[int]) -> bytes:
    """All tables, the RSDP first.

    Args:
        address: where they will lie; a multiple of 64, below 4 GiB.
        apic_ids: of the processors, the bootstrap processor's first.
    """
    assert address % 64 == 0
    facs_at = address + 64
    facs = struct.pack("<4sI", b"FACS", _FACS_BYTES).ljust(_FACS_BYTES, b"\0")
    facs = facs[:32] + b"\2" + facs[33:]  # its version
    dsdt_at = facs_at + len(facs)
    dsdt = _table(b"DSDT", 2, _soft_off())
    fadt_at = _aligned(dsdt_at + len(dsdt))
    fadt = _fadt(facs_at, dsdt_at)
    madt_at = _aligned(fadt_at + len(fadt))
    madt = _madt(apic_ids)
    rsdt_at = _aligned(madt_at + len(madt))
    rsdt = _table(b"RSDT", 1, struct.pack("<2I", fadt_at, madt_at))
    xsdt_at = _aligned(rsdt_at + len(rsdt))
    xsdt = _table(b"XSDT", 1, struct.pack("<2Q", fadt_at, madt_at))
    placed = (
        (address, _rsdp(rsdt_at, xsdt_at)),
        (facs_at, facs),
        (dsdt_at, dsdt),
        (fadt_at, fadt),
        (madt_at, madt),
        (rsdt_at, rsdt),
        (xsdt_at, xsdt),
    )
    tables = bytearray(xsdt_at + len(xsdt) - address)
    for at, table in placed:
        tables[at - address : at - address + len(table)] = table
    return bytes(tables)


def rsdp_bytes(tables: bytes) -> bytes:
    """The RSDP of what `build` made."""
    return tables[: _RSDP.size]


def _aligned(address: int) -> int:
    return -(-address // 16) * 16


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    size = _HEADER.size + len(body)
    table = bytearray(_HEADER.pack(signature, size, revision, 0, _OEM, _OEM_TABLE, 1, _CREATOR, 1) + body)
    table[_CHECKSUM_AT] = checksum(table)
    return bytes(table)


def _rsdp(rsdt: int, xsdt: int) -> bytes:
    unsummed = _RSDP.pack(b"RSD PTR ", 0, _OEM, 2, rsdt, _RSDP.size, xsdt, 0)
    first = checksum(unsummed[:RSDP_1_BYTES])
    half = _RSDP.pack(b"RSD PTR ", first, _OEM, 2, rsdt, _RSDP.size, xsdt, 0)
    return _RSDP.pack(b"RSD PTR ", first, _OEM, 2, rsdt, _RSDP.size, xsdt, checksum(half))


def _soft_off() -> bytes:
    r"""`Name (\_S5, Package (4) {5, 5, 0, 0})` in AML: a byte prefix before each 5, zeros as they are."""
    elements = bytes((0x0A, SLEEP_TYPE_OFF, 0x0A, SLEEP_TYPE_OFF, 0x00, 0x00))
    package = bytes((4,)) + elements
    return b"\x08_S5_\x12" + bytes((1 + len(package),)) + package


def _register(port: int, size: int) -> bytes:
    """A "Generic Address Structure" of a port."""
    return struct.pack("<BBBBQ", _SYSTEM_IO, 8 * size, 0, _ACCESS_BYTES[size], port)


def _fadt(facs: int, dsdt: int) -> bytes:
    fadt = bytearray(_FADT_BYTES)

    def put(offset: int, layout: str, *values: int) -> None:
        struct.pack_into("<" + layout, fadt, offset, *values)

    put(36, "II", facs, dsdt)
    put(46, "H", SCI_LINE)
    put(56, "I", PM1_EVENT)
    put(64, "I", PM1_CONTROL)
    put(76, "I", PM_TIMER)
    put(88, "4B", PM1_EVENT_BYTES, PM1_CONTROL_BYTES, 0, PM_TIMER_BYTES)
    put(96, "HH", _NOT_SUPPORTED_C2, _NOT_SUPPORTED_C3)
    put(108, "BH", CENTURY, _LEGACY_DEVICES | _NO_VGA)
    features = _WBINVD | _PROC_C1 | _NO_POWER_BUTTON | _NO_SLEEP_BUTTON | _NO_RTC_WAKE | _RESET_REGISTER
    put(112, "I", features)
    fadt[116:128] = _register(RESET_PORT, 1)
    put(128, "B", RESET_VALUE)
    # The FACS below 4 GiB has the field of 32 bits alone; the DSDT both.
    put(140, "Q", dsdt)
    fadt[148:160] = _register(PM1_EVENT, PM1_EVENT_BYTES)
    fadt[172:184] = _register(PM1_CONTROL, PM1_CONTROL_BYTES)
    fadt[208:220] = _register(PM_TIMER, PM_TIMER_BYTES)
    return _table(b"FACP", 4, bytes(fadt[_HEADER.size :]))


def _madt(apic_ids: Sequence[int]) -> bytes:
    body = struct.pack("<II", LOCAL_APIC_BASE, _8259_TOO)
    wide = False
    for number, apic_id in enumerate(apic_ids):
        if apic_id < _FIRST_X2APIC_ID:
            body += struct.pack("<BBBBI", 0, 8, number, apic_id, _ENABLED)
        else:
            wide = True
            body += struct.pack("<BBHIII", 9, 16, 0, apic_id, _ENABLED, number)
    body += struct.pack("<BBBBII", 1, 12, ioapic.firmware_id(len(apic_ids)), 0, ioapic.BASE, 0)
    body += struct.pack("<BBBBIH", 2, 10, 0, TIMER_LINE, TIMER_PIN, 0)
    body += struct.pack("<BBBHB", 4, 6, _ALL, 0, _LINT1)
    if wide:
        body += struct.pack("<BBHIB3x", 0xA, 12, 0, _ALL_X2APIC, _LINT1)
    return _table(b"APIC", 3, body)


assert SCI_LINE < ISA_LINES
