# SPDX-License-Identifier: GPL-2.0-or-later
"""How a guest gets into its memory, and what it finds when it starts.

An image is flat (`images/flat.py`), has a multiboot header (`images/multiboot.py`, `images/multiboot2.py`),
or is an ELF executable, with a note for PVH (`images/pvh.py`) or plain (`images/elf.py`). It is checked whole
before anything is made.

A flat image and a plain ELF of 64-bit code start in 64-bit mode at CPL 0: CR3 = an identity map of the first
4 GiB, CS = 0x08 (64-bit code), DS, ES, SS, FS, GS = 0x10 in a flat GDT, RDI = timer interrupts asked for,
RSI = distance of the deadlines in cycles of its TSC. All others start in 32-bit protected mode, in flat
segments without a table, paging off. Both have interrupts off, EAX and EBX as multiboot has them (its magic
number, the address of the boot information; with PVH 0 and the address of its), a stack, and no IDT: until a
guest loads one any exception is a triple fault.

    0x01000  page tables and GDT, in 64-bit mode only
    0x80000  top of the stack
    1 MiB    RAM; boot modules behind the image (`images/modules.py`)

and what firmware leaves below 1 MiB, the boot information with it (`images/firmware.py`).
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlapic.errors import ImageError, UsageError
from vlapic.machine.engines.contract import CpuMode, FirstState
from vlapic.machine.guests.images import elf, firmware, flat, long_mode, multiboot, multiboot2, pvh
from vlapic.machine.guests.images.flat import HEADER, MAGIC, RESULTS
from vlapic.machine.guests.images.image import MIB, Image, Protocol, Reserved, check, keep_clear
from vlapic.machine.guests.images.information import Information, PlacedSections
from vlapic.machine.guests.images.long_mode import CODE_SELECTOR, DATA_SELECTOR
from vlapic.machine.guests.images.modules import Beside, ModuleFile, place

DEFAULT_MEMORY = 128 * MIB
MIN_MEMORY = 2 * MIB
#: Guest memory ends where the devices' part of the first 4 GiB begins.
MAX_MEMORY = 0xC000_0000
#: A larger file is not read.
MAX_IMAGE = 256 * MIB

_STACK_TOP, _STACK_BYTES = 0x8_0000, 0x1_0000
#: Of a command line, with its first word and its zero.
_MAX_COMMAND_LINE = 0xF000

_BOOT_INFORMATION = {
    Protocol.MULTIBOOT: multiboot.boot_information,
    Protocol.MULTIBOOT_2: multiboot2.boot_information,
    Protocol.PVH: pvh.boot_information,
}

_NO_PROGRAMS = Reserved(firmware.EBDA_END, MIB, "a PC has no RAM for programs")
_RESERVED = {
    CpuMode.PROTECTED: (_NO_PROGRAMS,),
    CpuMode.LONG: (
        Reserved(long_mode.START, long_mode.END, "the page tables are"),
        Reserved(_STACK_TOP - _STACK_BYTES, _STACK_TOP, "the stack is"),
        _NO_PROGRAMS,
    ),
}

_PACKED = {
    b"\x1f\x8b": "a gzip file",
    b"\xfd7zXZ": "an xz file",
    b"BZh": "a bzip2 file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"PK\x03\x04": "a zip file",
}
_FOREIGN = {b"MZ": "a PE file", b"#!": "a script"}
_BUILT_IN = "a built-in guest, see: vlapic run --list"
_LINUX_MAGIC_AT, _LINUX_MAGIC = 0x202, b"HdrS"


@dataclass(frozen=True, slots=True)
class Results:
    """What a built-in guest measured by itself: its lateness in cycles of its own TSC."""

    count: int
    early: int
    min_cycles: int
    max_cycles: int
    sum_cycles: int


@dataclass(frozen=True, slots=True)
class LoadedGuest:
    """A guest in its memory, ready to start.

    Attributes:
        form: of its image, in words that follow "a".
        memory: guest RAM from physical 0. What Python writes to it after the guest's first run is not seen by
            code the CPU has translated already.
        first: the registers it starts with.
        command_line: what it is told, first the image's name.
        results_address: where it keeps its results; None if its image does not say.
        notes: what it asks for and does not get, each in a line.
    """

    form: str
    memory: mmap.mmap
    first: FirstState
    command_line: bytes
    results_address: int | None
    notes: tuple[str, ...]

    def results(self) -> Results | None:
        """The results area as it is now; None if there is none."""
        if self.results_address is None:
            return None
        return Results(*RESULTS.unpack_from(self.memory, self.results_address))


def load(
    image: Path | bytes,
    memory_bytes: int = DEFAULT_MEMORY,
    interrupts: int = 0,
    delta_cycles: int = 0,
    append: str = "",
    modules: Sequence[str | os.PathLike[str]] = (),
    cpus: int = 1,
) -> LoadedGuest:
    """Load an image into new memory.

    Args:
        image: the file, or its bytes.
        memory_bytes: guest RAM; whole pages, 2 MiB to 3 GiB.
        interrupts: timer interrupts the guest is asked to take, 0 to 2^64-1; 64-bit guests are told.
        delta_cycles: distance of its deadlines, cycles of the guest's TSC, 0 to 2^64-1; they too.
        append: its command line, behind the image's name.
        modules: boot modules, each a path or, as text, a path and behind a space what is said with it.
        cpus: how many processors firmware tells of, with APIC IDs from 0 on.

    Raises:
        ImageError: the image cannot be run, or a module not be read; nothing has been made.
        UsageError: not so much memory, or not such a command line.
    """
    if memory_bytes % mmap.PAGESIZE or not MIN_MEMORY <= memory_bytes <= MAX_MEMORY:
        raise UsageError(
            f"{memory_bytes} bytes of guest memory; expected whole pages, 2 MiB to 3072 MiB; try 128 MiB"
        )
    command_line = _command_line(image, append)
    name, data = _read(image)
    files = [_read_module(ModuleFile.of(given)) for given in modules]
    tables = firmware.tables(cpus)
    try:
        asked = _parse(memoryview(data)).moved(memory_bytes)
        check(asked, memory_bytes, MAX_MEMORY, _RESERVED[asked.mode])
        beside = place(asked, files, memory_bytes)
        told_line = os.fsencode(append) if asked.protocol is Protocol.PVH else command_line
        ebda, information = _boot_information(asked, memory_bytes, told_line, beside, tables)
        keep_clear(asked, (Reserved(ebda, firmware.EBDA_END, "the boot information is"),))
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    memory = mmap.mmap(-1, memory_bytes)
    firmware.write(memory, ebda, tables)
    at = firmware.information_in(ebda)
    memory[at : at + len(information)] = information
    first = _first_state(memory, asked, at, interrupts, delta_cycles)
    for segment in (*asked.segments, *beside.pieces):
        filled = segment.address + len(segment.data)
        memory[segment.address : filled] = segment.data
        if filled < firmware.BIOS_DATA + firmware.BIOS_DATA_BYTES:
            end = min(segment.end, firmware.BIOS_DATA + firmware.BIOS_DATA_BYTES)
            memory[filled:end] = bytes(end - filled)
    return LoadedGuest(asked.form, memory, first, command_line, asked.results_address, asked.notes)


def _command_line(image: Path | bytes, append: str) -> bytes:
    """The image's name, as boot loaders have it, and what was asked for."""
    line = os.fsencode(image.name if isinstance(image, Path) else "guest")
    if append:
        line += b" " + os.fsencode(append)
    if b"\0" in line or len(line) >= _MAX_COMMAND_LINE:
        zeros = line.count(0)
        raise UsageError(
            f"a command line of {len(line)} bytes, {zeros} of them zero; expected at most"
            f" {_MAX_COMMAND_LINE - 1}, none of them zero; try another --append"
        )
    return line


def _read(image: Path | bytes) -> tuple[str, bytes]:
    if isinstance(image, bytes):
        return "the image", image
    data = _read_file(
        image, "a guest image or a built-in guest's name; see: vlapic run --list", "a readable guest image"
    )
    return str(image), data


def _read_module(file: ModuleFile) -> tuple[ModuleFile, bytes]:
    if "\0" in file.arguments:
        raise UsageError(f"the text of the module {str(file.path)!r} has a zero; expected none; leave it out")
    data = _read_file(file.path, "a boot module; its name ends at the first space", "a readable boot module")
    if len(data) > MAX_IMAGE:
        raise ImageError(
            f"{file.path}: has more than {MAX_IMAGE // MIB} MiB; expected less of a boot module;"
            " try to split it"
        )
    return file, data


def _read_file(path: Path, missing: str, unreadable: str) -> bytes:
    """A file, or what of an endless one is more than MAX_IMAGE; the words say what was expected."""
    data = bytearray()
    try:
        with path.open("rb") as file:
            while len(data) <= MAX_IMAGE and (more := file.read(MIB)):
                data += more
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file; expected {missing}") from None
    except (OSError, ValueError) as error:  # the latter for a zero in the name
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{path}: {reason}; expected {unreadable}") from None
    return bytes(data)


def _parse(data: memoryview) -> Image:
    """What a file asks for, by the form it has."""
    if not data:
        raise ImageError("the file is empty; expected a guest image; try a built-in guest")
    if len(data) > MAX_IMAGE:
        raise ImageError(f"has more than {MAX_IMAGE // MIB} MiB; expected less; try strip")
    if data[: len(MAGIC)] == MAGIC:
        return flat.read(data)
    header = multiboot.find_header(data)
    if header is not None:
        return multiboot.read(data, header)
    header_2 = multiboot2.find_header(data)
    if header_2 is not None:
        return multiboot2.read(data, header_2)
    if data[: len(elf.MAGIC)] == elf.MAGIC:
        return pvh.read(data)
    what, advice = _looks_like(bytes(data[:1024]))
    raise ImageError(
        f"looks like {what}; expected a multiboot image, an ELF executable, or a flat image that begins with"
        f" {MAGIC.decode()}; try {advice}"
    )


def _looks_like(head: bytes) -> tuple[str, str]:
    """What a file is that is no image, and what to try instead."""
    if head[_LINUX_MAGIC_AT : _LINUX_MAGIC_AT + 4] == _LINUX_MAGIC:  # it may begin like a PE file
        return "a Linux kernel", "the vmlinux that is packed in it, as scripts/extract-vmlinux takes it out"
    for magic, what in _PACKED.items():
        if head.startswith(magic):
            return what, "what is packed in it"
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            return what, _BUILT_IN
    head = head[:256]
    if not any(head):
        return "zeros", _BUILT_IN
    if all(byte in b"\t\n\r" or 0x20 <= byte < 0x7F for byte in head):
        return "text", _BUILT_IN
    return f"unknown data ({head[:8].hex(' ')} ...)", _BUILT_IN


def _boot_information(
    asked: Image, memory_bytes: int, command_line: bytes, beside: Beside, tables: firmware.Tables
) -> tuple[int, bytes]:
    """Where the EBDA begins that the boot information fits into, and the boot information.

    Symbols are left out where it would not fit with them.

    Raises:
        UsageError: command line and modules are too much to tell.
    """
    encode = _BOOT_INFORMATION[asked.protocol]
    for sections in (beside.sections, None):

        def information(ebda: int, sections: PlacedSections | None = sections) -> bytes:
            told = Information(
                command_line,
                beside.modules,
                firmware.memory_map(memory_bytes, ebda),
                sections,
                tables.rsdp,
                firmware.TABLES,
                asked.load_base,
            )
            return encode(told, firmware.information_in(ebda))

        size = len(information(firmware.EBDA_END))
        ebda = firmware.ebda_for(size)
        if ebda >= _STACK_TOP:
            return ebda, information(ebda)
    room = firmware.EBDA_END - firmware.information_in(_STACK_TOP)
    raise UsageError(
        f"{size} bytes of boot information, with the command line and the texts of {len(beside.modules)} boot"
        f" modules; expected at most {room}; try fewer or shorter ones"
    )


def _first_state(
    memory: mmap.mmap, asked: Image, information: int, interrupts: int, delta_cycles: int
) -> FirstState:
    """The registers a guest starts with, and in 64-bit mode the tables that it needs."""
    magic = asked.protocol.value
    if asked.mode is CpuMode.PROTECTED:
        return FirstState(asked.entry, _STACK_TOP, rax=magic, rbx=information, mode=asked.mode)
    long_mode.build(memory)
    return FirstState(
        asked.entry,
        _STACK_TOP,
        rdi=interrupts,
        rsi=delta_cycles,
        cr3=long_mode.PML4,
        gdt_base=long_mode.GDT,
        gdt_limit=long_mode.GDT_BYTES - 1,
        rax=magic,
        rbx=information,
    )


__all__ = [
    "CODE_SELECTOR",
    "DATA_SELECTOR",
    "DEFAULT_MEMORY",
    "HEADER",
    "MAGIC",
    "MAX_IMAGE",
    "MAX_MEMORY",
    "MIB",
    "MIN_MEMORY",
    "RESULTS",
    "LoadedGuest",
    "Results",
    "load",
]
