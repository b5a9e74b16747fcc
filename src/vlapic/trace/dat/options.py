# SPDX-License-Identifier: GPL-2.0-or-later
"""The options of a trace.dat: small facts by number, beside the large sections.

Follows trace-cmd.dat(5) and trace-cmd 3.4's `trace-input.c: handle_options`. An option that is not known is
passed over, as trace-cmd does; the same with those that only trace-cmd's own reports use.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from vlapic.trace.dat.container import Buffer, Container, CpuData
from vlapic.trace.dat.cursor import Cursor, EndOfData

DONE = 0
DATE = 1
CPUSTAT = 2
BUFFER = 3
TRACECLOCK = 4
UNAME = 5
OFFSET = 7
CPUCOUNT = 8
VERSION = 9
TIME_SHIFT = 12
GUEST = 13
TSC2NSEC = 14
STRINGS = 15
HEADER_INFO = 16
FTRACE_EVENTS = 17
EVENT_FORMATS = 18
KALLSYMS = 19
PRINTK = 20
CMDLINES = 21
BUFFER_TEXT = 22

#: More CPUs than Linux can have (NR_CPUS) are no count but damage.
MOST_CPUS = 1 << 16


def apply_option(number: int, cursor: Cursor, container: Container) -> None:
    """Take what one option says into the container.

    Raises:
        EndOfData: the option is shorter than what it should say.
    """
    reader = _READERS.get(number)
    if reader is not None:
        reader(cursor, container)


def current_clock(trace_clock: str) -> str:
    """The clock in brackets in the text of tracefs's trace_clock; empty if there is none."""
    found = re.search(r"\[([^\]]+)\]", trace_clock)
    return found[1] if found else ""


def read_buffer(cursor: Cursor, *, text: bool = False) -> Buffer:
    """Option BUFFER of version 7, whose first number, the section's place, has been read."""
    name, clock = cursor.string(), cursor.string()
    if text:
        return Buffer(name, clock, 0, (), text=True)
    page_size, count = cursor.u32(), cursor.u32()
    if count > MOST_CPUS:
        raise EndOfData
    cpus = tuple(CpuData(cursor.u32(), cursor.u64(), cursor.u64()) for _ in range(count))
    if any(data.cpu >= MOST_CPUS for data in cpus):
        raise EndOfData
    return Buffer(name, clock, page_size, cpus)


def _text(cursor: Cursor) -> str:
    """The option's text up to its NUL; what stands behind that is no part of it."""
    text = bytes(cursor.block(cursor.left)).partition(b"\0")[0]
    return text.rstrip(b"\n").decode("utf-8", "replace")


def _shift(ns: int) -> Callable[[Cursor, Container], None]:
    """DATE is in microseconds, OFFSET in nanoseconds; both are numbers as text, which add up."""

    def read(cursor: Cursor, container: Container) -> None:
        number = re.match(r"\s*([+-]?)(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})", _text(cursor))
        if number:
            value = int(number[2], 16 if number[2][:2].lower() == "0x" else 10)
            container.shift_ns += (-value if number[1] == "-" else value) * ns

    return read


def _clock(cursor: Cursor, container: Container) -> None:
    container.clock = current_clock(_text(cursor)) or container.clock


def _uname(cursor: Cursor, container: Container) -> None:
    container.uname = _text(cursor)


def _writer(cursor: Cursor, container: Container) -> None:
    container.writer = _text(cursor)


def _stat(cursor: Cursor, container: Container) -> None:
    text = _text(cursor)
    container.stats.append(text)
    _count_read(text, container)


def _count_read(text: str, container: Container) -> None:
    """How many events of a CPU its stats say were read; `Buffer: NAME` stands before an instance's."""
    if buffer := re.match(r"\s*Buffer: ([^\n]*)", text):
        container.stats_of = buffer[1]
    cpu = re.search(r"^CPU: (\d{1,5})$", text, re.MULTILINE)
    read = re.search(r"^read events: (\d{1,18})$", text, re.MULTILINE)
    if cpu and read:
        container.read_events[container.stats_of, int(cpu[1])] = int(read[1])


def _cpu_count(cursor: Cursor, container: Container) -> None:
    container.cpu_count = cursor.u32()


def _conversion(cursor: Cursor, container: Container) -> None:
    container.conversion = (cursor.u32(), cursor.u32(), cursor.u64())


def _time_shift(cursor: Cursor, container: Container) -> None:
    """What makes the host's times of a guest's, for a report of both files; ours has one."""
    cursor.u64()
    container.with_peer = True


def _guest(cursor: Cursor, container: Container) -> None:
    cursor.string()
    cursor.u64()
    count = cursor.u32()
    if count > MOST_CPUS:
        raise EndOfData
    container.guests.append({cursor.u32(): cursor.u32() for _ in range(count)})


_READERS: dict[int, Callable[[Cursor, Container], None]] = {
    DATE: _shift(1000),
    OFFSET: _shift(1),
    CPUSTAT: _stat,
    TRACECLOCK: _clock,
    UNAME: _uname,
    CPUCOUNT: _cpu_count,
    VERSION: _writer,
    TIME_SHIFT: _time_shift,
    GUEST: _guest,
    TSC2NSEC: _conversion,
}
