# SPDX-License-Identifier: GPL-2.0-or-later
"""A CPU of its own with a few instructions, to find where Unicorn keeps in memory what it does not tell.

Each fact is found once for the process, and checked before anybody relies on it.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vlapic.machine.engines.unicorn.binding import Cpu
from vlapic.machine.engines.unicorn.blocks import STATE, Blocks

ENTRY, DEVICE, PAGE = 0x1000, 0x10_0000, 0x1000
_PAGES = 4


class Probe:
    """A CPU in 64-bit mode without paging: RAM at 0, one page of device memory at DEVICE.

    Attributes:
        blocks: counts what it runs; what happens in a callback can stop it.
    """

    def __init__(self, program: bytes, accessed: Callable[[], None]) -> None:
        """Put a program at ENTRY; `accessed` is called at each access to the device, which reads 0."""
        memory = mmap.mmap(-1, _PAGES * PAGE)
        memory[ENTRY : ENTRY + len(program)] = program
        self._cpu = cpu = Cpu()
        cpu.map_ram(0, memory)
        self.blocks = Blocks(
            cpu,
            lambda address, size: memory[address : address + size],
            code_bits=lambda: 64,
            resumes=lambda: False,
            in_shadow=lambda: False,
            remapped=lambda: None,
            met=lambda _address, _size: None,
            translated=lambda _address, _size: None,
            on_site=lambda *_: None,
            native=True,
            fast_spin=False,
        )

        def read(*_: int) -> int:
            accessed()
            return 0

        cpu.map_mmio(DEVICE, PAGE, read, lambda *_: accessed())

    def run(self, instructions: int) -> None:
        """Run the program from its beginning, up to HLT, a stop or so many instructions."""
        self.blocks.start(instructions)
        self._cpu.start(ENTRY)

    @property
    def state(self) -> int:
        """Where the CPU's state begins, once it has run."""
        return self.blocks.counter[STATE]

    def before_state(self, size: int) -> bytes:
        """The memory in front of the CPU's state; `CPUState` stands there."""
        return ctypes.string_at(self.state - size, size)

    def close(self) -> None:
        self._cpu.close()
        self.blocks.close()


@contextmanager
def probe(program: bytes, accessed: Callable[[], None] = lambda: None) -> Iterator[Probe]:
    """A :class:`Probe`, closed in the end."""
    made = Probe(program, accessed)
    try:
        yield made
    finally:
        made.close()
