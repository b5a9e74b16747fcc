"""Finding the parts of a trace.dat: version 6 has them in a fixed order, version 7 in sections.

Follows trace-cmd.dat(5). Version 7's options say where its sections are, and the last of them, written when
recording ended, where each CPU's data are. Where that chain is broken (a file cut short has lost its end),
the sections are found one behind the other instead, and `salvage.py` finds the CPUs' data in theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vlapic.errors import TraceError
from vlapic.trace.dat import container as parts
from vlapic.trace.dat import options
from vlapic.trace.dat.compression import Decompressor, decompressor
from vlapic.trace.dat.container import Buffer, Container, CpuData, Damage
from vlapic.trace.dat.cursor import Cursor, EndOfData
from vlapic.trace.dat.salvage import salvage

MAGIC = b"\x17\x08\x44tracing"

_COMPRESSED = 1
_SECTION_HEADER = 16

_SECTIONS: dict[int, Callable[[Cursor, Container], None]] = {
    options.HEADER_INFO: parts.read_header_info,
    options.FTRACE_EVENTS: parts.read_ftrace_formats,
    options.EVENT_FORMATS: parts.read_formats,
    options.KALLSYMS: parts.read_kallsyms,
    options.PRINTK: parts.read_printk,
    options.CMDLINES: parts.read_cmdlines,
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
        raise TraceError(
            f"{path} ends (after {len(data)} bytes), or is damaged, before its events; "
            "try to copy or record it again"
        ) from None
    if not container.formats or not container.header_page:
        raise TraceError(
            f"{path}: the formats of its events cannot be read, without which nothing else can; "
            "try to copy or record it again"
        )
    container.buffers = _apart(container.buffers, len(data), container.damage)
    return container


def _read_v6(cursor: Cursor, container: Container, path: str) -> None:
    for read in _SECTIONS.values():
        read(cursor, container)
    container.cpu_count = cursor.u32()
    instances: list[tuple[str, int]] = []
    container.buffers.append(_v6_buffer(cursor, container, "", instances))
    for name, at in instances:
        try:
            container.buffers.append(_v6_buffer(Cursor(cursor.data, cursor.order, at), container, name, []))
        except EndOfData:
            container.damage.append(Damage(f"the buffer {name!r}", at))


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
    if not sections.follow(first):
        sections.scan(cursor.at)


class _Sections:
    """The sections of version 7, each read once."""

    def __init__(self, data: memoryview, container: Container, unpack: Decompressor) -> None:
        self._data = data
        self._container = container
        self._unpack = unpack
        self._seen: set[int] = set()

    def follow(self, at: int) -> bool:
        """Read the options from this place on and all that they point at; false if the chain is broken."""
        while at:
            if at in self._seen:
                return False
            following = self._options(at)
            if following is None:
                return False
            at = following
        return True

    def scan(self, at: int) -> None:
        """Read every section, one behind the other, that no option has led to."""
        container, data = self._container, self._data
        container.damage.append(Damage("options", len(data)))
        unclaimed: list[tuple[int, int, bool]] = []
        while len(data) - at >= _SECTION_HEADER:
            number, compressed, size = self._header(at)
            if number == options.DONE:
                self._options(at)
            elif number in _SECTIONS:
                self._section(number, at)
            elif number == options.BUFFER:
                unclaimed.append((at, size, compressed))
            elif number != options.STRINGS:
                break
            at += _SECTION_HEADER + size
        for at, size, compressed in unclaimed:
            if at not in self._seen:
                container.buffers += salvage(data, at + _SECTION_HEADER, size, compressed, container)

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
        if contents is None:
            raise EndOfData
        return Cursor(memoryview(contents), order)

    def _section(self, number: int, at: int) -> None:
        if at in self._seen:
            return
        self._seen.add(at)
        try:
            _SECTIONS[number](self._contents(at, number), self._container)
        except EndOfData:
            self._container.damage.append(Damage(_SECTIONS[number].__name__.removeprefix("read_"), at))

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
                    return option.u64()
                if number in _SECTIONS:
                    self._section(number, option.u64())
                elif number in (options.BUFFER, options.BUFFER_TEXT):
                    place = option.u64()
                    buffer = options.read_buffer(option, text=number == options.BUFFER_TEXT)
                    container.buffers.append(replace(buffer, compressed=self._header(place)[1]))
                    self._seen.add(place)
                    container.clock = container.clock or buffer.clock
                else:
                    options.apply_option(number, option, container)
        except EndOfData:
            container.damage.append(Damage("options", at))
            return None


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
            damage.append(Damage(f"the place of CPU {data.cpu}'s data", data.offset))
        elif data.offset + data.size > length:
            damage.append(Damage(f"the end of CPU {data.cpu}'s data", length))
        end = max(limit if data in compressed else min(data.offset + data.size, length), offset)
        whole[data] = CpuData(data.cpu, offset, end - offset)
    return [
        replace(buffer, cpus=tuple(whole[data] for data in buffer.cpus if data.size and whole[data].size))
        for buffer in buffers
    ]


def _offset(data: CpuData) -> int:
    return data.offset
