"""Interrupts and exceptions through the guest's IDT: gates, stacks, double and triple faults.

Follows SDM vol. 3A "64-Bit Mode Interrupt and Exception Handling" (gates, the stack frame, IST) and
"Interrupt 8, Double Fault Exception (#DF)" (which second fault makes a double fault). Unicorn reports an
exception and delivers none; this computes the registers a delivery leaves, and writes the frame.

An entry may come from any privilege level; its handler runs in 64-bit code. Left out: 16 and 32-bit gates
and task gates (#GP, as 64-bit mode has it), shadow stacks, the user interrupts of later CPUs.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

from vlapic.machine.unicorn.paging import PageFault, Paging, is_canonical

DE, DB, NMI, BP, OF, BR, UD, NM, DF = range(9)
TS, NP, SS, GP, PF = 10, 11, 12, 13, 14
AC = 17

NAMES = {
    **dict(zip(range(9), ("#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF"), strict=True)),
    10: "#TS",
    11: "#NP",
    12: "#SS",
    13: "#GP",
    14: "#PF",
    16: "#MF",
    17: "#AC",
    18: "#MC",
    19: "#XM",
}
#: Exceptions that push an error code.
WITH_ERROR_CODE = frozenset({DF, TS, NP, SS, GP, PF, AC})

FLAG_TF = 1 << 8
FLAG_IF = 1 << 9
FLAG_NT = 1 << 14
FLAG_RF = 1 << 16

_CLEARED_BY_ANY_GATE = FLAG_TF | FLAG_NT | FLAG_RF
_CLEARED_BY_INTERRUPT_GATE = _CLEARED_BY_ANY_GATE | FLAG_IF

_EXT = 1  # error-code bits: the event was not the program's own doing
_IDT = 2  # the selector field is a vector
_INTERRUPT_GATE, _TRAP_GATE = 0xE, 0xF
_GATE = struct.Struct("<HHBBHI4x")
_QWORD = struct.Struct("<Q")
_FRAME = struct.Struct("<5Q")
_PRESENT, _CONFORMING = 1 << 47, 1 << 42  # of a code segment's descriptor


class Event(NamedTuple):
    """Something to deliver.

    Attributes:
        software: length of the INT n, INT3 or INTO instruction behind RIP, 0 for anything else: the
            gate's privilege is checked, and a fault in the delivery goes back to the instruction.
        external: an interrupt from outside.
        cr2: of a page fault.
    """

    vector: int
    error_code: int | None = None
    software: int = 0
    external: bool = False
    cr2: int | None = None


class State(NamedTuple):
    """The registers a delivery reads; table registers in three parts, as the CPU's batches have them."""

    rip: int
    rsp: int
    rflags: int
    cs: int
    ss: int
    cr0: int
    cr3: int
    idtr_selector: int
    idt_base: int
    idt_limit: int
    gdtr_selector: int
    gdt_base: int
    gdt_limit: int
    tr: int
    tss_base: int
    tss_limit_flags: int


class Entry(NamedTuple):
    """The registers a delivery leaves.

    Attributes:
        descriptor: of the new CS, if it is another one than before; None: CS and SS stay as they are.
        ss: the null selector of an inner stack, or the SS of before.
        cr2: the last page fault's address on the way, None if there was none.
    """

    rip: int
    rsp: int
    rflags: int
    cs: int
    descriptor: int | None
    ss: int
    cr2: int | None


class TripleFault(Exception):
    """The CPU shuts down; the message tells the faults, first to last."""


class _Fault(Exception):
    def __init__(self, vector: int, error_code: int, cr2: int | None = None) -> None:
        super().__init__(vector)
        self.event = Event(vector, error_code, cr2=cr2)


def deliver(state: State, memory: Paging, event: Event) -> Entry:
    """Deliver an event, or what its delivery turns into.

    Raises:
        TripleFault: a fault while a double fault was being delivered.
    """
    first, faults, cr2 = event, [], event.cr2
    restart = state._replace(rip=state.rip - event.software) if event.software else state
    while True:
        try:
            return _enter(state if event is first else restart, memory, event, cr2)
        except _Fault as fault:
            second = fault.event
        faults.append(_explain(second, state))
        cr2 = second.cr2 if second.cr2 is not None else cr2
        if event.vector == DF:
            raise TripleFault(f"{', then '.join((describe(first, state.rip), *faults))}: triple fault")
        if makes_double_fault(event, second.vector):
            faults.append("#DF")
            event = Event(DF, 0)
        else:
            event = second


def describe(event: Event, rip: int) -> str:
    """An event in words: "#PF at rip 0x100000, cr2=0x8"."""
    if event.external:
        return f"interrupt {event.vector:#x} at rip {rip:#x}"
    if event.software:
        return f"INT {event.vector:#x} before rip {rip:#x}"
    text = f"{NAMES.get(event.vector, f'exception {event.vector}')} at rip {rip:#x}"
    if event.cr2 is not None:
        return f"{text}, cr2={event.cr2:#x}"
    return text if event.error_code is None else f"{text}, error code {event.error_code:#x}"


def _explain(fault: Event, state: State) -> str:
    if fault.vector == GP and (fault.error_code or 0) & _IDT:
        gate = (fault.error_code or 0) >> 3
        return "no handler" if gate * 16 + 15 > state.idt_limit else f"no usable gate {gate:#x}"
    where = f", cr2={fault.cr2:#x}" if fault.cr2 is not None else ""
    return f"{NAMES[fault.vector]}{where}"


def _is_contributory(vector: int) -> bool:
    return vector in (DE, TS, NP, SS, GP)


def makes_double_fault(first: Event, second: int) -> bool:
    """Whether a fault while `first` is being delivered makes a double fault, or takes its place."""
    if first.external or first.software:
        return False
    if first.vector == PF:
        return second == PF or _is_contributory(second)
    return _is_contributory(first.vector) and _is_contributory(second)


def _enter(state: State, memory: Paging, event: Event, cr2: int | None) -> Entry:
    vector, error_code, software, external, _ = event
    rip, rsp, rflags, cs, ss, _, _, _, idt_base, idt_limit, *_ = state
    ext = 0 if software else _EXT
    cpl = cs & 3
    try:
        if vector * 16 + 15 > idt_limit & 0xFFFF:
            raise _Fault(GP, vector << 3 | _IDT | ext)
        handler, selector, ist, kind, dpl, present = _gate(memory.read(idt_base + vector * 16, 16))
        if kind not in (_INTERRUPT_GATE, _TRAP_GATE) or (software and dpl < cpl):
            raise _Fault(GP, vector << 3 | _IDT | ext)
        if not present:
            raise _Fault(NP, vector << 3 | _IDT | ext)
        descriptor = _read_descriptor(state, memory, selector, ext)
        fault, level = _code_level(descriptor, cpl)
        if fault:
            raise _Fault(fault, selector & 0xFFFC | ext)
        if not is_canonical(handler):
            raise _Fault(GP, ext)

        new_rsp, new_ss = rsp, ss
        if ist:
            new_rsp = _tss_stack(state, memory, 0x1C + 8 * ist, ext)
        elif level < cpl:
            new_rsp = _tss_stack(state, memory, 4 + 8 * level, ext)
        if level < cpl:
            new_ss = level  # a null selector of the new privilege level
        pushed = rflags
        if not software and not external and vector not in (DB, BP, OF):
            pushed |= FLAG_RF  # a fault restarts its instruction, without its breakpoint
        frame = _FRAME.pack(rip, cs, pushed, rsp, ss)
        if error_code is not None:
            frame = _QWORD.pack(error_code) + frame
        new_rsp = (new_rsp & ~0xF) - len(frame)
        if not is_canonical(new_rsp):
            raise _Fault(SS, ext)
        memory.write(new_rsp, frame)
    except PageFault as page_fault:
        raise _Fault(PF, page_fault.error_code, page_fault.address) from None
    clear = _CLEARED_BY_INTERRUPT_GATE if kind == _INTERRUPT_GATE else _CLEARED_BY_ANY_GATE
    new_cs = selector & ~3 | level
    return Entry(handler, new_rsp, rflags & ~clear, new_cs, descriptor if new_cs != cs else None, new_ss, cr2)


@lru_cache(maxsize=512)
def _gate(data: bytes) -> tuple[int, int, int, int, int, bool]:
    """A gate's handler, selector, IST index, type, privilege level and present flag."""
    low, selector, ist, access, middle, high = _GATE.unpack(data)
    handler = low | middle << 16 | high << 32
    return handler, selector, ist & 7, access & 0x1F, access >> 5 & 3, bool(access & 0x80)


def _read_descriptor(state: State, memory: Paging, selector: int, ext: int) -> int:
    named = selector & 0xFFFC
    if named == 0:
        raise _Fault(GP, ext)
    if selector & 4 or (named | 7) > state.gdt_limit & 0xFFFF:
        raise _Fault(GP, named | ext)
    return int.from_bytes(memory.read(state.gdt_base + named, 8), "little")


@lru_cache(maxsize=64)
def _code_level(descriptor: int, cpl: int) -> tuple[int, int]:
    """The vector a handler's code segment faults with, or 0, and the privilege level the handler runs at."""
    dpl = descriptor >> 45 & 3
    is_code = descriptor >> 43 & 3 == 3
    long_only = descriptor >> 53 & 3 == 1
    if not is_code or dpl > cpl or not long_only:
        return GP, 0
    if not descriptor & _PRESENT:
        return NP, 0
    return 0, cpl if descriptor & _CONFORMING else dpl


def _tss_stack(state: State, memory: Paging, offset: int, ext: int) -> int:
    """A stack pointer out of the 64-bit TSS."""
    if offset + 7 > state.tss_limit_flags & 0xFFFF_FFFF:
        raise _Fault(TS, state.tr & ~3 & 0xFFFF | ext)
    (rsp,) = _QWORD.unpack(memory.read(state.tss_base + offset, 8))
    if not is_canonical(rsp):
        raise _Fault(SS, ext)
    return int(rsp)
