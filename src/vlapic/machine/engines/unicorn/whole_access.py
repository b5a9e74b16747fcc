# SPDX-License-Identifier: GPL-2.0-or-later
"""The access that an instruction makes to device memory, of which Unicorn tells only the parts.

To device memory Unicorn makes no access that is not aligned, and none of more than 4 bytes: a read that is
not aligned is two aligned ones, a write that is not goes byte by byte, and 8 bytes are two halves. A device
is to be asked for what the instruction asks for, as KVM's emulator has it (`kvm/x86.c: emulator_read_write,
vcpu_mmio_read, vcpu_mmio_write`): a piece for each page, of 8 bytes at most.

So the instruction that makes an access is looked at. Where its memory operand is another than the access, the
access is the first part of it.

An instruction without an operand accesses its stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import capstone
from capstone import x86 as cs

from vlapic.machine.engines.unicorn.decode import WHOLE, Block, decoder, register_number
from vlapic.machine.engines.unicorn.paging import PAGE

#: Bytes of the biggest access of a device, and of the biggest that Unicorn makes.
_WIDEST, _BUS = 8, 4
_SIZES = (2, 4, 8, 16)
_POP, _PUSH = ("rsp", False, False), ("rsp", True, False)
_PUSHES = ("rsp", True, True)
#: What instructions do with the stack: the register that it is at, whether they write, whether many words.
_STACKS = {
    **dict.fromkeys(("pop", "popf", "popfd", "popfq", "ret"), (_POP,)),
    **dict.fromkeys(("push", "pushf", "pushfd", "pushfq", "call"), (_PUSH,)),
    **dict.fromkeys(("popal", "popaw"), (("rsp", False, True),)),
    **dict.fromkeys(("pushal", "pushaw"), (_PUSHES,)),
    "leave": (("rbp", False, False),),
    "enter": (_PUSHES, ("rbp", False, True)),
}
_OPERAND_SIZE = 0x66
#: Bytes of the longest instruction.
LONGEST = 15


class Access(NamedTuple):
    """One access; `value` is None for a read."""

    address: int
    size: int
    value: int | None


class Whole(NamedTuple):
    """An access of a device, and the parts (address, size) in which Unicorn makes it, in order."""

    address: int
    size: int
    parts: tuple[tuple[int, int], ...]


class _Operand(NamedTuple):
    """An instruction's memory operand, or its stack; registers by number, of segments by name, "" is none."""

    size: int
    reads: bool
    writes: bool
    segment: str
    displacement: int
    base: int | None
    other: int | None
    scale: int
    many: bool = False  # words side by side, up or down from there


class WholeAccesses:
    """The accesses of one CPU's instructions."""

    def __init__(self, register: Callable[[int], int], segment_base: Callable[[str], int]) -> None:
        """Use a CPU's general registers by number, and where its segments begin by their names."""
        self._register = register
        self._segment_base = segment_base
        self._known: dict[tuple[int, int], tuple[bytes, tuple[_Operand, ...]]] = {}
        self._alone: dict[tuple[int, int], tuple[bytes, bool]] = {}

    def of(
        self, asked: Access, block: Block, address: int, has_made: Callable[[bool, tuple[int, int]], bool]
    ) -> Whole | None:
        """The access that begins with a part of it.

        Args:
            asked: the part.
            block, address: the instruction, where it stands in its block.
            has_made: whether it has made a read (True) or a write of a part before.

        Returns:
            None: the part is all of it.
        """
        page, reads = asked.address & -PAGE, asked.value is None
        for operand in self._operands(block, address):
            if not (operand.reads if reads else operand.writes):
                continue
            size = min(operand.size, _WIDEST)
            for start in self._pieces(operand, asked.address):
                parts = _parts(start, size, asked)
                if parts[:1] != (asked[:2],):
                    continue
                if operand.size > _WIDEST and has_made(reads, parts[-1]):
                    continue  # that half is done
                first, end = max(start, page), min(start + size, page + PAGE)
                if parts != ((first, end - first),):
                    return Whole(first, end - first, parts)
        return None

    def may_run_alone(self, code: bytes, address: int, bits: int) -> bool:
        """Whether the first instruction of some code accesses memory, and may have a trap behind it.

        No load of SS, which leaves a shadow, and no REP, which runs in other blocks where it traps.
        """
        known = self._alone.get((address, bits))
        if known is None or known[0] != code:
            known = self._alone[address, bits] = code, _may_run_alone(code, address, bits)
        return known[1]

    def _pieces(self, operand: _Operand, near: int) -> Iterator[int]:
        """Where the operand, or each of its halves of 8 bytes, begins; physical, so next to `near`."""
        linear = operand.displacement
        if operand.base is not None:
            linear += self._register(operand.base)
        if operand.other is not None:
            linear += self._register(operand.other) * operand.scale
        if operand.segment:
            linear += self._segment_base(operand.segment)
        if operand.many:
            yield near + (linear - near) % operand.size
            return
        for piece in range(0, operand.size, _WIDEST):
            distance = (linear + piece - near + PAGE // 2) % PAGE - PAGE // 2
            if abs(distance) < 2 * _WIDEST:
                yield near + distance

    def _operands(self, block: Block, address: int) -> tuple[_Operand, ...]:
        code = block.code[address - block.address :][:LONGEST]
        known = self._known.get((address, block.bits))
        if known is None or known[0] != code:
            known = self._known[address, block.bits] = code, tuple(_decode(code, address, block.bits))
        return known[1]


def _parts(start: int, size: int, asked: Access) -> tuple[tuple[int, int], ...]:
    """The parts of an access of 2, 4 or 8 bytes that lie in the page of one of them."""
    step, begin, end = min(size, _BUS), start, start + size
    unaligned = start % size
    if unaligned and asked.value is None:
        begin, end = start - unaligned, start - unaligned + 2 * size
    elif unaligned:
        step = 1
    page = asked.address // PAGE
    return tuple((at, step) for at in range(begin, end, step) if at // PAGE == page)


def _may_run_alone(code: bytes, address: int, bits: int) -> bool:
    for line in decoder(bits, True).disasm(code, address, 1):
        name = line.mnemonic.split()[-1]
        into = line.operands[0] if line.operands else None
        loads_ss = into is not None and into.type == cs.X86_OP_REG and line.reg_name(into.reg) == "ss"
        if loads_ss or name == "lss" or line.mnemonic.startswith("rep"):
            return False
        return name in _STACKS or any(operand.type == cs.X86_OP_MEM for operand in line.operands)
    return False


def _decode(code: bytes, address: int, bits: int) -> Iterator[_Operand]:
    for line in decoder(bits, True).disasm(code, address, 1):
        for operand in line.operands:
            if operand.type == cs.X86_OP_MEM and operand.size in _SIZES:
                yield _operand(line, operand, bits)
        wide = line.prefix[2] != _OPERAND_SIZE  # not the other size
        size = {16: 2 if wide else 4, 32: 4 if wide else 2, 64: 8 if wide else 2}[bits]
        segment = "" if bits == 64 else "ss"
        for base, writes, many in _STACKS.get(line.mnemonic.split()[-1], ()):
            below = -size if writes else 0
            yield _Operand(size, not writes, writes, segment, below, register_number(base), None, 0, many)


def _operand(line: capstone.CsInsn, operand: cs.X86Op, bits: int) -> _Operand:
    memory, displacement = operand.mem, operand.mem.disp
    base, index = (line.reg_name(register) or "" for register in (memory.base, memory.index))
    segment = line.reg_name(memory.segment) or ("ss" if WHOLE.get(base) in ("rsp", "rbp") else "ds")
    if bits == 64 and segment not in ("fs", "gs"):
        segment = ""
    if base in ("rip", "eip"):
        base, displacement = "", displacement + line.address + line.size
    return _Operand(
        operand.size,
        operand.access != capstone.CS_AC_WRITE,
        operand.access != capstone.CS_AC_READ,
        segment,
        displacement,
        register_number(base) if base in WHOLE else None,
        register_number(index) if index in WHOLE else None,
        memory.scale,
    )
