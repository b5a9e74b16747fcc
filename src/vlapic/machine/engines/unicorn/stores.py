# SPDX-License-Identifier: GPL-2.0-or-later
"""Stores at full speed: Unicorn is told which pages hold no code, and its TLB grows.

A store to a page that may be executed goes through Unicorn 2.1.4's slow path, every time: it looks for
translated code to be dropped (`notdirty_write` of qemu/accel/tcg/cputlb.c). That takes 36 ns, and a load 1.5.
QEMU takes the way out when the page has no code left; Unicorn, only where the page tables forbid execution.

So the pages from which code has been translated are kept here, and now and then the entries of Unicorn's TLB
for all others are opened: their next store goes straight to memory (`stores.S`). A page with code is never
opened, and when code is found in a page for the first time, all entries are dropped: new ones are shut.
Unicorn makes a TLB that is crowded twice as large when it is emptied, which a guest may never do: so that is
done too. Nothing changes but the speed.
"""

from __future__ import annotations

import ctypes
import os
import struct
from functools import cache

from vlapic.machine.engines.unicorn.binding import Cpu
from vlapic.machine.engines.unicorn.machine_code import MachineCode
from vlapic.machine.engines.unicorn.probe import PAGE, probe

#: Instructions between two looks at the TLB: at first, and at most. At least so many for each of its entries.
FIRST_PACE, LAST_PACE, PACE_OF_ENTRY = 200_000, 20_000_000, 16
#: So many entries opened at once are a sign of more to come.
_MANY = 16
#: A TLB is made no larger than this, for 256 MiB.
_ENOUGH_ENTRIES = 1 << 16

# Of QEMU 5.0: `NB_MMU_MODES` of target/i386/cpu-param.h, `CPUTLBDescFast` of include/exec/cpu-defs.h.
_MODES = 3
_TLB = struct.Struct("<QQ")  # (entries - 1) * 64, where they are
_ENTRY = struct.Struct("<4Q")  # addresses of reads, writes and code; the physical one
_ENTRY_BYTES, _LEAST_ENTRIES, _MOST_ENTRIES = 64, 64, 1 << 22
_SHUT = 0x400  # TLB_NOTDIRTY


class Stores:
    """The pages of one CPU's memory that hold code.

    Attributes:
        due: the count of instructions at which :meth:`open` is to be called, LAST_PACE ahead at most.
    """

    def __init__(self, cpu: Cpu, ram_bytes: int, machine_code: MachineCode | None) -> None:
        """No page holds code yet; without machine code nothing is opened."""
        self._cpu = cpu
        self._open = machine_code.open_stores if machine_code else None
        self._pages = ram_bytes // PAGE
        self._bits = (ctypes.c_uint8 * (self._pages // 8 + 8))()
        self._tlbs = 0
        self._pace = FIRST_PACE
        self.due = LAST_PACE

    def look_at(self, state: int) -> None:
        """The CPU's state begins at an address on this host."""
        offset = find_tlbs_offset()
        if offset is not None:
            self._tlbs = state + offset
            self.due = 0

    def hold_code(self, addresses: list[int]) -> bool:
        """Physical addresses hold code; True: the page of one had none, and the TLB has been emptied."""
        new = False
        for address in addresses:
            page = address // PAGE
            if page < self._pages and not self._bits[page >> 3] >> (page & 7) & 1:
                self._bits[page >> 3] |= 1 << (page & 7)
                new = True
        if new:
            self._cpu.forget_pages()
        return new

    def emptied(self, count: int) -> None:
        """The TLB has been emptied at a count of instructions: there may be much to open soon."""
        self._pace = FIRST_PACE
        self.due = min(self.due, count + FIRST_PACE)

    def open(self, count: int) -> None:
        """Open the entries of all pages without code; between runs."""
        if self._open is None or not self._tlbs:
            self.due = count + LAST_PACE
            return
        result = self._open(self._tlbs, _MODES, ctypes.addressof(self._bits), self._pages)
        looked, opened, crowded = result & 0xFFFF_FFFF, result >> 32 & 0x7FFF_FFFF, result >> 63
        if crowded and looked < _ENOUGH_ENTRIES:
            self._cpu.forget_pages()
            self._pace = FIRST_PACE
        elif opened >= _MANY:
            self._pace = FIRST_PACE
        elif not opened:
            self._pace *= 2
        self._pace = min(self._pace, LAST_PACE)
        self.due = count + min(max(self._pace, PACE_OF_ENTRY * looked), LAST_PACE)


#: mov %eax, 0x2123; hlt.
_STORE, _STORED_PAGE = bytes.fromhex("89 04 25 23 21 00 00 f4"), 0x2000
#: How far before the state the TLBs are looked for.
_BEFORE = 0x200


@cache
def find_tlbs_offset() -> int | None:
    """Where Unicorn keeps the TLBs, relative to a CPU's state; found once for the process.

    A store is made. The one TLB that has an entry for it, shut, is found by that entry, and the others stand
    beside it.

    Returns:
        None where that is not so: then no entry is opened.
    """
    with probe(_STORE) as made, open("/proc/self/mem", "rb", buffering=0) as memory:
        made.run(10)
        before = made.before_state(_BEFORE)
        pairs = {at - _BEFORE: _TLB.unpack_from(before, at) for at in range(0, _BEFORE, _TLB.size)}
        likely = [offset for offset, tlb in pairs.items() if _may_be_tlb(*tlb)]
        hits = [offset for offset in likely if _has_entry(memory.fileno(), *pairs[offset])]
    if len(hits) != 1 or len(likely) != _MODES or likely[-1] - likely[0] != (_MODES - 1) * _TLB.size:
        return None
    return likely[0]


def _may_be_tlb(mask: int, table: int) -> bool:
    entries = mask // _ENTRY_BYTES + 1
    return (
        mask % _ENTRY_BYTES == 0
        and _LEAST_ENTRIES <= entries <= _MOST_ENTRIES
        and entries & entries - 1 == 0
        and table != 0
        and table % 8 == 0
    )


def _has_entry(memory: int, mask: int, table: int) -> bool:
    """Whether a table has the entry of the page stored to; read so that a wrong address does no harm."""
    entry = _STORED_PAGE // PAGE & mask // _ENTRY_BYTES
    try:
        read, write, _, physical = _ENTRY.unpack(os.pread(memory, _ENTRY.size, table + entry * _ENTRY_BYTES))
    except OSError:
        return False
    return bool(read == physical == _STORED_PAGE and write == _STORED_PAGE | _SHUT)
