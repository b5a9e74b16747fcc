# SPDX-License-Identifier: GPL-2.0-or-later
"""Counting what a guest retires, block by block, and stopping it on time.

Unicorn calls a hook before each block of instructions it runs. The hook charges the whole block to a
counter and stops the CPU before a block that begins at or past a limit. Nothing else is exact: Unicorn's
own count forces an instruction at a time, at a tenth of the speed. Where a block is left half-way, the
engine takes back what was not run (:meth:`Block.left_at`).

The rules stand here twice: in Python (:meth:`Blocks.on_block`), and as machine code for x86-64 Linux
(`blocks.S`, `machine_code.py`), which finds the blocks it has met in a table and asks Python about the
others. Both give the same counts and the same stops.

The same address may hold other instructions in code of another size, so what is known of a block is known
under a key of its address and that size (:func:`key`). Addresses are linear.

A loop that only waits (:func:`~vlapic.machine.engines.unicorn.decode.waiting_loop`) is not run lap after lap:
when its second lap begins, the counter jumps over all the laps that would end below the limit, and the
last one is run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from unicorn import unicorn_const as uc

from vlapic.machine.engines.unicorn.binding import (
    EMU_STOP_ADDRESS,
    BlockCallback,
    Cpu,
    GeneratedCallback,
    address_of,
)
from vlapic.machine.engines.unicorn.decode import MODE_FLAG, REMAP_FLAG, WINDOW_FLAG, Block, Site, decode
from vlapic.machine.engines.unicorn.known_sites import FASTPATH_KINDS, KnownSites
from vlapic.machine.engines.unicorn.machine_code import SITE_OFFSET, MachineCode, Table, key

# The counter: 64-bit fields, by index. blocks.S and fastpath.S have the same in bytes.
COUNT = 0  # instructions charged since the CPU was made
LIMIT = 1  # stop before a block that begins at this count or a higher one; 0 once a stop was asked for
STOPPED = 2  # why a stop was asked for in this run; NOT_STOPPED: nobody has
SPIN = 3  # head of the waiting loop whose lap is being run, 0: none
ROW = 4  # the table's row of the block charged last; 0: Python charged it
WINDOW = 5  # not 0: stop behind a block that may have opened the interrupt window, or the NMIs'
OPENED = 6  # not 0: the block charged last is one
_TABLE, _UNKNOWN, _EMU_STOP = 7, 8, 9  # for the machine code alone
STATE = 10  # where the CPU's state is in memory, once the machine code has met a block; else 0
KEPT = 11  # not 0: an instruction runs again, and what it accesses has been answered
HERE = 12  # where Unicorn keeps the place of an access in translated code, 0: not known
PLACES = 13  # the table of places (access_place.py)
ON_EXIT, _ASK_SITE, ASK_MEMORY, WRITE_REGISTER = 14, 15, 16, 17  # called by the fast path's machine code
AT_RIP, AT_NEXT = 18, 19  # of the instruction that is offered on the fast path, and of the next
ON_WINDOW = 20  # called where a window may have opened, instead of a stop
# The table of those answers (device_memory.py), how many it holds, and how many have been given in this run.
ANSWERS, ANSWERED, REPLAYED = 21, 22, 23
_FIELDS = 24

# Values of STOPPED. Up to AT_LEFT the CPU stands between two blocks.
NOT_STOPPED, AT_LIMIT, AT_WINDOW, AT_NEW_SITES, AT_RESUME = range(5)
AT_LEFT = 5  # at a window that was handled on the fast path
AT_SITE, AT_MEMORY, AT_EXCEPTION = 6, 7, 8
AT_HANDLED = 9  # at an instruction that was handled on the fast path


class Blocks:
    """The blocks of one CPU's guest: counts them, stops at limits and at exiting instructions.

    Attributes:
        counter: the fields above; the engine reads and writes them between runs.
        counter_address: where they are on the host.
        machine_code: that counts, None where Python does.
        sites: the exiting instructions known so far, by address; the CPU stops at each, before it runs.
        known_sites: those that are offered on the fast path.
        before: the block charged last before this run; the engine writes it.
        loaded_ss: this run was stopped behind a load of SS.
        behind_sti: that load was in the shadow of STI.
    """

    def __init__(
        self,
        cpu: Cpu,
        read_code: Callable[[int, int], bytes],
        code_bits: Callable[[], int],
        resumes: Callable[[], bool],
        in_shadow: Callable[[], bool],
        remapped: Callable[[], None],
        met: Callable[[int, int], None],
        translated: Callable[[int, int], None],
        on_site: Callable[[int, int, int, int], None],
        native: bool,
        fast_spin: bool,
    ) -> None:
        """Hook a CPU.

        Args:
            read_code: guest bytes at (virtual address, size); fewer where memory ends.
            code_bits: the size of code the CPU is in: 16, 32 or 64.
            resumes: whether one instruction is to run alone, because RFLAGS.RF is set until it has.
            in_shadow: whether the instruction before holds interrupts off for one more.
            remapped: called before a block runs that may change the paging.
            met: called when a block at (address, size) is looked at, before it runs.
            translated: called when Unicorn has translated the code at (address, size).
            on_site: called before an instruction of FASTPATH_KINDS that is not known in its block, with its
                address second.
            native: count by machine code; else in Python.
            fast_spin: jump over the laps of loops that only wait.
        """
        self.sites: dict[int, Site] = {}
        self._cpu = cpu
        self._read_code = read_code
        self._code_bits = code_bits
        self._resumes = resumes
        self._in_shadow = in_shadow
        self._remapped = remapped
        self._on_met = met
        self._translated = translated
        self._fast_spin = fast_spin
        # By key and size.
        self._known: dict[tuple[int, int], Block] = {}  # their bytes are in memory as they were
        self._met: dict[tuple[int, int], Block] = {}  # as last decoded, perhaps changed since
        self._bits = 0  # the size of code, 0: to be asked for
        self._site_hooks: dict[int, int] = {}
        self._new_site_block: Block | None = None
        self._last: Block | None = None  # the block charged last, if Python charged it
        self.before: Block | None = None
        self.loaded_ss = self.behind_sti = False
        self._rows: dict[int, Block] = {}  # the table's rows, by address
        self._fields = (ctypes.c_uint64 * _FIELDS)()
        self.counter = memoryview(self._fields).cast("B").cast("Q")
        self.counter_address = ctypes.addressof(self._fields)
        self.known_sites = KnownSites(self.counter_address)
        self._python_hook = BlockCallback(self.on_block)
        self._site_hook: Any = BlockCallback(self._stop_at_site)
        self._on_site = BlockCallback(on_site)
        self._table: Table | None = None
        self.machine_code: MachineCode | None = None
        block_hook: Any = self._python_hook
        if native:
            self.machine_code = MachineCode()
            block_hook = self.machine_code.address
            self._site_hook = block_hook + SITE_OFFSET
            self.counter[_ASK_SITE] = address_of(self._on_site)
            self._table = Table()
            self.counter[_TABLE] = self._table.address
            self.counter[_UNKNOWN] = address_of(self._python_hook)
            self.counter[_EMU_STOP] = self.counter[ON_WINDOW] = EMU_STOP_ADDRESS
        cpu.hook(uc.UC_HOOK_BLOCK, block_hook, data=self.counter_address)
        self._generated_hook = GeneratedCallback(self._on_generated)
        cpu.hook(uc.UC_HOOK_EDGE_GENERATED, self._generated_hook)

    def close(self) -> None:
        """Free the machine code, after the CPU that runs it."""
        if self.machine_code is not None:
            self.machine_code.close()
            self.machine_code = None

    def start(self, limit: int) -> None:
        """A run is about to begin, from wherever: stop it at `limit` instructions."""
        counter = self.counter
        self.loaded_ss = self.behind_sti = False
        counter[LIMIT] = limit
        counter[STOPPED] = NOT_STOPPED
        counter[SPIN] = counter[ROW] = counter[OPENED] = 0
        self._last = None
        self._bits = 0

    # -- in a run, and after it --

    @property
    def last(self) -> Block | None:
        """The block charged last in this run."""
        row = self.counter[ROW]
        return self._rows[row] if row else self._last

    def count_at(self, address: int) -> int:
        """Instructions retired if the block charged last has been run up to a linear address."""
        last = self.last
        count: int = self.counter[COUNT]
        return count - last.left_at(address) if last else count

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
        bits = self._bits
        if not bits or self._table is not None:  # machine code passes blocks by
            if self._resumes():
                self.stop(AT_RESUME)
                return
            bits = self._bits = self._code_bits()
        block = self._known.get((key(address, bits), size)) or self._meet(address, size, bits)
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
        if block.ends_in_ss:  # look, behind it, at its shadow
            before = self.last or self.before
            self.loaded_ss = True
            self.behind_sti = (
                block.count == 1 and before is not None and before.ends_in_sti and self._in_shadow()
            )
            counter[LIMIT] = 0
        counter[COUNT] = count + block.count
        counter[ROW] = 0
        self._last = block
        if block.flags & MODE_FLAG:
            self._bits = 0
        if block.flags & WINDOW_FLAG and counter[WINDOW]:
            counter[OPENED] = 1
            counter[LIMIT] = 0

    def _meet(self, address: int, size: int, bits: int) -> Block | None:
        """Look at a block that is new, or may have changed; None: it has sites to hook first."""
        self._on_met(address, size)
        code = self._read_code(address, size)
        name = key(address, bits), size
        block = self._met.get(name)
        if block is None or block.code != code:
            block = decode(code, address, size, bits, self._read_code)
            if not self._fast_spin:
                block = block.without_loop()
            self._met[name] = block
        if any(self.sites.get(site.address) != site for site in block.sites) or self._stale(block):
            self._new_site_block = block
            return None
        if block.flags & REMAP_FLAG:
            self._remapped()
            self.forget()  # and look at this one again each time, to come here
        else:
            self._known[name] = block
            if self._table is not None and not block.ends_in_ss:  # those are Python's
                row = self._table.insert(block)
                if row is None:
                    self.forget()
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
        place = key(address, self._code_bits())
        if self._known.pop((place, size), None) is not None and self._table is not None:
            row = self._table.remove(place, size)
            if (
                row is not None
            ):  # the block that runs may be charged to it: it stays in _rows till it is reused
                self.known_sites.forget_block(row)
        self._translated(address, size)

    def know_site(self, address: int) -> int | None:
        """Get to know an instruction in the block that runs now; one of FASTPATH_KINDS stood there once.

        Returns:
            How many instructions of the block are left from there on; None if it may not be carried out in a
            hook: it is alone in its block, which ends for a reason (a shadow, a single step), or of 16-bit
            code, or another instruction stands there now.
        """
        row, site = self.counter[ROW], self.sites[address]
        block = self._rows.get(row)
        if block is None or block.count == 1 or block.bits == 16 or site.kind not in FASTPATH_KINDS:
            return None
        left = block.left_at(address)
        self.known_sites.learn(site, row, left)
        return left

    def _stop_at_site(self, _cpu: int, _address: int, _size: int, _data: int) -> None:
        self.stop(AT_SITE)

    # -- between runs --

    def hook_new_sites(self) -> None:
        """After a stop AT_NEW_SITES: make the CPU stop at the block's exiting instructions."""
        block, self._new_site_block = self._new_site_block, None
        assert block is not None
        for address in self._stale(block):
            del self.sites[address]
            self._cpu.unhook(self._site_hooks.pop(address))
            self.forget()
        for site in block.sites:
            if self.sites.get(site.address, site) != site:
                self.forget()  # what is known of other blocks may rest on what stood here
            self.sites[site.address] = site
            if site.address not in self._site_hooks:
                self._site_hooks[site.address] = self._hook_site(site)
        self._cpu.forget_code(block.address, block.size)

    def _hook_site(self, site: Site) -> int:
        hook, data = self._site_hook, self.counter_address
        if self.machine_code is not None and site.kind in FASTPATH_KINDS:
            hook, data = self.machine_code.fastpath, self.known_sites.row_of(site)
        return self._cpu.hook(uc.UC_HOOK_CODE, hook, site.address, site.address, data)

    def forget(self) -> None:
        """Look at every block again: what addresses stand for may have changed."""
        self._known.clear()
        self._rows.clear()
        self.known_sites.forget()
        if self._table is not None:
            self._table.clear()
