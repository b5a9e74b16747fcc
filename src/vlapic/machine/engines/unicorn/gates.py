# SPDX-License-Identifier: GPL-2.0-or-later
"""The way into a handler: gates, stacks, frames, in each mode of the CPU.

Follows SDM vol. 3A "Interrupt and Exception Handling" (32-bit gates, TSS stacks), "64-Bit Mode Exception
Handling" (the stack frame, IST) and "Real-Address Mode Operation" (the table of pointers at the IDT's base).
This writes the frame and computes the registers that a delivery leaves; nothing changes where it faults.

An entry may come from any privilege level and from compatibility mode. Left out: task gates and
virtual-8086 mode (the CPU shuts down and says so), shadow stacks, the user interrupts of later CPUs.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from vlapic.machine.engines.unicorn.events import (
    BP,
    DB,
    DF,
    EXT,
    FLAG_AC,
    FLAG_IF,
    FLAG_NT,
    FLAG_RF,
    FLAG_TF,
    FLAG_VM,
    GP,
    IDT,
    NP,
    OF,
    PF,
    SS,
    DeliveryFault,
    Event,
    TripleFault,
    describe,
    explain,
    makes_double_fault,
)
from vlapic.machine.engines.unicorn.layout import HF_CPL, HF_LMA, HF_PE
from vlapic.machine.engines.unicorn.paging import PageFault, Paging, is_canonical
from vlapic.machine.engines.unicorn.segments import (
    code_level,
    null_stack,
    read_descriptor,
    tss_stack_32,
    tss_stack_64,
    unpack,
)
from vlapic.machine.engines.unicorn.state import DESC_B, Segment, System

_CLEARED_BY_ANY_GATE = FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM
_CLEARED_BY_INTERRUPT_GATE = _CLEARED_BY_ANY_GATE | FLAG_IF
_CLEARED_IN_REAL_MODE = FLAG_TF | FLAG_IF | FLAG_RF | FLAG_AC

_TASK_GATE = 5
_INTERRUPT_GATE, _TRAP_GATE = 0xE, 0xF
_GATES_64 = frozenset({_INTERRUPT_GATE, _TRAP_GATE})
_GATES_32 = frozenset({0x6, 0x7, _INTERRUPT_GATE, _TRAP_GATE, _TASK_GATE})
_GATE_64 = struct.Struct("<HHBBHI4x")
_GATE_32 = struct.Struct("<HHxBH")
_FRAME_64 = struct.Struct("<5Q")
_QWORD = struct.Struct("<Q")
_U32, _U64 = 2**32 - 1, 2**64 - 1


class Entry(NamedTuple):
    """The registers a delivery leaves.

    Attributes:
        clear: bits of RFLAGS that it clears.
        cs, ss: None where they stay as they are.
        cr2: the last page fault's address on the way, None if there was none.
    """

    rip: int
    rsp: int
    clear: int
    cs: Segment | None
    ss: Segment | None
    cr2: int | None


def deliver(system: System, memory: Paging, event: Event, rip: int, rflags: int) -> Entry:
    """Deliver an event, or what its delivery turns into.

    Args:
        system: registers of the CPU; nothing is written to them.
        memory: translates as that CPU does.
        rip, rflags: where the CPU stands.

    Raises:
        TripleFault: a fault while a double fault was being delivered, or something left out here.
    """
    enter, gate_bytes = _enter_protected, 8
    if system.hflags & HF_LMA:
        enter, gate_bytes = _enter_long, 16
    elif not system.hflags & HF_PE:
        enter, gate_bytes = _enter_real, 4
    first, faults, cr2 = event, list[str](), event.cr2
    while True:
        at = rip if event is first else rip - first.software
        try:
            return enter(system, memory, event, at, rflags)._replace(cr2=cr2)
        except PageFault as page_fault:
            second = Event(PF, page_fault.error_code, cr2=page_fault.address)
        except DeliveryFault as fault:
            second = fault.event
        faults.append(explain(second, (system.idt_limit + 1) // gate_bytes))
        cr2 = second.cr2 if second.cr2 is not None else cr2
        if event.vector == DF and not event.software:
            raise TripleFault(f"{', then '.join((describe(first, rip), *faults))}: triple fault")
        if makes_double_fault(event, second.vector):
            faults.append("#DF")
            event = Event(DF, 0)
        else:
            event = second


def _pushed(event: Event, rflags: int) -> int:
    """RFLAGS as they are pushed: a fault restarts its instruction, without its breakpoint."""
    if event.software or event.external or event.vector in (DB, BP, OF):
        return rflags
    return rflags | FLAG_RF


def _push(memory: Paging, top: int, frame: bytes, size: int, user: bool) -> None:
    """Write a frame whose words of `size` bytes are pushed one by one: the first that faults is in CR2."""
    try:
        memory.write(top, frame, user)
    except PageFault:
        for at in range(top + len(frame) - size, top, -size):
            memory.translate(at, True, user)
        raise


# -- 64-bit mode and its compatibility mode --


def _enter_long(system: System, memory: Paging, event: Event, rip: int, rflags: int) -> Entry:
    vector, error_code, software, _, _ = event
    ext = 0 if software else EXT
    cpl = system.hflags & HF_CPL
    if vector * 16 + 15 > system.idt_limit:
        raise DeliveryFault(GP, vector << 3 | IDT | ext)
    handler, selector, ist, kind, dpl, present = _gate_64(memory.read(system.idt_base + vector * 16, 16))
    if kind not in _GATES_64 or (software and dpl < cpl):
        raise DeliveryFault(GP, vector << 3 | IDT | ext)
    if not present:
        raise DeliveryFault(NP, vector << 3 | IDT | ext)
    descriptor = read_descriptor(system, memory, selector, GP, ext)
    fault, level = code_level(descriptor, cpl, True)
    if fault:
        raise DeliveryFault(fault, selector & 0xFFFC | ext)
    if not is_canonical(handler):
        raise DeliveryFault(GP, ext)

    rsp = system.rsp
    if ist:
        rsp = tss_stack_64(system, memory, 0x1C + 8 * ist, ext)
    elif level < cpl:
        rsp = tss_stack_64(system, memory, 4 + 8 * level, ext)
    frame = _FRAME_64.pack(rip, system.cs, _pushed(event, rflags), system.rsp, system.ss)
    if error_code is not None:
        frame = _QWORD.pack(error_code) + frame
    rsp = (rsp & ~0xF) - len(frame) & _U64
    if not is_canonical(rsp):
        raise DeliveryFault(SS, ext)
    _push(memory, rsp, frame, 8, level == 3)
    clear = _CLEARED_BY_INTERRUPT_GATE if kind == _INTERRUPT_GATE else _CLEARED_BY_ANY_GATE
    new_cs = selector & ~3 | level
    cs = None if new_cs == system.cs else unpack(descriptor, new_cs)
    return Entry(handler, rsp, clear, cs, null_stack(level) if level < cpl else None, None)


@lru_cache(maxsize=512)
def _gate_64(data: bytes) -> tuple[int, int, int, int, int, bool]:
    """A gate's handler, selector, IST index, type, privilege level and present flag."""
    low, selector, ist, access, middle, high = _GATE_64.unpack(data)
    handler = low | middle << 16 | high << 32
    return handler, selector, ist & 7, access & 0x1F, access >> 5 & 3, bool(access & 0x80)


# -- protected mode --


def _enter_protected(system: System, memory: Paging, event: Event, rip: int, rflags: int) -> Entry:
    vector, error_code, software, _, _ = event
    ext = 0 if software else EXT
    cpl = system.hflags & HF_CPL
    if vector * 8 + 7 > system.idt_limit:
        raise DeliveryFault(GP, vector << 3 | IDT | ext)
    low, selector, access, high = _GATE_32.unpack(memory.read(_u32(system.idt_base + vector * 8), 8))
    kind, dpl = access & 0x1F, access >> 5 & 3
    if kind not in _GATES_32 or (software and dpl < cpl):
        raise DeliveryFault(GP, vector << 3 | IDT | ext)
    if not access & 0x80:
        raise DeliveryFault(NP, vector << 3 | IDT | ext)
    if kind == _TASK_GATE:
        raise TripleFault(f"{describe(event, rip)} has a task gate; this CPU switches no tasks by gates")
    if rflags & FLAG_VM:
        raise TripleFault(f"{describe(event, rip)} in virtual-8086 mode, which this CPU does not leave")
    descriptor = read_descriptor(system, memory, selector, GP, ext)
    fault, level = code_level(descriptor, cpl, False)
    if fault:
        raise DeliveryFault(fault, selector & 0xFFFC | ext)
    cs = unpack(descriptor, selector & ~3 | level)
    is_32 = bool(kind & 8)
    handler = low | high << 16 if is_32 else low
    if handler > cs.limit:
        raise DeliveryFault(GP, ext)

    pushed = [_pushed(event, rflags), system.cs, rip]
    stack, pointer = None, system.rsp
    base, flags = system.ss_base, system.ss_flags
    if level < cpl:
        stack, pointer = tss_stack_32(system, memory, level, ext)
        base, flags = stack.base, stack.flags
        pushed = [system.ss, system.rsp, *pushed]
    if error_code is not None:
        pushed.append(error_code)
    mask = _U32 if flags & DESC_B else 0xFFFF
    form, width = ("I", _U32) if is_32 else ("H", 0xFFFF)
    frame = struct.pack(f"<{len(pushed)}{form}", *(value & width for value in reversed(pushed)))
    top = pointer - len(frame) & mask
    _push(memory, _u32(base + top), frame, 4 if is_32 else 2, level == 3)
    clear = _CLEARED_BY_ANY_GATE if kind & 1 else _CLEARED_BY_INTERRUPT_GATE
    return Entry(handler, pointer & ~mask & _U32 | top, clear, cs, stack, None)


def _u32(address: int) -> int:
    return address & _U32


# -- real mode --


def _enter_real(system: System, memory: Paging, event: Event, rip: int, rflags: int) -> Entry:
    vector = event.vector
    if vector * 4 + 3 > system.idt_limit:
        raise DeliveryFault(GP, vector << 3 | IDT)
    handler, selector = struct.unpack("<HH", memory.read(_u32(system.idt_base + vector * 4), 4))
    mask = _U32 if system.ss_flags & DESC_B else 0xFFFF
    frame = struct.pack("<HHH", rip & 0xFFFF, system.cs, rflags & 0xFFFF)
    top = system.rsp - len(frame) & mask
    memory.write(_u32(system.ss_base + top), frame)
    cs = Segment(selector, selector << 4, 0xFFFF, 0x9B00)
    return Entry(handler, system.rsp & ~mask & _U32 | top, _CLEARED_IN_REAL_MODE, cs, None, None)
