"""Where Unicorn keeps the part of a CPU's state that has no register number.

A saved context is a copy of QEMU 5.0's `CPUX86State` (target/i386/cpu.h), whose layout belongs to the
build. Telling values are written into registers that have numbers, and looked for in it; what lies beside
them is known.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple, Protocol

from unicorn import x86_const as x86

from vlapic.errors import EngineError

# QEMU's hidden flags (`HF_*` of target/i386/cpu.h).
HF_CPL = 3
HF_INHIBIT_IRQ = 1 << 3
HF_CS32 = 1 << 4
HF_SS32 = 1 << 5
HF_ADDSEG = 1 << 6
HF_LMA = 1 << 14
HF_CS64 = 1 << 15


class Layout(NamedTuple):
    """Byte offsets in a saved context."""

    hflags: int
    segments: int
    error_code: int
    is_int: int
    old_exception: int


class TellingRegisters(Protocol):
    """TELLING_REGISTERS of a CPU, read and written at once."""

    def read(self) -> list[int]: ...

    def write(self, *values: int) -> None: ...


#: The general registers in the order of their numbers, and DR0 to DR3.
TELLING_REGISTERS = [
    getattr(x86, f"UC_X86_REG_{name}")
    for name in (
        *("RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI"),
        *(f"R{number}" for number in range(8, 16)),
        *(f"DR{number}" for number in range(4)),
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
    values = [0x5AFE_0000_0000_1000 + 0x0101_0101 * index for index in range(20)]
    before = registers.read()
    registers.write(*values)
    state = saved_state()
    registers.write(*before)
    regs = _only(state, struct.pack("<16Q", *values[:16]))
    dr = _only(state, struct.pack("<4Q", *values[16:]))
    hflags = regs + 16 * 8 + 2 * 8 + 3 * 8 + 2 * 4  # RIP and RFLAGS, cc_dst to cc_src2, cc_op and df
    layout = Layout(hflags, hflags + 8, dr - 16, dr - 12, dr + 96)
    flags, error_code, is_int, old = (
        int.from_bytes(state[at : at + 4], "little")
        for at in (layout.hflags, layout.error_code, layout.is_int, layout.old_exception)
    )
    fresh = HF_LMA | HF_CS64 | HF_CS32 | HF_SS32
    if flags & fresh != fresh or (error_code, is_int, old) != (0, 0, 0xFFFF_FFFF):
        raise EngineError(
            f"Unicorn's state is laid out differently (hidden flags {flags:#x}, exception {old:#x});"
            " the emulated CPU needs the wheel of unicorn 2.1.4"
        )
    _layout = layout
    return layout


def _only(state: bytes, pattern: bytes) -> int:
    """Where a pattern stands in a state; it must stand there exactly once."""
    if state.count(pattern) != 1:
        raise EngineError(
            f"registers stand {state.count(pattern)} times in Unicorn's state, once was expected;"
            " the emulated CPU needs the wheel of unicorn 2.1.4"
        )
    return state.index(pattern)
