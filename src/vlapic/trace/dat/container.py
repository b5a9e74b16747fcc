# SPDX-License-Identifier: GPL-2.0-or-later
"""The container of a trace.dat: what the file holds, and where; not what its events mean.

Follows trace-cmd.dat(5) of versions 6 and 7 and, where that is silent, trace-cmd 3.4's `trace-input.c`. The
parts of a file (`read_formats` and so on) have the same form in both versions; where they lie differs, and
`versions.py` finds them. What cannot be read is named in `damage`, and the rest is there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from vlapic.events import NO_VCPU
from vlapic.trace.dat.cursor import Cursor, EndOfData


@dataclass(frozen=True)
class CpuData:
    """Where the ring buffer's pages of one CPU lie in the file.

    Attributes:
        size: bytes from `offset` on that may be its; 0 where it recorded nothing.
        stated: what the file says of that, which for chunks leaves out 4 bytes (trace-cmd 3.1.6) or none.
    """

    cpu: int
    offset: int
    size: int
    stated: int = 0


@dataclass(frozen=True)
class Buffer:
    """One ring buffer: the top one, whose name is empty, or an instance's.

    Attributes:
        clock: the trace clock of its time stamps, empty if that is not said.
        page_size: of its sub-buffers, bytes.
        compressed: the data of a CPU are chunks, each compressed by itself.
        text: it holds the text that tracefs printed (a latency tracer's), and no pages.
    """

    name: str
    clock: str
    page_size: int
    cpus: tuple[CpuData, ...]
    compressed: bool = False
    text: bool = False


@dataclass(frozen=True)
class Damage:
    """Something that the file promises and does not hold.

    Attributes:
        what: in words.
        offset: the byte at which it is missing or makes no sense; the file's length where it is cut off.
        cpu: whose data it is of, `NO_VCPU` if it is of none.
        size: how many bytes cannot be used, 0 if that is not known.
    """

    what: str
    offset: int
    cpu: int = NO_VCPU
    size: int = 0


class FormatFile(NamedTuple):
    """The format file of an event.

    Attributes:
        place: the byte of the file where it begins, or where the section does that it is packed in.
    """

    system: str
    text: str
    place: int


@dataclass
class Container:
    """What a trace.dat says of itself.

    Attributes:
        order: `<` or `>`, the byte order of everything in it.
        long_size: of user space on the machine that recorded it; the kernel's is in `header_page`.
        header_page, header_event: tracefs files of these names.
        formats: each event's format file.
        kallsyms: addresses and names of the kernel's symbols, as /proc/kallsyms has them.
        cmdlines: names of tasks by tid.
        clock: the trace clock of the top buffer, empty if it is not said.
        conversion: mult, shift and offset that make ns of TSC cycles.
        shift_ns: what options DATE and OFFSET add to time stamps.
        with_peer: it is a guest's, recorded together with its host's.
        guests: the tids of each guest's vCPUs by their number, where trace-cmd recorded guests too.
        stats: the text of each CPU's stats file.
        read_events: how many events were read of a CPU, by the buffer's name and the CPU's number.
        stats_of: the buffer whose stats come next.
        damage: what cannot be read.
        reading: what is being read, and where in the file it begins.
    """

    version: int
    order: str
    long_size: int
    page_size: int
    compression: str = "none"
    header_page: str = ""
    header_event: str = ""
    formats: list[FormatFile] = field(default_factory=list)
    kallsyms: bytes = b""
    cmdlines: dict[int, str] = field(default_factory=dict)
    cpu_count: int = 0
    clock: str = ""
    conversion: tuple[int, int, int] | None = None
    shift_ns: int = 0
    uname: str = ""
    writer: str = ""
    with_peer: bool = False
    guests: list[dict[int, int]] = field(default_factory=list)
    stats: list[str] = field(default_factory=list)
    read_events: dict[tuple[str, int], int] = field(default_factory=dict)
    stats_of: str = ""
    buffers: list[Buffer] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    reading: tuple[str, int] = ("its header", 0)


def read_header_info(cursor: Cursor, container: Container) -> None:
    """The part that describes pages and event headers."""
    for name in ("header_page", "header_event"):
        if cursor.string(limit=16) != name:
            raise EndOfData
        setattr(container, name, _text(cursor.block(cursor.u64())))


def read_ftrace_formats(cursor: Cursor, container: Container) -> None:
    """The formats of ftrace's own events, of which `print` is one."""
    for _ in range(cursor.u32()):
        container.formats.append(_format("ftrace", cursor))


def read_formats(cursor: Cursor, container: Container) -> None:
    """The formats of all other events, by system."""
    for _ in range(cursor.u32()):
        system = cursor.string()
        for _ in range(cursor.u32()):
            container.formats.append(_format(system, cursor))


def read_kallsyms(cursor: Cursor, container: Container) -> None:
    """/proc/kallsyms."""
    container.kallsyms = bytes(cursor.block(cursor.u32()))


def read_printk(cursor: Cursor, container: Container) -> None:
    """printk_formats, which nothing here prints."""
    cursor.block(cursor.u32())


def read_cmdlines(cursor: Cursor, container: Container) -> None:
    """saved_cmdlines: a line a task, its tid and its name."""
    for line in _text(cursor.block(cursor.u64())).split("\n"):
        tid, _, comm = line.partition("\0")[0].strip().partition(" ")
        if tid.isdecimal() and len(tid) <= 10:
            container.cmdlines[int(tid)] = comm


def _format(system: str, cursor: Cursor) -> FormatFile:
    size = cursor.u64()
    place = cursor.place
    return FormatFile(system, _text(cursor.block(size)), place)


def _text(block: memoryview) -> str:
    return bytes(block).decode("utf-8", "replace")
