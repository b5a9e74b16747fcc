"""Multiboot, version 1: the header by which an image asks for it, and what it is told at its start.

Follows the Multiboot Specification 0.6.96: "The layout of Multiboot header", "Machine state", "Boot
information format". An image is an ELF executable of either class, entered in 32-bit protected mode all the
same, or any file whose header has the address fields.

Left out: modules and everything about disks, APM, VBE and symbols, whose flags are not set; and video modes,
so that an image that insists on one is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from vlapic.errors import ImageError
from vlapic.machine.engine import CpuMode
from vlapic.machine.images import elf
from vlapic.machine.images.image import Image, Segment

#: In EAX when an image starts.
BOOT_MAGIC = 0x2BAD_B002

_MAGIC, _MAGIC_2 = 0x1BAD_B002, 0xE852_50D6
_SEARCHED, _SEARCHED_2 = 8192, 32768
_BASE, _BASE_2 = struct.Struct("<III"), struct.Struct("<IIII")
_ADDRESSES = struct.Struct("<IIIII")

# What an image may ask for; bits 0 to 15 it cannot do without.
_PAGE_ALIGNED_MODULES, _MEMORY, _VIDEO = 1 << 0, 1 << 1, 1 << 2
_MANDATORY = 0xFFFF
_HAS_ADDRESSES = 1 << 16

# What the boot information says it has.
_HAS_MEMORY, _HAS_COMMAND_LINE, _HAS_MAP, _HAS_LOADER_NAME = 1 << 0, 1 << 2, 1 << 6, 1 << 9
_INFORMATION_BYTES = 116
_LOADER_NAME = b"vlapic\0"
_MAP_ENTRY = struct.Struct("<IQQI")
_AVAILABLE, _RESERVED = 1, 2


class Header(NamedTuple):
    """A header that adds up, and where in the file it is."""

    offset: int
    flags: int


class MemoryRange(NamedTuple):
    """A line of the memory map; what is not available is no RAM for the guest."""

    start: int
    end: int
    available: bool


def find_header(data: memoryview) -> Header | None:
    """The header in the first 8192 bytes of a file, None if there is none whose checksum is right."""
    for offset in _places(data, _MAGIC, _SEARCHED, _BASE.size, 4):
        magic, flags, checksum = _BASE.unpack_from(data, offset)
        if (magic + flags + checksum) & 0xFFFF_FFFF == 0:
            return Header(offset, flags)
    return None


def has_version_2(data: memoryview) -> bool:
    """Whether a file has the header of version 2 (Multiboot2 Specification, "Header magic fields")."""
    return any(
        sum(_BASE_2.unpack_from(data, offset)) & 0xFFFF_FFFF == 0
        for offset in _places(data, _MAGIC_2, _SEARCHED_2, _BASE_2.size, 8)
    )


def _places(data: memoryview, magic: int, searched: int, size: int, align: int) -> Iterator[int]:
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
    unknown = header.flags & _MANDATORY & ~(_PAGE_ALIGNED_MODULES | _MEMORY)
    if unknown:
        raise ImageError(
            f"its multiboot header asks for {_what(unknown)} (flags {header.flags:#x}); expected modules and"
            " memory information at most (bits 0 and 1); try it without"
        )
    if header.flags & _HAS_ADDRESSES:
        return _read_by_addresses(data, header)
    if data[: len(elf.MAGIC)] != elf.MAGIC:
        raise ImageError(
            "its multiboot header has no address fields, and it is no ELF file; expected one or the other;"
            " try bit 16 of the header's flags"
        )
    image = elf.read(data)
    return Image(f"multiboot {image.form}", CpuMode.PROTECTED, image.entry, image.segments)


def _what(flags: int) -> str:
    return "a video mode" if flags == _VIDEO else f"what nobody knows (bits {flags:#x})"


def _read_by_addresses(data: memoryview, header: Header) -> Image:
    """The image by "The address fields of Multiboot header"."""
    at = header.offset + _BASE.size
    if len(data) < at + _ADDRESSES.size:
        raise ImageError(f"{len(data)} bytes, cut off in its multiboot header; try to build it again")
    header_address, load, load_end, zeros_end, entry = _ADDRESSES.unpack_from(data, at)
    start = header.offset - (header_address - load)
    if load > header_address or start < 0:
        raise ImageError(
            f"its multiboot header lies at byte {header.offset} of the file and at {header_address:#x} in"
            f" memory, but loading begins at {load:#x}; expected the header at most {header.offset} bytes"
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
    segment = Segment(load, data[start : start + size], memory)
    return Image("multiboot image", CpuMode.PROTECTED, entry, (segment,))


def boot_information(
    address: int, lower_bytes: int, upper_bytes: int, ranges: tuple[MemoryRange, ...], command_line: bytes
) -> bytes:
    """The boot information structure and, behind it, all it points to.

    Args:
        address: where it will lie; EBX.
        lower_bytes, upper_bytes: RAM from 0, and from 1 MiB.
        command_line: without the zero at its end.
    """
    entry_bytes = _MAP_ENTRY.size
    map_address = address + _INFORMATION_BYTES
    name_address = map_address + entry_bytes * len(ranges)
    line_address = name_address + len(_LOADER_NAME)
    information = bytearray(_INFORMATION_BYTES)
    flags = _HAS_MEMORY | _HAS_COMMAND_LINE | _HAS_MAP | _HAS_LOADER_NAME
    struct.pack_into("<III", information, 0, flags, lower_bytes >> 10, upper_bytes >> 10)
    struct.pack_into("<I", information, 16, line_address)
    struct.pack_into("<II", information, 44, entry_bytes * len(ranges), map_address)
    struct.pack_into("<I", information, 64, name_address)
    memory_map = b"".join(
        # "size" counts what follows it.
        _MAP_ENTRY.pack(entry_bytes - 4, start, end - start, _AVAILABLE if available else _RESERVED)
        for start, end, available in ranges
    )
    return bytes(information) + memory_map + _LOADER_NAME + command_line + b"\0"
