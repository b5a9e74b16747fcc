"""Every event of vlapic, declared once: a NamedTuple for one of them, and the same declaration as numpy
columns for many.

Events are the one language between machine, traces, analysis and reports. The kernel's tracepoints keep the
kernel's names and fields; `TimerInterrupt` is vlapic's own and holds all that statistics need to know of one
timer interrupt.

`host_tsc`, `vm` and `vcpu` lead every event. `host_tsc` is the kernel's x86-tsc trace clock; in a trace that
was recorded with another clock it is that clock's ns (the reader's `clock` says which). `vm` and `vcpu` are
`NO_VCPU` where no vCPU's thread did it.

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
S32 = Annotated[int, "<i4"]
S64 = Annotated[int, "<i8"]
Flag = Annotated[bool, "?"]
#: ASCII, a byte a character; longer ones are cut.
Name = Annotated[str, "S28"]
#: A task's name (`TASK_COMM_LEN`, without the end).
Comm = Annotated[str, "S15"]

#: `vm` and `vcpu` of an event that no vCPU's thread made.
NO_VCPU = (1 << 32) - 1


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
    """

    host_tsc: U64
    vm: U32
    vcpu: U32
    cpu: U32
    events: U64
    cause: Name
    place: U64


class TscOffset(NamedTuple):
    """kvm_write_tsc_offset: a vCPU's TSC offset changes, modulo 2^64; `previous` is 0 for a new vCPU."""

    host_tsc: U64
    vm: U32
    vcpu: U32
    previous: U64
    next: U64


class TrackTsc(NamedTuple):
    """kvm_track_tsc: a vCPU's TSC was written, and compared with the others' of its VM.

    Attributes:
        masterclock: whether the VM uses the master clock.
        matched: how many vCPUs' offsets match.
        online: how many vCPUs there are.
        host_clock: the host's clock source: `tsc`, `none`, `hpet`...
    """

    host_tsc: U64
    vm: U32
    vcpu: U32
    masterclock: Flag
    matched: U32
    online: U32
    host_clock: Name


class Entry(NamedTuple):
    """kvm_entry: the guest is about to be entered.

    What a kernel does not print is 0: `rip` up to v5.9, the others up to v6.8 and v6.12.

    Attributes:
        immediate_exit: it is entered only to be left at once, before its first instruction.
        intr_info, error_code: the event that the entry injects, as the VMCS or VMCB has it.
    """

    host_tsc: U64
    vm: U32
    vcpu: U32
    rip: U64
    immediate_exit: Flag = False
    intr_info: U32 = 0
    error_code: U32 = 0


class Exit(NamedTuple):
    """kvm_exit: the guest was left.

    Attributes:
        reason: as the kernel prints it: the VMX name without EXIT_REASON_, or SVM's (`npf`, `interrupt`).
        intr_info, error_code: the exit's event; 0 up to v5.9, which do not print them.
    """

    host_tsc: U64
    vm: U32
    vcpu: U32
    reason: Name
    rip: U64
    info1: U64
    info2: U64
    intr_info: U32 = 0
    error_code: U32 = 0


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
    """kvm_inj_virq: a vector goes into the guest at the next entry.

    Attributes:
        soft: it is a software interrupt's; told from v6.0 on.
        reinjected: an entry that was cancelled had it already; told from v6.0 on.
    """

    host_tsc: U64
    vm: U32
    vcpu: U32
    vector: U8
    soft: Flag = False
    reinjected: Flag = False


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


class PvEoi(NamedTuple):
    """kvm_pv_eoi: the guest ended the interrupt in service by a bit in memory, without an exit."""

    host_tsc: U64
    vm: U32
    vcpu: U32
    vector: S64


class VcpuWakeup(NamedTuple):
    """kvm_vcpu_wakeup: the host's halt polling or sleep on behalf of a halted vCPU has ended.

    Attributes:
        duration_ns: how long it took.
        waited: the thread slept; else polling was enough.
        valid: the poll counts for the tuning of its length.
    """

    host_tsc: U64
    vm: U32
    vcpu: U32
    duration_ns: U64
    waited: Flag
    valid: Flag


class HrtimerStart(NamedTuple):
    """hrtimer_start: a timer of the host's kernel was armed; the local APIC's has `apic_timer_fn`.

    Attributes:
        timer: its address, as far as the kernel shows it.
        expires_ns, soft_expires_ns: by the timer's own clock.
        mode: absolute or relative, and where it may run; told from v4.16 on.
    """

    host_tsc: U64
    vm: U32
    vcpu: U32
    timer: U64
    function: Name
    expires_ns: S64
    soft_expires_ns: S64
    mode: Name = ""


class HrtimerExpire(NamedTuple):
    """hrtimer_expire_entry: a timer's function is about to be called; `now_ns` is by the timer's clock."""

    host_tsc: U64
    vm: U32
    vcpu: U32
    timer: U64
    function: Name
    now_ns: S64


class SchedSwitch(NamedTuple):
    """sched_switch: a CPU goes from one task to another; `vm` and `vcpu` are those of the task it leaves.

    Attributes:
        previous_state: as the kernel prints it: `S` sleeps, `R` would go on, `R+` was preempted.
    """

    host_tsc: U64
    vm: U32
    vcpu: U32
    previous_comm: Comm
    previous_tid: U32
    previous_prio: S32
    previous_state: Comm
    next_comm: Comm
    next_tid: U32
    next_prio: S32


class SchedWaking(NamedTuple):
    """sched_waking: a task is woken, to run on `target_cpu`; `vm` and `vcpu` are those of the waker."""

    host_tsc: U64
    vm: U32
    vcpu: U32
    comm: Comm
    tid: U32
    prio: S32
    target_cpu: U32


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
    | VcpuCreated
    | AdvanceSample
    | Sample
    | DebugfsSample
    | Lost
    | TscOffset
    | TrackTsc
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
    | PvEoi
    | VcpuWakeup
    | HrtimerStart
    | HrtimerExpire
    | SchedSwitch
    | SchedWaking
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


#: Each class's number: its place in `EVENT_TYPES`.
EVENT_CODES = {event_type: code for code, event_type in enumerate(EVENT_TYPES)}

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
        names = _names(self.rows.dtype)
        if not names:
            return itertools.starmap(self.event_type, self.rows.tolist())
        columns = [
            np.char.decode(self.rows[field], "utf-8", "backslashreplace").tolist()
            if field in names
            else self.rows[field].tolist()
            for field in self.rows.dtype.names or ()
        ]
        return itertools.starmap(self.event_type, zip(*columns, strict=True))


def _names(dtype: np.dtype[Any]) -> list[str]:
    """The fields that hold text."""
    return [name for name in dtype.names or () if dtype[name].kind == "S"]
