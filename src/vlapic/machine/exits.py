# SPDX-License-Identifier: GPL-2.0-or-later
"""What the machine does with each exit of a guest: one function an exit, found by the exit's class.

Follows the exit handlers of `kvm/vmx/vmx.c` and `kvm/x86.c`. Handling costs what the host model says and is
paid before the access takes effect, because the kernel reads the time after it was paid.

Some return True: the exit was a plain access to the local APIC or the TSC, or a window that has opened, so
that nobody but the vCPU can have something to do now, and the guest may go on at once. A device of the board
may end the run, or reach another vCPU without a message.
"""

from __future__ import annotations

from vlapic import events
from vlapic.apic import registers as r
from vlapic.errors import GuestFailure
from vlapic.machine import hypercalls
from vlapic.machine.cpuid import Processor, cpuid
from vlapic.machine.engines import contract as e
from vlapic.machine.msrs import MSR_IA32_TSC, MSR_IA32_TSC_ADJUST, MSRS
from vlapic.machine.vcpu import Handlers, Vcpu

#: The TSC's.
TSC_MSRS = (MSR_IA32_TSC, MSR_IA32_TSC_ADJUST)
#: #GP.
GENERAL_PROTECTION = 13
MAX_CR8 = 15
HLT_LENGTH = 1


def on_preemption_timer(vcpu: Vcpu, left: e.PreemptionTimer) -> None:
    vcpu.spend_exit("PREEMPTION_TIMER")
    vcpu.timer.preemption_timer_ran_out()


def on_external_interrupt(vcpu: Vcpu, left: e.ExternalInterrupt) -> None:
    """The host's own interrupt, an hrtimer's for one, is taken while the exit is handled."""
    vcpu.spend_exit("EXTERNAL_INTERRUPT")


def on_interrupt_window(vcpu: Vcpu, left: e.InterruptWindow) -> bool:
    vcpu.spend_exit("INTERRUPT_WINDOW")
    return True


def on_nmi_window(vcpu: Vcpu, left: e.NmiWindow) -> bool:
    vcpu.spend_exit("NMI_WINDOW")
    return True


def on_hypercall(vcpu: Vcpu, left: e.Hypercall) -> None:
    vcpu.spend_exit("VMCALL")
    vcpus = vcpu.vm.vcpus
    answer = hypercalls.answer(left.number, left.arguments, [each.lapic for each in vcpus])
    if answer.message is not None:
        vcpu.vm.deliver(answer.message, [vcpus[index] for index in answer.to], vcpu)
    vcpu.engine.complete(answer.value)


def on_hlt(vcpu: Vcpu, left: e.Hlt) -> None:
    vcpu.spend_exit("HLT", retired_bytes=HLT_LENGTH)
    vcpu.halted = True


def on_shutdown(vcpu: Vcpu, left: e.Shutdown) -> None:
    vcpu.spend_exit("TRIPLE_FAULT")
    power = vcpu.vm.board.power
    if power.reset_asked:
        power.reset()
        return
    vcpu.failure = GuestFailure(f"shut down: {left.reason}")


def on_read_msr(vcpu: Vcpu, left: e.ReadMsr) -> bool:
    vcpu.spend_exit("MSR_READ")
    msr = left.msr
    try:
        if msr in TSC_MSRS:
            value = read_tsc_msr(vcpu, msr)
        elif msr in MSRS:
            value = vcpu.msrs.read(msr)
        else:
            value = vcpu.lapic.read_msr(msr)
    except r.GeneralProtection:
        fault_msr(vcpu, False, msr, 0)
        return False
    vcpu.trace(events.Msr, False, msr, value, False)
    vcpu.engine.complete(value)
    return True


def on_write_msr(vcpu: Vcpu, left: e.WriteMsr) -> bool:
    vcpu.spend_exit("MSR_WRITE")
    _, msr, value = left
    try:
        if msr in TSC_MSRS:
            write_tsc_msr(vcpu, msr, value)
        elif msr in MSRS:
            vcpu.msrs.write(msr, value)
        else:
            vcpu.lapic.write_msr(msr, value)
    except r.GeneralProtection:
        fault_msr(vcpu, True, msr, value)
        return False
    vcpu.trace(events.Msr, True, msr, value, False)
    vcpu.engine.complete()
    vcpu.measure.armed(vcpu.engine.instructions)
    return True


def fault_msr(vcpu: Vcpu, write: bool, msr: int, value: int) -> None:
    """Answer an access to an MSR with #GP(0)."""
    vcpu.trace(events.Msr, write, msr, value, True)
    vcpu.engine.inject_exception(GENERAL_PROTECTION, 0)


def read_tsc_msr(vcpu: Vcpu, msr: int) -> int:
    """The value of one of `TSC_MSRS`."""
    return vcpu.tsc.at(vcpu.clock.now) if msr == MSR_IA32_TSC else vcpu.tsc.adjust


def write_tsc_msr(vcpu: Vcpu, msr: int, value: int) -> None:
    """Set the guest's TSC by one of `TSC_MSRS`."""
    vcpu.move_tsc(value - read_tsc_msr(vcpu, msr))


def on_read_memory(vcpu: Vcpu, left: e.ReadMemory) -> bool:
    if not vcpu.lapic.decodes(left.address):
        vcpu.spend_exit("EPT_MISCONFIG")
        value = vcpu.vm.board.memory.read(left.address, left.size)
        vcpu.trace(events.DeviceAccess, False, left.address, left.size, value)
        vcpu.engine.complete(value)
        return False
    vcpu.spend_exit("APIC_ACCESS")
    offset = left.address & 0xFFF
    value = vcpu.lapic.read(offset, left.size)
    vcpu.trace(events.ApicAccess, False, offset, value)
    vcpu.engine.complete(value)
    return True


def on_write_memory(vcpu: Vcpu, left: e.WriteMemory, reason: str = "APIC_ACCESS") -> bool:
    """A write; one of the local APIC's registers exits for `reason`."""
    if not vcpu.lapic.decodes(left.address):
        vcpu.spend_exit("EPT_MISCONFIG")
        vcpu.trace(events.DeviceAccess, True, left.address, left.size, left.value)
        vcpu.vm.board.memory.write(left.address, left.size, left.value)
        vcpu.engine.complete()
        return False
    vcpu.spend_exit(reason)
    offset = left.address & 0xFFF
    vcpu.trace(events.ApicAccess, True, offset, left.value)
    vcpu.lapic.write(offset, left.value, left.size)
    vcpu.engine.complete()
    vcpu.measure.armed(vcpu.engine.instructions)
    return True


def on_read_port(vcpu: Vcpu, left: e.ReadPort) -> None:
    vcpu.spend_exit("IO_INSTRUCTION")
    value = vcpu.vm.board.ports.read(left.port, left.size)
    vcpu.trace(events.PortAccess, False, left.port, left.size, value)
    vcpu.engine.complete(value)


def on_write_port(vcpu: Vcpu, left: e.WritePort) -> None:
    vcpu.spend_exit("IO_INSTRUCTION")
    vcpu.trace(events.PortAccess, True, left.port, left.size, left.value)
    vcpu.vm.board.ports.write(left.port, left.size, left.value)
    vcpu.engine.complete()


def on_read_cr8(vcpu: Vcpu, left: e.ReadCr8) -> bool:
    vcpu.spend_exit("CR_ACCESS")
    vcpu.engine.complete(vcpu.lapic.interrupts.tpr >> 4)
    return True


def on_write_cr8(vcpu: Vcpu, left: e.WriteCr8) -> bool:
    vcpu.spend_exit("CR_ACCESS")
    if left.value > MAX_CR8:
        vcpu.engine.inject_exception(GENERAL_PROTECTION, 0)
        return False
    vcpu.lapic.write_tpr(left.value << 4)
    vcpu.engine.complete()
    return True


def on_cpuid(vcpu: Vcpu, left: e.Cpuid) -> None:
    vcpu.spend_exit("CPUID")
    if left.user and vcpu.msrs.cpuid_faults:
        vcpu.engine.inject_exception(GENERAL_PROTECTION, 0)
        return
    lapic = vcpu.lapic
    processor = Processor(lapic.apic_id, len(vcpu.vm.vcpus), vcpu.tsc.khz, lapic.enabled)
    vcpu.engine.complete(cpuid(left.leaf, left.subleaf, processor))


#: Without APICv.
HANDLERS: Handlers = {
    e.PreemptionTimer: on_preemption_timer,
    e.ExternalInterrupt: on_external_interrupt,
    e.InterruptWindow: on_interrupt_window,
    e.NmiWindow: on_nmi_window,
    e.Hypercall: on_hypercall,
    e.Hlt: on_hlt,
    e.Shutdown: on_shutdown,
    e.ReadMsr: on_read_msr,
    e.WriteMsr: on_write_msr,
    e.ReadMemory: on_read_memory,
    e.WriteMemory: on_write_memory,
    e.ReadPort: on_read_port,
    e.WritePort: on_write_port,
    e.ReadCr8: on_read_cr8,
    e.WriteCr8: on_write_cr8,
    e.Cpuid: on_cpuid,
}
