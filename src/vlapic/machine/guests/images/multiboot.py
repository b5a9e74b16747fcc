# SPDX-License-Identifier: GPL-2.0-or-later
"""Multiboot, version 1: the header by which an image asks for it, and what it is told at its start.

Follows the Multiboot Specification 0.6.96: "The layout of Multiboot header", "Machine state", "Boot
information format". An image is an ELF executable of either class, entered in 32-bit protected mode all the
same, or any file whose header has the address fields.

Left out: everything about disks, APM and VBE, whose flags are not set; and video modes: an image that asks
for one starts without it, as with QEMU's -kernel, and a note says so. Bits 3 to 15 of the header's flags have
no meaning that a loader could know; the specification has it refuse them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from vlapic.errors import ImageError
from vlapic.machine.engines.contract import CpuMode
from vlapic.machine.guests.images import elf
from vlapic.machine.guests.images.image import Image, Segment
from vlapic.machine.guests.images.information import AVAILABLE, LOADER_NAME, RESERVED, Information

_MAGIC = 0x1BAD_B002
_SEARCHED = 8192
_BASE = struct.Struct("<III")
_ADDRESSES = struct.Struct("<IIIII")

# What an image may ask for; bits 0 to 15 it cannot do without.
_PAGE_ALIGNED_MODULES, _MEMORY, _VIDEO = 1 << 0, 1 << 1, 1 << 2
_MANDATORY = 0xFFFF
_HAS_ADDRESSES = 1 << 16

# What the boot information says it has.
_HAS_MEMORY, _HAS_COMMAND_LINE, _HAS_MODULES, _HAS_SECTIONS, _HAS_MAP, _HAS_LOADER_NAME = (
    1 << bit for bit in (0, 2, 3, 5, 6, 9)
)
_INFORMATION_BYTES = 116
_MAP_ENTRY = struct.Struct("<IQQI")
_MODULE = struct.Struct("<IIII")


class Header(NamedTuple):
    """A header that adds up, and where in the file it is."""

    offset: int
    flags: int


def find_header(data: memoryview) -> Header | None:
    """The header in the first 8192 bytes of a file, None if there is none whose checksum is right."""
    for offset in places(data, _MAGIC, _SEARCHED, _BASE.size, 4):
        magic, flags, checksum = _BASE.unpack_from(data, offset)
        if (magic + flags + checksum) & 0xFFFF_FFFF == 0:
            return Header(offset, flags)
    return None


def places(data: memoryview, magic: int, searched: int, size: int, align: int) -> Iterator[int]:
    """Where in a file's beginning there is room for a header behind its magic number."""
    head = bytes(data[:searched])
    wanted = magic.to_bytes(4, "little")
    offset = head.find(wanted)
    while 0 <= offset <= len(head) - size:
        if offset % align == 0:
            yield offset
        offset = head.find(wanted, offset + 1)


def read(data: memoryview, header: Header) -> Image:
    """The image in a file with a header.

    Raises:
        ImageError: it insists on what is not given, contradicts itself, or is cut off.
    """
    unknown = header.flags & _MANDATORY & ~(_PAGE_ALIGNED_MODULES | _MEMORY | _VIDEO)
    if unknown:
        raise ImageError(
            f"its multiboot header insists on something without a meaning (bits {unknown:#x} of flags"
            f" {header.flags:#x}); expected bits 0 to 2 at most; try it without"
        )
    notes = (
        ("the multiboot header asks for a video mode; there is no display, the guest starts without",)
        if header.flags & _VIDEO
        else ()
    )
    if header.flags & _HAS_ADDRESSES:
        return replace(_read_by_addresses(data, header), notes=notes)
    if data[: len(elf.MAGIC)] != elf.MAGIC:
        raise ImageError(
            "its multiboot header has no address fields, and it is no ELF file; expected one or the other;"
            " try bit 16 of the header's flags"
        )
    image = elf.read(data, by_multiboot=True)
    return replace(image, form=f"multiboot {image.form}", mode=CpuMode.PROTECTED, notes=notes)


def _read_by_addresses(data: memoryview, header: Header) -> Image:
    """The image by "The address fields of Multiboot header"."""
    at = header.offset + _BASE.size
    if len(data) < at + _ADDRESSES.size:
        raise ImageError(f"{len(data)} bytes, cut off in its multiboot header; try to build it again")
    header_address, load, load_end, zeros_end, entry = _ADDRESSES.unpack_from(data, at)
    segment = segment_by_addresses(data, header.offset, header_address, load, load_end, zeros_end)
    return Image("multiboot image", CpuMode.PROTECTED, entry, (segment,))


def segment_by_addresses(
    data: memoryview, header_offset: int, header_address: int, load: int, load_end: int, zeros_end: int
) -> Segment:
    """What of a file is loaded by the addresses in a header, which both versions have.

    Args:
        header_offset: of the header in the file.
        header_address: of the header in memory.
        load, load_end: of what is loaded; an end of 0 is the file's.
        zeros_end: of the zeros behind; 0 for none.

    Raises:
        ImageError: they contradict each other, or the file.
    """
    start = header_offset - (header_address - load)
    if load > header_address or start < 0:
        raise ImageError(
            f"its multiboot header lies at byte {header_offset} of the file and at {header_address:#x} in"
            f" memory, but loading begins at {load:#x}; expected the header at most {header_offset} bytes"
            " above that; try to link it again"
        )
    if 0 < load_end <= load:
        raise ImageError(
            f"its multiboot header ends what is loaded at {load_end:#x}, and it begins at {load:#x};"
            " expected the end behind; try to link it again"
        )
    size = load_end - load if load_end else len(data) - start
    if not 0 < size <= len(data) - start:
        raise ImageError(
            f"its multiboot header wants {size} bytes loaded, the file has {len(data) - start};"
            " it may be cut off; try to build it again"
        )
    memory = zeros_end - load if zeros_end else size
    if memory < size:
        raise ImageError(
            f"its multiboot header ends the zeros at {zeros_end:#x}, before the data at {load + size:#x};"
            " expected them behind; try to link it again"
        )
    return Segment(load, data[start : start + size], memory)


def boot_information(information: Information, address: int) -> bytes:
    """The boot information structure and, behind it, all it points to but modules and sections.

    Args:
        information: what it says.
        address: where it will lie; EBX.
    """
    flags = _HAS_MEMORY | _HAS_COMMAND_LINE | _HAS_MAP | _HAS_LOADER_NAME
    structure = bytearray(_INFORMATION_BYTES)
    behind = bytearray()

    def put(data: bytes) -> int:
        """Append data that the structure points to; its address."""
        at = address + _INFORMATION_BYTES + len(behind)
        behind.extend(data)
        return at

    ranges = information.ranges
    memory_map = b"".join(
        # "size" counts what follows it.
        _MAP_ENTRY.pack(_MAP_ENTRY.size - 4, start, end - start, AVAILABLE if available else RESERVED)
        for start, end, available in ranges
    )
    struct.pack_into("<II", structure, 44, len(memory_map), put(memory_map))
    if information.modules:
        flags |= _HAS_MODULES
        texts = [put(module.text + b"\0") for module in information.modules]
        put(bytes(-len(behind) % 4))
        listed = put(
            b"".join(
                _MODULE.pack(module.start, module.end, text, 0)
                for module, text in zip(information.modules, texts, strict=True)
            )
        )
        struct.pack_into("<II", structure, 20, len(texts), listed)
    sections = information.sections
    if sections is not None:
        flags |= _HAS_SECTIONS
        count = len(sections.headers) // sections.entry_bytes
        struct.pack_into(
            "<IIII", structure, 28, count, sections.entry_bytes, sections.address, sections.names
        )
    struct.pack_into("<I", structure, 64, put(LOADER_NAME))
    struct.pack_into("<I", structure, 16, put(information.command_line + b"\0"))
    struct.pack_into("<III", structure, 0, flags, information.lower_kib, information.upper_kib)
    return bytes(structure + behind)
