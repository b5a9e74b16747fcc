# SPDX-License-Identifier: GPL-2.0-or-later
"""Where pages come from: a CPU's data in the file, plain or in compressed chunks, a few pages at a time.

Plain pages are a view of the file. Chunks are unpacked one after the other, so that no more of a large file
is in memory than is being worked on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vlapic.trace.compression import Decompressor
from vlapic.trace.dat.container import CpuData
from vlapic.trace.dat.cursor import Cursor, EndOfData
from vlapic.trace.dat.pages import PageLayout

Array = npt.NDArray[Any]

#: The bits of a page's commit that say how much is filled.
_FILLED = (1 << 27) - 1


#: See `Pages.absent`.
CUT = -2


class Pages(NamedTuple):
    """Some pages of one CPU.

    Attributes:
        data: u1 of shape (number, size).
        places: where in the file each is; of a compressed one, where its chunk is.
        absent: of a page that stands for data that cannot be used, how many bytes of the file those are;
            `CUT` of one whose end is not there, which is told elsewhere; -1 of all others.
    """

    data: Array
    places: Array
    absent: Array


def plain_pages(
    file: Array, data: CpuData, page_size: int, at_once: int, layout: PageLayout
) -> Iterator[Pages]:
    """Uncompressed pages; of a last one that the file cuts short, what there is.

    Args:
        file: the whole file, u1.
        at_once: how many pages come together.
    """
    whole = data.size // page_size
    for first in range(0, whole, at_once):
        number = min(at_once, whole - first)
        start = data.offset + first * page_size
        pages = file[start : start + number * page_size].reshape(number, page_size)
        if start % 4:
            pages = pages.copy()
        yield Pages(pages, start + np.arange(number) * page_size, np.full(number, -1))
    rest = data.size % page_size
    if rest:
        start = data.offset + whole * page_size
        yield _whole_pages(file[start : start + rest], start, page_size, layout)
        if data.stated == data.size:
            # Not the file ends here, but what it says of this CPU's data.
            yield _absent(page_size, start, rest)


def unpacked_pages(
    file: memoryview,
    data: CpuData,
    page_size: int,
    at_once: int,
    layout: PageLayout,
    unpack: Decompressor,
    *,
    cut_off: bool = False,
) -> Iterator[Pages]:
    """Pages of compressed chunks; in place of what cannot be unpacked stands a page that is absent.

    How many chunks there are, the data say, and how long they are together, the file. Where these contradict
    each other, all that either promises is looked for.

    Args:
        cut_off: the file is known to end too early, so that its end in these data is no damage of its own.
    """
    cut_off = cut_off and data.offset + data.size >= len(file)
    cursor = Cursor(file, layout.order, data.offset, data.offset + data.size)
    stated_end = data.offset + min(data.stated, data.size)
    held: list[Pages] = []
    number = 0
    try:
        count = cursor.u32()
        while number < count or cursor.at < stated_end:
            place = cursor.at
            packed, size = cursor.u32(), cursor.u32()
            if not packed and place >= stated_end:
                cursor.at = place
                break  # what fills up to the next page
            cut_short = packed > cursor.left
            block = unpack(cursor.block(min(packed, cursor.left)), size)
            held.append(_whole_pages(np.frombuffer(block.data, "u1"), place, page_size, layout))
            if (not block.whole or size % page_size or not size) and not (cut_off and cut_short):
                held.append(_absent(page_size, place, min(packed, cursor.left + packed)))
            number += 1
            if cut_short:
                break
            if sum(len(pages.data) for pages in held) >= at_once:
                yield _together(held)
                held = []
        if not cut_off and (number != count or cursor.at - stated_end not in (0, 4)):
            held.append(_absent(page_size, data.offset, abs(stated_end - cursor.at)))
    except EndOfData:
        if not cut_off:
            held.append(_absent(page_size, cursor.at, cursor.left))
    if held:
        yield _together(held)


def _absent(page_size: int, place: int, size: int) -> Pages:
    return Pages(np.zeros((1, page_size), "u1"), np.array([place]), np.array([size]))


def _together(parts: list[Pages]) -> Pages:
    return Pages(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _whole_pages(data: Array, place: int, page_size: int, layout: PageLayout) -> Pages:
    """Data as whole pages; the last one says that it is filled no further than there are data."""
    pages = -(-len(data) // page_size)
    out = np.zeros((pages, page_size), "u1")
    out.reshape(-1)[: len(data)] = data
    absent = np.full(pages, -1)
    rest = len(data) % page_size
    if rest:
        absent[-1] = CUT
        commit = out[-1, layout.commit_offset : layout.commit_offset + layout.commit_size]
        big = layout.order == ">"
        filled = int.from_bytes(commit.tobytes(), "big" if big else "little") & _FILLED
        there = max(rest - layout.data_offset, 0)
        # What it says of missed events stands behind the data, and is gone with them.
        if filled > there:
            commit[:] = np.frombuffer(there.to_bytes(layout.commit_size, "big" if big else "little"), "u1")
    return Pages(out, np.full(pages, place), absent)
