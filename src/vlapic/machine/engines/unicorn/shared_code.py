# SPDX-License-Identifier: GPL-2.0-or-later
"""Code that another CPU has overwritten must not run as it was translated.

Each CPU of a guest has its own Unicorn over the same memory, and Unicorn notices only its own stores. So a
CPU keeps a copy of the words of memory that it has translated code from, and compares before it runs after
another one has: 3 ns a block. Where a word differs it forgets everything translated. A CPU that has its
memory for itself does nothing of this.

Left out: stores between two looks, so within one slice of another CPU, are seen at the slice's end: as on
hardware, whose cross-modifying code needs a serializing instruction or an interrupt on the other CPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from mmap import mmap
from weakref import WeakKeyDictionary

from vlapic.machine.engines.unicorn.machine_code import MachineCode

_WORD = 8
_PAGE = 4096
_ROW_WORDS = 3
_FIRST_ROWS = 1024


class Sharers:
    """The CPUs over one memory.

    Attributes:
        count: how many there have been.
        last: the one that has run last.
    """

    def __init__(self) -> None:
        self.count = 0
        self.last: int | None = None


_all_sharers: WeakKeyDictionary[mmap, Sharers] = WeakKeyDictionary()


class SharedCode:
    """What one CPU has translated of a memory that it may share.

    Attributes:
        sharers, number: all of the memory's CPUs, and which of them this is.
        tracked: there are other CPUs, so translated code is to be told (:meth:`add`).
    """

    def __init__(self, memory: mmap, address: int, machine_code: MachineCode | None) -> None:
        """Join the CPUs of a memory.

        Args:
            address: the memory's on the host.
            machine_code: to compare with; None: compare in Python.
        """
        self.sharers = _all_sharers.setdefault(memory, Sharers())
        self.sharers.count += 1
        self.number = self.sharers.count
        self._address, self._size = address, len(memory)
        self._compare: Callable[[int, int], int] | None = machine_code.compare if machine_code else None
        self.tracked = False
        self.forget()

    def forget(self) -> None:
        """Nothing is translated any more."""
        self._seen: dict[int, int] = {}  # page -> bit map of its words
        self._kept: list[tuple[int, bytes]] = []  # address on the host, what stood there
        self._rows = (ctypes.c_uint64 * (_ROW_WORDS * _FIRST_ROWS))()

    def add(self, physical: int, size: int) -> None:
        """Code at a physical address has been translated; all in one page."""
        if physical + size > self._size:
            return
        first, last = physical // _WORD, (physical + size - 1) // _WORD
        words = (1 << last - first + 1) - 1 << first % (_PAGE // _WORD)
        page = physical // _PAGE
        seen = self._seen.get(page, 0)
        if seen & words == words:
            return
        self._seen[page] = seen | words
        at = self._address + first * _WORD
        copy = ctypes.string_at(at, (last - first + 1) * _WORD)
        count = len(self._kept)
        if (count + 1) * _ROW_WORDS > len(self._rows):
            rows = (ctypes.c_uint64 * (2 * len(self._rows)))()
            ctypes.memmove(rows, self._rows, ctypes.sizeof(self._rows))
            self._rows = rows
        self._kept.append((at, copy))
        place = ctypes.cast(ctypes.c_char_p(copy), ctypes.c_void_p).value or 0
        self._rows[count * _ROW_WORDS : (count + 1) * _ROW_WORDS] = [at, place, last - first + 1]

    def others_wrote(self) -> bool:
        """This CPU is about to run: whether what it has translated is to be forgotten first."""
        sharers = self.sharers
        if sharers.last == self.number:
            return False
        sharers.last = self.number
        if sharers.count == 1:
            return False
        if not self.tracked:
            self.tracked = True
            return True
        if self._compare is not None:
            same = self._compare(ctypes.addressof(self._rows), len(self._kept)) == len(self._kept)
        else:
            same = all(ctypes.string_at(at, len(copy)) == copy for at, copy in self._kept)
        return not same
