# SPDX-License-Identifier: GPL-2.0-or-later
"""Events that are no tracepoint of the kernel's: vlapic's own, and what who recorded a trace wrote into it.

`TimerInterrupt` holds all that statistics need to know of one timer interrupt.
"""

from __future__ import annotations

from typing import NamedTuple

from vlapic.events.fields import S64, U8, U32, U64, Flag, Name, ShortName


class TimerInterrupt(NamedTuple):
    """A timer interrupt reached its handler: what `vlapic run` measures.

    Attributes:
        host_tsc: at the handler's first instruction.
        vector: the LVTT vector delivered.
        deadline_tsc: the guest TSC asked for; one-shot, periodic: the timer's computed guest TSC.
        handler_tsc: guest TSC at the handler's first instruction.
        instructions: guest instructions retired after the write that armed this deadline, HLT counted as one.
        missed: further expiries that this interrupt stands for.
        blocked_cycles: guest cycles of the lateness with IF, a shadow, the TPR or the LVTT mask against it.
        waited: whether the entry that delivered it came to the busy wait (a deadline had expired, advancement
            not 0).
        delta_cycles: guest TSC minus deadline when it did; negative is early, 0 if it did not.
        wait_cycles: host cycles spent in the busy wait.
        advance_ns: the vCPU's advancement after this interrupt.
    """

    host_tsc: U64
    vm: U32
    vcpu: U32
    vector: U8
    deadline_tsc: U64
    handler_tsc: U64
    instructions: U64
    missed: U32
    blocked_cycles: U64
    waited: Flag
    delta_cycles: S64
    wait_cycles: U64
    advance_ns: U32


class VcpuStart(NamedTuple):
    """A vCPU was created; a marker with what a reader of its deltas must know.

    Attributes:
        tsc_khz: frequency of its TSC.
        tsc_ratio, frac_bits: its scaling; 0 where that is not told.
        profile: vlapic's name of the rules; empty of a real kernel.
        advance_ns: the advancement it starts with.
        parameter: the module parameter it was created under: `auto` or ns; empty where that is not told.
    """

    host_tsc: U64
    vm: U32
    vcpu: U32
    tsc_khz: U32
    tsc_ratio: U64
    frac_bits: U8
    tsc_offset: U64
    profile: Name
    advance_ns: U32
    parameter: Name = ""


class VcpuCreated(NamedTuple):
    """A vCPU that is not traced was created; somebody who recorded a trace wrote so into it.

    Attributes:
        parameter: the module parameter lapic_timer_advance_ns at that time: `auto`, -1 or ns.
    """

    host_tsc: U64
    vm: U32
    vcpu: U32
    parameter: Name


class AdvanceSample(NamedTuple):
    """The vCPU's advancement as debugfs would show it; vlapic's own marker."""

    host_tsc: U64
    vm: U32
    vcpu: U32
    advance_ns: U32


class Sample(NamedTuple):
    """A vCPU's debugfs files as somebody who recorded a trace wrote them into it; the truth to check against.

    Attributes:
        interrupts: how many the guest had taken.
        advance_ns: lapic_timer_advance_ns.
        tsc_offset: tsc-offset, modulo 2^64.
    """

    host_tsc: U64
    vm: U32
    vcpu: U32
    interrupts: U64
    advance_ns: U32
    tsc_offset: U64


class DebugfsSample(NamedTuple):
    """A vCPU's lapic_timer_advance_ns as a loop beside the VM read it, some time before it wrote so here.

    `vm` and `vcpu` are those of the thread that wrote.

    Attributes:
        pid: the process of the VM.
        number: of the vCPU.
        advance_ns: what was read.
    """

    host_tsc: U64
    vm: U32
    vcpu: U32
    pid: U32
    number: U32
    advance_ns: U32


class Lost(NamedTuple):
    """Something was lost here: the trace says so, or its file is damaged.

    Attributes:
        host_tsc: of the last event before it that is known, 0 if there is none.
        cpu: whose buffer it was, `NO_VCPU` if that is not known.
        events: how many (lines, where the file is damaged), 0 if that is not known.
        cause: `overrun` (the buffer was full, or its oldest events were overwritten), `unfinished` (the file
            ends in the middle), `damaged` (what stands there cannot be read).
        place: where in the file, for `damaged` and `unfinished`: the line's number or the byte's offset.
        size_bytes: how much of a trace.dat cannot be used there, 0 if that is not known; 0 for text.
        tracepoint: the one of which none can be read, because its format in a trace.dat is damaged; `place`
            is the format's. Empty for every other loss.
    """

    host_tsc: U64
    vm: U32
    vcpu: U32
    cpu: U32
    events: U64
    cause: Name
    place: U64
    size_bytes: U64 = 0
    tracepoint: ShortName = ""


class RemoteEoi(NamedTuple):
    """A level-triggered interrupt has ended, and the I/O APICs are told; vlapic's own marker."""

    host_tsc: U64
    vm: U32
    vcpu: U32
    vector: U8


class SmiIgnored(NamedTuple):
    """An SMI came and went: there is no system management mode here; vlapic's own marker."""

    host_tsc: U64
    vm: U32
    vcpu: U32


OwnEvent = (
    TimerInterrupt
    | VcpuStart
    | VcpuCreated
    | AdvanceSample
    | Sample
    | DebugfsSample
    | Lost
    | RemoteEoi
    | SmiIgnored
)
