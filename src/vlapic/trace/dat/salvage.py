# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding the CPUs' data in a version 7 file that has lost the option that says where they are.

That option is the last thing to be written, so a file cut short never has it. The data of each CPU begin at a
page's boundary (trace-cmd's `trace-output.c: save_tracing_file_data` pads up to it). Compressed data say
how many chunks they are; of plain pages, those of one CPU are in the order of time, so that a page that is
earlier than the one before it begins the next CPU.
"""

from __future__ import annotations

import itertools

import numpy as np

from vlapic.trace.dat.container import Buffer, Container, CpuData
from vlapic.trace.dat.cursor import Cursor, EndOfData


def salvage(data: memoryview, at: int, size: int, compressed: bool, container: Container) -> list[Buffer]:
    """The buffer whose section's contents begin at `at`: one, or none if nothing of it can be found.

    CPUs are numbered in the order of their data, which is right if all of them recorded something.
    """
    page_size = container.page_size
    if page_size < 64:
        return []
    end = min(at + size, len(data)) if size else len(data)
    start = -(-at // page_size) * page_size
    find = _chunks if compressed else _pages
    cpus = tuple(find(data, container.order, start, end, page_size))
    return [Buffer("", container.clock, page_size, cpus, compressed)] if cpus else []


def _chunks(data: memoryview, order: str, start: int, end: int, page_size: int) -> list[CpuData]:
    cpus: list[CpuData] = []
    while start < end:
        cursor = Cursor(data, order, start, end)
        try:
            for _ in range(cursor.u32()):
                packed = cursor.u32()
                cursor.u32()
                cursor.block(packed)
        except EndOfData:
            cursor.at = end
        cpus.append(CpuData(len(cpus), start, cursor.at - start, cursor.at - start))
        start = -(-cursor.at // page_size) * page_size
    return cpus


def _pages(data: memoryview, order: str, start: int, end: int, page_size: int) -> list[CpuData]:
    pages = (end - start) // page_size
    if pages <= 0:
        return []
    stamps = np.ndarray(pages, f"{order}u8", data, start, (page_size,)).astype("u8")
    firsts = [0, *(np.flatnonzero(stamps[1:] < stamps[:-1]) + 1).tolist(), pages]
    return [
        CpuData(cpu, start + first * page_size, (after - first) * page_size)
        for cpu, (first, after) in enumerate(itertools.pairwise(firsts))
    ]
