"""Guest images, and how a guest finds itself when it starts.

The form of the built-in guests is flat 64-bit code that begins with a header of 32 bytes, little-endian,
which is
part of the image and is loaded with it:

    offset  0  8 bytes  b"VLAPIC64"
            8  u32      physical address at which the image's first byte is loaded
           12  u32      entry point, counted from there
           16  u32      bytes of memory the guest needs beyond the image, zeroed
           20  u32      results area, counted from the load address
           24  8 bytes  zero

The guest starts in 64-bit mode at CPL 0 with interrupts off: RDI = timer interrupts asked for, RSI = distance
of the deadlines in cycles of its TSC, RSP = top of a stack, CR3 = an identity map of the first 4 GiB,
CS = 0x08 (64-bit code) and DS, ES, SS, FS, GS = 0x10 in a flat GDT, and no IDT: until it loads one any
exception is a triple fault. The first MiB of memory holds what the loader built; an image begins at 1 MiB or
above.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from vlapic.errors import ImageError
from vlapic.machine.engine import FirstState

MAGIC = b"VLAPIC64"
HEADER = struct.Struct("<8sIIII8s")
#: Count, early count, then minimum, maximum and sum of the lateness in guest TSC cycles (signed).
RESULTS = struct.Struct("<QQqqq")

MIB = 1 << 20
DEFAULT_MEMORY = 16 * MIB
#: Guest memory ends where the devices' part of the first 4 GiB begins.
MAX_MEMORY = 0xC000_0000

CODE_SELECTOR, DATA_SELECTOR = 0x08, 0x10
_CODE_DESCRIPTOR = 0x00AF_9B00_0000_FFFF
_DATA_DESCRIPTOR = 0x00CF_9300_0000_FFFF

# Where the loader builds what the guest starts with.
_PML4, _PDPT, _DIRECTORIES, _GDT, _STACK_TOP = 0x1000, 0x2000, 0x3000, 0x7000, 0x8_0000
_TABLE_FLAGS = 0x3  # present, writable
_PAGE_FLAGS = 0x83  # and a page of 2 MiB

_FOREIGN = {
    b"\x7fELF": "an ELF file",
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
        memory: guest RAM from physical 0. What Python writes to it after the guest's first run is not seen by
            code the CPU has translated already.
        first: the registers it starts with.
        results_address: where it keeps its results.
    """

    memory: mmap.mmap
    first: FirstState
    results_address: int

    def results(self) -> Results:
        """The results area as it is now."""
        return Results(*RESULTS.unpack_from(self.memory, self.results_address))


def load(
    image: Path | bytes,
    memory_bytes: int = DEFAULT_MEMORY,
    interrupts: int = 0,
    delta_cycles: int = 0,
) -> LoadedGuest:
    """Load a flat image into new memory.

    Args:
        image: the file, or its bytes.
        memory_bytes: guest RAM; whole pages, up to 3 GiB.
        interrupts: timer interrupts the guest is asked to take, 0 to 2^64-1.
        delta_cycles: distance of its deadlines, cycles of the guest's TSC, 0 to 2^64-1.

    Raises:
        ImageError: the image cannot be run; nothing has been made.
    """
    name, data = _read(image)
    address, entry, results = _check(name, data, memory_bytes)
    memory = mmap.mmap(-1, memory_bytes)
    _build_tables(memory)
    memory[address : address + len(data)] = data
    first = FirstState(
        rip=address + entry,
        rsp=_STACK_TOP,
        rdi=interrupts,
        rsi=delta_cycles,
        cr3=_PML4,
        gdt_base=_GDT,
        gdt_limit=3 * 8 - 1,
    )
    return LoadedGuest(memory, first, address + results)


def _read(image: Path | bytes) -> tuple[str, bytes]:
    if isinstance(image, bytes):
        return "the image", image
    try:
        return str(image), image.read_bytes()
    except FileNotFoundError:
        raise ImageError(
            f"{image}: no such file; expected a guest image or a built-in guest's name;"
            " see: vlapic run --list"
        ) from None
    except OSError as error:
        raise ImageError(f"{image}: {error.strerror or error}; expected a readable guest image") from None


def _check(name: str, data: bytes, memory_bytes: int) -> tuple[int, int, int]:
    """Check an image whole: load address, entry and results offsets of one that can be run."""
    if memory_bytes % mmap.PAGESIZE or not 2 * MIB <= memory_bytes <= MAX_MEMORY:
        raise ImageError(
            f"{memory_bytes} bytes of guest memory; expected whole pages, 2 MiB to 3072 MiB; try 16 MiB"
        )
    if not data:
        raise ImageError(f"{name}: the file is empty; expected a flat image of vlapic; try a built-in guest")
    if not data.startswith(MAGIC):
        raise ImageError(
            f"{name}: looks like {_looks_like(data)}; expected a flat image that begins with"
            f" {MAGIC.decode()}; try a built-in guest, see: vlapic run --list"
        )
    if len(data) < HEADER.size:
        raise ImageError(
            f"{name}: {len(data)} bytes, cut off in its header of {HEADER.size}; try to build it again"
        )
    _, address, entry, bss, results, reserved = HEADER.unpack_from(data)
    if any(reserved):
        raise ImageError(
            f"{name}: the header's last 8 bytes are {reserved.hex()}, expected zeros;"
            " try an image built for this version"
        )
    if address < MIB:
        raise ImageError(
            f"{name}: wants to be loaded at {address:#x}, where the page tables are;"
            f" link it at {MIB:#x} or above"
        )
    end = address + len(data) + bss
    if end > memory_bytes:
        raise ImageError(
            f"{name}: needs memory up to {end:#x}, the guest has {memory_bytes:#x}; "
            f"try --memory {-(-end // MIB)}"
        )
    if not HEADER.size <= entry < len(data):
        raise ImageError(
            f"{name}: the entry point is at {entry:#x}, expected {HEADER.size:#x} to {len(data) - 1:#x},"
            " inside the image and behind its header"
        )
    if results + RESULTS.size > len(data) + bss:
        raise ImageError(
            f"{name}: the results area is at {results:#x}, expected {RESULTS.size} bytes below"
            f" {len(data) + bss:#x}"
        )
    return address, entry, results


def _looks_like(data: bytes) -> str:
    if data[_LINUX_MAGIC_AT : _LINUX_MAGIC_AT + 4] == _LINUX_MAGIC:
        return "a Linux kernel"  # it may begin like a PE file
    for magic, what in _FOREIGN.items():
        if data.startswith(magic):
            return what
    head = data[:256]
    if not any(head):
        return "zeros"
    if all(byte in b"\t\n\r" or 0x20 <= byte < 0x7F for byte in head):
        return "text"
    return f"unknown data ({head[:8].hex(' ')} ...)"


def _build_tables(memory: mmap.mmap) -> None:
    """Page tables that map the first 4 GiB onto themselves in pages of 2 MiB, and a flat GDT."""
    struct.pack_into("<Q", memory, _PML4, _PDPT | _TABLE_FLAGS)
    for gib in range(4):
        struct.pack_into("<Q", memory, _PDPT + 8 * gib, _DIRECTORIES + 0x1000 * gib | _TABLE_FLAGS)
    pages = (page * 2 * MIB | _PAGE_FLAGS for page in range(4 * 512))
    struct.pack_into("<2048Q", memory, _DIRECTORIES, *pages)
    struct.pack_into("<3Q", memory, _GDT, 0, _CODE_DESCRIPTOR, _DATA_DESCRIPTOR)
