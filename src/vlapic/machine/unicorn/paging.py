"""Guest-virtual memory as the CPU itself sees it while it delivers an interrupt: 4-level paging over
guest RAM.

Follows SDM vol. 3A "4-Level Paging" for supervisor accesses to data (IDT, GDT, TSS, stack): pages of 4
KiB, 2 MiB and 1 GiB, CR0.WP, accessed and dirty flags. Physical memory beyond RAM reads as all ones and
ignores writes.

Left out: user accesses, SMAP and protection keys (implicit supervisor accesses to user pages are
allowed), other paging modes, and memory types.
"""

from __future__ import annotations

import struct
from mmap import mmap

PRESENT = 1 << 0
WRITABLE = 1 << 1
ACCESSED = 1 << 5
DIRTY = 1 << 6
LARGE = 1 << 7

PAGE = 4096
_ADDRESS = (1 << 52) - PAGE
_ENTRY = struct.Struct("<Q")
#: Error-code bits of #PF.
_PF_PRESENT, _PF_WRITE, _PF_RESERVED = 1, 2, 8


class PageFault(Exception):
    """#PF of a supervisor access.

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


class Paging:
    """Guest memory through one set of page tables.

    Keeps translations as a TLB does: what the guest changes counts after INVLPG or a write to a control
    register (:meth:`flush`), or once CR3 is seen to be another.

    Attributes:
        write_protect: CR0.WP.
    """

    def __init__(self, ram: mmap) -> None:
        self._ram = ram
        self._size = len(ram)
        self._cr3 = 0
        self._readable: dict[int, int] = {}  # virtual page -> physical page
        self._writable: dict[int, int] = {}
        self.write_protect = True

    def use(self, cr3: int, write_protect: bool = True) -> None:
        """Translate by these page tables from now on."""
        if cr3 != self._cr3 or write_protect != self.write_protect:
            self._cr3 = cr3
            self.write_protect = write_protect
            self.flush()

    def flush(self) -> None:
        """Forget what has been translated."""
        self._readable.clear()
        self._writable.clear()

    def translate(self, address: int, write: bool = False) -> int:
        """Physical address of a canonical virtual one, with accessed and dirty flags set on the way.

        Raises:
            PageFault: the access is not allowed.
        """
        pages = self._writable if write else self._readable
        page = pages.get(address >> 12)
        if page is None:
            page = pages[address >> 12] = self._walk(address, write) & -PAGE
        return page | address & PAGE - 1

    def _walk(self, address: int, write: bool) -> int:
        table = self._cr3 & _ADDRESS
        writable = True
        for shift in (39, 30, 21, 12):
            at = table + (address >> shift & 0x1FF) * 8
            if at + 8 > self._size:
                raise PageFault(address, _PF_PRESENT | _PF_RESERVED | (_PF_WRITE if write else 0))
            (entry,) = _ENTRY.unpack_from(self._ram, at)
            if not entry & PRESENT:
                raise PageFault(address, _PF_WRITE if write else 0)
            writable = writable and bool(entry & WRITABLE)
            last = shift == 12 or (entry & LARGE and shift != 39)
            if last and write and not writable and self.write_protect:
                raise PageFault(address, _PF_PRESENT | _PF_WRITE)
            flags = ACCESSED | DIRTY if last and write else ACCESSED
            if entry & flags != flags:
                _ENTRY.pack_into(self._ram, at, entry | flags)
            if last:
                offset = (1 << shift) - 1
                return int(entry) & _ADDRESS & ~offset | address & offset
            table = entry & _ADDRESS
        raise AssertionError("the last level is a page")

    def read(self, address: int, size: int) -> bytes:
        """Read a few bytes; at most two pages."""
        physical = self.translate(address)
        first = PAGE - (address & PAGE - 1)
        if size <= first and physical + size <= self._size:
            return self._ram[physical : physical + size]
        first = min(size, first)
        data = self._read_physical(physical, first)
        if first < size:
            data += self._read_physical(self.translate(address + first), size - first)
        return data

    def write(self, address: int, data: bytes) -> None:
        """Write a few bytes, all of them or, on a fault, none; at most two pages."""
        physical = self.translate(address, write=True)
        first = PAGE - address % PAGE
        if len(data) > first:
            self._write_physical(self.translate(address + first, write=True), data[first:])
        self._write_physical(physical, data[:first])

    def _read_physical(self, address: int, size: int) -> bytes:
        if address + size <= self._size:
            return self._ram[address : address + size]
        return b"\xff" * size

    def _write_physical(self, address: int, data: bytes) -> None:
        if address + len(data) <= self._size:
            self._ram[address : address + len(data)] = data
