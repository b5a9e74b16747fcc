# SPDX-License-Identifier: GPL-2.0-or-later
"""Where Unicorn keeps a CPU's state.

The state is QEMU 5.0's `CPUX86State` (target/i386/cpu.h), and a saved context is a copy of its beginning.
Telling values are written into registers that have numbers, and looked for in the copy; what lies beside
them is known from that header, and checked against what a fresh CPU has.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple, Protocol

from unicorn import x86_const as x86

from vlapic.errors import EngineError

# QEMU's hidden flags (`HF_*` and `HF2_*` of target/i386/cpu.h).
HF_CPL = 3
HF_INHIBIT_IRQ = 1 << 3
HF_CS32 = 1 << 4
HF_SS32 = 1 << 5
HF_ADDSEG = 1 << 6
HF_PE = 1 << 7
HF_TF = 1 << 8
HF_LMA = 1 << 14
HF_CS64 = 1 << 15
HF2_NMI = 1 << 2

# Bytes from the beginning of the state.
RAX, RCX, RDX, RSP = 0, 8, 16, 32
RIP = 16 * 8
RFLAGS = RIP + 8
CC_SRC = RFLAGS + 2 * 8
CC_OP = CC_SRC + 2 * 8
DF = CC_OP + 4
HFLAGS = DF + 4
HFLAGS2 = HFLAGS + 4
SEGMENTS = HFLAGS2 + 4  # six of 24 bytes, then LDTR, TR, GDTR and IDTR
SEGMENT_BYTES = 24
CR0 = SEGMENTS + 10 * SEGMENT_BYTES  # CR0 to CR8
EFER = CR0 + 9 * 8 + 8 + 4 * 16 + 16 + 8  # A20 mask, and the bounds registers of MPX


class Layout(NamedTuple):
    """Byte offsets: of the state in a saved context, and of what moves with the build in the state."""

    state: int
    error_code: int
    is_int: int
    dr: int
    old_exception: int


class TellingRegisters(Protocol):
    """TELLING_REGISTERS of a CPU, read and written at once."""

    def read(self) -> list[int]: ...

    def write(self, *values: int) -> None: ...


#: The general registers in the order of their numbers, DR0 to DR3, and CR2.
TELLING_REGISTERS = [
    getattr(x86, f"UC_X86_REG_{name}")
    for name in (
        *("RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI"),
        *(f"R{number}" for number in range(8, 16)),
        *(f"DR{number}" for number in range(4)),
        "CR2",
    )
]

_layout: Layout | None = None


def find_layout(registers: TellingRegisters, saved_state: Callable[[], bytes]) -> Layout:
    """The offsets of the hidden state, found once for the process.

    Args:
        registers: of a CPU that has not run yet; they are put back.
        saved_state: makes a context of that CPU.

    Raises:
        EngineError: a value is not where it was expected: not the Unicorn this was made for.
    """
    global _layout
    if _layout is not None:
        return _layout
    values = [0x5AFE_0000_0000_1000 + 0x0101_0101 * index for index in range(21)]
    before = registers.read()
    registers.write(*values)
    context = saved_state()
    registers.write(*before)
    start = _only(context, struct.pack("<16Q", *values[:16]))
    state = context[start:]
    dr = _only(state, struct.pack("<4Q", *values[16:20]))
    layout = Layout(start, dr - 16, dr - 12, dr, dr + 96)
    flags, error_code, is_int, old = (
        int.from_bytes(state[at : at + 4], "little")
        for at in (HFLAGS, layout.error_code, layout.is_int, layout.old_exception)
    )
    cr2, efer = (int.from_bytes(state[at : at + 8], "little") for at in (CR0 + 16, EFER))
    fresh = HF_LMA | HF_CS64 | HF_CS32 | HF_SS32
    expected = cr2 == values[20] and efer == _EFER_LME | _EFER_LMA
    if flags & fresh != fresh or (error_code, is_int, old) != (0, 0, 0xFFFF_FFFF) or not expected:
        raise EngineError(
            f"Unicorn's state is laid out differently (hidden flags {flags:#x}, exception {old:#x},"
            f" EFER {efer:#x}); the emulated CPU needs the wheel of unicorn 2.1.4"
        )
    _layout = layout
    return layout


_EFER_LME, _EFER_LMA = 1 << 8, 1 << 10


def _only(state: bytes, pattern: bytes) -> int:
    """Where a pattern stands in a state; it must stand there exactly once."""
    if state.count(pattern) != 1:
        raise EngineError(
            f"registers stand {state.count(pattern)} times in Unicorn's state, once was expected;"
            " the emulated CPU needs the wheel of unicorn 2.1.4"
        )
    return state.index(pattern)
