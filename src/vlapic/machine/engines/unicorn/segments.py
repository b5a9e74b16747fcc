# SPDX-License-Identifier: GPL-2.0-or-later
"""Segment descriptors in the guest's tables, and the stacks of its TSS.

Follows SDM vol. 3A "Segment Descriptors" and "Task Management". The flags of a segment are bits 63 to 32 of
its descriptor, as QEMU keeps them.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from vlapic.machine.engines.unicorn.events import GP, NP, SS, TS, DeliveryFault
from vlapic.machine.engines.unicorn.paging import Paging, is_canonical
from vlapic.machine.engines.unicorn.state import Segment, System

_PRESENT, _GRANULAR = 1 << 15, 1 << 23
_IS_CODE, _IS_SEGMENT, _WRITABLE, _CONFORMING = 1 << 11, 1 << 12, 1 << 9, 1 << 10
_DPL_SHIFT = 13
_QWORD = struct.Struct("<Q")


def read_descriptor(system: System, memory: Paging, selector: int, vector: int, ext: int) -> bytes:
    """The descriptor that a selector names; a fault `vector` where there is none."""
    named = selector & 0xFFFC
    if named == 0:
        raise DeliveryFault(vector, ext)
    base, limit = (
        (system.ldt_base, system.ldt_limit if system.ldt & 0xFFFC else 0)
        if selector & 4
        else (system.gdt_base, system.gdt_limit & 0xFFFF)
    )
    if (named & ~7 | 7) > limit:
        raise DeliveryFault(vector, named | ext)
    return memory.read(base + (named & ~7), 8)


@lru_cache(maxsize=256)
def unpack(descriptor: bytes, selector: int) -> Segment:
    """A segment register that has been loaded with a descriptor."""
    low, flags = struct.unpack("<II", descriptor)
    limit = low & 0xFFFF | flags & 0xF_0000
    if flags & _GRANULAR:
        limit = limit << 12 | 0xFFF
    return Segment(selector, low >> 16 | (flags & 0xFF) << 16 | flags & 0xFF00_0000, limit, flags)


@lru_cache(maxsize=256)
def code_level(descriptor: bytes, cpl: int, long_mode: bool) -> tuple[int, int]:
    """The vector a handler's code segment faults with, or 0, and the privilege level the handler runs at."""
    flags = unpack(descriptor, 0).flags
    dpl = flags >> _DPL_SHIFT & 3
    is_code = flags & (_IS_CODE | _IS_SEGMENT) == _IS_CODE | _IS_SEGMENT
    size_fits = flags >> 21 & 3 == 1 if long_mode else True
    if not is_code or dpl > cpl or not size_fits:
        return GP, 0
    if not flags & _PRESENT:
        return NP, 0
    return 0, cpl if flags & _CONFORMING else dpl


def tss_stack_64(system: System, memory: Paging, offset: int, ext: int) -> int:
    """A stack pointer out of the 64-bit TSS."""
    if offset + 7 > system.tss_limit:
        raise DeliveryFault(TS, system.tr & 0xFFFC | ext)
    (rsp,) = _QWORD.unpack(memory.read(system.tss_base + offset, 8))
    if not is_canonical(rsp):
        raise DeliveryFault(SS, ext)
    return int(rsp)


def tss_stack_32(system: System, memory: Paging, level: int, ext: int) -> tuple[Segment, int]:
    """The stack segment and pointer of a privilege level out of a 32-bit or 16-bit TSS, checked."""
    is_32 = bool(system.tss_flags & 1 << 11)
    form = struct.Struct("<IH" if is_32 else "<HH")
    offset = 4 + 8 * level if is_32 else 2 + 4 * level
    if offset + form.size - 1 > system.tss_limit:
        raise DeliveryFault(TS, system.tr & 0xFFFC | ext)
    pointer, selector = form.unpack(memory.read(system.tss_base + offset, form.size))
    descriptor = read_descriptor(system, memory, selector, TS, ext)
    stack = unpack(descriptor, selector)
    named = selector & 0xFFFC | ext
    is_data = stack.flags & (_IS_SEGMENT | _IS_CODE | _WRITABLE) == _IS_SEGMENT | _WRITABLE
    if selector & 3 != level or stack.flags >> _DPL_SHIFT & 3 != level or not is_data:
        raise DeliveryFault(TS, named)
    if not stack.flags & _PRESENT:
        raise DeliveryFault(SS, named)
    return stack, pointer


def null_stack(level: int) -> Segment:
    """SS as a change of privilege leaves it in 64-bit mode: a null selector of the new level."""
    return Segment(level, 0, 0xFFFF_FFFF, 0x00CF_9300 | level << _DPL_SHIFT)
