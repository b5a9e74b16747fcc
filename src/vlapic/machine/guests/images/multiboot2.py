# SPDX-License-Identifier: GPL-2.0-or-later
"""Multiboot, version 2: the header by which an image asks for it, and what it is told at its start.

Follows the Multiboot2 Specification 2.0: "OS image format", "I386 machine state", "Boot information format".
An image is an ELF executable of either class, entered in 32-bit protected mode all the same, or any file
whose header has the address and entry address tags. An image that may lie anywhere (relocatable header tag)
is put where it says.

Left out: everything of EFI, disks, APM, VBE, SMBIOS and networks, whose tags are not there, and consoles: an
image that insists on one of these starts without, and a note says so. The ELF symbols tag has numbers of 32
bits, as GRUB's and the specification's own header file have it; its text has 16 bits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from vlapic.errors import ImageError
from vlapic.machine.engines.contract import CpuMode
from vlapic.machine.guests.images import elf
from vlapic.machine.guests.images.acpi import RSDP_1_BYTES
from vlapic.machine.guests.images.image import Image, Protocol, Relocation
from vlapic.machine.guests.images.information import AVAILABLE, LOADER_NAME, RESERVED, Information
from vlapic.machine.guests.images.multiboot import places, segment_by_addresses

_MAGIC = 0xE852_50D6
_SEARCHED = 32768
_I386 = 0
_BASE = struct.Struct("<IIII")
_TAG = struct.Struct("<HHI")
_ALIGN = 8
_OPTIONAL = 1 << 0

# Tags of a header.
(
    _END, _INFORMATION_REQUEST, _ADDRESS, _ENTRY, _CONSOLE, _FRAMEBUFFER, _MODULE_ALIGN, _EFI_SERVICES,
    _ENTRY_EFI_I386, _ENTRY_EFI_AMD64, _RELOCATABLE,
) = range(11)  # fmt: skip
#: Bytes of the tags that are read, with the tag's own head.
_SIZES = {_ADDRESS: 24, _ENTRY: 12, _CONSOLE: 12, _RELOCATABLE: 24}
_CONSOLE_REQUIRED = 1 << 0
_FROM_THE_BEGINNING = 0xFFFF_FFFF
_LOWEST, _HIGHEST = 1, 2

# Tags of the boot information.
_TELLS = {
    1: "command line", 2: "boot loader name", 3: "modules", 4: "basic memory information",
    6: "memory map", 9: "ELF symbols", 14: "ACPI old RSDP", 15: "ACPI new RSDP", 21: "load base address",
}  # fmt: skip
_TELLS_NOT = {
    5: "BIOS boot device", 7: "VBE information", 8: "framebuffer information", 10: "APM table",
    11: "EFI system table", 12: "EFI system table", 13: "SMBIOS tables", 16: "network information",
    17: "EFI memory map", 18: "EFI boot services", 19: "EFI image handle", 20: "EFI image handle",
}  # fmt: skip
_MAP_ENTRY = struct.Struct("<QQII")


class Header(NamedTuple):
    """A header that adds up, and where in the file it is."""

    offset: int
    length: int


class _Tags(NamedTuple):
    """What a header says; None for tags that it does not have."""

    address: tuple[int, int, int, int] | None
    entry: int | None
    relocation: Relocation | None
    notes: tuple[str, ...]


def find_header(data: memoryview) -> Header | None:
    """The header for i386 in the first 32768 bytes of a file, None if there is none that adds up."""
    for offset in places(data, _MAGIC, _SEARCHED, _BASE.size, _ALIGN):
        magic, architecture, length, checksum = _BASE.unpack_from(data, offset)
        if (magic + architecture + length + checksum) & 0xFFFF_FFFF == 0 and architecture == _I386:
            return Header(offset, length)
    return None


def read(data: memoryview, header: Header) -> Image:
    """The image in a file with a header.

    Raises:
        ImageError: it insists on what this loader does not know, contradicts itself, or is cut off.
    """
    tags = _read_tags(data, header)
    image = _read_elf(data, tags) if tags.address is None else _read_by_addresses(data, header, tags)
    return replace(
        image,
        mode=CpuMode.PROTECTED,
        protocol=Protocol.MULTIBOOT_2,
        relocation=tags.relocation,
        notes=tags.notes,
    )


def _read_elf(data: memoryview, tags: _Tags) -> Image:
    if data[: len(elf.MAGIC)] != elf.MAGIC:
        raise ImageError(
            "its multiboot2 header has no address tag, and it is no ELF file; expected one or the other;"
            " try an address tag (2)"
        )
    image = elf.read(data, by_multiboot=True)
    entry = image.entry if tags.entry is None else tags.entry
    return replace(image, form=f"multiboot2 {image.form}", entry=entry)


def _read_by_addresses(data: memoryview, header: Header, tags: _Tags) -> Image:
    """The image by "The address tag of Multiboot2 header"."""
    assert tags.address is not None
    if tags.entry is None:
        raise ImageError(
            "its multiboot2 header has an address tag (2) and no entry address tag (3); expected both"
            " or neither; try to add one"
        )
    header_address, load, load_end, zeros_end = tags.address
    if load == _FROM_THE_BEGINNING:
        load = header_address - header.offset
    if load < 0:
        raise ImageError(
            f"its multiboot2 header lies at byte {header.offset} of the file and at {header_address:#x}"
            " in memory, and the file is to be loaded from its beginning; expected a higher address;"
            " try to link it again"
        )
    segment = segment_by_addresses(data, header.offset, header_address, load, load_end, zeros_end)
    return Image("multiboot2 image", CpuMode.PROTECTED, tags.entry, (segment,))


def _each_tag(data: memoryview, header: Header) -> Iterator[tuple[int, int, memoryview]]:
    """Type, flags and all bytes of each tag of a header."""
    end = header.offset + header.length
    if header.length < _BASE.size or end > len(data):
        raise ImageError(
            f"its multiboot2 header of {header.length} bytes at byte {header.offset} does not fit into the"
            f" file of {len(data)}; it may be cut off; try to build it again"
        )
    at = header.offset + _BASE.size
    while at + _TAG.size <= end:
        kind, flags, size = _TAG.unpack_from(data, at)
        if kind == _END:
            return
        needed = _SIZES.get(kind, _TAG.size)
        if size < needed or at + size > end:
            raise ImageError(
                f"its multiboot2 header has a tag of type {kind} of {size} bytes, where {needed} or more are"
                f" needed and {end - at} are left; try to build it again"
            )
        yield kind, flags, data[at : at + size]
        at += -(-size // _ALIGN) * _ALIGN


def _read_tags(data: memoryview, header: Header) -> _Tags:
    address = entry = relocation = None
    notes: list[str] = []
    for kind, flags, tag in _each_tag(data, header):
        optional = bool(flags & _OPTIONAL)
        if kind == _INFORMATION_REQUEST and not optional:
            notes += _requests(tag)
        elif kind == _ADDRESS:
            address = struct.unpack_from("<4I", tag, _TAG.size)
        elif kind == _ENTRY:
            (entry,) = struct.unpack_from("<I", tag, _TAG.size)
        elif kind == _CONSOLE:
            if struct.unpack_from("<I", tag, _TAG.size)[0] & _CONSOLE_REQUIRED and not optional:
                notes.append(_without("a console that it can draw on"))
        elif kind == _FRAMEBUFFER:
            if not optional:
                notes.append(_without("a framebuffer"))
        elif kind == _RELOCATABLE:
            relocation = _relocation(tag)
        elif kind > _RELOCATABLE and not optional:
            raise ImageError(
                f"its multiboot2 header insists on a tag of type {kind}; expected types up to {_RELOCATABLE},"
                " or one that is optional (bit 0 of its flags); try it without"
            )
    return _Tags(address, entry, relocation, tuple(notes))


def _without(what: str) -> str:
    return f"the multiboot2 header asks for {what}; there is none, the guest starts without"


def _requests(tag: memoryview) -> Iterator[str]:
    """Notes on what an information request insists on and the boot information does not have."""
    for (kind,) in struct.iter_unpack("<I", tag[_TAG.size : len(tag) // 4 * 4]):
        if kind in _TELLS_NOT:
            yield _without(f"{_TELLS_NOT[kind]} (type {kind})")
        elif kind and kind not in _TELLS:
            raise ImageError(
                f"its multiboot2 header insists on boot information of type {kind}; expected types up to"
                f" {max(_TELLS)}; try a request that is optional (bit 0 of its flags)"
            )


def _relocation(tag: memoryview) -> Relocation:
    lowest, highest, align, preference = struct.unpack_from("<4I", tag, _TAG.size)
    return Relocation(lowest, highest, align or 1, preference == _LOWEST, preference == _HIGHEST)


def boot_information(information: Information, address: int) -> bytes:
    """The boot information: all tags, without holes.

    Args:
        information: what it says.
        address: where it will lie, a multiple of 8; EBX. No tag depends on it.
    """
    assert address % _ALIGN == 0
    ranges = b"".join(
        _MAP_ENTRY.pack(start, end - start, AVAILABLE if available else RESERVED, 0)
        for start, end, available in information.ranges
    )
    tags = [
        (1, information.command_line + b"\0"),
        (2, LOADER_NAME),
        *(
            (3, struct.pack("<II", module.start, module.end) + module.text + b"\0")
            for module in information.modules
        ),
        (4, struct.pack("<II", information.lower_kib, information.upper_kib)),
        (6, struct.pack("<II", _MAP_ENTRY.size, 0) + ranges),
    ]
    sections = information.sections
    if sections is not None:
        count = len(sections.headers) // sections.entry_bytes
        numbers = struct.pack("<III", count, sections.entry_bytes, sections.names)
        tags.append((9, numbers + sections.headers))
    tags += [(14, information.rsdp[:RSDP_1_BYTES]), (15, information.rsdp)]
    if information.load_base is not None:
        tags.append((21, struct.pack("<I", information.load_base)))
    tags.append((0, b""))
    body = b"".join(
        struct.pack("<II", kind, 8 + len(data)) + data + bytes(-len(data) % _ALIGN) for kind, data in tags
    )
    return struct.pack("<II", 8 + len(body), 0) + body
