# SPDX-License-Identifier: GPL-2.0-or-later
"""What 64-bit code needs to start: page tables that map memory onto itself, and a flat GDT.

Follows SDM vol. 3A "4-Level Paging and 5-Level Paging" and "Segment Descriptors". Both lie in the first MiB.
"""

from __future__ import annotations

import mmap
import struct

CODE_SELECTOR, DATA_SELECTOR = 0x08, 0x10
_CODE_DESCRIPTOR = 0x00AF_9B00_0000_FFFF
_DATA_DESCRIPTOR = 0x00CF_9300_0000_FFFF

PML4, _PDPT, _DIRECTORIES, GDT = 0x1000, 0x2000, 0x3000, 0x7000
GDT_BYTES = 3 * 8
#: All of it.
START, END = PML4, GDT + GDT_BYTES

_GIB_MAPPED = 4
_PAGE = 2 << 20
_TABLE_FLAGS = 0x3  # present, writable
_PAGE_FLAGS = 0x83  # and a page of 2 MiB


def build(memory: mmap.mmap) -> None:
    """Write the tables for the first 4 GiB in pages of 2 MiB, and the GDT."""
    struct.pack_into("<Q", memory, PML4, _PDPT | _TABLE_FLAGS)
    for gib in range(_GIB_MAPPED):
        struct.pack_into("<Q", memory, _PDPT + 8 * gib, _DIRECTORIES + 0x1000 * gib | _TABLE_FLAGS)
    pages = (page * _PAGE | _PAGE_FLAGS for page in range(_GIB_MAPPED * 512))
    struct.pack_into(f"<{_GIB_MAPPED * 512}Q", memory, _DIRECTORIES, *pages)
    struct.pack_into("<3Q", memory, GDT, 0, _CODE_DESCRIPTOR, _DATA_DESCRIPTOR)
