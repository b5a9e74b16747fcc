# SPDX-License-Identifier: GPL-2.0-or-later
"""A bare guest for the engine's tests: a few instructions in any mode, an IDT made by Python, no device."""

import mmap
import struct
from dataclasses import replace
from functools import cache
from typing import Any

from vlapic.machine.engines.contract import CpuMode, FirstState
from vlapic.machine.engines.unicorn.engine import UnicornEngine
from vlapic.tsc import GuestTsc

MIB = 1 << 20
LOAD = MIB
ENTRY = LOAD + 32
#: Where tests keep things in guest memory; all of it reachable with a 32-bit displacement.
IDTR, IDT, TSS, HANDLERS, STACKS, SCRATCH = 0x8000, 0x9000, 0xB000, 0x11_0000, 0x18_0000, 0x20_0000
MEMORY = 4 * MIB
STACK_TOP = 0x8_0000
PML4, PDPT, DIRECTORIES, FLAT_GDT = 0x1000, 0x2000, 0x3000, 0x7000
CODE_64, CODE_32, DATA_32 = 0x00AF_9B00_0000_FFFF, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF
#: The page at which a guest of real mode starts.
REAL_PAGE = 0x10


def code(listing: str) -> bytes:
    """The bytes of a listing: hex pairs, two blanks, the instruction in words."""
    return b"".join(bytes.fromhex(line.strip().split("  ")[0]) for line in listing.strip().splitlines())


def long_mode(memory: mmap.mmap) -> FirstState:
    """64-bit code at CPL 0: an identity map of 4 GiB with 2 MiB pages, selectors 8 (code) and 0x10 (data)."""
    memory[PML4 : PML4 + 8] = struct.pack("<Q", PDPT | 3)
    memory[PDPT : PDPT + 32] = struct.pack("<4Q", *(DIRECTORIES + 4096 * n | 3 for n in range(4)))
    pages = (page << 21 | 0x83 for page in range(2048))
    memory[DIRECTORIES : DIRECTORIES + 4 * 4096] = struct.pack("<2048Q", *pages)
    memory[FLAT_GDT : FLAT_GDT + 24] = struct.pack("<3Q", 0, CODE_64, DATA_32)
    return FirstState(rip=ENTRY, rsp=STACK_TOP, cr3=PML4, gdt_base=FLAT_GDT, gdt_limit=23)


def protected_mode(memory: mmap.mmap) -> FirstState:
    """32-bit code at CPL 0, no paging; the same selectors, if the guest loads GDTR with 0x8018."""
    memory[FLAT_GDT : FLAT_GDT + 24] = struct.pack("<3Q", 0, CODE_32, DATA_32)
    memory[0x8018:0x801E] = struct.pack("<HI", 23, FLAT_GDT)
    return FirstState(rip=ENTRY, rsp=STACK_TOP, mode=CpuMode.PROTECTED)


@cache
def _strict(kind):
    """Exits of a kind that are equal only to that kind; NamedTuples are to any with the same fields."""

    def equal(self, other):
        return isinstance(other, kind) and tuple.__eq__(self, other)

    return type(kind.__name__, (kind,), {"__eq__": equal, "__hash__": kind.__hash__})


class Bare:
    """A guest and its CPU.

    Attributes:
        now: host TSC of the guest's next instruction.
    """

    def __init__(
        self,
        program: bytes,
        host_khz: int = 2_000_000,
        offset: int = 0,
        bits: int = 64,
        memory: mmap.mmap | None = None,
        rip: int = ENTRY,
        **options: object,
    ) -> None:
        """A guest of 64-bit, 32-bit or 16-bit code, over memory of its own or another's."""
        self.bits = bits
        self.memory = mmap.mmap(-1, MEMORY) if memory is None else memory
        first = replace((long_mode if bits == 64 else protected_mode)(self.memory), rip=rip)
        tsc = GuestTsc(2_000_000, host_khz, offset=offset)
        self.engine = UnicornEngine(self.memory, tsc, first=first, **options)
        self.now = 0
        self.memory[IDTR : IDTR + 10] = struct.pack("<HQ", 256 * (16 if bits == 64 else 8) - 1, IDT)
        self.put(ENTRY if bits != 16 else REAL_PAGE << 12, program)
        if bits == 16:
            self.engine.reset()
            self.engine.startup(REAL_PAGE)

    def run(self, *arguments, **keywords):
        """Run on from where time stands."""
        left = self.engine.run(self.now, *arguments, **keywords)
        self.now = left.host_tsc
        kind: Any = type(left)
        return tuple.__new__(_strict(kind), left)

    def put(self, address: int, data: bytes) -> int:
        """Put bytes in guest memory, before the first run."""
        self.memory[address : address + len(data)] = data
        return address

    def gate(self, vector, handler, kind=0xE, ist=0, dpl=0, present=1, selector=8) -> None:
        """Write a gate of the IDT."""
        access = present << 7 | dpl << 5 | kind
        low, middle, high = handler & 0xFFFF, handler >> 16 & 0xFFFF, handler >> 32
        if self.bits == 64:
            gate = struct.pack("<HHBBHII", low, selector, ist, access, middle, high, 0)
        else:
            gate = struct.pack("<HHBBH", low, selector, 0, access, middle)
        self.put(IDT + len(gate) * vector, gate)

    def handler(self, vector: int, program: bytes, **gate) -> int:
        """Put a handler in memory and its gate in the IDT; its address."""
        address = self.put(HANDLERS + vector * 0x100, program)
        self.gate(vector, address, **gate)
        return address

    def u64(self, address: int) -> int:
        return struct.unpack_from("<Q", self.memory, address)[0]

    def u32(self, address: int) -> int:
        return struct.unpack_from("<I", self.memory, address)[0]

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """32-bit words."""
        return struct.unpack_from(f"<{count}I", self.memory, address)

    def quads(self, address: int, count: int) -> tuple[int, ...]:
        return struct.unpack_from(f"<{count}Q", self.memory, address)


def ram(pages: int = 256) -> mmap.mmap:
    return mmap.mmap(-1, pages * 4096)
