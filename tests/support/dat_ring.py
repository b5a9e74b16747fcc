# SPDX-License-Identifier: GPL-2.0-or-later
"""A ring buffer of some machine's kernel: its events' formats and payloads, and its pages.

It follows what the reader follows (`kernel/trace/ring_buffer.c`), from the other side.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

#: The kernel's names of C types by their width and sign.
C_TYPES = {"u1": "u8", "u2": "u16", "u4": "u32", "u8": "u64", "i4": "int", "i8": "s64", "b1": "bool"}

#: Fields after those in common, as v6.1 has them.
EVENTS: dict[str, tuple[int, str, list[tuple[str, str]]]] = {
    "kvm_entry": (101, "kvm", [("u4", "vcpu_id"), ("long", "rip"), ("b1", "immediate_exit")]),
    "kvm_exit": (
        102,
        "kvm",
        [
            ("u4", "exit_reason"),
            ("long", "guest_rip"),
            ("u4", "isa"),
            ("u8", "info1"),
            ("u8", "info2"),
            ("u4", "intr_info"),
            ("u4", "error_code"),
            ("u4", "vcpu_id"),
        ],
    ),
    "kvm_wait_lapic_expire": (103, "kvm", [("u4", "vcpu_id"), ("i8", "delta")]),
    "kvm_msr": (104, "kvm", [("u4", "write"), ("u4", "ecx"), ("u8", "data"), ("u1", "exception")]),
    "hrtimer_expire_entry": (105, "timer", [("long", "hrtimer"), ("i8", "now"), ("long", "function")]),
    "sched_switch": (
        106,
        "sched",
        [
            ("char16", "prev_comm"),
            ("i4", "prev_pid"),
            ("i4", "prev_prio"),
            ("long", "prev_state"),
            ("char16", "next_comm"),
            ("i4", "next_pid"),
            ("i4", "next_prio"),
        ],
    ),
    "kvm_fpu": (107, "kvm", [("u4", "load")]),
    "print": (5, "ftrace", [("long", "ip"), ("char", "buf")]),
}
PRINT_FORMATS = {
    "kvm_entry": '"vcpu %u, rip 0x%lx%s", REC->vcpu_id, REC->rip, '
    'REC->immediate_exit ? "[immediate exit]" : ""',
    "kvm_wait_lapic_expire": '"vcpu %u: delta %lld (%s)", REC->vcpu_id, REC->delta, '
    'REC->delta < 0 ? "early" : "late"',
    "kvm_exit": '"vcpu %u reason %s%s%s rip 0x%lx info1 0x%016llx info2 0x%016llx intr_info 0x%08x '
    'error_code 0x%08x", REC->vcpu_id, (REC->isa == 1) ? __print_symbolic(REC->exit_reason & 0xffff, '
    '{ 12, "HLT" }, { 52, "PREEMPTION_TIMER" }) : __print_symbolic(REC->exit_reason, { 0x060, "interrupt" }, '
    '{ 0x040 + 1, "DB excp" }, { -1, "invalid" }), '
    '(REC->isa == 1 && REC->exit_reason & ~0xffff) ? " " : "", (REC->isa == 1) ? __print_flags('
    'REC->exit_reason & ~0xffff, " ", { 0x80000000, "FAILED_VMENTRY" }) : "", '
    "REC->guest_rip, REC->info1, REC->info2, REC->intr_info, REC->error_code",
    "kvm_msr": '"msr_%s %x = 0x%llx%s", REC->write ? "write" : "read", REC->ecx, REC->data, '
    'REC->exception ? " (#GP)" : ""',
    "print": '"%ps: %s", (void *)REC->ip, REC->buf',
}


@dataclass(frozen=True)
class Machine:
    """Who recorded: byte order `<` or `>`, size of the kernel's long, size of a sub-buffer."""

    order: str = "<"
    long_size: int = 8
    page_size: int = 4096

    @property
    def head(self) -> int:
        return 8 + self.long_size

    def pack(self, kinds: str, *values: int | bytes) -> bytes:
        return struct.pack(self.order + kinds, *values)

    def layout(self, name: str) -> list[tuple[str, str, int, int]]:
        """Kind, name, offset and size of an event's fields."""
        at, fields = 8, []
        for kind, field_name in EVENTS[name][2]:
            size = {"long": self.long_size, "char16": 16, "char": 0}.get(
                kind, int(kind[-1]) if kind[-1].isdigit() else 0
            )
            align = 1 if kind.startswith("char") else min(size, self.long_size)
            at = -(-at // align) * align
            fields.append((kind, field_name, at, size))
            at += size
        return fields

    def format_text(self, name: str) -> str:
        """The format file of an event."""
        lines = [f"name: {name}", f"ID: {EVENTS[name][0]}", "format:"]
        for kind, field_name, offset, size in (
            ("unsigned short", "common_type", 0, 2),
            ("unsigned char", "common_flags", 2, 1),
            ("unsigned char", "common_preempt_count", 3, 1),
            ("int", "common_pid", 4, 4),
        ):
            signed = int(kind == "int")
            lines.append(f"\tfield:{kind} {field_name};\toffset:{offset};\tsize:{size};\tsigned:{signed};")
        lines.append("")
        for kind, field_name, offset, size in self.layout(name):
            c_type = {"long": "unsigned long", "char16": "char", "char": "char"}.get(kind) or C_TYPES[kind]
            array = {"char16": "[16]", "char": "[]"}.get(kind, "")
            signed = int(kind.startswith("i"))
            lines.append(
                f"\tfield:{c_type} {field_name}{array};\toffset:{offset};\tsize:{size};\tsigned:{signed};"
            )
        return "\n".join([*lines, "", f"print fmt: {PRINT_FORMATS.get(name, '')}", ""])

    def payload(self, name: str, tid: int, **values: int | bytes) -> bytes:
        """A record of an event."""
        fields = self.layout(name)
        out = bytearray(max((offset + size for _, _, offset, size in fields), default=8))
        out[:8] = self.pack("HBBi", EVENTS[name][0], 0, 0, tid)
        for kind, field_name, offset, size in fields:
            value = values.get(field_name, b"" if kind.startswith("char") else 0)
            if isinstance(value, bytes):
                value = value.ljust(size, b"\0")
                out[offset : offset + len(value)] = value
            elif size:
                code = {1: "B", 2: "H", 4: "I", 8: "Q"}[size]
                out[offset : offset + size] = self.pack(code, value & (1 << 8 * size) - 1)
        return bytes(out) + bytes(-len(out) % 4)

    @property
    def header_page(self) -> str:
        data = self.page_size - self.head
        return (
            "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
            f"\tfield: local_t commit;\toffset:8;\tsize:{self.long_size};\tsigned:1;\n"
            f"\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n"
            f"\tfield: char data;\toffset:{self.head};\tsize:{data};\tsigned:1;\n"
        )


class Ring:
    """One CPU's ring buffer: records go in, pages come out."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.pages: list[bytes] = []
        self._page = bytearray()
        self._first = self._now = 0
        self._missed: int | None = None

    def add(self, time: int, payload: bytes, *, absolute: bool = False, long: bool = False) -> None:
        """A record; `absolute` puts a time stamp before it, `long` a length word, whatever its size."""
        words = len(payload) // 4
        room = self.machine.page_size - self.machine.head - len(self._page)
        if room < 4 * words + 16:
            self.finish()
        if not self._page:
            self._first = self._now = time
        delta = time - self._now
        if absolute:
            self._head(31, time & (1 << 27) - 1)
            self._page += self.machine.pack("I", time >> 27 & 0xFFFF_FFFF)
            delta = 0
        elif delta >= 1 << 27 or delta < 0:
            self._head(30, delta & (1 << 27) - 1)
            self._page += self.machine.pack("I", delta >> 27 & 0xFFFF_FFFF)
            delta = 0
        self._now = time
        if words > 28 or long or not words:
            self._head(0, delta)
            self._page += self.machine.pack("I", len(payload) + 4)
        else:
            self._head(words, delta)
        self._page += payload

    def discard(self, length: int, delta: int = 1) -> None:
        """A record that was taken back: padding, of so many bytes after its head."""
        self._head(29, delta)
        self._page += self.machine.pack("I", length) + bytes(length - 4)
        self._now += delta

    def miss(self, events: int) -> None:
        """The kernel lost so many events here; 0 if it does not know how many."""
        self.finish()
        self._missed = events

    def finish(self) -> list[bytes]:
        """End the page; all pages."""
        if self._page:
            machine, filled = self.machine, len(self._page)
            commit, tail = filled, b""
            if self._missed is not None:
                commit |= 1 << 31
                if self._missed and machine.page_size - machine.head - filled >= machine.long_size:
                    commit |= 1 << 30
                    tail = self._long(self._missed)
            page = machine.pack("Q", self._first) + self._long(commit) + bytes(self._page) + tail
            self.pages.append(page.ljust(machine.page_size, b"\0"))
            self._page, self._missed = bytearray(), None
        return self.pages

    def _head(self, kind: int, delta: int) -> None:
        word = delta << 5 | kind if self.machine.order == "<" else kind << 27 | delta
        self._page += self.machine.pack("I", word)

    def _long(self, value: int) -> bytes:
        return self.machine.pack("Q" if self.machine.long_size == 8 else "I", value)
