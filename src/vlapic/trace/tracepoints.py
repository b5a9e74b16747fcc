# SPDX-License-Identifier: GPL-2.0-or-later
"""Tracepoints, as data: each one's name, and its text by the kernel that first printed it so.

Follows `arch/x86/kvm/trace.h`, `include/trace/events/kvm.h`, `timer.h` and `sched.h` of v5.0 to v6.19. The
writer takes the newest form that its kernel has, readers know all of them. `also` are forms that trace-cmd's
and perf's plugins print in place of the kernel's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlapic.events import (
    AcceptIrq,
    ApicAccess,
    ApicIpi,
    DeviceAccess,
    Entry,
    Eoi,
    Exit,
    HrtimerExpire,
    HrtimerStart,
    HvTimerState,
    InjectVirq,
    Msr,
    PortAccess,
    PvEoi,
    SchedSwitch,
    SchedWaking,
    TrackTsc,
    TscOffset,
    VcpuWakeup,
    WaitLapicExpire,
)
from vlapic.trace.templates import Form

#: `kvm_trace_symbol_apic`
APIC_REGISTERS = {
    0x20: "APIC_ID",
    0x30: "APIC_LVR",
    0x80: "APIC_TASKPRI",
    0x90: "APIC_ARBPRI",
    0xA0: "APIC_PROCPRI",
    0xB0: "APIC_EOI",
    0xC0: "APIC_RRR",
    0xD0: "APIC_LDR",
    0xE0: "APIC_DFR",
    0xF0: "APIC_SPIV",
    0x100: "APIC_ISR",
    0x180: "APIC_TMR",
    0x200: "APIC_IRR",
    0x280: "APIC_ESR",
    0x300: "APIC_ICR",
    0x310: "APIC_ICR2",
    0x320: "APIC_LVTT",
    0x330: "APIC_LVTTHMR",
    0x340: "APIC_LVTPC",
    0x350: "APIC_LVT0",
    0x360: "APIC_LVT1",
    0x370: "APIC_LVTERR",
    0x380: "APIC_TMICT",
    0x390: "APIC_TMCCT",
    0x3E0: "APIC_TDCR",
    0x3F0: "APIC_SELF_IPI",
    0x400: "APIC_EFEAT",
    0x410: "APIC_ECTRL",
}
#: `kvm_deliver_mode`
DELIVERY_MODES = "Fixed|LowPrio|SMI|Res3|NMI|INIT|SIPI|ExtINT"
#: `kvm_apic_dst_shorthand`
SHORTHANDS = "dst|self|all|all-but-self"

_IMMEDIATE = "{immediate_exit:|[immediate exit]}"
_EVENT = "intr_info 0x{intr_info:08x} error_code 0x{error_code:08x}"
_EXIT = "reason {reason:s} rip 0x{rip:x}"
_EXIT_V5_10 = f"vcpu {{vcpu}} {_EXIT} info1 0x{{info1:016x}} info2 0x{{info2:016x}} {_EVENT}"
_HV_TIMER_STATE = "vcpu_id {vcpu:x} hv_timer {hv_timer_in_use:x}"
_HRTIMER_START = (
    "hrtimer={timer:p} function={function:s} expires={expires_ns:d} softexpires={soft_expires_ns:d}"
)
_MMIO = "len {size} gpa 0x{address:x} val 0x{value:x}"


@dataclass(frozen=True)
class Tracepoint:
    """A tracepoint of the kernel.

    Attributes:
        name: its name, as lines have it.
        event_type: the event it becomes.
        flags: what a line says of the place it stands at: interrupts off, need resched, hard or soft
            interrupt, preemption depth.
        forms: the kernel (major, minor) that first printed a form, and the form; the oldest first.
        also: other forms it is seen in.
        later_flags: the kernel (major, minor) that moved it to another place, and the flags there.
    """

    name: str
    event_type: type[Any]
    flags: str
    forms: tuple[tuple[tuple[int, int], Form], ...]
    also: tuple[Form, ...] = ()
    later_flags: tuple[tuple[int, int], str] | None = None

    def flags_of(self, kernel: tuple[int, int]) -> str:
        """The flags of its place in a kernel."""
        if self.later_flags is not None and self.later_flags[0] <= kernel:
            return self.later_flags[1]
        return self.flags

    def form_of(self, kernel: tuple[int, int]) -> Form:
        """The form that a kernel prints."""
        fitting = [form for since, form in self.forms if since <= kernel]
        return (fitting or [self.forms[0][1]])[-1]

    @property
    def line_forms(self) -> list[Form]:
        """Every form that one line can have, the newest first."""
        return [form for _, form in reversed(self.forms) if not form.text.endswith("\n")] + list(self.also)


_BASE = (4, 0)


def _icr_bits(shift: int, mask: int) -> Any:
    return lambda event: event.icr_low >> shift & mask


def _icr_low(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "destination": fields["destination"],
        "icr_low": fields["_vector"]
        | fields["_mode"] << 8
        | fields["_logical"] << 11
        | fields["_assert"] << 14
        | fields["_level"] << 15
        | fields["_shorthand"] << 18,
    }


TRACEPOINTS = (
    Tracepoint(
        "kvm_entry",
        Entry,
        "d..1",
        (
            (_BASE, Form("vcpu {vcpu}")),
            ((5, 10), Form("vcpu {vcpu}, rip 0x{rip:x}")),
            # v6.9; brought to 6.1.149 and 6.6.103, and so in the 6.1.192 that v6.1 stands for.
            ((6, 1), Form(f"vcpu {{vcpu}}, rip 0x{{rip:x}}{_IMMEDIATE}")),
            ((6, 2), Form("vcpu {vcpu}, rip 0x{rip:x}")),
            ((6, 6), Form(f"vcpu {{vcpu}}, rip 0x{{rip:x}}{_IMMEDIATE}")),
            ((6, 7), Form("vcpu {vcpu}, rip 0x{rip:x}")),
            ((6, 9), Form(f"vcpu {{vcpu}}, rip 0x{{rip:x}}{_IMMEDIATE}")),
            ((6, 13), Form(f"vcpu {{vcpu}}, rip 0x{{rip:x}} {_EVENT}{_IMMEDIATE}")),
        ),
        (Form("vcpu {vcpu} rip 0x{rip:x}"),),
    ),
    Tracepoint(
        "kvm_exit",
        Exit,
        "....",
        (
            (_BASE, Form(f"{_EXIT} info {{info1:x}} {{info2:x}}")),
            ((5, 4), Form(f"vcpu {{vcpu}} {_EXIT} info {{info1:x}} {{info2:x}}")),
            ((5, 10), Form(_EXIT_V5_10)),
            (
                (6, 13),
                Form(_EXIT_V5_10 + " requests 0x{_requests:016x}", computed={"_requests": lambda e: 0}),
            ),
        ),
        # Since v5.8 (or one of the three before) `vmx_vcpu_run` traces it, interrupts off.
        later_flags=((5, 8), "d..1"),
    ),
    Tracepoint(
        "kvm_msr",
        Msr,
        "....",
        ((_BASE, Form("msr_{write:read|write} {msr:x} = 0x{value:x}{fault:| (#GP)}")),),
    ),
    Tracepoint(
        "kvm_apic",
        ApicAccess,
        "....",
        # Up to v5.18 the value has 32 bits.
        (
            (
                _BASE,
                Form(
                    "apic_{write:read|write} {register:symbol} = 0x{value:x}",
                    computed={"value": lambda e: e.value & 0xFFFF_FFFF},
                    symbols=APIC_REGISTERS,
                ),
            ),
            (
                (5, 18),
                Form("apic_{write:read|write} {register:symbol} = 0x{value:x}", symbols=APIC_REGISTERS),
            ),
        ),
    ),
    Tracepoint(
        "kvm_pio",
        PortAccess,
        "....",
        (
            (
                _BASE,
                # The format ends in a blank, behind which a string instruction's text has "(...)".
                Form(
                    "pio_{write:read|write} at 0x{port:x} size {size} count {_count} val 0x{value:x}"
                    "{_more: | (...)|}",
                    computed={"_count": lambda e: 1, "_more": lambda e: 0},
                ),
            ),
        ),
    ),
    Tracepoint(
        "kvm_mmio",
        DeviceAccess,
        "....",
        ((_BASE, Form(f"mmio {{write:read|write}} {_MMIO}")),),
        (Form(f"mmio unsatisfied-read {_MMIO}"),),
    ),
    Tracepoint(
        "kvm_hv_timer_state",
        HvTimerState,
        "...1",
        # Up to v5.2 the format ends in a newline of its own, which leaves an empty line.
        ((_BASE, Form(_HV_TIMER_STATE + "\n")), ((5, 3), Form(_HV_TIMER_STATE))),
    ),
    Tracepoint(
        "kvm_apic_ipi",
        ApicIpi,
        "....",
        (
            (
                _BASE,
                Form(
                    f"dst {{destination:x}} vec {{_vector}} ({{_mode:{DELIVERY_MODES}}}"
                    "|{_logical:physical|logical}|{_assert:de-assert|assert}|{_level:edge|level}"
                    f"|{{_shorthand:{SHORTHANDS}}})",
                    computed={
                        "_vector": _icr_bits(0, 0xFF),
                        "_mode": _icr_bits(8, 7),
                        "_logical": _icr_bits(11, 1),
                        "_assert": _icr_bits(14, 1),
                        "_level": _icr_bits(15, 1),
                        "_shorthand": _icr_bits(18, 3),
                    },
                    decode=_icr_low,
                ),
            ),
        ),
    ),
    Tracepoint(
        "kvm_apic_accept_irq",
        AcceptIrq,
        "....",
        (
            (
                _BASE,
                Form(
                    f"apicid {{apic_id:x}} vec {{vector}} ({{delivery_mode:{DELIVERY_MODES}}}"
                    "|{level:edge|level})",
                    computed={"delivery_mode": lambda e: e.delivery_mode & 7},
                ),
            ),
        ),
    ),
    Tracepoint(
        "kvm_inj_virq",
        InjectVirq,
        "....",
        (
            (_BASE, Form("irq {vector}")),
            ((6, 0), Form("{soft:IRQ|Soft/INTn} 0x{vector:x}{reinjected:| [reinjected]}")),
        ),
    ),
    Tracepoint(
        "kvm_wait_lapic_expire",
        WaitLapicExpire,
        "d..1",
        (
            (
                _BASE,
                # 0 is late.
                Form(
                    "vcpu {vcpu}: delta {delta_cycles:d} ({_sign:late|early})",
                    computed={"_sign": lambda e: e.delta_cycles < 0},
                ),
            ),
        ),
    ),
    Tracepoint("kvm_eoi", Eoi, "....", ((_BASE, Form("apicid {vcpu:x} vector {vector:d}")),)),
    Tracepoint("kvm_pv_eoi", PvEoi, "....", ((_BASE, Form("apicid {vcpu:x} vector {vector:d}")),)),
    Tracepoint(
        "kvm_write_tsc_offset",
        TscOffset,
        "d..1",
        ((_BASE, Form("vcpu={vcpu} prev={previous} next={next}")),),
    ),
    Tracepoint(
        "kvm_track_tsc",
        TrackTsc,
        "d..1",
        (
            (
                _BASE,
                Form(
                    "vcpu_id {vcpu} masterclock {masterclock} offsetmatched {matched} nr_online {online}"
                    " hostclock {host_clock:s}"
                ),
            ),
        ),
    ),
    Tracepoint(
        "kvm_vcpu_wakeup",
        VcpuWakeup,
        "....",
        ((_BASE, Form("{waited:poll|wait} time {duration_ns} ns, polling {valid:invalid|valid}")),),
    ),
    Tracepoint(
        "hrtimer_start",
        HrtimerStart,
        "d..1",
        ((_BASE, Form(_HRTIMER_START)), ((4, 16), Form(_HRTIMER_START + " mode={mode:w}"))),
        # Since Linux commit f2e388a019e4 ("hrtimer: Reduce trace noise in hrtimer_start()") (in v7.1);
        # stable kernels from 6.1.y to 7.0.y have it too.
        (Form(_HRTIMER_START + " mode={mode:w} was_armed={_was_armed}"),),
    ),
    Tracepoint(
        "hrtimer_expire_entry",
        HrtimerExpire,
        "d.h1",
        ((_BASE, Form("hrtimer={timer:p} function={function:s} now={now_ns:d}")),),
        (Form("hrtimer={timer:p} now={now_ns:d} function={function:s}"),),
    ),
    Tracepoint(
        "sched_switch",
        SchedSwitch,
        "d..2",
        (
            (
                _BASE,
                Form(
                    "prev_comm={previous_comm:s} prev_pid={previous_tid} prev_prio={previous_prio:d}"
                    " prev_state={previous_state:s} ==> next_comm={next_comm:s} next_pid={next_tid}"
                    " next_prio={next_prio:d}"
                ),
            ),
        ),
        (
            Form(
                "{previous_comm:s}:{previous_tid} [{previous_prio:d}] {previous_state:s} ==>"
                " {next_comm:s}:{next_tid} [{next_prio:d}]"
            ),
            # libtraceevent, where it cannot read the kernel's own format: the fields, the state a number.
            Form(
                "[FAILED TO PARSE] prev_comm={previous_comm:s} prev_pid={previous_tid}"
                " prev_prio={previous_prio:d} prev_state={previous_state:s} next_comm={next_comm:s}"
                " next_pid={next_tid} next_prio={next_prio:d}"
            ),
        ),
    ),
    Tracepoint(
        "sched_waking",
        SchedWaking,
        "d..2",
        ((_BASE, Form("comm={comm:s} pid={tid} prio={prio:d} target_cpu={target_cpu:03u}")),),
        (
            Form("comm={comm:s} pid={tid} prio={prio:d} success={_success} target_cpu={target_cpu}"),
            Form("{comm:s}:{tid} [{prio:d}] CPU:{target_cpu}"),
            Form("{comm:s}:{tid} [{prio:d}] success={_success} CPU:{target_cpu}"),
        ),
    ),
)
