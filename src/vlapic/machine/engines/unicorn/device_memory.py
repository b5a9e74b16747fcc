# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that is not RAM: device accesses as exits, everything else as the bus answers it.

Unicorn calls back in the middle of an instruction and wants the answer at once; an engine answers later,
after an exit. A stop asked for in the callback makes Unicorn leave before the instruction and run it
again when resumed. So an access is reported once, its answer is kept, and when the instruction runs again
the callbacks are given what is kept, in order: an `orl $5, (%rdx)` runs three times, and its read and its
write happen once each. Machine code gives what is kept (`fastpath.S`): an instruction of many accesses runs
again for each, and Python is asked about the last only. An access whose instruction is known
(`access_place.py`) is offered on the fast path first, and answered at once.

Where Unicorn makes several accesses of what is one of the instruction, that one is asked for
(`whole_access.py`). Its answer is kept for each of the parts. Of a write only the first part is known when it
stops the run; so the instruction runs once more up to the last part, and what the parts write is collected.

Left out: accesses that Unicorn makes in a helper rather than in translated code (FXSAVE, CMPXCHG16B, x87's
80-bit loads, stacks and tables in device memory) cannot be run again: they read zero, and the exit comes
at the end of the block.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable

from vlapic.machine.engines.unicorn.access_place import Places
from vlapic.machine.engines.unicorn.binding import Cpu, MemoryCallback, address_of
from vlapic.machine.engines.unicorn.blocks import (
    ANSWERED,
    ANSWERS,
    ASK_MEMORY,
    AT_MEMORY,
    KEPT,
    REPLAYED,
    SPIN,
    STOPPED,
    Blocks,
)
from vlapic.machine.engines.unicorn.decode import Block
from vlapic.machine.engines.unicorn.known_sites import READ_MEMORY, WRITE_MEMORY
from vlapic.machine.engines.unicorn.machine_code import READ_OFFSET, WRITE_OFFSET
from vlapic.machine.engines.unicorn.whole_access import Access, Whole

#: Where the devices' part of the first 4 GiB begins.
DEVICES = 0xC000_0000
_DEVICES_END = 1 << 32
_PHYSICAL_END = 1 << 52
_WIDEST = 8
#: Fields of an answer that machine code gives, 64 bits each, and how many of them a row of the table has.
ANSWER_FIELDS = ("kind", "offset", "size", "value", "answer")
ANSWER_ROW = 8
_ROW, _ROW_BYTES = struct.Struct(f"<{len(ANSWER_FIELDS)}Q"), 8 * ANSWER_ROW
#: Rows: an ENTER of 31 levels makes 32 writes of up to 8 parts, and 30 reads of up to 4.
_ANSWER_ROWS = 512
#: Bytes of code that may be new at an access before instructions run one by one; how many of them each access
#: in a block that is not new gives back.
_CREDIT, _EARNED = 16384, 8


class DeviceMemory:
    """What lies outside RAM.

    Attributes:
        asked: the access that stopped the run, until it is answered.
        places: the accessing instructions that are known.
        credit: bytes of code that may still be new at an access; below 0 instructions are to run one by one.
    """

    def __init__(
        self,
        cpu: Cpu,
        blocks: Blocks,
        ram_bytes: int,
        on_access: Callable[[int, int, int | None], int | None],
    ) -> None:
        """Answer for all memory but RAM.

        Args:
            on_access: offered an access (address, size, value or None for a read) first; None: it is to be
                an exit.
        """
        self.asked: Access | None = None
        self._blocks = blocks
        self._counter = blocks.counter
        self._on_access = on_access
        self.places = Places(self._counter)
        self._parts: list[Access] = []  # of what is asked for, if it has several
        self._collects: Whole | None = None  # the write whose parts are collected
        self._done: list[tuple[Access, int]] = []
        self._fields = (ctypes.c_uint64 * (ANSWER_ROW * _ANSWER_ROWS))()
        self._rows = memoryview(self._fields).cast("B")
        self._counter[ANSWERS] = ctypes.addressof(self._fields)
        self.credit = _CREDIT
        self._stopped_in: set[tuple[int, int]] = set()  # blocks: address, size
        self._ask = MemoryCallback(self._access)
        code = blocks.machine_code
        read, write = (
            (self._read, self._write)
            if code is None
            else (code.fastpath + READ_OFFSET, code.fastpath + WRITE_OFFSET)
        )
        self._counter[ASK_MEMORY] = address_of(self._ask)
        cpu.map_mmio(DEVICES, _DEVICES_END - DEVICES, read, write, blocks.counter_address)
        # Where nobody answers the bus reads all ones and a write is lost.
        for first, end in ((ram_bytes, DEVICES), (_DEVICES_END, _PHYSICAL_END)):
            if first < end:
                cpu.map_mmio(first, end - first, self._read_nothing, self._write_nothing)

    def answer(self, value: int) -> None:
        """Keep the answer to the access that was asked for (0 to a write) for the instruction's next run."""
        asked, self.asked = self.asked, None
        assert asked is not None
        if not self._parts:
            self.keep(asked, value)
            return
        data = value << 8 * _WIDEST  # room for what parts read ahead of it
        for part in self._parts:
            place = part.address - asked.address + _WIDEST
            self.keep(part, 0 if part.value is not None else data >> 8 * place & (1 << 8 * part.size) - 1)
        self._parts.clear()

    def keep(self, access: Access, value: int) -> None:
        """Keep the answer to an access that was answered on the fast path, like :meth:`answer`."""
        counter, at = self._counter, len(self._done)
        self._done.append((access, value))
        counter[KEPT] = 1
        if at < _ANSWER_ROWS:
            address, size, written = access
            kind, written = (READ_MEMORY, 0) if written is None else (WRITE_MEMORY, written)
            _ROW.pack_into(self._rows, _ROW_BYTES * at, kind, address - DEVICES, size, written, value)
            counter[ANSWERED] = at + 1

    def stopped_in(self, block: Block) -> None:
        """An access has stopped the CPU in a block, which has been translated for it if it is new."""
        place = block.address, block.size
        if place not in self._stopped_in:
            self._stopped_in.add(place)
            self.credit -= block.size
        elif self.credit < _CREDIT:
            self.credit = min(self.credit + _EARNED, _CREDIT)

    def has_made(self, reads: bool, part: tuple[int, int]) -> bool:
        """Whether the instruction has made a read or write of (address, size) so far."""
        return any((each.value is None) == reads and each[:2] == part for each, _ in self._done)

    @property
    def is_whole(self) -> bool:
        """Whether what is asked for was put together from parts."""
        return bool(self._parts)

    def widen(self, whole: Whole) -> bool:
        """What is asked for is the first part of a bigger access.

        Returns:
            Whether that one is asked for now; False: the instruction is to run once more, for what it writes.
        """
        assert self.asked is not None
        self._parts.clear()
        if self.asked.value is None:
            self._parts += [Access(address, size, None) for address, size in whole.parts]
            self.asked = Access(whole.address, whole.size, None)
            return True
        self.asked, self._collects = None, whole
        return False

    def collect_no_more(self) -> None:
        """Something else runs than the write whose parts were to be collected."""
        if self._collects is not None:
            self._collects = None
            self._parts.clear()

    def _collect(self, part: Access) -> bool:
        """Collect a part of a write; with the last one, ask for all of it. False: it is none."""
        whole, parts = self._collects, self._parts
        assert whole is not None
        if part.value is None or part[:2] != whole.parts[len(parts)]:
            self.collect_no_more()
            return False
        parts.append(part)
        if len(parts) == len(whole.parts):
            value = sum((each.value or 0) << 8 * (each.address - whole.address) for each in parts)
            self._collects, self.asked = None, Access(whole.address, whole.size, value)
            self._blocks.stop(AT_MEMORY)
        return True

    def replay(self) -> None:
        """The instruction whose accesses are kept is about to run again."""
        self._counter[REPLAYED] = 0

    def forget(self) -> None:
        """That instruction has retired, or never will."""
        self._done.clear()
        self._parts.clear()
        self._collects = None
        counter = self._counter
        counter[KEPT] = counter[ANSWERED] = 0

    def _read(self, _cpu: int, offset: int, size: int, _data: int) -> int:
        return self._access(READ_MEMORY, offset, size, 0)

    def _write(self, _cpu: int, offset: int, size: int, value: int, _data: int) -> None:
        self._access(WRITE_MEMORY, offset, size, value)

    def _access(self, kind: int, offset: int, size: int, written: int) -> int:
        """Unicorn accesses the devices; machine code comes here with accesses it does not know."""
        counter = self._counter
        address, value = DEVICES + offset, written if kind == WRITE_MEMORY else None
        counter[SPIN] = 0  # a loop that asks a device waits for more than memory
        if counter[STOPPED]:
            return 0
        replayed = counter[REPLAYED]
        if replayed < len(self._done):
            kept, answer = self._done[replayed]
            if kept == (address, size, value):
                counter[REPLAYED] = replayed + 1
                return answer
            # What is kept from here on was a helper's, and that instruction does not run again.
            del self._done[replayed:]
            counter[ANSWERED] = min(replayed, _ANSWER_ROWS)
        if self._collects is not None and self._collect(Access(address, size, value)):
            return 0
        at_once = self._on_access(address, size, value)
        if at_once is not None:
            return at_once
        self.asked = Access(address, size, value)
        self._blocks.stop(AT_MEMORY)
        return 0

    def _read_nothing(self, _cpu: int, _offset: int, size: int, _data: int) -> int:
        return (1 << 8 * size) - 1

    def _write_nothing(self, _cpu: int, _offset: int, _size: int, _value: int, _data: int) -> None:
        pass
