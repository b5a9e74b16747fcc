# SPDX-License-Identifier: GPL-2.0-or-later
"""How large the pages of a buffer are, where what the file says of that contradicts its pages.

A file says it twice: as a number (version 6 in its head, version 7 with each buffer), and in the kernel's
description of a page. An instance's sub-buffers may be larger than those of the top buffer, which the
description is of, so where the two differ the pages themselves are looked at.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from vlapic.trace.compression import Decompressor
from vlapic.trace.dat.container import Buffer, Damage
from vlapic.trace.dat.cursor import Cursor, EndOfData
from vlapic.trace.dat.pages import PageLayout, find_records

#: No page is larger: the kernel's order of a sub-buffer is at most that of its page allocator.
LARGEST = 1 << 22
#: So many pages are looked at.
_PAGES = 8


def with_page_size(
    file: memoryview, buffer: Buffer, layout: PageLayout, unpack: Decompressor, damage: list[Damage]
) -> Buffer:
    """The buffer with pages of the size that it has, without CPUs where that cannot be known.

    Args:
        damage: learns of a size that is wrong.
    """
    stated, described = buffer.page_size, layout.page_size
    if buffer.text or not buffer.cpus or stated == described:
        return buffer
    first = buffer.cpus[0]
    if _possible(stated, layout):
        if not _possible(described, layout) or _fit(file, buffer, stated, layout, unpack):
            return buffer
        if not _fit(file, buffer, described, layout, unpack):
            return buffer
    damage.append(Damage(f"the size of its pages, {stated} bytes,", first.offset, first.cpu))
    if _possible(described, layout):
        return replace(buffer, page_size=described)
    damage += [Damage("pages of unknown size", data.offset, data.cpu, data.size) for data in buffer.cpus]
    return replace(buffer, cpus=())


def _possible(page_size: int, layout: PageLayout) -> bool:
    """A page is a power of two, and has room for a record."""
    return page_size.bit_count() == 1 and layout.data_offset + 8 <= page_size <= LARGEST


def _fit(file: memoryview, buffer: Buffer, page_size: int, layout: PageLayout, unpack: Decompressor) -> bool:
    """Whether a CPU's first pages make sense if they are of this size."""
    pages = _first_bytes(file, buffer, page_size * _PAGES, layout.order, unpack)
    number = len(pages) // page_size
    if not number or (len(pages) < page_size * _PAGES and len(pages) % page_size):
        return False
    found = find_records(pages[: number * page_size].reshape(number, page_size), layout)
    return bool((found.damaged < 0).all())


def _first_bytes(
    file: memoryview, buffer: Buffer, most: int, order: str, unpack: Decompressor
) -> npt.NDArray[np.uint8]:
    data = buffer.cpus[0]
    cursor = Cursor(file, order, data.offset, data.offset + data.size)
    if not buffer.compressed:
        return np.frombuffer(cursor.block(min(most, cursor.left)), "u1").copy()
    try:
        cursor.u32()
        packed, size = cursor.u32(), cursor.u32()
        return np.frombuffer(unpack(cursor.block(min(packed, cursor.left)), size).data[:most], "u1")
    except EndOfData:
        return np.zeros(0, "u1")
