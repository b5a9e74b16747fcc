# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding the parts of a trace.dat: version 6 has them in a fixed order, version 7 in sections.

Follows trace-cmd.dat(5). Version 7's options say where its sections are, and the last of them, written when
recording ended, where each CPU's data are. Where that chain is broken (a file cut short has lost its end),
the sections are found one behind the other instead, and `salvage.py` finds the CPUs' data in theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from vlapic.errors import TraceError
from vlapic.trace.compression import Decompressor, decompressor
from vlapic.trace.dat import container as parts
from vlapic.trace.dat import options
from vlapic.trace.dat.container import Buffer, Container, CpuData, Damage
from vlapic.trace.dat.cursor import Cursor, EndOfData
from vlapic.trace.dat.salvage import salvage

MAGIC = b"\x17\x08\x44tracing"

_COMPRESSED = 1
_SECTION_HEADER = 16
#: So much is looked through at once for what is not zero.
_LOOKED_AT = 1 << 24

_SECTIONS: dict[int, Callable[[Cursor, Container], None]] = {
    options.HEADER_INFO: parts.read_header_info,
    options.FTRACE_EVENTS: parts.read_ftrace_formats,
    options.EVENT_FORMATS: parts.read_formats,
    options.KALLSYMS: parts.read_kallsyms,
    options.PRINTK: parts.read_printk,
    options.CMDLINES: parts.read_cmdlines,
}
#: What each section holds, in words.
_WORDS = {
    options.DONE: "its options",
    options.HEADER_INFO: "the description of its pages",
    options.FTRACE_EVENTS: "the formats of ftrace's own events",
    options.EVENT_FORMATS: "the formats of its events",
    options.KALLSYMS: "the kernel's symbols",
    options.PRINTK: "the kernel's printk formats",
    options.CMDLINES: "the names of tasks",
    options.BUFFER: "the CPUs' data",
    options.BUFFER_TEXT: "a latency tracer's text",
    options.STRINGS: "its strings",
}


def read_container(data: memoryview, path: str) -> Container:
    """Read all of a trace.dat but the events.

    Args:
        data: the whole file.
        path: its name, for messages.

    Raises:
        TraceError: it is no trace.dat, of no known version or compression, or so damaged that no event can
            be found.
    """
    cursor = Cursor(data, "<")
    container = None
    try:
        if bytes(cursor.block(len(MAGIC))) != MAGIC:
            raise TraceError(
                f"{path} is no trace.dat: it does not begin with the bytes 17 08 44 and 'tracing'; "
                "try a file of `trace-cmd record`"
            )
        version = cursor.string(limit=16)
        if version not in ("6", "7"):
            raise TraceError(
                f"{path}: trace.dat version {version!r} is not known; known: 6, 7; "
                "try `trace-cmd convert --file-version 7`"
            )
        cursor.order = ">" if cursor.u8() else "<"
        container = Container(int(version), cursor.order, cursor.u8(), cursor.u32())
        (_read_v6 if version == "6" else _read_v7)(cursor, container, path)
    except EndOfData:
        raise _before_its_events(path, len(data), container) from None
    if not container.formats or not container.header_page:
        if any(damage.offset >= len(data) for damage in container.damage):
            raise _before_its_events(path, len(data), container)
        raise TraceError(
            f"{path}: the formats of its events cannot be read, without which nothing else can; "
            "try to copy or record it again"
        )
    container.buffers = _apart(container.buffers, len(data), container.damage)
    return container


def _before_its_events(path: str, length: int, container: Container | None) -> TraceError:
    what, at = ("its header", 0) if container is None else container.reading
    return TraceError(
        f"{path} ends (after {length} bytes) in the middle of {what}, from byte {at} on, or is damaged there:"
        " it was cut off before its events, of which none can be read; try to copy or record it again"
    )


def _read_v6(cursor: Cursor, container: Container, path: str) -> None:
    for number, read in _SECTIONS.items():
        container.reading = _WORDS[number], cursor.at
        read(cursor, container)
    container.reading = "its options", cursor.at
    container.cpu_count = cursor.u32()
    instances: list[tuple[str, int]] = []
    container.buffers.append(_v6_buffer(cursor, container, "", instances))
    tables: list[tuple[int, int]] = []
    for name, at in instances:
        try:
            table = Cursor(cursor.data, cursor.order, at)
            container.buffers.append(_v6_buffer(table, container, name, []))
            tables.append((at, table.at))
        except EndOfData:
            container.damage.append(Damage(f"the table of the buffer {name!r}", at))
    claimed = tables + [
        (data.offset, data.offset + data.size) for buffer in container.buffers for data in buffer.cpus
    ]
    # `trace-cmd split` (3.1.6) writes the clock's name also where no option promises it.
    smallest = container.page_size if container.page_size.bit_count() == 1 else 64
    # What is read as the clock's name, where the count of CPUs is damaged, may be their data.
    begin = min([cursor.at, *(data.offset for data in container.buffers[0].cpus)])
    _tell_unclaimed(cursor.data, begin, len(cursor.data), claimed, container.damage, smallest)


def _tell_unclaimed(
    data: memoryview,
    begin: int,
    end: int,
    claimed: list[tuple[int, int]],
    damage: list[Damage],
    smallest: int = 1,
) -> None:
    """Tell of bytes that are not zero in a part of the file where pages are, and that are no CPU's.

    Args:
        smallest: gaps below this many bytes hold nothing.
    """
    at = begin
    for start, after in [*sorted(claimed), (end, end)]:
        if smallest <= min(start, end) - at:
            found = _not_zero(data, at, min(start, end))
            if found is not None:
                damage.append(Damage("data that are of no CPU", found[0], size=found[1] - found[0]))
        at = max(at, after)


def _not_zero(data: memoryview, begin: int, end: int) -> tuple[int, int] | None:
    """The first byte that is not zero, and the end of the last such stretch that was looked at."""
    first = after = None
    for at in range(begin, end, _LOOKED_AT):
        places = np.flatnonzero(np.frombuffer(data[at : min(at + _LOOKED_AT, end)], "u1") != 0)
        if len(places):
            first = at + int(places[0]) if first is None else first
            after = at + int(places[-1]) + 1
    return None if first is None or after is None else (first, after)


def _v6_buffer(cursor: Cursor, container: Container, name: str, instances: list[tuple[str, int]]) -> Buffer:
    """Options if there are any, then a table of the CPUs' data and, if an option promised it, the clock."""
    kind = bytes(cursor.block(10))
    with_clock = False
    if kind.startswith(b"options"):
        while number := cursor.u16():
            option = Cursor(cursor.block(cursor.u32()), cursor.order)
            if number == options.BUFFER:
                at = option.u64()
                instances.append((option.string(), at))
            with_clock |= number == options.TRACECLOCK
            options.apply_option(number, option, container)
        kind = bytes(cursor.block(10))
    if kind.startswith(b"latency"):
        return Buffer(name, container.clock, 0, (), text=True)
    if not kind.startswith(b"flyrecord") or container.cpu_count > options.MOST_CPUS:
        raise EndOfData
    cpus = tuple(CpuData(cpu, cursor.u64(), cursor.u64()) for cpu in range(container.cpu_count))
    if with_clock:
        try:
            text = bytes(cursor.block(cursor.u64())).decode("ascii", "replace")
            container.clock = options.current_clock(text)
        except EndOfData:
            container.damage.append(Damage("the name of the clock", cursor.at))
    return Buffer(name, container.clock, container.page_size, cpus)


def _read_v7(cursor: Cursor, container: Container, path: str) -> None:
    container.compression = cursor.string(limit=64)
    cursor.string(limit=64)
    unpack = decompressor(container.compression, path)
    first = cursor.u64()
    sections = _Sections(cursor.data, container, unpack)
    sections.walk(cursor.at, whole=sections.follow(first))


class _Sections:
    """The sections of version 7, each read once."""

    def __init__(self, data: memoryview, container: Container, unpack: Decompressor) -> None:
        self._data = data
        self._container = container
        self._unpack = unpack
        self._seen: set[int] = set()
        #: Where the options that could not be followed are, or are said to be.
        self._broken = 0

    def follow(self, at: int) -> bool:
        """Read the options from this place on and all that they point at; false if the chain is broken."""
        if not at:
            self._broken = len(self._data)  # the recording was not ended
            return False
        while at:
            self._broken = at
            if at in self._seen:
                return False
            following = self._options(at)
            if following is None:
                return False
            at = following
        return True

    def walk(self, at: int, *, whole: bool) -> None:
        """Go through the sections, one behind the other; read those that no option led to.

        Args:
            at: where the first begins.
            whole: the chain of options led to its end, and so to every section.
        """
        container, length = self._container, len(self._data)
        behind = Damage("its options", length) if at < length else None
        while at < length:
            if length - at < _SECTION_HEADER:
                behind = Damage("the head of a section", length)
                break
            number, compressed, size = self._header(at)
            what = _WORDS.get(number, f"a section of the unknown number {number}")
            end = at + _SECTION_HEADER + size
            container.reading = what, at
            behind = None
            if end > length or (number == options.BUFFER and not size):
                missing = end - length if end > length else 0
                behind = Damage(what, length, size=missing)
            if at not in self._seen and number in (*_SECTIONS, options.DONE, options.BUFFER):
                if whole:
                    container.damage.append(Damage(f"{what}, which no option leads to", at, size=size))
                cpus = self._unled(at, number, size, compressed)
                if behind is not None and cpus:
                    behind = replace(behind, cpu=cpus - 1)
            if behind is not None:
                break
            at = end
        if behind is not None:
            container.damage.append(behind)
        elif not whole:
            container.damage.append(Damage("its options", min(self._broken, length)))

    def _unled(self, at: int, number: int, size: int, compressed: bool) -> int:
        """Read a section that no option led to; of how many CPUs it has data."""
        if number == options.DONE:
            self._options(at)
        elif number in _SECTIONS:
            self._section(number, at)
        else:
            found = salvage(self._data, at + _SECTION_HEADER, size, compressed, self._container)
            self._container.buffers += found
            return sum(len(buffer.cpus) for buffer in found)
        return 0

    def _header(self, at: int) -> tuple[int, bool, int]:
        cursor = Cursor(self._data, self._container.order, at)
        number, flags, _ = cursor.u16(), cursor.u16(), cursor.u32()
        return number, bool(flags & _COMPRESSED), cursor.u64()

    def _contents(self, at: int, number: int) -> Cursor:
        """A section's contents, unpacked."""
        found, compressed, size = self._header(at)
        if found != number:
            raise EndOfData
        order = self._container.order
        cursor = Cursor(self._data, order, at + _SECTION_HEADER, at + _SECTION_HEADER + size)
        if not compressed:
            return cursor
        packed, unpacked = cursor.u32(), cursor.u32()
        contents = self._unpack(cursor.block(min(packed, cursor.left)), unpacked)
        if not contents.whole:
            self._container.damage.append(Damage(_WORDS[number], at, size=size))
        return Cursor(memoryview(contents.data), order, packed_at=at)

    def _section(self, number: int, at: int) -> None:
        if at in self._seen:
            return
        self._seen.add(at)
        self._container.reading = _WORDS[number], at
        told = len(self._container.damage)
        try:
            cursor = self._contents(at, number)
            _SECTIONS[number](cursor, self._container)
            if cursor.left:
                # More than its own counts say.
                self._container.damage.append(Damage(_WORDS[number], at, size=cursor.left))
        except EndOfData:
            self._container.damage.append(Damage(_WORDS[number], min(at, len(self._data))))
        if len(self._data) - at >= _SECTION_HEADER and at + _SECTION_HEADER + self._header(at)[2] > len(
            self._data
        ):
            # The file ends in it, which `walk` tells.
            del self._container.damage[told:]

    def _options(self, at: int) -> int | None:
        """Read one section of options; where the next is, 0 after the last, None if it is damaged."""
        if at in self._seen:
            return None
        self._seen.add(at)
        container = self._container
        try:
            cursor = self._contents(at, options.DONE)
            while True:
                number = cursor.u16()
                option = Cursor(cursor.block(cursor.u32()), cursor.order)
                if number == options.DONE:
                    if cursor.left:
                        container.damage.append(Damage(_WORDS[number], at, size=cursor.left))
                    return option.u64()
                if number in _SECTIONS:
                    self._section(number, option.u64())
                elif number in (options.BUFFER, options.BUFFER_TEXT):
                    place = option.u64()
                    buffer = options.read_buffer(option, text=number == options.BUFFER_TEXT)
                    found, compressed, size = self._header(place)
                    container.buffers.append(replace(buffer, compressed=compressed))
                    self._seen.add(place)
                    self._tell_unclaimed(found, place, size, compressed, buffer)
                    container.clock = container.clock or buffer.clock
                else:
                    options.apply_option(number, option, container)
        except EndOfData:
            container.damage.append(Damage(_WORDS[options.DONE], min(at, len(self._data))))
            return None

    def _tell_unclaimed(self, number: int, at: int, size: int, compressed: bool, buffer: Buffer) -> None:
        """Tell of what is in a section of pages and of no CPU, and of a section that is another."""
        end = min(at + _SECTION_HEADER + size, len(self._data))
        if number not in (options.BUFFER, options.BUFFER_TEXT):
            self._container.damage.append(Damage("the head of the CPUs' data", at))
        elif not buffer.text:
            heads = 4 if compressed else 0
            claimed = [(data.offset, data.offset + data.size + heads) for data in buffer.cpus if data.size]
            _tell_unclaimed(self._data, at + _SECTION_HEADER, end, claimed, self._container.damage)


def _apart(buffers: list[Buffer], length: int, damage: list[Damage]) -> list[Buffer]:
    """The buffers with only such data as lie in the file, and no byte of it twice.

    The size of compressed data does not count the chunks' heads; they may go on to what follows.
    """
    compressed = {data for buffer in buffers if buffer.compressed for data in buffer.cpus}
    recorded = sorted({data for buffer in buffers for data in buffer.cpus if data.size}, key=_offset)
    following = [*(min(data.offset, length) for data in recorded), length][1:]
    end = 0
    whole: dict[CpuData, CpuData] = {}
    for data, limit in zip(recorded, following, strict=False):
        offset = max(data.offset, end)
        if data.offset < end:
            overlap = min(end - data.offset, data.size)
            damage.append(Damage("the place of its data", data.offset, data.cpu, overlap))
        elif data.offset + data.size > length:
            missing = data.offset + data.size - max(length, data.offset)
            damage.append(Damage("the end of its data", length, data.cpu, missing))
        end = max(limit if data in compressed else min(data.offset + data.size, length), offset)
        whole[data] = CpuData(data.cpu, offset, end - offset, data.offset + data.size - offset)
    if sum(data.size > 0 for buffer in buffers for data in buffer.cpus) > len(recorded):
        damage.append(Damage("the place of data that two CPUs have", 0))
    return [
        replace(buffer, cpus=tuple(whole[data] for data in buffer.cpus if data.size and whole[data].size))
        for buffer in buffers
    ]


def _offset(data: CpuData) -> int:
    return data.offset
