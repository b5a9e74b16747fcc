# SPDX-License-Identifier: GPL-2.0-or-later
"""Which instruction makes an access to device memory, told in the middle of it.

Unicorn's RIP is right between blocks and before instructions with a hook, but not in a callback of device
memory. What is right there is where in its translated code the CPU is (QEMU 5.0's `CPUState.mem_io_pc`). So
an instruction is found out once, by stopping the CPU, and known by that place from then on, until code is
translated anew.

Left out: everything but a MOV that is not its block's last instruction, and 16-bit code. Others may access
memory twice, fault after the access, or end where a single step or a shadow does. A MOV of 8 bytes, or one
that is not aligned, makes several accesses too: so what it accesses is told as well, by its operand.
"""

from __future__ import annotations

import ctypes
import struct
from functools import cache
from typing import NamedTuple

from capstone import x86 as cs

from vlapic.machine.engines.unicorn.blocks import AT_MEMORY, HERE, PLACES
from vlapic.machine.engines.unicorn.decode import WHOLE, Block, decoder, register_number
from vlapic.machine.engines.unicorn.probe import probe

_MOVES = (cs.X86_INS_MOV, cs.X86_INS_MOVZX, cs.X86_INS_MOVSX, cs.X86_INS_MOVSXD)
#: Rows of the table for machine code, a power of two, and fields of each, as many as a place has and more.
_ROWS, _ROW = 1 << 8, 16
_U64 = 2**64 - 1
_SEGMENT_REGISTERS = {"es", "cs", "ss", "ds", "fs", "gs"}


class Place(NamedTuple):
    """An instruction that accesses device memory.

    Attributes:
        row: of its block, in the machine code's table; never 0.
        left: instructions of the block from this one on, at least 2.
        address: linear.
        length: bytes.
        size: of what it moves, bytes.
        displacement, base, once, other, scale: what it moves is at the displacement + the register of number
            `base` times `once` (0 or 1) + that of number `other` times `scale` (0 to 8), from where a segment
            begins.
    """

    row: int
    left: int
    address: int
    length: int
    size: int
    displacement: int
    base: int
    once: int
    other: int
    scale: int


class Places:
    """The accessing instructions of one CPU that are known.

    Attributes:
        known: by where in translated code they are; None: to be left alone.
        here: one number, where the CPU is; None until it is known where Unicorn keeps that.
        asked: what it was at the last access that was not known.
    """

    def __init__(self, counter: memoryview) -> None:
        """Tell machine code by a CPU's counter (`blocks.py`) what is known."""
        self.known: dict[int, Place | None] = {}
        self.here: memoryview | None = None
        self.asked = 0
        self._counter = counter
        # For machine code: 64-bit fields, as fastpath.S has them in bytes. A place displaces another one.
        self._fields = (ctypes.c_uint64 * (_ROWS * _ROW))()
        self._rows = memoryview(self._fields).cast("B").cast("Q")
        self._used: set[int] = set()
        counter[PLACES] = ctypes.addressof(self._fields)

    def look_at(self, state: int) -> None:
        """The CPU's state begins at an address on this host."""
        offset = find_place_offset()
        if offset is not None:
            field = (ctypes.c_uint64 * 1).from_address(state + offset)
            self.here = memoryview(field).cast("B").cast("Q")
            self._counter[HERE] = state + offset

    def forget(self) -> None:
        """Code has been translated."""
        self.known.clear()
        for row in self._used:
            self._rows[row] = 0
        self._used.clear()

    def learn(self, block: Block, row: int, address: int) -> None:
        """The CPU was stopped at an access, in the instruction at a linear address."""
        here = self.asked
        if self.here is None or self.here[0] != here or not row:
            return
        known = self.known.get(here)
        if here in self.known and (known is None or known.row == row):
            return
        place = self.known[here] = _place(block, row, address)
        if place is not None:
            index = ((here ^ here >> 8) & _ROWS - 1) * _ROW
            for field, value in enumerate((here, *place), index):
                self._rows[field] = value & _U64
            self._used.add(index)


def _place(block: Block, row: int, address: int) -> Place | None:
    """The instruction at a linear address, None if it is to be left alone."""
    left = block.left_at(address)
    code = block.code[address - block.address :]
    for line in decoder(block.bits, True).disasm(code, address, 1):
        memory = [operand for operand in line.operands if operand.type == cs.X86_OP_MEM]
        registers = {line.reg_name(operand.reg) for operand in line.operands if operand.type == cs.X86_OP_REG}
        if (
            block.bits == 16
            or left < 2
            or line.id not in _MOVES
            or len(memory) != 1
            or registers & _SEGMENT_REGISTERS
        ):
            return None
        place, displacement = memory[0].mem, memory[0].mem.disp
        base, index = (line.reg_name(register) or "" for register in (place.base, place.index))
        if base in ("rip", "eip"):
            base, displacement = "", displacement + address + line.size
        if {base, index} - WHOLE.keys() - {""}:
            return None
        return Place(
            row,
            left,
            address,
            line.size,
            memory[0].size,
            displacement,
            register_number(base) if base else 0,
            1 if base else 0,
            register_number(index) if index else 0,
            place.scale if index else 0,
        )
    return None


#: ba DEVICE: mov $DEVICE, %edx; 1: mov %eax, (%rdx); mov %eax, (%rdx); mov (%rdx), %eax; jmp 1b.
_LAP = bytes.fromhex("ba 00 00 10 00 89 02 89 02 8b 02 eb f8")
_ACCESSES = 3
#: How far before the state the field is looked for; `CPUState` and what is behind it are longer.
_BEFORE = 0x4000


@cache
def find_place_offset() -> int | None:
    """Where Unicorn keeps the place of an access, relative to a CPU's state; found once for the process.

    A loop with three accesses is run. The field is the only one that rises from each access to the next and
    comes back in the next lap; the first lap does not count, because its block begins before the loop.

    Returns:
        None where that is not one field: then no access is known by its place.
    """
    seen: list[tuple[int, ...]] = []

    def look() -> None:
        seen.append(struct.unpack(f"<{_BEFORE // 8}Q", made.before_state(_BEFORE)))
        if len(seen) == 3 * _ACCESSES:
            made.blocks.stop(AT_MEMORY)

    with probe(_LAP, look) as made:
        made.run(10 * len(_LAP))
    columns = zip(*seen[_ACCESSES:], strict=True)
    found = [
        index
        for index, values in enumerate(columns)
        if values[0] < values[1] < values[2] and values[:_ACCESSES] == values[_ACCESSES:]
    ]
    return 8 * found[0] - _BEFORE if len(found) == 1 else None
