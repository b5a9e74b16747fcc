# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest-virtual memory as the CPU itself sees it when it delivers an interrupt or moves a string to a port.

Follows SDM vol. 3A chapter "Paging" over guest RAM: no paging, 32-bit paging with pages of 4 MiB (PSE), PAE
and 4-level paging, with reserved bits, CR0.WP, user and supervisor accesses, accessed and dirty flags.
Physical memory beyond RAM reads as all ones and ignores writes.

Left out: 5-level paging, SMAP and protection keys, memory types, instruction fetches (the CPU's own).
"""

from __future__ import annotations

import struct
from mmap import mmap
from typing import NamedTuple

PRESENT = 1 << 0
WRITABLE = 1 << 1
USER = 1 << 2
ACCESSED = 1 << 5
DIRTY = 1 << 6
LARGE = 1 << 7
NO_EXECUTE = 1 << 63

PAGE = 4096
CR0_WP, CR0_PG = 1 << 16, 1 << 31
CR4_PSE, CR4_PAE = 1 << 4, 1 << 5
EFER_LMA, EFER_NXE = 1 << 10, 1 << 11

PHYSICAL_BITS = 40
_ADDRESS = (1 << 52) - PAGE
_BEYOND = _ADDRESS & ~((1 << PHYSICAL_BITS) - 1)
#: Error-code bits of #PF.
_PF_PRESENT, _PF_WRITE, _PF_USER, _PF_RESERVED = 1, 2, 4, 8


class PageFault(Exception):
    """#PF of an access to data.

    Attributes:
        address: what goes into CR2.
        error_code: as pushed.
    """

    def __init__(self, address: int, error_code: int) -> None:
        super().__init__(f"#PF at {address:#x}, error code {error_code:#x}")
        self.address = address
        self.error_code = error_code


def is_canonical(address: int) -> bool:
    """Whether bits 63 to 47 of a 64-bit address are all the same."""
    return address >> 47 in (0, 0x1_FFFF)


class _Level(NamedTuple):
    """One level of tables: the address bits that choose an entry, and the entries' form."""

    shift: int
    mask: int  # of those bits
    entry: struct.Struct
    large: bool  # an entry may be a page
    reserved: int  # in an entry that is a table
    reserved_large: int  # in an entry that is a page


def _level(shift: int, large: bool = False, reserved: int = 0) -> _Level:
    inside = (1 << shift) - 1 & ~0x1FFF  # below the address of a page, above its PAT flag
    return _Level(shift, 0x1FF, struct.Struct("<Q"), large, _BEYOND | reserved, _BEYOND | inside)


_BOTTOM = (_level(21, large=True), _level(12))
_LONG = (_level(39, reserved=LARGE), _level(30, large=True), *_BOTTOM)
# The entries of PAE's four pointers have no rights.
_PAE_POINTERS = _Level(30, 3, struct.Struct("<Q"), False, _BEYOND | 0x1E6 | NO_EXECUTE, 0)
_PAE = (_PAE_POINTERS, *_BOTTOM)
_U32 = struct.Struct("<I")
_LEGACY_PAGE = _Level(12, 0x3FF, _U32, False, 0, 0)
_LEGACY = (_Level(22, 0x3FF, _U32, False, 0, 0), _LEGACY_PAGE)
_PSE = (_Level(22, 0x3FF, _U32, True, 0, 1 << 21), _LEGACY_PAGE)


class Paging:
    """Guest memory through one set of page tables.

    Keeps translations as a TLB does: what the guest changes counts after INVLPG or a write to a control
    register (:meth:`flush`), or once the registers are seen to be others.

    Attributes:
        kernel_reads, kernel_writes: virtual page -> physical page, of what has been translated.
    """

    def __init__(self, ram: mmap) -> None:
        self._ram = ram
        self._size = len(ram)
        self._registers = (0, 0, 0, 0)
        self._levels: tuple[_Level, ...] = ()
        self._table = 0
        self._reserved = 0
        self._write_protect = False
        # Virtual page -> physical page; for reads and writes, each of the kernel and of user code.
        self._pages: tuple[dict[int, int], ...] = ({}, {}, {}, {})
        self.kernel_reads, self.kernel_writes = self._pages[:2]

    def use(self, cr0: int, cr3: int, cr4: int, efer: int) -> None:
        """Translate as these registers say from now on."""
        registers = cr0, cr3, cr4, efer
        if registers == self._registers:
            return
        self._registers = registers
        self.flush()
        self._write_protect = bool(cr0 & CR0_WP)
        self._reserved = 0 if efer & EFER_NXE else NO_EXECUTE
        if not cr0 & CR0_PG:
            self._levels = ()
        elif efer & EFER_LMA:
            self._levels, self._table = _LONG, cr3 & _ADDRESS
        elif cr4 & CR4_PAE:
            self._levels, self._table = _PAE, cr3 & 0xFFFF_FFE0
        else:
            self._levels, self._table = _PSE if cr4 & CR4_PSE else _LEGACY, cr3 & 0xFFFF_F000
            self._reserved = 0

    def flush(self) -> None:
        """Forget what has been translated."""
        for pages in self._pages:
            pages.clear()

    def translate(self, address: int, write: bool = False, user: bool = False) -> int:
        """Physical address of a virtual one, with accessed and dirty flags set on the way.

        Args:
            address: canonical in 4-level paging; else it has 32 bits.
            user: the access has the rights of user code.

        Raises:
            PageFault: the access is not allowed.
        """
        pages = self._pages[user * 2 + write]
        page = pages.get(address >> 12)
        if page is None:
            page = pages[address >> 12] = self._walk(address, write, user) & -PAGE
        return page | address & PAGE - 1

    def _walk(self, address: int, write: bool, user: bool) -> int:
        if not self._levels:
            return address & 0xFFFF_FFFF
        kind = (_PF_WRITE if write else 0) | (_PF_USER if user else 0)
        table = self._table
        rights = WRITABLE | USER
        for level in self._levels:
            at = table + (address >> level.shift & level.mask) * level.entry.size
            if at + level.entry.size > self._size:
                raise PageFault(address, _PF_PRESENT | _PF_RESERVED | kind)
            (entry,) = level.entry.unpack_from(self._ram, at)
            if not entry & PRESENT:
                raise PageFault(address, kind)
            last = level.shift == 12 or (level.large and entry & LARGE)
            reserved = level.reserved_large if last and level.shift > 12 else level.reserved
            if entry & (reserved | self._reserved):
                raise PageFault(address, _PF_PRESENT | _PF_RESERVED | kind)
            if level is _PAE_POINTERS:
                table = entry & _ADDRESS
                continue
            rights &= entry
            if last:
                refused = user and not rights & USER
                if write and not rights & WRITABLE:
                    refused = refused or user or self._write_protect
                if refused:
                    raise PageFault(address, _PF_PRESENT | kind)
            flags = ACCESSED | DIRTY if last and write else ACCESSED
            if entry & flags != flags:
                level.entry.pack_into(self._ram, at, entry | flags)
            if last:
                inside = (1 << level.shift) - 1
                page = entry & _ADDRESS & ~inside
                if level.shift == 22:  # PSE-36: bits 39 to 32 of the page stand in bits 20 to 13
                    page = page & 0xFFFF_FFFF | (entry & 0x1FE000) << 19
                return int(page) | address & inside
            table = entry & _ADDRESS
        raise AssertionError("the last level is a page")

    def read(self, address: int, size: int, user: bool = False) -> bytes:
        """Read a few bytes; at most two pages."""
        physical = self.translate(address, user=user) if user else self._find(address)
        first = PAGE - (address & PAGE - 1)
        if size <= first and physical + size <= self._size:
            return self._ram[physical : physical + size]
        first = min(size, first)
        data = self._read_physical(physical, first)
        if first < size:
            data += self._read_physical(self.translate(address + first, user=user), size - first)
        return data

    def _find(self, address: int) -> int:
        """`translate` for the commonest access."""
        page = self.kernel_reads.get(address >> 12)
        return self.translate(address) if page is None else page | address & PAGE - 1

    def write(self, address: int, data: bytes, user: bool = False) -> None:
        """Write a few bytes, all of them or, on a fault, none; at most two pages."""
        physical = self.translate(address, True, user)
        first = PAGE - address % PAGE
        if len(data) <= first and physical + len(data) <= self._size:
            self._ram[physical : physical + len(data)] = data
            return
        if len(data) > first:
            self._write_physical(self.translate(address + first, True, user), data[first:])
        self._write_physical(physical, data[:first])

    def _read_physical(self, address: int, size: int) -> bytes:
        if address + size <= self._size:
            return self._ram[address : address + size]
        return b"\xff" * size

    def _write_physical(self, address: int, data: bytes) -> None:
        if address + len(data) <= self._size:
            self._ram[address : address + len(data)] = data
