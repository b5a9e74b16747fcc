# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine code of `blocks.S`, `fastpath.S` and `stores.S`, and the table of blocks that it reads.

It runs on x86-64 Linux alone. Elsewhere, and where a process may not make memory executable, `blocks.py`
does the same in Python.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
from collections.abc import Callable

from vlapic.machine.engines.unicorn.decode import WINDOW_FLAG, Block

#: blocks.S, assembled.
BLOCKS_CODE = bytes.fromhex(
    "488b01483b41080f83e7000000f6858a000000017565448b9db00000004181e3108000004181f310"
    "80000049c1e32c4931f3440fb7ce89d24d89ca49c1e2054c0351384d391a75224d8b42084931d04c"
    "0b4118750f458b421c4c01c04889014c895120c341395208741841ffc14181e1ffff000041837a08"
    "0075bd48896950ff61404d8b5a104d85db74354939f3740b4c3b5918742e4531dbeb254c3b591875"
    "1f4989c0488b410848ffc84c29c031d2458b4a1849f7f1490fafc14c01c0eb044c895918458b421c"
    "4c01c04889014c89512041f7420c0100000074174883792800741048c741300100000048c7410800"
    "000000c34883791000750f4883793000750b48c7411001000000ff614848c7411002000000ffa1a0"
    "0000000f1f4400004883791000751348c741100600000048c7410800000000ff6148c30f1f440000"
    "31c04839f073254c8b074c8b4f08488b4f10498b54c8f8493b54c9f8750e48ffc975ef4883c71848"
    "ffc0ebd6c3"
)
#: Where the hook of exiting instructions begins in it.
SITE_OFFSET = 0x120
#: Where the comparison of code begins.
COMPARE_OFFSET = 0x140

#: fastpath.S, assembled: the hook of RDMSR and WRMSR, then the callbacks of device memory.
FASTPATH_CODE = bytes.fromhex(
    "4c8b1149837a10000f85e9000000488b41084885c00f84dd000000493b42200f85d300000049837a"
    "58000f85c80000004d8b4a5041f681b0000000030f85b6000000418b41083de006000074114189c3"
    "41c1eb084183fb080f859a000000492bb1d80000004989b290000000480371184989b29800000049"
    "8b32482b7110448b592089c231c94531c04183fb007415458b411049c1e020418b014909c04489df"
    "41ff627053415441554156564c89d34d89cc4989fd4489df41ff52705e48837b1000752c89c24989"
    "142448c1e820498944241048ffc64889334c89efbe29000000488d939800000050ff938800000058"
    "415e415d415c5bc341ff62780f1f40004d89c24989c8bf03000000eb0e0f1f004989ca4531c0bf02"
    "00000049c742180000000049837a10000f851c01000049837a58000f85c30000004d8b4a604d85c9"
    "0f84fa0000004d8b094d89cb49c1eb084d31cb4181e3ff00000049c1e3074d035a684d390b0f85d5"
    "000000498b4308493b42200f85c7000000413953280f85bd0000004d8b4a50498b4338498b04c149"
    "0faf4340498b4b48498b0cc9490faf4b504801c8490343304831f0a9ff0f00000f858a000000498b"
    "4318492b81d8000000498b4b204801c141f781b000000000800000750489c089c949898290000000"
    "49898a9800000089d1ba000000c04801f2498b32492b731041ff6270498b82b8000000493b82b000"
    "000073344989c349c1e3064d039aa800000041393b752149397308751b4139531075154d39431875"
    "0f48ffc0498982b8000000498b4320c34c89c141ffa28000000031c0c3"
)
WRITE_OFFSET, READ_OFFSET = 0x100, 0x110
#: Where it is put behind the other.
FASTPATH_START = 0x400

#: stores.S, assembled.
STORES_CODE = bytes.fromhex(
    "5331c04885f60f84830000004c8b074c8b4f0849c1e80649ffc04c01c04b8d1c4048c1eb02498339"
    "ff744548ffcb4d8b51084589d34181e3ff0f00004181fb00040000752b4d8b591849c1eb0c4939cb"
    "731e4c0fa31a72184981f2000400004d89510849bb00000000010000004c01d84983c14049ffc875"
    "ac4885db7905480fbae83f4883c71048ffcee974ffffff5bc3"
)
#: Where it is put behind the others.
STORES_START = 0x800

#: What the size of code adds to an address in a block's key: bits in which addresses do not differ.
_MODE = {64: 0, 32: 0x8000 << 44, 16: 0x8010 << 44}

_ROWS = 1 << 16  # of the table; a power of two
_FULL = _ROWS // 2  # blocks it holds before it is cleared
_GONE = 0xFFFF_FFFF  # the size in a row whose block was taken out


def key(address: int, bits: int) -> int:
    """What tells a block from others: its linear address in code of 16, 32 or 64 bits."""
    return address ^ _MODE[bits]


def native_counting() -> bool:
    """Whether the machine code runs here: x86-64 Linux that lets a process make memory executable."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or sys.maxsize < 1 << 32:
        return False
    try:
        MachineCode().close()
    except OSError:
        return False
    return True


class MachineCode:
    """The machine code in executable memory of its own.

    Attributes:
        address: of its first byte, the hook of blocks.
        fastpath: of the hook of RDMSR and WRMSR.
        compare: (rows, their number) -> how many of them, from the first on, are the same as their copies.
        open_stores: (TLBs, their number, bits of pages, number of pages) -> entries looked at and changed.

    Raises:
        OSError: this process may not have such memory.
    """

    def __init__(self) -> None:
        allowed = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        self._memory = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE, allowed)
        self._memory.write(BLOCKS_CODE)
        self._memory.seek(FASTPATH_START)
        self._memory.write(FASTPATH_CODE)
        self._memory.seek(STORES_START)
        self._memory.write(STORES_CODE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self.fastpath = self.address + FASTPATH_START
        compare = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64)
        self.compare: Callable[[int, int], int] = compare(self.address + COMPARE_OFFSET)
        open_stores = ctypes.CFUNCTYPE(ctypes.c_uint64, *(ctypes.c_uint64,) * 4)
        self.open_stores: Callable[[int, int, int, int], int] = open_stores(self.address + STORES_START)

    def close(self) -> None:
        """Free the memory; nothing may run it any more."""
        self._memory.close()


class Table:
    """The known blocks as rows for the machine code: a hash table with linear probing, half empty.

    A block keeps its row until it is taken out. Then the row is passed over until another block takes it, or
    is empty at once if nothing is looked for behind it: code that changes itself, and is translated anew
    again and again, leaves nothing behind.
    """

    def __init__(self) -> None:
        self._array = (ctypes.c_uint64 * (4 * _ROWS))()
        self._rows = memoryview(self._array).cast("B").cast("Q")
        self._used: set[int] = set()  # rows that are not empty, by their first field
        self.address = ctypes.addressof(self._array)

    def insert(self, block: Block) -> int | None:
        """Add a block that is not there; its row's address, or None where the table is full."""
        if len(self._used) >= _FULL:
            return None
        name = key(block.address, block.bits)
        index = name
        while (self._rows[(row := (index & _ROWS - 1) * 4) + 1] & 0xFFFF_FFFF) not in (0, _GONE):
            index += 1
        self._rows[row] = name
        self._rows[row + 1] = block.size | self._kind(block) << 32
        self._rows[row + 2] = block.head
        self._rows[row + 3] = block.lap | block.count << 32
        self._used.add(row)
        return self.address + row * 8

    @staticmethod
    def _kind(block: Block) -> int:
        """0 for a block that is charged and nothing more; bit 0: it may open the interrupt window."""
        return block.flags & WINDOW_FLAG | (2 if block.head else 0)

    def remove(self, name: int, size: int) -> int | None:
        """Take a block out by its key.

        Returns:
            The address its row had, which another block may get; None if the block is not there.
        """
        index = name
        while found := self._rows[(row := (index & _ROWS - 1) * 4) + 1] & 0xFFFF_FFFF:
            if found == size and self._rows[row] == name:
                self._rows[row + 1] = _GONE
                self._empty_up_to(row)
                return self.address + row * 8
            index += 1
        return None

    def _empty_up_to(self, row: int) -> None:
        """Empty the rows up to one that were taken out and that nothing is looked for behind."""
        if self._rows[(row + 4) % (4 * _ROWS) + 1] & 0xFFFF_FFFF:
            return
        while self._rows[row + 1] & 0xFFFF_FFFF == _GONE:
            self._rows[row] = self._rows[row + 1] = 0
            self._used.discard(row)
            row = (row - 4) % (4 * _ROWS)

    def clear(self) -> None:
        """Take every block out."""
        for row in self._used:
            self._rows[row] = self._rows[row + 1] = 0
        self._used.clear()
