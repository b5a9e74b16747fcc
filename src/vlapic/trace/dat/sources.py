"""Where pages come from: a CPU's data in the file, plain or in compressed chunks, a few pages at a time.

Plain pages are a view of the file. Chunks are unpacked one after the other, so that no more of a large file
is in memory than is being worked on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vlapic.trace.dat.compression import Decompressor
from vlapic.trace.dat.container import CpuData
from vlapic.trace.dat.cursor import Cursor, EndOfData
from vlapic.trace.dat.pages import PageLayout

Array = npt.NDArray[Any]

#: The bits of a page's commit that say how much is filled.
_FILLED = (1 << 27) - 1


class Pages(NamedTuple):
    """Some pages of one CPU.

    Attributes:
        data: u1 of shape (number, size).
        places: where in the file each is; of a compressed one, where its chunk is.
    """

    data: Array
    places: Array


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
        yield Pages(pages, start + np.arange(number) * page_size)
    rest = data.size % page_size
    if rest:
        start = data.offset + whole * page_size
        yield Pages(_whole_pages(file[start : start + rest], page_size, layout), np.array([start]))


def unpacked_pages(
    file: memoryview, data: CpuData, page_size: int, at_once: int, layout: PageLayout, unpack: Decompressor
) -> Iterator[Pages]:
    """Pages of compressed chunks; in place of what cannot be unpacked stands a page that is damaged."""
    cursor = Cursor(file, layout.order, data.offset, data.offset + data.size)
    held: list[Array] = []
    places: list[Array] = []
    try:
        for _ in range(cursor.u32()):
            place = cursor.at
            packed, size = cursor.u32(), cursor.u32()
            cut_short = packed > cursor.left
            block = unpack(cursor.block(min(packed, cursor.left)), size) or b""
            chunk = _whole_pages(np.frombuffer(block, "u1"), page_size, layout)
            if len(block) < size:
                chunk = np.concatenate([chunk, _damaged_page(layout, page_size)])
            held.append(chunk)
            places.append(np.full(len(chunk), place))
            if cut_short:
                break
            if sum(len(chunk) for chunk in held) >= at_once:
                yield Pages(np.concatenate(held), np.concatenate(places))
                held, places = [], []
    except EndOfData:
        held.append(_damaged_page(layout, page_size))
        places.append(np.array([cursor.at]))
    if held:
        yield Pages(np.concatenate(held), np.concatenate(places))


def _whole_pages(data: Array, page_size: int, layout: PageLayout) -> Array:
    """Data as whole pages; the last one says that it is filled no further than there are data."""
    pages = -(-len(data) // page_size)
    out = np.zeros((pages, page_size), "u1")
    out.reshape(-1)[: len(data)] = data
    rest = len(data) % page_size
    if rest:
        commit = out[-1, layout.commit_offset : layout.commit_offset + layout.commit_size]
        big = layout.order == ">"
        filled = int.from_bytes(commit.tobytes(), "big" if big else "little") & _FILLED
        there = max(rest - layout.data_offset, 0)
        # What it says of missed events stands behind the data, and is gone with them.
        if filled > there:
            commit[:] = np.frombuffer(there.to_bytes(layout.commit_size, "big" if big else "little"), "u1")
    return out


def _damaged_page(layout: PageLayout, page_size: int) -> Array:
    """A page that says it is filled further than it is long."""
    page = np.zeros((1, page_size), "u1")
    commit = _FILLED.to_bytes(layout.commit_size, "big" if layout.order == ">" else "little")
    page[0, layout.commit_offset : layout.commit_offset + layout.commit_size] = np.frombuffer(commit, "u1")
    return page
