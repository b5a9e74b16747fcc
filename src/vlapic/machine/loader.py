"""How a guest gets into its memory, and what it finds when it starts.

An image is flat (`images/flat.py`), has a multiboot header (`images/multiboot.py`), or is a plain ELF
executable (`images/elf.py`). It is checked whole before anything is made.

A flat image and a plain ELF64 start in 64-bit mode at CPL 0: CR3 = an identity map of the first 4 GiB,
CS = 0x08 (64-bit code), DS, ES, SS, FS, GS = 0x10 in a flat GDT, RDI = timer interrupts asked for,
RSI = distance of the deadlines in cycles of its TSC. One with a multiboot header and a plain ELF32 start in
32-bit protected mode, in flat segments without a table, paging off. Both have interrupts off, EAX and EBX as
multiboot has them (its magic number, the address of the boot information), a stack, and no IDT: until a guest
loads one any exception is a triple fault.

    0x00400  what a PC's firmware leaves there (the BIOS data area), as far as guests look for memory by it:
             the serial port, the size of memory below 0x90000, the segment of what follows it
    0x01000  page tables and GDT, in 64-bit mode only
    0x80000  top of the stack
    0x90000  boot information; no RAM for programs from here to 1 MiB
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from vlapic.errors import ImageError, UsageError
from vlapic.machine.devices.ports import SERIAL_BASE
from vlapic.machine.engine import CpuMode, FirstState
from vlapic.machine.images import elf, flat, long_mode, multiboot
from vlapic.machine.images.flat import HEADER, MAGIC, RESULTS
from vlapic.machine.images.image import MIB, Image, Reserved, check
from vlapic.machine.images.long_mode import CODE_SELECTOR, DATA_SELECTOR

DEFAULT_MEMORY = 128 * MIB
MIN_MEMORY = 2 * MIB
#: Guest memory ends where the devices' part of the first 4 GiB begins.
MAX_MEMORY = 0xC000_0000
#: A larger file is not read.
MAX_IMAGE = 256 * MIB

#: Offsets in the BIOS data area of 16-bit words.
_BIOS_DATA, _BIOS_DATA_BYTES = 0x400, 0x100
_COM1, _EBDA_SEGMENT, _BASE_MEMORY_KIB = 0x00, 0x0E, 0x13

_STACK_TOP, _STACK_BYTES = 0x8_0000, 0x1_0000
_BOOT_INFORMATION, _BOOT_INFORMATION_BYTES = 0x9_0000, 0x1_0000
#: Of a command line, with its first word and its zero.
_MAX_COMMAND_LINE = _BOOT_INFORMATION_BYTES - 0x1000

_NO_PROGRAMS = Reserved(_BOOT_INFORMATION, MIB, "the boot information is and a PC has no RAM for programs")
_RESERVED = {
    CpuMode.PROTECTED: (_NO_PROGRAMS,),
    CpuMode.LONG: (
        Reserved(long_mode.START, long_mode.END, "the page tables are"),
        Reserved(_STACK_TOP - _STACK_BYTES, _STACK_TOP, "the stack is"),
        _NO_PROGRAMS,
    ),
}

_FOREIGN = {
    b"\x1f\x8b": "a gzip file",
    b"\xfd7zXZ": "an xz file",
    b"BZh": "a bzip2 file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"PK\x03\x04": "a zip file",
    b"MZ": "a PE file",
    b"#!": "a script",
}
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
    """

    form: str
    memory: mmap.mmap
    first: FirstState
    command_line: bytes
    results_address: int | None

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
) -> LoadedGuest:
    """Load an image into new memory.

    Args:
        image: the file, or its bytes.
        memory_bytes: guest RAM; whole pages, 2 MiB to 3 GiB.
        interrupts: timer interrupts the guest is asked to take, 0 to 2^64-1; 64-bit guests are told.
        delta_cycles: distance of its deadlines, cycles of the guest's TSC, 0 to 2^64-1; they too.
        append: its command line, behind the image's name.

    Raises:
        ImageError: the image cannot be run; nothing has been made.
        UsageError: not so much memory, or not such a command line.
    """
    if memory_bytes % mmap.PAGESIZE or not MIN_MEMORY <= memory_bytes <= MAX_MEMORY:
        raise UsageError(
            f"{memory_bytes} bytes of guest memory; expected whole pages, 2 MiB to 3072 MiB; try 128 MiB"
        )
    command_line = _command_line(image, append)
    name, data = _read(image)
    try:
        asked = _parse(memoryview(data))
        check(asked, memory_bytes, MAX_MEMORY, _RESERVED[asked.mode])
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    memory = mmap.mmap(-1, memory_bytes)
    first = _prepare(memory, asked, interrupts, delta_cycles, command_line)
    for segment in asked.segments:
        filled = segment.address + len(segment.data)
        memory[segment.address : filled] = segment.data
        if filled < _BIOS_DATA + _BIOS_DATA_BYTES:
            end = min(segment.end, _BIOS_DATA + _BIOS_DATA_BYTES)
            memory[filled:end] = bytes(end - filled)
    return LoadedGuest(asked.form, memory, first, command_line, asked.results_address)


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
    data = bytearray()
    try:
        with image.open("rb") as file:
            while len(data) <= MAX_IMAGE and (more := file.read(MIB)):
                data += more
    except FileNotFoundError:
        raise ImageError(
            f"{image}: no such file; expected a guest image or a built-in guest's name;"
            " see: vlapic run --list"
        ) from None
    except (OSError, ValueError) as error:  # the latter for a zero in the name
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{image}: {reason}; expected a readable guest image") from None
    return str(image), bytes(data)


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
    if multiboot.has_version_2(data):
        raise ImageError(
            "has a multiboot header of version 2 only; expected one of version 1; try an image that has both"
        )
    if data[: len(elf.MAGIC)] == elf.MAGIC:
        return elf.read(data)
    raise ImageError(
        f"looks like {_looks_like(bytes(data[:1024]))}; expected a multiboot image, an ELF executable, or"
        f" a flat image that begins with {MAGIC.decode()}; try a built-in guest, see: vlapic run --list"
    )


def _looks_like(head: bytes) -> str:
    if head[_LINUX_MAGIC_AT : _LINUX_MAGIC_AT + 4] == _LINUX_MAGIC:
        return "a Linux kernel"  # it may begin like a PE file
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            return what
    head = head[:256]
    if not any(head):
        return "zeros"
    if all(byte in b"\t\n\r" or 0x20 <= byte < 0x7F for byte in head):
        return "text"
    return f"unknown data ({head[:8].hex(' ')} ...)"


def _prepare(
    memory: mmap.mmap, asked: Image, interrupts: int, delta_cycles: int, command_line: bytes
) -> FirstState:
    """Write what a guest starts with; its first registers."""
    ranges = (
        multiboot.MemoryRange(0, _BOOT_INFORMATION, True),
        multiboot.MemoryRange(_BOOT_INFORMATION, MIB, False),
        multiboot.MemoryRange(MIB, len(memory), True),
        multiboot.MemoryRange(MAX_MEMORY, 1 << 32, False),
    )
    information = multiboot.boot_information(
        _BOOT_INFORMATION, _BOOT_INFORMATION, len(memory) - MIB, ranges, command_line
    )
    memory[_BOOT_INFORMATION : _BOOT_INFORMATION + len(information)] = information
    for offset, word in (
        (_COM1, SERIAL_BASE),
        (_EBDA_SEGMENT, _BOOT_INFORMATION >> 4),
        (_BASE_MEMORY_KIB, _BOOT_INFORMATION >> 10),
    ):
        struct.pack_into("<H", memory, _BIOS_DATA + offset, word)
    if asked.mode is CpuMode.PROTECTED:
        return FirstState(
            asked.entry,
            _STACK_TOP,
            rax=multiboot.BOOT_MAGIC,
            rbx=_BOOT_INFORMATION,
            mode=asked.mode,
        )
    long_mode.build(memory)
    return FirstState(
        asked.entry,
        _STACK_TOP,
        rdi=interrupts,
        rsi=delta_cycles,
        cr3=long_mode.PML4,
        gdt_base=long_mode.GDT,
        gdt_limit=long_mode.GDT_BYTES - 1,
        rax=multiboot.BOOT_MAGIC,
        rbx=_BOOT_INFORMATION,
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
