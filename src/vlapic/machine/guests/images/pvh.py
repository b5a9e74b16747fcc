# SPDX-License-Identifier: GPL-2.0-or-later
"""PVH: the 32-bit entry of an ELF executable that a note of Xen's names, as Linux' vmlinux has it.

Follows Xen's "x86/HVM direct boot ABI" and its header public/arch-x86/hvm/start_info.h, version 1 of
`hvm_start_info`. QEMU's -kernel starts such a file so; the command line is what was asked for alone, without
the image's name, which Linux would hand to its first process.

Left out: the task register that the ABI has point to an empty TSS.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from vlapic.errors import ImageError
from vlapic.machine.engines.contract import CpuMode
from vlapic.machine.guests.images import elf
from vlapic.machine.guests.images.image import Image, Protocol
from vlapic.machine.guests.images.information import AVAILABLE, RESERVED, Information

_NOTE_NAME, _PHYS32_ENTRY = b"Xen\0", 18
_MAGIC, _VERSION = 0x336E_C578, 1
_START_INFO = struct.Struct("<4I4QII")
_MODULE = struct.Struct("<4Q")
_MAP_ENTRY = struct.Struct("<QQII")
_ALIGN = 8


def read(data: memoryview) -> Image:
    """The image in an ELF file, entered as its note says, if it has one.

    Raises:
        ImageError: as `elf.read` does, or the note names no address of 32 bits.
    """
    image = elf.read(data)
    note = elf.find_note(data, _NOTE_NAME, _PHYS32_ENTRY)
    if note is None:
        return image
    entry = int.from_bytes(note[:8], "little")
    if len(note) < 4 or entry >> 32:
        raise ImageError(
            f"its note for a PVH entry has {len(note)} bytes and names {entry:#x}; expected 4 or 8 with an"
            " address below 4 GiB; try to link it again"
        )
    return replace(
        image, form=f"PVH {image.form}", mode=CpuMode.PROTECTED, entry=entry, protocol=Protocol.PVH
    )


def boot_information(information: Information, address: int) -> bytes:
    """`hvm_start_info` and, behind it, all it points to but the modules.

    Args:
        information: what it says.
        address: where it will lie, a multiple of 8; EBX.
    """
    behind = bytearray()

    def put(data: bytes) -> int:
        """Append data that the structure points to; its address."""
        at = address + _START_INFO.size + len(behind)
        behind.extend(data + bytes(-len(data) % _ALIGN))
        return at

    memory_map = put(
        b"".join(
            _MAP_ENTRY.pack(start, end - start, AVAILABLE if available else RESERVED, 0)
            for start, end, available in information.ranges
        )
    )
    texts = [put(module.text + b"\0") for module in information.modules]
    modules = put(
        b"".join(
            _MODULE.pack(module.start, module.end - module.start, text, 0)
            for module, text in zip(information.modules, texts, strict=True)
        )
    )
    command_line = put(information.command_line + b"\0")
    structure = _START_INFO.pack(
        _MAGIC,
        _VERSION,
        0,
        len(texts),
        modules if texts else 0,
        command_line,
        information.rsdp_address,
        memory_map,
        len(information.ranges),
        0,
    )
    return structure + behind
