# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest is told when it starts, whichever version of multiboot says it: boot modules, symbols, memory.

A module is a file that lies in memory beside the guest, page-aligned, with a line of text: its name and what
is said behind it. Sections are those of an ELF file that are not part of its memory image (symbols, names);
they lie in memory too, so that a guest can name its functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from vlapic.machine.guests.images.firmware import MemoryRange

LOADER_NAME = b"vlapic\0"
AVAILABLE, RESERVED = 1, 2


class PlacedModule(NamedTuple):
    """A boot module in memory; `end` is the address behind it, `text` has no zero at its end."""

    start: int
    end: int
    text: bytes


class PlacedSections(NamedTuple):
    """An ELF file's section headers, with the addresses at which the sections lie now.

    Attributes:
        headers: as they stand in the file but for those addresses.
        entry_bytes: of a header.
        names: index of the section that has their names.
        address: where the headers lie in memory.
    """

    headers: bytes
    entry_bytes: int
    names: int
    address: int


@dataclass(frozen=True, slots=True)
class Information:
    """What there is to tell.

    Attributes:
        command_line: without the zero at its end.
        modules: in the order in which they were given.
        ranges: the memory map.
        sections: None if there are none.
        rsdp: the ACPI root pointer, 36 bytes.
        rsdp_address: where it lies.
        load_base: where a relocatable image was put; None for another one.
    """

    command_line: bytes
    modules: tuple[PlacedModule, ...]
    ranges: tuple[MemoryRange, ...]
    sections: PlacedSections | None
    rsdp: bytes
    rsdp_address: int
    load_base: int | None

    @property
    def lower_kib(self) -> int:
        """RAM from 0 on, KiB."""
        return self.ranges[0].end >> 10

    @property
    def upper_kib(self) -> int:
        """RAM from 1 MiB on, KiB."""
        above = next(each for each in self.ranges if each.available and each.start)
        return (above.end - above.start) >> 10
