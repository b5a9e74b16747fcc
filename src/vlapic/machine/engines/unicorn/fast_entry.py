# SPDX-License-Identifier: GPL-2.0-or-later
"""The common way into a handler, without detours: a vector from outside, 64-bit code that stays at its own
privilege level, a gate without IST.

What `gates.py` found out about a gate and its code segment holds as long as their bytes are the same, so it
is asked once. From then on an entry compares these bytes, writes the frame and three registers. Whatever is
not common is left to `gates.py`.
"""

from __future__ import annotations

import struct
from mmap import mmap
from typing import NamedTuple

from vlapic.machine.engines.unicorn import layout as at
from vlapic.machine.engines.unicorn.gates import Entry
from vlapic.machine.engines.unicorn.paging import PAGE, Paging
from vlapic.machine.engines.unicorn.state import (
    ARITHMETIC,
    CC_OP_EFLAGS,
    ELSEWHERE,
    FLAG_DF,
    CpuState,
    System,
    place,
    reader,
)

_FRAME = struct.Struct("<5Q")
_GATE, _DESCRIPTOR = 16, 8
_OFFSET = PAGE - 1
_MODE = at.HF_CPL | at.HF_LMA | at.HF_CS64 | at.HF_PE
_pack = struct.Struct("<Q").pack_into

_FIELDS = reader(
    {
        at.RSP: "Q",
        at.RFLAGS: "Q",
        at.CC_SRC: "Q",
        at.CC_OP: "IiI",
        place("cs"): "I",
        place("ss"): "I",
        place("gdt") + 8: "QI",
        place("idt") + 8: "QI",
        at.CR0: "Q",
        at.CR0 + 3 * 8: "2Q",
        at.EFER: "Q",
    }
)


class _Known(NamedTuple):
    """A gate that `gates.py` has been through: the registers that led there, the bytes, what came of it."""

    tables: tuple[int, ...]
    gate_at: int
    gate: bytes
    descriptor_at: int
    descriptor: bytes
    handler: int
    clear: int


class FastEntry:
    """The gates of one CPU that are known."""

    def __init__(self, state: CpuState, paging: Paging, ram: mmap) -> None:
        self._state = state
        self._paging = paging
        self._ram = ram
        self._last_frame = len(ram) - _FRAME.size
        self._known: dict[int, _Known] = {}

    def learn(self, vector: int, system: System, entry: Entry) -> None:
        """`gates.py` has entered a handler for a vector from outside; keep how, if that is common."""
        if not system.hflags & at.HF_CS64 or entry.cs or entry.ss or entry.cr2 is not None:
            return
        if system.hflags & at.HF_CPL == 3:  # a frame that is written with the user's rights
            return
        if entry.rsp != (system.rsp & ~0xF) - _FRAME.size:
            return
        gate_at = system.idt_base + _GATE * vector
        descriptor_at = system.gdt_base + (system.cs & 0xFFF8)
        if system.cs & 4 or gate_at % PAGE > PAGE - _GATE or descriptor_at % PAGE > PAGE - _DESCRIPTOR:
            return
        read = self._paging.read
        self._known[vector] = _Known(
            (
                system.hflags & _MODE,
                system.cs,
                system.gdt_base,
                system.gdt_limit,
                system.idt_base,
                system.idt_limit,
            ),
            gate_at,
            read(gate_at, _GATE),
            descriptor_at,
            read(descriptor_at, _DESCRIPTOR),
            entry.rip,
            entry.clear,
        )

    def enter(self, vector: int, rip: int) -> tuple[int, int] | None:
        """Enter the handler from `rip`: RIP and flags then; None: nothing done, it is not a common one."""
        known = self._known.get(vector)
        if known is None or not self._state.live:
            return None
        view = self._state.view
        # fmt: off
        (
            rsp, eflags, arithmetic, op, direction, hflags, cs, ss,
            gdt_base, gdt_limit, idt_base, idt_limit, cr0, cr3, cr4, efer,
        ) = _FIELDS.unpack_from(view)
        # fmt: on
        if known.tables != (hflags & _MODE, cs, gdt_base, gdt_limit, idt_base, idt_limit):
            return None
        paging, ram = self._paging, self._ram
        paging.use(cr0, cr3, cr4, efer)
        gate_at, descriptor_at, top = known.gate_at, known.descriptor_at, (rsp & ~0xF) - _FRAME.size
        gate_page = paging.kernel_reads.get(gate_at >> 12)
        descriptor_page = paging.kernel_reads.get(descriptor_at >> 12)
        stack_page = paging.kernel_writes.get(top >> 12)
        if gate_page is None or descriptor_page is None or stack_page is None:
            return None
        at_ram = gate_page | gate_at & _OFFSET
        if ram[at_ram : at_ram + _GATE] != known.gate:
            return None
        at_ram = descriptor_page | descriptor_at & _OFFSET
        if ram[at_ram : at_ram + _DESCRIPTOR] != known.descriptor:
            return None
        at_ram = stack_page | top & _OFFSET
        if at_ram > self._last_frame or top & _OFFSET > PAGE - _FRAME.size:
            return None
        if op == CC_OP_EFLAGS:
            rflags = eflags & ~ELSEWHERE | arithmetic & ARITHMETIC | (0 if direction == 1 else FLAG_DF)
        else:
            rflags = self._state.rflags()
        _FRAME.pack_into(ram, at_ram, rip, cs, rflags, rsp, ss)
        eflags &= ~known.clear
        _pack(view, at.RSP, top)
        _pack(view, at.RFLAGS, eflags)
        return known.handler, eflags
