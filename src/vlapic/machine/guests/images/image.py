# SPDX-License-Identifier: GPL-2.0-or-later
"""What an image asks for, whatever its form, and whether a guest's memory can give it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from typing import NamedTuple

from vlapic.errors import ImageError
from vlapic.machine.engines.contract import CpuMode

MIB = 1 << 20


class Protocol(Enum):
    """How an image is told its boot information; the value is EAX at its start."""

    MULTIBOOT = 0x2BAD_B002
    MULTIBOOT_2 = 0x36D7_6289
    PVH = 0


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of guest memory that an image fills.

    Attributes:
        address: physical.
        data: what lies at its beginning; the rest is zeros.
        size: in bytes, `len(data)` or more.
    """

    address: int
    data: memoryview
    size: int

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + self.size

    def __str__(self) -> str:
        return f"{self.address:#x} to {self.end - 1:#x}"


class Sections(NamedTuple):
    """An ELF file's sections: the headers, and what of the sections lies in no segment.

    Attributes:
        headers: as they stand in the file.
        entry_bytes: of a header.
        names: index of the section that has their names.
        address: where in a header the section's address is, and its layout for `struct`.
        contents: index and bytes of the sections that have no address and are not empty.
    """

    headers: memoryview
    entry_bytes: int
    names: int
    address: tuple[int, str]
    contents: tuple[tuple[int, memoryview], ...]


class Relocation(NamedTuple):
    """Where an image may be put that runs at any address.

    Attributes:
        lowest: no part of it may lie below.
        highest: its end at most.
        align: of its first byte; 1 or more.
        lowest_first, highest_first: which end of that range is better; neither if it does not matter.
    """

    lowest: int
    highest: int
    align: int
    lowest_first: bool = False
    highest_first: bool = False


@dataclass(frozen=True, slots=True)
class Image:
    """A guest as its file describes it.

    Attributes:
        form: in words that follow "a".
        mode: what its first instruction is made for.
        entry: physical address of that instruction.
        segments: what goes into memory; one at least, none of them empty.
        results_address: where it keeps what it measures; None if it does not say.
        sections: its symbols and what else is not loaded; None if it has none.
        protocol: how it is told its boot information.
        relocation: where else it may lie; None where its addresses are fixed.
        load_base: the lowest address after `moved`; None for one that was not to be moved.
        notes: what it asks for and does not get, each in a line.
    """

    form: str
    mode: CpuMode
    entry: int
    segments: tuple[Segment, ...]
    results_address: int | None = None
    sections: Sections | None = None
    protocol: Protocol = Protocol.MULTIBOOT
    relocation: Relocation | None = None
    load_base: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def start(self) -> int:
        """The lowest address."""
        return min(part.address for part in self.segments)

    @property
    def end(self) -> int:
        """The address behind the highest."""
        return max(part.end for part in self.segments)

    def moved(self, memory_bytes: int) -> Image:
        """The image where it will lie: as it is, unless it can be moved; then at 1 MiB or above.

        Raises:
            ImageError: it does not fit where it may lie.
        """
        if self.relocation is None:
            return self
        base = _base(self.start, self.end - self.start, self.relocation, memory_bytes)
        segments = tuple(replace(part, address=part.address - self.start + base) for part in self.segments)
        return replace(self, entry=self.entry - self.start + base, segments=segments, load_base=base)


def _base(linked: int, size: int, relocation: Relocation, memory_bytes: int) -> int:
    """The address for an image of `size` bytes that is linked at `linked`."""
    align = relocation.align
    low = -(-max(relocation.lowest, MIB) // align) * align
    high = (min(relocation.highest, memory_bytes) - size) // align * align
    if low > high:
        raise ImageError(
            f"its {size:#x} bytes may lie from {relocation.lowest:#x} to {relocation.highest:#x}, aligned to"
            f" {align:#x}; the guest has no such place from {MIB:#x} to {memory_bytes:#x};"
            f" try --memory {-(-(low + size) // MIB)}, or link it with other limits"
        )
    if relocation.highest_first:
        return high
    if not relocation.lowest_first and linked % align == 0 and low <= linked <= high:
        return linked
    return low


@dataclass(frozen=True, slots=True)
class Reserved:
    """Memory that is not for images.

    Attributes:
        start, end: physical; `end` is the first address behind it.
        use: what is there instead, in words that follow "where".
    """

    start: int
    end: int
    use: str


def check(image: Image, memory_bytes: int, max_bytes: int, reserved: Sequence[Reserved]) -> None:
    """Check that an image fits.

    Args:
        memory_bytes: the guest's memory.
        max_bytes: what it could have at most.

    Raises:
        ImageError: a segment lies outside the memory, in a reserved part of it or over another one, or the
            entry point lies outside what the file fills.
    """
    for segment in image.segments:
        if segment.end > memory_bytes:
            advice = f"try --memory {-(-segment.end // MIB)}"
            if segment.end > max_bytes:
                advice = f"{max_bytes // MIB} MiB is the most; try to link it lower"
            raise ImageError(
                f"needs memory up to {segment.end:#x}, the guest has {memory_bytes:#x}; {advice}"
            )
    keep_clear(image, reserved)
    ordered = sorted(image.segments, key=lambda segment: segment.address)
    for lower, upper in pairwise(ordered):
        if upper.address < lower.end:
            raise ImageError(
                f"has segments that overlap, {lower} and {upper}; expected each in a place of its own;"
                " try to link it again"
            )
    filled = [(part.address, part.address + len(part.data)) for part in image.segments if part.data]
    if not any(start <= image.entry < end for start, end in filled):
        places = " or ".join(f"{start:#x} to {end - 1:#x}" for start, end in filled[:3]) or "a part with code"
        raise ImageError(
            f"the entry point is at {image.entry:#x}, where the file puts nothing; expected {places};"
            " try to link it again"
        )


def keep_clear(image: Image, reserved: Sequence[Reserved]) -> None:
    """Check that no segment lies in memory that is not for images.

    Raises:
        ImageError: one does.
    """
    for segment in image.segments:
        for part in reserved:
            if segment.address < part.end and part.start < segment.end:
                raise ImageError(
                    f"wants to be loaded at {segment}, where {part.use}; link it at {MIB:#x} or above"
                )
