# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in a block of guest instructions: where each begins, which leave the guest, whether it only waits.

A block is what Unicorn translates at once: instructions up to a branch, or to one that changes how code
is to be translated. It is looked at once, when it is first met. Addresses are linear: CS's base is in them.

Left out: what Capstone cannot decode counts as one instruction (it is one that raises #UD).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum, auto
from functools import cache
from itertools import pairwise

import capstone
from capstone import x86 as cs


class Kind(IntEnum):
    """The instructions that leave the guest."""

    __hash__ = int.__hash__  # an enumeration's own is slow, and every exit looks its kind up

    RDMSR = auto()
    WRMSR = auto()
    CPUID = auto()
    IN = auto()
    OUT = auto()
    INS = auto()
    OUTS = auto()
    READ_CR8 = auto()
    WRITE_CR8 = auto()
    WRITE_CR0 = auto()
    WRITE_CR4 = auto()
    HYPERCALL = auto()
    SYSCALL = auto()
    SYSENTER = auto()
    SMSW = auto()
    INT1 = auto()
    RDPMC = auto()


# What a block may do to the state the engine watches: bits of Block.flags.
WINDOW_FLAG = 1  #: its last instruction may set RFLAGS.IF
SHADOW_FLAG = 2  #: its last instruction may hold interrupts off for the next one (STI, MOV SS, POP SS)
REMAP_FLAG = 4  #: it may change what code its addresses stand for: the paging
MODE_FLAG = 8  #: it may change the size of code


@dataclass(frozen=True, slots=True)
class Site:
    """An instruction that leaves the guest.

    Attributes:
        bits: the size of code it was found in.
        size: bytes of a port access; 0 for the others.
        port: the port of IN and OUT; None: it is in DX.
        register: number of the general register that MOV CR moves, 0 (RAX) to 15.
        repeated: INS or OUTS with a REP prefix.
        address_bits: how much of RCX, RSI and RDI INS and OUTS use.
        segment: that OUTS reads from.
    """

    kind: Kind
    address: int
    length: int
    bits: int = 64
    size: int = 0
    port: int | None = None
    register: int = 0
    repeated: bool = False
    address_bits: int = 64
    segment: str = "ds"


@dataclass(frozen=True, slots=True)
class Block:
    """A block as Unicorn runs it.

    Attributes:
        bits: 16, 32 or 64, the size of code; the same bytes in another one are another block.
        code: its bytes; a block of the same place and size with other bytes is another block.
        flags: the bits above.
        starts: the addresses of its instructions, ascending.
        head, lap: if it is part of a loop that only waits (:func:`waiting_loop`), where the loop begins
            and how many instructions are once around; else 0.
    """

    address: int
    size: int
    bits: int
    code: bytes
    starts: tuple[int, ...]
    sites: tuple[Site, ...]
    flags: int
    head: int = 0
    lap: int = 0

    @property
    def count(self) -> int:
        """Number of instructions."""
        return len(self.starts)

    @property
    def ends_in_sti(self) -> bool:
        """Whether its last instruction is STI."""
        return self.flags & (SHADOW_FLAG | WINDOW_FLAG) == SHADOW_FLAG | WINDOW_FLAG

    @property
    def ends_in_ss(self) -> bool:
        """Whether its last instruction loads SS: MOV, POP or LSS."""
        return self.flags & (SHADOW_FLAG | WINDOW_FLAG) == SHADOW_FLAG

    def left_at(self, address: int) -> int:
        """How many instructions are left to run, the one at `address` among them; 0 where it is outside."""
        if not 0 <= address - self.address < self.size:
            return 0
        return len(self.starts) - bisect_left(self.starts, address)

    def without_loop(self) -> Block:
        """The same block, not part of a waiting loop."""
        return replace(self, head=0, lap=0)


_WINDOW = {"sti", "popf", "popfd", "popfq", "iret", "iretd", "iretq", "sysret", "sysretq"}
_MODE = {
    *("ljmp", "lcall", "retf", "retfd", "retfq", "iret", "iretd", "iretq", "lmsw"),
    *("syscall", "sysret", "sysretq", "sysenter", "sysexit", "sysexitq"),
}
_REMAP = {"lmsw", "invlpg", "invpcid"}
_SITES = {
    "rdmsr": Kind.RDMSR,
    "wrmsr": Kind.WRMSR,
    "cpuid": Kind.CPUID,
    "in": Kind.IN,
    "out": Kind.OUT,
    "vmcall": Kind.HYPERCALL,
    "vmmcall": Kind.HYPERCALL,
    "syscall": Kind.SYSCALL,
    "sysenter": Kind.SYSENTER,
    "int1": Kind.INT1,
    "rdpmc": Kind.RDPMC,
}
_CONTROL = {"cr0": Kind.WRITE_CR0, "cr4": Kind.WRITE_CR4, "cr8": Kind.WRITE_CR8}
_STRINGS = {
    f"{name}{letter}": kind for name, kind in (("ins", Kind.INS), ("outs", Kind.OUTS)) for letter in "bwd"
}
_SEGMENTS = {0x26: "es", 0x2E: "cs", 0x36: "ss", 0x3E: "ds", 0x64: "fs", 0x65: "gs"}
_PORT_SIZE = {"al": 1, "ax": 2, "eax": 4}
_STRING_SIZE = {"b": 1, "w": 2, "d": 4}
_GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{x}" for x in range(8, 16)))
#: The general register each register is part of.
WHOLE = {
    **{part: f"r{x}x" for x in "abcd" for part in (f"r{x}x", f"e{x}x", f"{x}x", f"{x}l", f"{x}h")},
    **{part: f"r{x}" for x in ("sp", "bp", "si", "di") for part in (f"r{x}", f"e{x}", x, f"{x}l")},
    **{part: f"r{x}" for x in range(8, 16) for part in (f"r{x}", f"r{x}d", f"r{x}w", f"r{x}b")},
}

#: How far a waiting loop may reach, bytes.
LOOP_BYTES = 64


@cache
def decoder(bits: int, detail: bool) -> capstone.Cs:
    mode = {16: capstone.CS_MODE_16, 32: capstone.CS_MODE_32, 64: capstone.CS_MODE_64}[bits]
    decoder = capstone.Cs(capstone.CS_ARCH_X86, mode)
    decoder.detail = detail
    return decoder


def decode(code: bytes, address: int, size: int, bits: int, read: Callable[[int, int], bytes]) -> Block:
    """Look at a block.

    Args:
        code: its bytes, or as many of them as can be read.
        bits: 16, 32 or 64, the size of code the CPU is in.
        read: guest code at (address, size), for the blocks around this one; may be shorter than asked for.
    """
    starts: list[int] = []
    sites: list[Site] = []
    flags, end, quiet = 0, address, bits != 16
    for start, length, mnemonic, operands in decoder(bits, False).disasm_lite(code, address):
        starts.append(start)
        end = start + length
        words = mnemonic.split()
        site = _site(words, operands, code[start - address :][:length], start, bits)
        if site is not None:
            sites.append(site)
        flags |= _flags(words[-1], operands)
        quiet = quiet and (mnemonic in _QUIET or mnemonic[0] == "j")
    if end < address + size:
        starts.append(end)
        quiet = False
    head, lap = waiting_loop(address, address + size, read, bits) if quiet else (0, 0)
    return Block(address, size, bits, code, tuple(starts), tuple(sites), flags, head, lap)


def _site(words: list[str], operands: str, code: bytes, address: int, bits: int) -> Site | None:
    name, length = words[-1], len(code)
    if name == "mov":
        first, _, second = operands.partition(", ")
        if first in _CONTROL:
            return Site(_CONTROL[first], address, length, bits, register=register_number(second))
        if second == "cr8":
            return Site(Kind.READ_CR8, address, length, bits, register=register_number(first))
        return None
    if name in _STRINGS:
        return _string(_STRINGS[name], _STRING_SIZE[name[-1]], code, address, bits)
    if name == "smsw":  # Unicorn writes 16 bits of a register that is to have 32
        wide = bits != 64 and operands in WHOLE and operands[0] == "e"
        return Site(Kind.SMSW, address, length, bits, register=register_number(operands)) if wide else None
    kind = _SITES.get(name)
    if kind not in (Kind.IN, Kind.OUT):
        return None if kind is None else Site(kind, address, length, bits)
    first, _, second = operands.partition(", ")
    data, port = (first, second) if kind is Kind.IN else (second, first)
    return Site(kind, address, length, bits, _PORT_SIZE[data], None if port == "dx" else int(port, 0))


def register_number(register: str) -> int:
    """The number of a general register of 32 or 64 bits."""
    return _GENERAL.index(WHOLE[register])


def _string(kind: Kind, size: int, code: bytes, address: int, bits: int) -> Site:
    """INS or OUTS with its prefixes."""
    prefixes = {byte for byte in code[:-1] if byte in _SEGMENTS or byte in (0x67, 0xF2, 0xF3)}
    address_bits = {16: 32, 32: 16, 64: 32}[bits] if 0x67 in prefixes else bits
    segment = next((name for byte, name in _SEGMENTS.items() if byte in prefixes), "ds")
    repeated = bool(prefixes & {0xF2, 0xF3})
    return Site(kind, address, len(code), bits, size, None, 0, repeated, address_bits, segment)


def _flags(name: str, operands: str) -> int:
    flags = 0
    if name in _WINDOW:
        flags |= WINDOW_FLAG
    if name == "sti" or name == "lss" or (name in ("mov", "pop") and operands.split(",")[0] == "ss"):
        flags |= SHADOW_FLAG
    if name in _REMAP or (name == "mov" and operands.startswith("cr3")):
        flags |= REMAP_FLAG
    if name in _MODE:
        flags |= MODE_FLAG
    return flags


# -- loops that only wait --

# What may stand in a waiting loop beside its branches: nothing that stores, and nothing whose result depends
# on how often it ran. The loads only into a whole register.
_IDLE = {"nop", "pause", "lfence"}
_COMPARES = {"cmp", "test"}
_LOADS = {"mov", "movzx", "movsx", "movsxd", "lea"}
_QUIET = _IDLE | _COMPARES | _LOADS


def waiting_loop(
    address: int, end: int, read: Callable[[int, int], bytes], bits: int = 64, reach: int = LOOP_BYTES
) -> tuple[int, int]:
    """Find the loop around a block that leaves the CPU as it found it, lap after lap, until memory changes.

    Such a loop is straight code that ends in a branch back to its first instruction. Other branches in it
    go outside. It stores nothing, and whatever it writes to a register or the flags it writes before it
    reads it: then the second lap finds what the first one left, and so does every later one. Unicorn ends a
    block at a branch and at PAUSE, so the loop may be several blocks.

    Returns:
        Address of the loop's first instruction and the number of its instructions; (0, 0) if the block from
        `address` to `end` is not a block of such a loop.
    """
    branches = ((line, _target(line)) for line in _lines(read, address, reach, bits))
    closing, head = next(((line, to) for line, to in branches if to is not None and to <= address), (None, 0))
    if closing is None:
        return 0, 0
    loop_end = closing.address + closing.size
    if loop_end - head > reach:
        return 0, 0
    loop = [line for line in _lines(read, head, loop_end - head, bits) if line.address < loop_end]
    if not loop or loop[-1].address != closing.address:
        return 0, 0
    edges = [head]
    for line in loop:
        target = _target(line)
        if line is not loop[-1] and target is not None and head <= target < loop_end:
            return 0, 0
        if target is not None or line.id == cs.X86_INS_PAUSE:
            edges.append(line.address + line.size)
    if (address, end) not in pairwise(edges) or not _settles(loop):
        return 0, 0
    return head, len(loop)


def _lines(
    read: Callable[[int, int], bytes], address: int, size: int, bits: int
) -> Iterator[capstone.CsInsn]:
    yield from decoder(bits, True).disasm(read(address, size), address)


def _target(line: capstone.CsInsn) -> int | None:
    """Where a direct JMP or Jcc goes; None for any other instruction."""
    is_branch = line.group(cs.X86_GRP_JUMP) and line.id not in (
        cs.X86_INS_JCXZ,
        cs.X86_INS_JECXZ,
        cs.X86_INS_JRCXZ,
    )
    if is_branch and line.operands and line.operands[0].type == cs.X86_OP_IMM:
        return int(line.operands[0].imm)
    return None


def _settles(loop: list[capstone.CsInsn]) -> bool:
    """Whether every lap after the first finds registers and flags as the one before left them."""
    written: set[str] = set()
    read_first: set[str] = set()
    for line in loop:
        if _target(line) is not None:
            if line.id != cs.X86_INS_JMP:
                read_first |= {"flags"} - written
            continue
        if line.mnemonic not in _QUIET:
            return False
        names = {line.reg_name(register) for register in line.regs_access()[0]}
        read_first |= {WHOLE.get(name, name) for name in names} - written
        if line.mnemonic in _COMPARES:
            written.add("flags")
        elif line.mnemonic in _LOADS:
            into = line.operands[0]
            name = line.reg_name(into.reg) if into.type == cs.X86_OP_REG else ""
            if into.size < 4 or name not in WHOLE:
                return False
            written.add(WHOLE[name])
    return not written & read_first
