# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's tracepoints as events: they keep the kernel's names and fields.

Follows `arch/x86/kvm/trace.h` and `include/trace/events/{kvm,timer,sched}.h` of v5.0 to v6.19.
"""

from __future__ import annotations

from typing import NamedTuple

from vlapic.events.fields import S32, S64, U8, U32, U64, Comm, Flag, Name


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


KernelEvent = (
    TscOffset
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
)
