"""Counting what a guest retires, block by block, and stopping it on time.

Unicorn calls a hook before each block of instructions it runs. The hook charges the whole block to a
counter and stops the CPU before a block that begins at or past a limit. Nothing else is exact: Unicorn's
own count forces an instruction at a time, at a tenth of the speed. Where a block is left half-way, the
engine takes back what was not run (:meth:`Block.left_at`).

The rules stand here twice: in Python (:meth:`Blocks.on_block`), and as machine code for x86-64 Linux
(`blocks.S`), which finds the blocks it has met in a table and asks Python about the others. Both give the
same counts and the same stops.

A loop that only waits (:func:`~vlapic.machine.unicorn.decode.waiting_loop`) is not run lap after lap:
when its second lap begins, the counter jumps over all the laps that would end below the limit, and the
last one is run.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
from collections.abc import Callable
from typing import Any

from unicorn import unicorn_const as uc

from vlapic.machine.unicorn.binding import (
    EMU_STOP_ADDRESS,
    BlockCallback,
    Cpu,
    GeneratedCallback,
)
from vlapic.machine.unicorn.decode import REMAP_FLAG, WINDOW_FLAG, Block, Site, decode

# The counter: 64-bit fields, by index. blocks.S has the same in bytes.
COUNT = 0  # instructions charged since the CPU was made
LIMIT = 1  # stop before a block that begins at this count or a higher one; 0 once a stop was asked for
STOPPED = 2  # why a stop was asked for in this run; NOT_STOPPED: nobody has
SPIN = 3  # head of the waiting loop whose lap is being run, 0: none
ROW = 4  # the table's row of the block charged last; 0: Python charged it
WINDOW = 5  # not 0: stop behind a block that may have opened the interrupt window
OPENED = 6  # not 0: the block charged last is one
_TABLE, _UNKNOWN, _EMU_STOP = 7, 8, 9  # for the machine code alone
_FIELDS = 10

# Values of STOPPED. Up to AT_NEW_SITES the CPU stands between two blocks.
NOT_STOPPED, AT_LIMIT, AT_WINDOW, AT_NEW_SITES, AT_SITE, AT_MEMORY, AT_EXCEPTION = range(7)

#: blocks.S, assembled.
MACHINE_CODE = bytes.fromhex(
    "488b01483b41080f83bf0000004989f149c1e90c4931f14181e1ffff00004d89ca49c1e2054c0351"
    "38493932751f413952087519458b421c4c0b4118751c458b420c4c01c04889014c895120c341ffc1"
    "41837a080075c0ff61404d8b5a104d85db74354939f3740b4c3b5918742e4531dbeb254c3b591875"
    "1f4989c0488b410848ffc84c29c031d2458b4a1849f7f1490fafc14c01c0eb044c895918458b420c"
    "4c01c04889014c89512041f7421c0100000074174883792800741048c741300100000048c7410800"
    "000000c34883791000751a48c74110010000004883793000740848c7411002000000ff6148c36690"
    "4883791000751348c741100400000048c7410800000000ff6148c3"
)
#: Where the hook of exiting instructions begins in it.
SITE_OFFSET = 0xF0

_ROWS = 1 << 16  # of the table; a power of two
_FULL = _ROWS // 2  # blocks it holds before it is cleared
_GONE = 0xFFFF_FFFF  # the size of a row that was taken out


def native_counting() -> bool:
    """Whether the machine code runs here: x86-64 Linux that lets a process make memory executable."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or sys.maxsize < 1 << 32:
        return False
    try:
        _executable(MACHINE_CODE).close()
    except OSError:
        return False
    return True


def _executable(code: bytes) -> mmap.mmap:
    memory = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    return memory


class Blocks:
    """The blocks of one CPU's guest: counts them, stops at limits and at exiting instructions.

    Attributes:
        counter: the fields above; the engine reads and writes them between runs.
        sites: the exiting instructions known so far, by address; the CPU stops at each, before it runs.
    """

    def __init__(
        self,
        cpu: Cpu,
        read_code: Callable[[int, int], bytes],
        code_bits: Callable[[], int],
        remapped: Callable[[], None],
        native: bool,
        fast_spin: bool,
    ) -> None:
        """Hook a CPU.

        Args:
            read_code: guest bytes at (virtual address, size); fewer where memory ends.
            code_bits: the size of code the CPU is in: 16, 32 or 64.
            remapped: called before a block runs that may change the paging.
            native: count by machine code; else in Python.
            fast_spin: jump over the laps of loops that only wait.
        """
        self.sites: dict[int, Site] = {}
        self._cpu = cpu
        self._read_code = read_code
        self._code_bits = code_bits
        self._remapped = remapped
        self._fast_spin = fast_spin
        self._known: dict[tuple[int, int], Block] = {}  # their bytes are in memory as they were
        self._met: dict[tuple[int, int], Block] = {}  # as last decoded, perhaps changed since
        self._site_hooks: dict[int, int] = {}
        self._new_site_block: Block | None = None
        self._last: Block | None = None  # the block charged last, if Python charged it
        self._rows: dict[int, Block] = {}  # the table's rows, by address
        self._fields = (ctypes.c_uint64 * _FIELDS)()
        self.counter = memoryview(self._fields).cast("B").cast("Q")
        self._python_hook = BlockCallback(self.on_block)
        self._site_hook: Any = BlockCallback(self._on_site)
        self._table: _Table | None = None
        self._code: mmap.mmap | None = None
        block_hook: Any = self._python_hook
        if native:
            self._code = _executable(MACHINE_CODE)
            block_hook = ctypes.addressof(ctypes.c_char.from_buffer(self._code))
            self._site_hook = block_hook + SITE_OFFSET
            self._table = _Table()
            self.counter[_TABLE] = self._table.address
            self.counter[_UNKNOWN] = ctypes.cast(self._python_hook, ctypes.c_void_p).value or 0
            self.counter[_EMU_STOP] = EMU_STOP_ADDRESS or 0
        cpu.hook(uc.UC_HOOK_BLOCK, block_hook, data=ctypes.addressof(self._fields))
        self._generated_hook = GeneratedCallback(self._on_generated)
        cpu.hook(uc.UC_HOOK_EDGE_GENERATED, self._generated_hook)

    def close(self) -> None:
        """Free the machine code, after the CPU that runs it."""
        if self._code is not None:
            self._code.close()
            self._code = None

    def start(self, limit: int) -> None:
        """A run is about to begin, from wherever: stop it at `limit` instructions."""
        counter = self.counter
        counter[LIMIT] = limit
        counter[STOPPED] = NOT_STOPPED
        counter[SPIN] = counter[ROW] = counter[OPENED] = 0
        self._last = None

    # -- in a run, and after it --

    @property
    def last(self) -> Block | None:
        """The block charged last in this run."""
        row = self.counter[ROW]
        return self._rows[row] if row else self._last

    def count_at(self, rip: int) -> int:
        """Instructions retired if the block charged last has been run up to `rip`."""
        last = self.last
        count: int = self.counter[COUNT]
        return count - last.left_at(rip) if last else count

    def stop(self, why: int) -> None:
        """Ask for a stop, unless somebody has: no block will begin."""
        if not self.counter[STOPPED]:
            self.counter[STOPPED] = why
            self.counter[LIMIT] = 0
        self._cpu.stop()

    def on_block(self, _cpu: int, address: int, size: int, _data: int) -> None:
        """The BLOCK hook's rules, all of them; machine code comes here with a block it does not know."""
        counter = self.counter
        count = counter[COUNT]
        if count >= counter[LIMIT]:
            self.stop(AT_WINDOW if counter[OPENED] else AT_LIMIT)
            return
        block = self._known.get((address, size)) or self._meet(address, size)
        if block is None:
            self.stop(AT_NEW_SITES)
            return
        if block.head != address or not address:
            if block.head != counter[SPIN]:
                counter[SPIN] = 0
        elif counter[SPIN] == address:
            count += (counter[LIMIT] - 1 - count) // block.lap * block.lap
        else:
            counter[SPIN] = address
        counter[COUNT] = count + block.count
        counter[ROW] = 0
        self._last = block
        if block.flags & WINDOW_FLAG and counter[WINDOW]:
            counter[OPENED] = 1
            counter[LIMIT] = 0

    def _meet(self, address: int, size: int) -> Block | None:
        """Look at a block that is new, or may have changed; None: it has sites to hook first."""
        bits = self._code_bits()
        code = self._read_code(address, size)
        block = self._met.get((address, size))
        if block is None or block.code != code:
            block = decode(code, address, size, bits, self._read_code)
            if not self._fast_spin:
                block = block.without_loop()
            self._met[address, size] = block
        if any(self.sites.get(site.address) != site for site in block.sites) or self._stale(block):
            self._new_site_block = block
            return None
        if block.flags & REMAP_FLAG:
            self._remapped()
            self._forget()  # and look at this one again each time, to come here
        else:
            self._known[address, size] = block
            if self._table is not None:
                row = self._table.insert(block)
                if row is None:
                    self._forget()
                else:
                    self._rows[row] = block
        return block

    def _stale(self, block: Block) -> list[int]:
        """Addresses where an exiting instruction stood and another stands now."""
        here = {site.address for site in block.sites}
        return [start for start in block.starts if start in self.sites and start not in here]

    def _on_generated(self, _cpu: int, block: int, _before: int, _data: int) -> None:
        """Unicorn has translated a block: its code is new to it, so the old one of this place is no more."""
        address = ctypes.c_uint64.from_address(block).value
        size = ctypes.c_uint16.from_address(block + 10).value
        if self._known.pop((address, size), None) is not None and self._table is not None:
            self._table.remove(address, size)

    def _on_site(self, _cpu: int, _address: int, _size: int, _data: int) -> None:
        self.stop(AT_SITE)

    # -- between runs --

    def hook_new_sites(self) -> None:
        """After a stop AT_NEW_SITES: make the CPU stop at the block's exiting instructions."""
        block, self._new_site_block = self._new_site_block, None
        assert block is not None
        data = ctypes.addressof(self._fields)
        for address in self._stale(block):
            del self.sites[address]
            self._cpu.unhook(self._site_hooks.pop(address))
        for site in block.sites:
            self.sites[site.address] = site
            if site.address not in self._site_hooks:
                self._site_hooks[site.address] = self._cpu.hook(
                    uc.UC_HOOK_CODE, self._site_hook, site.address, site.address, data
                )
        self._cpu.forget_code(block.address, block.size)

    def _forget(self) -> None:
        self._known.clear()
        self._rows.clear()
        if self._table is not None:
            self._table.clear()


class _Table:
    """The known blocks as rows for the machine code: a hash table with linear probing, half empty."""

    def __init__(self) -> None:
        self._array = (ctypes.c_uint64 * (4 * _ROWS))()
        self._rows = memoryview(self._array).cast("B").cast("Q")
        self._used: list[int] = []
        self.address = ctypes.addressof(self._array)

    def insert(self, block: Block) -> int | None:
        """Add a block that is not there; its row's address, or None where the table is full."""
        if len(self._used) >= _FULL:
            return None
        index = block.address ^ block.address >> 12
        while self._rows[(row := (index & _ROWS - 1) * 4) + 1] & 0xFFFF_FFFF:
            index += 1
        self._rows[row] = block.address
        self._rows[row + 1] = block.size | block.count << 32
        self._rows[row + 2] = block.head
        self._rows[row + 3] = block.lap | self._kind(block) << 32
        self._used.append(row)
        return self.address + row * 8

    @staticmethod
    def _kind(block: Block) -> int:
        """0 for a block that is charged and nothing more; bit 0: it may open the interrupt window."""
        return block.flags & WINDOW_FLAG | (2 if block.head else 0)

    def remove(self, address: int, size: int) -> None:
        """Take a block out; its row is passed over until the table is cleared."""
        index = address ^ address >> 12
        while found := self._rows[(row := (index & _ROWS - 1) * 4) + 1] & 0xFFFF_FFFF:
            if found == size and self._rows[row] == address:
                self._rows[row + 1] = _GONE
                return
            index += 1

    def clear(self) -> None:
        """Take every block out."""
        for row in self._used:
            self._rows[row] = self._rows[row + 1] = 0
        self._used.clear()
