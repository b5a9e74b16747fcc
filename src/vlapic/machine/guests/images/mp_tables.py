# SPDX-License-Identifier: GPL-2.0-or-later
"""MP tables: processors, I/O APIC and interrupt lines, for guests from before ACPI and those that have none.

Follows Intel's MultiProcessor Specification 1.4: "MP Floating Pointer Structure", "MP Configuration Table
Header", "Base MP Configuration Table Entries". The mode is virtual wire: no IMCR.

Left out: processors whose ID does not fit into 8 bits, for which these tables have no room.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from vlapic.apic.registers import VERSION_VALUE
from vlapic.machine.cpuid import Processor, cpuid
from vlapic.machine.devices import ioapic
from vlapic.machine.devices.board import ISA_LINES, TIMER_LINE, TIMER_PIN
from vlapic.machine.devices.pic import CASCADE
from vlapic.machine.guests.images.acpi import LOCAL_APIC_BASE, checksum

POINTER_BYTES = 16

_SPECIFICATION = 4  # 1.4
_OEM, _PRODUCT = b"VLAPIC  ", b"VIRTUAL PC  "
_HEADER = struct.Struct("<4sHBB8s12sIHHIHBx")
_HEADER_CHECKSUM_AT, _POINTER_CHECKSUM_AT = 7, 10
_PROCESSOR, _BUS, _IO_APIC, _INTERRUPT, _LOCAL_INTERRUPT = range(5)
_ENABLED, _BOOTSTRAP = 1 << 0, 1 << 1
_INT, _NMI, _EXTINT = 0, 1, 3
_ISA_BUS = 0
_ALL = 0xFF


def build(address: int, apic_ids: Sequence[int]) -> bytes:
    """The floating pointer and, behind it, the configuration table.

    Args:
        address: where they will lie; a multiple of 16.
        apic_ids: of the processors, the bootstrap processor's first.
    """
    assert address % POINTER_BYTES == 0
    pointer = bytearray(struct.pack("<4sIBBB5x", b"_MP_", address + POINTER_BYTES, 1, _SPECIFICATION, 0))
    pointer[_POINTER_CHECKSUM_AT] = checksum(pointer)
    return bytes(pointer) + _configuration(apic_ids)


def _configuration(apic_ids: Sequence[int]) -> bytes:
    io_apic = ioapic.firmware_id(len(apic_ids))
    signature, _, _, features = cpuid(1, 0, Processor(0, len(apic_ids), 1, apic_enabled=True))
    entries = [
        struct.pack(
            "<BBBBII8x",
            _PROCESSOR,
            apic_id,
            VERSION_VALUE & 0xFF,
            _ENABLED | (0 if number else _BOOTSTRAP),
            signature,
            features,
        )
        for number, apic_id in enumerate(apic_ids)
        if apic_id < _ALL
    ]
    entries.append(struct.pack("<BB6s", _BUS, _ISA_BUS, b"ISA   "))
    entries.append(
        struct.pack("<BBBBI", _IO_APIC, io_apic, ioapic.VERSION_VALUE & 0xFF, _ENABLED, ioapic.BASE)
    )
    # Polarity and trigger are the bus's, so the flags are 0.
    for line in range(ISA_LINES):
        if line != CASCADE:
            pin = TIMER_PIN if line == TIMER_LINE else line
            entries.append(struct.pack("<BBHBBBB", _INTERRUPT, _INT, 0, _ISA_BUS, line, io_apic, pin))
    # The 8259As' INT is at the first processor's LINT0; the other ID and pin are of all processors.
    entries.append(struct.pack("<BBHBBBB", _LOCAL_INTERRUPT, _EXTINT, 0, _ISA_BUS, 0, apic_ids[0], 0))
    entries.append(struct.pack("<BBHBBBB", _LOCAL_INTERRUPT, _NMI, 0, _ISA_BUS, 0, _ALL, 1))
    body = b"".join(entries)
    size = _HEADER.size + len(body)
    table = bytearray(
        _HEADER.pack(
            b"PCMP", size, _SPECIFICATION, 0, _OEM, _PRODUCT, 0, 0, len(entries), LOCAL_APIC_BASE, 0, 0
        )
        + body
    )
    table[_HEADER_CHECKSUM_AT] = checksum(table)
    return bytes(table)
