"""Tracepoint formats, as data by kernel: how each prints its event, and the lines above them all.

Follows `arch/x86/kvm/trace.h`, `include/trace/events/kvm.h` and `kernel/trace/trace.c:
print_func_help_header_irq`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from vlapic.events import (
    AcceptIrq,
    ApicAccess,
    ApicIpi,
    DeviceAccess,
    Entry,
    Eoi,
    Exit,
    HvTimerState,
    InjectVirq,
    Msr,
    PortAccess,
    WaitLapicExpire,
)

_U32 = (1 << 32) - 1

#: `kvm_trace_symbol_apic`
APIC_REGISTERS = {
    0x20: "ID",
    0x30: "LVR",
    0x80: "TASKPRI",
    0x90: "ARBPRI",
    0xA0: "PROCPRI",
    0xB0: "EOI",
    0xC0: "RRR",
    0xD0: "LDR",
    0xE0: "DFR",
    0xF0: "SPIV",
    0x100: "ISR",
    0x180: "TMR",
    0x200: "IRR",
    0x280: "ESR",
    0x300: "ICR",
    0x310: "ICR2",
    0x320: "LVTT",
    0x330: "LVTTHMR",
    0x340: "LVTPC",
    0x350: "LVT0",
    0x360: "LVT1",
    0x370: "LVTERR",
    0x380: "TMICT",
    0x390: "TMCCT",
    0x3E0: "TDCR",
    0x3F0: "SELF_IPI",
    0x400: "EFEAT",
    0x410: "ECTRL",
}
#: `kvm_deliver_mode`
DELIVERY_MODES = ("Fixed", "LowPrio", "SMI", "Res3", "NMI", "INIT", "SIPI", "ExtINT")
#: `kvm_apic_dst_shorthand`
SHORTHANDS = ("dst", "self", "all", "all-but-self")


class Tracepoint(NamedTuple):
    """How a kernel prints one event.

    Attributes:
        name: what stands in front of the colon.
        flags: the latency columns: interrupts off, need resched, hard or soft interrupt, preemption depth.
        text: the rest of the line.
    """

    name: str
    flags: str
    text: Callable[[Any], str]


def _register_name(register: int) -> str:
    """`__print_symbolic`: a value without a name is printed in hex."""
    name = APIC_REGISTERS.get(register)
    return f"APIC_{name}" if name else f"{register:#x}"


def _entry(e: Entry) -> str:
    return f"vcpu {e.vcpu}"


def _exit(e: Exit) -> str:
    return f"reason {e.reason} rip {e.rip:#x} info {e.info1:x} {e.info2:x}"


def _msr(e: Msr) -> str:
    return f"msr_{'write' if e.write else 'read'} {e.msr:x} = {e.value:#x}{' (#GP)' if e.fault else ''}"


def _apic(e: ApicAccess) -> str:
    return f"apic_{'write' if e.write else 'read'} {_register_name(e.register)} = {e.value & _U32:#x}"


def _pio(e: PortAccess) -> str:
    # The format ends in a blank, behind which a string instruction's text has "(...)".
    return f"pio_{'write' if e.write else 'read'} at {e.port:#x} size {e.size} count 1 val {e.value:#x} "


def _mmio(e: DeviceAccess) -> str:
    return f"mmio {'write' if e.write else 'read'} len {e.size} gpa {e.address:#x} val {e.value:#x}"


def _hv_timer_state(e: HvTimerState) -> str:
    # Up to v5.2 the format ends in a newline of its own, which leaves an empty line; v5.3 dropped it.
    return f"vcpu_id {e.vcpu:x} hv_timer {e.hv_timer_in_use:x}\n"


def _accept_irq(e: AcceptIrq) -> str:
    mode = DELIVERY_MODES[e.delivery_mode & 7]
    return f"apicid {e.apic_id:x} vec {e.vector} ({mode}|{'level' if e.level else 'edge'})"


def _inj_virq(e: InjectVirq) -> str:
    return f"irq {e.vector}"


def _wait_lapic_expire(e: WaitLapicExpire) -> str:
    return f"vcpu {e.vcpu}: delta {e.delta_cycles} ({'early' if e.delta_cycles < 0 else 'late'})"


def _ipi(e: ApicIpi) -> str:
    mode = DELIVERY_MODES[e.icr_low >> 8 & 7]
    destination = "logical" if e.icr_low & 1 << 11 else "physical"
    level = "assert" if e.icr_low & 1 << 14 else "de-assert"
    trigger = "level" if e.icr_low & 1 << 15 else "edge"
    shorthand = SHORTHANDS[e.icr_low >> 18 & 3]
    return (
        f"dst {e.destination:x} vec {e.icr_low & 0xFF} ({mode}|{destination}|{level}|{trigger}|{shorthand})"
    )


def _eoi(e: Eoi) -> str:
    return f"apicid {e.vcpu:x} vector {e.vector}"


@dataclass(frozen=True)
class TraceKernel:
    """What the text of one kernel looks like: the lines above the events, and each event's form."""

    header: str
    tracepoints: dict[type[tuple[Any, ...]], Tracepoint]


_HEADER_V5_2 = """\
#                              _-----=> irqs-off
#                             / _----=> need-resched
#                            | / _---=> hardirq/softirq
#                            || / _--=> preempt-depth
#                            ||| /     delay
#           TASK-PID   CPU#  ||||    TIMESTAMP  FUNCTION
#              | |       |   ||||       |         |
"""

#: Formats by kernel. The flags are those of the place each tracepoint stands at.
KERNELS = {
    "v5.2": TraceKernel(
        _HEADER_V5_2,
        {
            Entry: Tracepoint("kvm_entry", "d..1", _entry),
            Exit: Tracepoint("kvm_exit", "....", _exit),
            Msr: Tracepoint("kvm_msr", "....", _msr),
            ApicAccess: Tracepoint("kvm_apic", "....", _apic),
            PortAccess: Tracepoint("kvm_pio", "....", _pio),
            DeviceAccess: Tracepoint("kvm_mmio", "....", _mmio),
            HvTimerState: Tracepoint("kvm_hv_timer_state", "...1", _hv_timer_state),
            ApicIpi: Tracepoint("kvm_apic_ipi", "....", _ipi),
            AcceptIrq: Tracepoint("kvm_apic_accept_irq", "....", _accept_irq),
            InjectVirq: Tracepoint("kvm_inj_virq", "....", _inj_virq),
            WaitLapicExpire: Tracepoint("kvm_wait_lapic_expire", "d..1", _wait_lapic_expire),
            Eoi: Tracepoint("kvm_eoi", "....", _eoi),
        },
    )
}
