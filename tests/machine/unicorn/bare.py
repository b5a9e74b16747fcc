"""A bare guest for the engine's tests: a few instructions at 1 MiB, an IDT made by Python, no device."""

import mmap
import struct

from vlapic.machine.loader import HEADER, MAGIC, MIB, load
from vlapic.machine.unicorn.engine import UnicornEngine
from vlapic.tsc import GuestTsc

LOAD = MIB
ENTRY = LOAD + HEADER.size
#: Where tests keep things in guest memory; all of it reachable with a 32-bit displacement.
IDTR, IDT, TSS, HANDLERS, STACKS, SCRATCH = 0x8000, 0x9000, 0xB000, 0x11_0000, 0x18_0000, 0x20_0000
MEMORY = 4 * MIB


def code(listing: str) -> bytes:
    """The bytes of a listing: hex pairs, two blanks, the instruction in words."""
    return b"".join(bytes.fromhex(line.strip().split("  ")[0]) for line in listing.strip().splitlines())


def image(program: bytes, bss: int = 4096, results: int | None = None) -> bytes:
    """A flat image whose code begins right behind the header."""
    size = HEADER.size + len(program)
    where = results if results is not None else size
    return HEADER.pack(MAGIC, LOAD, HEADER.size, bss, where, bytes(8)) + program


class Bare:
    """A guest and its CPU.

    Attributes:
        now: host TSC of the guest's next instruction.
    """

    def __init__(self, program: bytes, host_khz: int = 2_000_000, offset: int = 0, **options: object) -> None:
        loaded = load(image(program), MEMORY)
        self.memory = loaded.memory
        self.engine = UnicornEngine(
            loaded.memory, GuestTsc(2_000_000, host_khz, offset=offset), first=loaded.first, **options
        )
        self.now = 0
        self.memory[IDTR : IDTR + 10] = struct.pack("<HQ", 256 * 16 - 1, IDT)

    def run(self, *arguments, **keywords):
        """Run on from where time stands."""
        left = self.engine.run(self.now, *arguments, **keywords)
        self.now = left.host_tsc
        return left

    def put(self, address: int, data: bytes) -> int:
        """Put bytes in guest memory, before the first run."""
        self.memory[address : address + len(data)] = data
        return address

    def gate(self, vector, handler, kind=0xE, ist=0, dpl=0, present=1, selector=8) -> None:
        """Write a gate of the IDT."""
        access = present << 7 | dpl << 5 | kind
        middle, high = handler >> 16 & 0xFFFF, handler >> 32
        gate = struct.pack("<HHBBHII", handler & 0xFFFF, selector, ist, access, middle, high, 0)
        self.put(IDT + 16 * vector, gate)

    def handler(self, vector: int, program: bytes, **gate) -> int:
        """Put a handler in memory and its gate in the IDT; its address."""
        address = self.put(HANDLERS + vector * 0x100, program)
        self.gate(vector, address, **gate)
        return address

    def u64(self, address: int) -> int:
        return struct.unpack_from("<Q", self.memory, address)[0]

    def quads(self, address: int, count: int) -> tuple[int, ...]:
        return struct.unpack_from(f"<{count}Q", self.memory, address)


def ram(pages: int = 256) -> mmap.mmap:
    return mmap.mmap(-1, pages * 4096)
