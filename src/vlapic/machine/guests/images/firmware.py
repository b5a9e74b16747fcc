# SPDX-License-Identifier: GPL-2.0-or-later
"""What a PC's firmware leaves in the first MiB, and the memory map that it gives.

    0x00400  BIOS data area: the serial port, the size of base memory, the segment of what follows it
    ...      base memory, up to 639 KiB of RAM
    0x9fc00  extended BIOS data area (EBDA), 1 KiB or more: its size in KiB, then the boot information
    0xa0000  video memory and option ROMs of a PC: here nothing; no line of the map has it
    0xf0000  ACPI tables (`acpi.py`), MP tables (`mp_tables.py`)

Follows the ACPI Specification, "System Address Map Interfaces", for the map. The EBDA grows down, as a PC's
does, where the boot information is larger than the rest of its first KiB.

Left out: code. No INT in real mode goes anywhere.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from vlapic.machine.devices import ioapic
from vlapic.machine.devices.ports import SERIAL_BASE
from vlapic.machine.guests.images import acpi, mp_tables
from vlapic.machine.guests.images.image import MIB

#: Offsets in the BIOS data area of 16-bit words.
BIOS_DATA, BIOS_DATA_BYTES = 0x400, 0x100
_COM1, _EBDA_SEGMENT, _BASE_MEMORY_KIB = 0x00, 0x0E, 0x13

EBDA_END = 0xA_0000
#: What firmware has at the beginning of the EBDA; the boot information begins behind it.
_EBDA_HEADER_BYTES = 16
_KIB = 1 << 10
TABLES = 0xF_0000
_APIC_PAGE = 0x1000


class MemoryRange(NamedTuple):
    """A line of the memory map; what is not available is no RAM for the guest. `end` is behind it."""

    start: int
    end: int
    available: bool


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables in the BIOS area.

    Attributes:
        data: all of them, from TABLES on.
        rsdp: the RSDP, with which they begin.
    """

    data: bytes
    rsdp: bytes


@lru_cache(maxsize=16)
def tables(cpus: int) -> Tables:
    """The tables of a machine with so many processors, whose APIC IDs count from 0."""
    apic_ids = range(cpus)
    data = acpi.build(TABLES, apic_ids)
    data += bytes(-len(data) % mp_tables.POINTER_BYTES)
    rsdp = acpi.rsdp_bytes(data)
    data += mp_tables.build(TABLES + len(data), apic_ids)
    assert TABLES + len(data) <= MIB
    return Tables(data, rsdp)


def ebda_for(information_bytes: int) -> int:
    """Where the EBDA begins that has room for so much boot information: whole KiB below EBDA_END."""
    return (EBDA_END - _EBDA_HEADER_BYTES - information_bytes) // _KIB * _KIB


def information_in(ebda: int) -> int:
    """The address of the boot information in an EBDA; a multiple of 8."""
    return ebda + _EBDA_HEADER_BYTES


def memory_map(memory_bytes: int, ebda: int) -> tuple[MemoryRange, ...]:
    """The lines of the map, in order: RAM, what firmware keeps of it, and where the APICs are."""
    return (
        MemoryRange(0, ebda, True),
        MemoryRange(ebda, EBDA_END, False),
        MemoryRange(TABLES, MIB, False),
        MemoryRange(MIB, memory_bytes, True),
        MemoryRange(ioapic.BASE, ioapic.BASE + _APIC_PAGE, False),
        MemoryRange(acpi.LOCAL_APIC_BASE, acpi.LOCAL_APIC_BASE + _APIC_PAGE, False),
    )


def write(memory: mmap.mmap, ebda: int, tables: Tables) -> None:
    """Write the BIOS data area, the head of the EBDA and the tables."""
    for offset, word in (
        (_COM1, SERIAL_BASE),
        (_EBDA_SEGMENT, ebda >> 4),
        (_BASE_MEMORY_KIB, ebda // _KIB),
    ):
        struct.pack_into("<H", memory, BIOS_DATA + offset, word)
    memory[ebda] = (EBDA_END - ebda) // _KIB
    memory[TABLES : TABLES + len(tables.data)] = tables.data
