"""Every event of vlapic, declared once: a NamedTuple for one of them, and the same declaration as numpy
columns for many.

Events are the one language between machine, traces, analysis and reports. The kernel's tracepoints keep the
kernel's names and fields; `TimerInterrupt` is vlapic's own and holds all that statistics need to know of one
timer interrupt. `host_tsc` (the kernel's x86-tsc trace clock), `vm` and `vcpu` lead every event.

A field's annotation is its width in memory. :class:`Table` turns a list of events of one class into columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, get_args, get_type_hints

import numpy as np
import numpy.typing as npt

U8 = Annotated[int, "u1"]
U32 = Annotated[int, "<u4"]
U64 = Annotated[int, "<u8"]
S64 = Annotated[int, "<i8"]
Flag = Annotated[bool, "?"]
Name = Annotated[str, "U24"]


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
    """A vCPU was created; vlapic's own marker, with what a reader of its deltas must know."""

    host_tsc: U64
    vm: U32
    vcpu: U32
    tsc_khz: U32
    tsc_ratio: U64
    frac_bits: U8
    tsc_offset: U64
    profile: Name
    advance_ns: U32


class AdvanceSample(NamedTuple):
    """The vCPU's advancement as debugfs would show it; vlapic's own marker."""

    host_tsc: U64
    vm: U32
    vcpu: U32
    advance_ns: U32


class Entry(NamedTuple):
    """kvm_entry: the guest is about to be entered."""

    host_tsc: U64
    vm: U32
    vcpu: U32
    rip: U64


class Exit(NamedTuple):
    """kvm_exit: the guest was left. `reason` is the VMX name without EXIT_REASON_."""

    host_tsc: U64
    vm: U32
    vcpu: U32
    reason: Name
    rip: U64
    info1: U64
    info2: U64


class Msr(NamedTuple):
    """kvm_msr: an intercepted RDMSR or WRMSR, `fault` if it raised #GP."""

    host_tsc: U64
    vm: U32
    vcpu: U32
    write: Flag
    msr: U32
    value: U64
    fault: Flag


class ApicAccess(NamedTuple):
    """kvm_apic: an access to the memory-mapped registers; `register` is the offset in the page."""

    host_tsc: U64
    vm: U32
    vcpu: U32
    write: Flag
    register: U32
    value: U64


class PortAccess(NamedTuple):
    """kvm_pio: IN or OUT, of 1, 2 or 4 bytes."""

    host_tsc: U64
    vm: U32
    vcpu: U32
    write: Flag
    port: U32
    size: U8
    value: U32


class DeviceAccess(NamedTuple):
    """kvm_mmio: an access to memory that is neither RAM nor the local APIC's page."""

    host_tsc: U64
    vm: U32
    vcpu: U32
    write: Flag
    address: U64
    size: U8
    value: U64


class HvTimerState(NamedTuple):
    """kvm_hv_timer_state: the timer is (1) or is not (0) on the VMX preemption timer now."""

    host_tsc: U64
    vm: U32
    vcpu: U32
    hv_timer_in_use: Flag


class AcceptIrq(NamedTuple):
    """kvm_apic_accept_irq: the local APIC took an interrupt message."""

    host_tsc: U64
    vm: U32
    vcpu: U32
    apic_id: U32
    vector: U8
    delivery_mode: U8
    level: Flag


class InjectVirq(NamedTuple):
    """kvm_inj_virq: a vector goes into the guest at the next entry."""

    host_tsc: U64
    vm: U32
    vcpu: U32
    vector: U8


class WaitLapicExpire(NamedTuple):
    """kvm_wait_lapic_expire: guest TSC minus expired deadline at the busy wait, negative is early."""

    host_tsc: U64
    vm: U32
    vcpu: U32
    delta_cycles: S64


class Eoi(NamedTuple):
    """kvm_eoi: the guest ended the interrupt in service; -1 is a spurious EOI."""

    host_tsc: U64
    vm: U32
    vcpu: U32
    vector: S64


class ApicIpi(NamedTuple):
    """kvm_apic_ipi: an interprocessor interrupt was sent; `icr_low` is what ICR's low half says."""

    host_tsc: U64
    vm: U32
    vcpu: U32
    icr_low: U32
    destination: U32


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


Event = (
    TimerInterrupt
    | VcpuStart
    | AdvanceSample
    | Entry
    | Exit
    | Msr
    | ApicAccess
    | PortAccess
    | DeviceAccess
    | HvTimerState
    | AcceptIrq
    | InjectVirq
    | WaitLapicExpire
    | Eoi
    | ApicIpi
    | RemoteEoi
    | SmiIgnored
)

E = TypeVar("E")


#: Every class of event, in the order of their declaration.
EVENT_TYPES: tuple[type[Any], ...] = get_args(Event)


def _dtype(event_type: type[Any]) -> np.dtype[Any]:
    hints = get_type_hints(event_type, include_extras=True)
    return np.dtype([(name, hint.__metadata__[0]) for name, hint in hints.items()])


#: The structured dtype of each class of event: a field each, in order.
DTYPES = {event_type: _dtype(event_type) for event_type in EVENT_TYPES}


class Table(Generic[E]):
    """Events of one class as columns: `table["delta_cycles"]` is an array of shape (len(table),)."""

    __slots__ = ("event_type", "rows")

    def __init__(self, event_type: type[E], rows: npt.NDArray[Any]) -> None:
        """Wrap a structured array of dtype `DTYPES[event_type]` and shape (n,)."""
        self.event_type = event_type
        self.rows = rows

    @classmethod
    def of(cls, event_type: type[E], events: Iterable[E]) -> Table[E]:
        """Columns of these events, in their order.

        Raises:
            OverflowError: a value does not fit its column.
        """
        return cls(event_type, np.array(list(events), dtype=DTYPES[event_type]))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        return self.rows[column]

    def __iter__(self) -> Iterator[E]:
        """The events again, as they went in."""
        return itertools.starmap(self.event_type, self.rows.tolist())
