# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF executables: what of them is loaded, and where they begin.

Follows the System V ABI, "ELF Header", "Program Header" and "Sections", for i386 and x86-64. A segment is
loaded at its physical address; the entry point, a virtual one, is moved with its segment. The machine tells
what the code is: that of i386 starts in 32-bit protected mode, that of x86-64 in 64-bit mode, in an ELF64 or,
as the x32 ABI has it, an ELF32; both with memory mapped onto itself.

Left out: relocation, so that what is not linked to fixed addresses is refused. A multiboot image is loaded
where its program headers say even so, as GRUB does: it may relocate itself.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from vlapic.errors import ImageError
from vlapic.machine.engines.contract import CpuMode
from vlapic.machine.guests.images.image import Image, Sections, Segment

MAGIC = b"\x7fELF"

_IDENT_BYTES = 16
_LITTLE_ENDIAN, _CURRENT = 1, 1
_TYPES = {
    1: "an object file (ET_REL); expected a linked executable; try ld -static",
    3: "position-independent or a shared object (ET_DYN); expected an executable at fixed addresses;"
    " try to link it with -static -no-pie",
    4: "a core dump (ET_CORE); expected an executable",
}
_ET_EXEC, _ET_DYN = 2, 3
_I386, _X86_64 = 3, 62
_SHT_NULL, _SHT_NOBITS = 0, 8
_NOTE = struct.Struct("<III")
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP, _PT_NOTE = 1, 2, 3, 4
#: A number that means: look elsewhere (PN_XNUM). Guests have a few.
_MANY_HEADERS = 0xFFFF


class _Header(NamedTuple):
    """What the ELF header says, behind e_ident."""

    type: int
    machine: int
    version: int
    entry: int
    phoff: int
    shoff: int
    flags: int
    ehsize: int
    phentsize: int
    phnum: int


class _Part(NamedTuple):
    """A program header, in the order of ELF64."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int


class _Section(NamedTuple):
    """A section header, in the order of both classes."""

    name: int
    type: int
    flags: int
    addr: int
    offset: int
    size: int
    link: int
    info: int
    addralign: int
    entsize: int


class _Class(NamedTuple):
    """One of the two layouts, and the machines that go with it."""

    name: str
    header: struct.Struct
    part: struct.Struct
    order: tuple[int, ...]
    section: struct.Struct
    #: Where in a section header the address is, and its layout.
    address: tuple[int, str]
    machines: dict[int, CpuMode]
    expected: str


_CLASSES = {
    1: _Class(
        "ELF32",
        struct.Struct("<HHIIIIIHHH"),
        struct.Struct("<8I"),
        (0, 6, 1, 2, 3, 4, 5, 7),  # p_flags comes late
        struct.Struct("<10I"),
        (12, "<I"),
        {_I386: CpuMode.PROTECTED, _X86_64: CpuMode.LONG},
        "3, i386, or 62, x86-64",
    ),
    2: _Class(
        "ELF64",
        struct.Struct("<HHIQQQIHHH"),
        struct.Struct("<IIQQQQQQ"),
        tuple(range(8)),
        struct.Struct("<IIQQQQIIQQ"),
        (16, "<Q"),
        {_X86_64: CpuMode.LONG},
        "62, x86-64",
    ),
}
#: e_shentsize, e_shnum, e_shstrndx, behind what `_Header` has.
_SECTION_COUNTS = struct.Struct("<HHH")


def read(data: memoryview, *, by_multiboot: bool = False) -> Image:
    """The image in a file that begins with MAGIC.

    Args:
        by_multiboot: it is loaded by its program headers even if it is not linked to fixed addresses.

    Raises:
        ImageError: cut off, not for this CPU, not an executable at fixed addresses, or empty.
    """
    if len(data) < _IDENT_BYTES:
        raise ImageError(f"{len(data)} bytes, cut off in its ELF header; try to build it again")
    kind = _CLASSES.get(data[4])
    if kind is None or data[5] != _LITTLE_ENDIAN or data[6] != _CURRENT:
        raise ImageError(
            f"its ELF header is of class {data[4]}, byte order {data[5]}, version {data[6]};"
            " expected class 1 or 2, byte order 1, version 1; try an executable for x86"
        )
    header = _read_header(kind, data, by_multiboot)
    parts = _read_parts(kind, header, data, by_multiboot)
    loaded = [(number, part) for number, part in enumerate(parts) if part.type == _PT_LOAD and part.memsz]
    if not loaded:
        raise ImageError(
            f"{kind.name} with {len(parts)} program headers, none of which puts anything into memory;"
            " expected a segment of type PT_LOAD; try to link it again"
        )
    segments = tuple(_segment(number, part, data) for number, part in loaded)
    mode = kind.machines[header.machine]
    x32 = mode is CpuMode.LONG and kind is _CLASSES[1]
    return Image(
        f"{kind.name} of 64-bit code" if x32 and not by_multiboot else kind.name,
        mode,
        _entry(header.entry, [part for _, part in loaded]),
        segments,
        sections=_read_sections(kind, header, data),
    )


def find_note(data: memoryview, name: bytes, type_of: int) -> bytes | None:
    """What a note says in a file that `read` takes ("Note Section"); None if there is no such note.

    Args:
        name: its name, with the zero at its end.
        type_of: its type.
    """
    kind = _CLASSES[data[4]]
    header = _read_header(kind, data, by_multiboot=True)
    for part in _read_parts(kind, header, data, by_multiboot=True):
        if part.type != _PT_NOTE:
            continue
        at, end = part.offset, min(part.offset + part.filesz, len(data))
        while at + _NOTE.size <= end:
            name_bytes, size, kind_of = _NOTE.unpack_from(data, at)
            name_at = at + _NOTE.size
            says_at = name_at + _padded(name_bytes)
            at = says_at + _padded(size)
            if says_at + size > end:
                break
            if kind_of == type_of and data[name_at : name_at + name_bytes] == name:
                return bytes(data[says_at : says_at + size])
    return None


def _padded(size: int) -> int:
    return -(-size // 4) * 4


def _read_header(kind: _Class, data: memoryview, by_multiboot: bool) -> _Header:
    if len(data) < _IDENT_BYTES + kind.header.size:
        raise ImageError(f"{len(data)} bytes, cut off in its {kind.name} header; try to build it again")
    header = _Header(*kind.header.unpack_from(data, _IDENT_BYTES))
    if header.machine not in kind.machines:
        raise ImageError(
            f"{kind.name} for machine {header.machine}; expected {kind.expected}; try a compiler for x86"
        )
    if header.type != _ET_EXEC and not (by_multiboot and header.type == _ET_DYN):
        raise ImageError(
            f"{kind.name} that is {_TYPES.get(header.type, f'of type {header.type}; expected an executable')}"
        )
    return header


def _read_parts(kind: _Class, header: _Header, data: memoryview, by_multiboot: bool) -> list[_Part]:
    size = kind.part.size
    if header.phnum and header.phentsize != size:
        raise ImageError(
            f"{kind.name} with program headers of {header.phentsize} bytes, expected {size};"
            " try to build it again"
        )
    end = header.phoff + header.phnum * size
    if header.phnum == _MANY_HEADERS or end > len(data):
        raise ImageError(
            f"{kind.name} with {header.phnum} program headers up to byte {end}, the file has {len(data)};"
            " it may be cut off; try to build it again"
        )
    parts = []
    for number in range(header.phnum):
        fields = kind.part.unpack_from(data, header.phoff + number * size)
        part = _Part(*(fields[place] for place in kind.order))
        if part.type in (_PT_DYNAMIC, _PT_INTERP) and not by_multiboot:
            raise ImageError(
                f"{kind.name} that is linked dynamically (program header {number});"
                " expected a static executable; try to link it with -static -no-pie"
            )
        parts.append(part)
    return parts


def _segment(number: int, part: _Part, data: memoryview) -> Segment:
    if part.filesz > part.memsz:
        raise ImageError(
            f"segment {number} has {part.filesz} bytes in the file, {part.memsz} in memory;"
            " expected no more than in memory; try to build it again"
        )
    if part.offset + part.filesz > len(data):
        raise ImageError(
            f"segment {number} is cut off: it ends at byte {part.offset + part.filesz},"
            f" the file has {len(data)}; try to build it again"
        )
    return Segment(part.paddr, data[part.offset : part.offset + part.filesz], part.memsz)


def _read_sections(kind: _Class, header: _Header, data: memoryview) -> Sections | None:
    """The section headers, and the sections that no segment has; None if they make no sense."""
    at = _IDENT_BYTES + kind.header.size
    if not header.shoff or len(data) < at + _SECTION_COUNTS.size:
        return None
    size, count, names = _SECTION_COUNTS.unpack_from(data, at)
    end = header.shoff + count * size
    if not count or size != kind.section.size or names >= count or end > len(data):
        return None
    contents = []
    for index in range(count):
        section = _Section(*kind.section.unpack_from(data, header.shoff + index * size))
        if section.addr or not section.size or section.type in (_SHT_NULL, _SHT_NOBITS):
            continue
        if section.offset + section.size > len(data):
            return None
        contents.append((index, data[section.offset : section.offset + section.size]))
    return Sections(data[header.shoff : end], size, names, kind.address, tuple(contents))


def _entry(address: int, parts: list[_Part]) -> int:
    """The physical address of a virtual one; itself if it lies in no segment."""
    for part in parts:
        if part.vaddr <= address < part.vaddr + part.memsz:
            return address - part.vaddr + part.paddr
    return address
