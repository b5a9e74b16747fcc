# SPDX-License-Identifier: GPL-2.0-or-later
"""The fields of a host model's file: name, meaning, range. Reader and writer go by this table.

docs/hosts.md is the page on it.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from vlapic.machine.hostmodel.model import OTHER_EXITS
from vlapic.tsc import U32


class Kind(Enum):
    """What a value is."""

    TEXT = "a text on one line"
    NUMBER = "a whole number"
    DURATION = "a length of time"
    COST = "a cost"


class Field(NamedTuple):
    """One field.

    Attributes:
        table: the TOML table it stands in, "" at the top.
        attribute: of the host model; "" where the field is a part of one.
        low, high: range of a number, or of a duration in cycles.
        meaning: for the comment above it.
    """

    table: str
    name: str
    kind: Kind
    attribute: str
    meaning: str
    low: int = 0
    high: int = U32


#: What an exit is about, where its name does not say.
_EXITS = {
    "PREEMPTION_TIMER": "The VMX preemption timer ran out: the way of a timer interrupt to a running guest.",
    "EXTERNAL_INTERRUPT": "An interrupt of the host, an hrtimer's for one, found the guest running.",
    "MSR_READ": "RDMSR.",
    "MSR_WRITE": "WRMSR; arming IA32_TSC_DEADLINE is one.",
    "APIC_ACCESS": "An access to the local APIC's page.",
    "EPT_MISCONFIG": "An access to a device in memory.",
    "IO_INSTRUCTION": "IN or OUT.",
    "CPUID": "CPUID.",
    "CR_ACCESS": "MOV to or from CR8.",
    "HLT": "HLT, until the vCPU sleeps or goes on.",
    "INTERRUPT_WINDOW": "The guest takes interrupts again.",
    "NMI_WINDOW": "The guest takes NMIs again.",
    "VMCALL": "A hypercall.",
    "TRIPLE_FAULT": "The guest has shut itself down.",
}

FIELDS = (
    Field("", "name", Kind.TEXT, "name", "What reports call this host."),
    Field("", "source", Kind.TEXT, "source", "Where the figures come from."),
    Field(
        "",
        "tsc_khz",
        Kind.NUMBER,
        "tsc_khz",
        "Frequency of the host's TSC in kHz; --host-tsc-khz goes before it. Times in ns become cycles by it.",
        1,
    ),
    Field(
        "",
        "cycles_per_insn",
        Kind.NUMBER,
        "cycles_per_insn",
        "Cycles that one guest instruction takes.",
        1,
        1000,
    ),
    Field(
        "",
        "wait_step_cycles",
        Kind.NUMBER,
        "wait_step_cycles",
        "Cycles of one step of the busy wait before an entry (__wait_lapic_expire); 0: 1 ns, rounded up.",
        0,
        1_000_000,
    ),
    Field(
        "",
        "preemption_timer_rate",
        Kind.NUMBER,
        "preemption_timer_rate",
        "The VMX preemption timer counts down once every 2^rate cycles (SDM, IA32_VMX_MISC bits 4:0).",
        0,
        31,
    ),
    Field(
        "",
        "hrtimer",
        Kind.COST,
        "hrtimer",
        "From an hrtimer's expiry to the end of its callback (apic_timer_fn), interrupts off.",
    ),
    Field(
        "",
        "wake_up",
        Kind.COST,
        "wake_up",
        "From the kick of a vCPU that sleeps in HLT to its thread running again (kvm_vcpu_block).",
    ),
    Field(
        "",
        "injection",
        Kind.COST,
        "injection",
        "Putting a vector into the guest's entry state (inject_pending_event).",
    ),
    Field(
        "",
        "entry",
        Kind.COST,
        "entry",
        "From the end of the busy wait to the guest's next instruction, interrupts off (vmx_vcpu_run).",
    ),
    Field(
        "",
        "posting",
        Kind.COST,
        "posting",
        "From another CPU's posting of an interrupt to the running guest having it, without an exit: the"
        " notification's way and what the CPU does with it (kvm_vcpu_trigger_posted_interrupt; SDM"
        " vol. 3C, Posted-Interrupt Processing).",
    ),
    *(
        Field("exits", reason, Kind.COST, "", _EXITS[reason])
        for reason in ("PREEMPTION_TIMER", "EXTERNAL_INTERRUPT", *OTHER_EXITS)
    ),
    Field(
        "pcpu",
        "slice",
        Kind.DURATION,
        "slice_cycles",
        "How long a vCPU has a physical CPU that another one waits for.",
        1,
        1 << 62,
    ),
    Field(
        "pcpu",
        "min_granularity",
        Kind.DURATION,
        "min_granularity_cycles",
        "How long it has it although another one wakes up; at most the slice. Left out: the slice.",
        0,
        1 << 62,
    ),
    Field(
        "pcpu",
        "switch",
        Kind.COST,
        "switch",
        "Loading another vCPU than the last one onto a physical CPU, a wake-up's cost not counted.",
    ),
    Field(
        "burst",
        "interval",
        Kind.COST,
        "",
        "From the end of one burst to the beginning of the next; 1 cycle at least.",
    ),
    Field("burst", "length", Kind.COST, "", "How long a burst has the physical CPU."),
)

#: What stands above a table.
TABLES = {
    "exits": (
        "From the moment the guest is left to the end of the host's work on the exit (vmx_handle_exit), by"
        " the exit's VMX name."
    ),
    "pcpu": "Physical CPUs that several vCPUs share (vlapic run --pcpus).",
    "burst": "Other work that takes a physical CPU away from its vCPUs. Without this table there is none.",
}
