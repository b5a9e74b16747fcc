# SPDX-License-Identifier: GPL-2.0-or-later
"""A writer of trace.dat, for tests and benchmarks: files of both versions around the pages of ring buffers.

It follows trace-cmd.dat(5) as the reader does, from the other side; `trace-cmd report` reads what it writes,
which a test holds.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.support.dat_ring import EVENTS, Machine

HEADER_EVENT = (
    "# compressed entry header\n\ttype_len    :    5 bits\n\ttime_delta  :   27 bits\n"
    "\tarray       :   32 bits\n\n\tpadding     : type == 29\n\ttime_extend : type == 30\n"
    "\ttime_stamp : type == 31\n\tdata max type_len  == 28\n"
)
KALLSYMS = b"ffffffff81000000 T _text\nffffffff81234560 t apic_timer_fn\t[kvm]\nffffffff81234600 t other\n"


@dataclass
class Made:
    """A trace.dat to be written.

    Attributes:
        rings: by the name of the buffer, the pages of each CPU one behind the other.
        options: further options by number.
        formats: texts in place of those of `EVENTS`, with their systems.
    """

    rings: dict[str, list[bytes]]
    machine: Machine = field(default_factory=Machine)
    clock: str = "x86-tsc"
    cmdlines: str = "1000 CPU 0/KVM\n1001 CPU 1/KVM\n7 rcu_preempt\n"
    options: list[tuple[int, bytes]] = field(default_factory=list)
    formats: list[tuple[str, str]] | None = None
    kallsyms: bytes = KALLSYMS
    header_page: str | None = None

    def v6(self) -> bytes:
        """As version 6."""
        m = self.machine
        out = bytearray(self._initial("6"))
        for part in self._parts():
            out += part
        top, *instances = self.rings.items()
        cpus = len(top[1])
        out += m.pack("I", cpus) + b"options  \0"
        clock = f"local global [{self.clock}] counter\n".encode()
        out += m.pack("HI", 4, 0)
        for number, data in self.options:
            out += m.pack("HI", number, len(data)) + data
        places = []
        for name, _ in instances:
            places.append(len(out) + 6)
            out += m.pack("HI", 3, 8 + len(name) + 1) + bytes(8) + name.encode() + b"\0"
        out += m.pack("H", 0)
        tables = []
        for index, (_, rings) in enumerate(self.rings.items()):
            if index:
                out[places[index - 1] : places[index - 1] + 8] = m.pack("Q", len(out))
            out += b"flyrecord\0"
            tables.append(len(out))
            out += bytes(16 * len(rings))
            if not index:
                out += m.pack("Q", len(clock)) + clock
        for table, rings in zip(tables, self.rings.values(), strict=True):
            for cpu, data in enumerate(rings):
                out += bytes(-len(out) % m.page_size)
                at = table + 16 * cpu
                out[at : at + 16] = m.pack("QQ", len(out), len(data))
                out += data
        return bytes(out)

    def v7(
        self, compression: str = "none", *, pages_a_chunk: int = 10, page_sizes: dict[str, int] | None = None
    ) -> bytes:
        """As version 7."""
        m = self.machine
        out = bytearray(self._initial("7"))
        out += compression.encode() + b"\0" + b"1.0\0"
        first_options = len(out)
        out += bytes(8)
        placed = {}
        for number, part in zip((16, 17, 18, 19, 20, 21), self._parts(), strict=True):
            placed[number] = len(out)
            out += self._section(number, part, compression)
        out[first_options : first_options + 8] = m.pack("Q", len(out))
        clock = f"local [{self.clock}] counter\n".encode() + b"\0"
        options = [(number, m.pack("Q", at)) for number, at in placed.items()]
        options += [(4, clock), *self.options, (8, m.pack("I", len(next(iter(self.rings.values())))))]
        buffers = list(self.rings.items())
        for index in range(len(buffers) + 1):
            section = b"".join(m.pack("HI", number, len(data)) + data for number, data in options)
            size = len(section) + 14
            done_at = len(out) + 16 + len(section) + 6
            out += m.pack("HHIQ", 0, 0, 0, size) + section + m.pack("HI", 0, 8) + bytes(8)
            if index == len(buffers):
                break
            name, rings = buffers[index]
            page_size = (page_sizes or {}).get(name, m.page_size)
            at = len(out)
            out += bytes(16)
            cpus = []
            for cpu, data in enumerate(rings):
                out += bytes(-len(out) % page_size)
                start = len(out)
                out += self._chunks(data, compression, page_size * pages_a_chunk)
                cpus.append(m.pack("IQQ", cpu, start, len(out) - start if data else 0))
            out[at : at + 16] = m.pack("HHIQ", 3, int(compression != "none"), 0, len(out) - at - 16)
            head = m.pack("Q", at) + name.encode() + b"\0" + self.clock.encode() + b"\0"
            options = [(3, head + m.pack("II", page_size, len(rings)) + b"".join(cpus))]
            out[done_at : done_at + 8] = m.pack("Q", len(out))
        out += self._section(15, b"options\0", compression)
        return bytes(out)

    def _initial(self, version: str) -> bytes:
        m = self.machine
        return (
            b"\x17\x08\x44tracing"
            + version.encode()
            + b"\0"
            + bytes([m.order == ">", m.long_size])
            + m.pack("I", m.page_size)
        )

    def _parts(self) -> Iterable[bytes]:
        m = self.machine
        header_page = (self.header_page if self.header_page is not None else m.header_page).encode()
        info = b"header_page\0" + m.pack("Q", len(header_page)) + header_page
        yield info + b"header_event\0" + m.pack("Q", len(HEADER_EVENT)) + HEADER_EVENT.encode()
        formats = self.formats
        if formats is None:
            formats = [(EVENTS[name][1], m.format_text(name)) for name in EVENTS]
        own = [text for system, text in formats if system == "ftrace"]
        yield m.pack("I", len(own)) + b"".join(m.pack("Q", len(text)) + text.encode() for text in own)
        systems: dict[str, list[str]] = {}
        for system, text in formats:
            if system != "ftrace":
                systems.setdefault(system, []).append(text)
        out = m.pack("I", len(systems))
        for system, texts in systems.items():
            out += system.encode() + b"\0" + m.pack("I", len(texts))
            out += b"".join(m.pack("Q", len(text)) + text.encode() for text in texts)
        yield out
        yield m.pack("I", len(self.kallsyms)) + self.kallsyms
        yield m.pack("I", 0)
        yield m.pack("Q", len(self.cmdlines)) + self.cmdlines.encode()

    def _section(self, number: int, contents: bytes, compression: str) -> bytes:
        m = self.machine
        if compression == "none":
            return m.pack("HHIQ", number, 0, 0, len(contents)) + contents
        packed = compress(compression, contents)
        data = m.pack("II", len(packed), len(contents)) + packed
        return m.pack("HHIQ", number, 1, 0, len(data)) + data

    def _chunks(self, data: bytes, compression: str, size: int) -> bytes:
        if compression == "none" or not data:
            return data
        chunks = [data[at : at + size] for at in range(0, len(data), size)]
        out = self.machine.pack("I", len(chunks))
        for chunk in chunks:
            packed = compress(compression, chunk)
            out += self.machine.pack("II", len(packed), len(chunk)) + packed
        return out


def compress(compression: str, data: bytes) -> bytes:
    """A block of the compression of this name."""
    if compression == "zlib":
        return zlib.compress(data)
    import zstandard

    return zstandard.compress(data)
