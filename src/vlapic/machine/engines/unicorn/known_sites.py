# SPDX-License-Identifier: GPL-2.0-or-later
"""The exiting instructions that are offered on the fast path, as the machine code of `fastpath.S` reads them.

An instruction may stand in several blocks, and what it needs to be known by is how many instructions of the
block are left behind it. So it is known in one block at a time: the one in which Python saw it last.
"""

from __future__ import annotations

import ctypes

from vlapic.machine.engines.unicorn.decode import Kind, Site

# What a guest does, for the machine code and who it calls.
READ_MSR, WRITE_MSR, READ_MEMORY, WRITE_MEMORY = range(4)

#: The instructions offered.
FASTPATH_KINDS = {Kind.RDMSR: READ_MSR, Kind.WRMSR: WRITE_MSR}

# A row: 64-bit fields, by index. fastpath.S has the same in bytes.
_COUNTER, _ROW, _LEFT, _LENGTH, _KIND = range(5)
_Row = ctypes.c_uint64 * 5


class KnownSites:
    """A row for each instruction of one CPU that has a hook."""

    def __init__(self, counter_address: int) -> None:
        """The rows point to the CPU's counter."""
        self._counter_address = counter_address
        self._rows: dict[int, ctypes.Array[ctypes.c_uint64]] = {}

    def row_of(self, site: Site) -> int:
        """Make a row for an instruction, not known yet; where it is on the host, for good."""
        row = self._rows[site.address] = self._rows.get(site.address) or _Row()
        row[_COUNTER], row[_ROW] = self._counter_address, 0
        return ctypes.addressof(row)

    def learn(self, site: Site, block_row: int, left: int) -> None:
        """It is in the block of a row of the table, with so many instructions left; in 64-bit code only."""
        if site.bits == 64:
            row = self._rows[site.address]
            row[_LENGTH], row[_KIND] = site.length, FASTPATH_KINDS[site.kind]
            row[_LEFT], row[_ROW] = left, block_row

    def forget_block(self, block_row: int) -> None:
        """The block of a row of the table is no more, and another one may get its row."""
        for row in self._rows.values():
            if row[_ROW] == block_row:
                row[_ROW] = 0

    def forget(self) -> None:
        """None is known any more."""
        for row in self._rows.values():
            row[_ROW] = 0
