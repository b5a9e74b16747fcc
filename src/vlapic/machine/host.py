"""A host: its TSC, its module parameters, its costs; it owns VMs, and a VM owns vCPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self

from vlapic.apic.advance_state import ModuleState
from vlapic.apic.backends import uses_hv_timer
from vlapic.apic.ipi import ICR_MODE_SHIFT, DeliveryMode, Message, as_delivered
from vlapic.apic.registers import LVT_LINT0
from vlapic.errors import UsageError
from vlapic.events import Event, TimerInterrupt
from vlapic.kernels.profiles import SERIES, Profile
from vlapic.machine.apicv import ApicvVcpu
from vlapic.machine.board_clock import VmClock
from vlapic.machine.destination_map import ApicMap
from vlapic.machine.devices import Board
from vlapic.machine.engines.contract import CpuEngine
from vlapic.machine.hostmodel.model import DEFAULT, HostModel
from vlapic.machine.hostmodel.named import find_model
from vlapic.machine.parts import Parts
from vlapic.machine.pcpu import PhysicalCpu
from vlapic.machine.vcpu import Vcpu
from vlapic.tsc import VMX_FRAC_BITS, GuestTsc


@dataclass(frozen=True)
class ModuleParameters:
    """Parameters of the kvm modules when they are loaded.

    Attributes:
        lapic_timer_advance_ns: None for auto, or a number of ns, 0 for off; what that means to a vCPU the
            profile says. `Host.module` has it while the host runs.
        preemption_timer: whether timers may use the VMX preemption timer; else they use hrtimers.
        enable_apicv: whether the CPU virtualises the APIC. Where a CPU can, KVM has it on by default.
        pi_inject_timer: with APICv, timer interrupts may be posted into the running guest from another CPU.
    """

    lapic_timer_advance_ns: int | None = None
    preemption_timer: bool = True
    enable_apicv: bool = False
    pi_inject_timer: bool = False


def measure_nothing(event: TimerInterrupt) -> None:
    """What a host calls for its timer interrupts unless it is told otherwise."""


def check_preemption_timer(profile: Profile, model: HostModel, tsc_khz: int) -> None:
    """Whether a run that is to be on the preemption timer can be.

    Raises:
        UsageError: KVM does not use that of a host of this kind.
    """
    if not uses_hv_timer(profile.hv_off, tsc_khz, model.preemption_timer_rate):
        mhz = (tsc_khz >> model.preemption_timer_rate) // 1000
        raise UsageError(
            f"the kernel of profile {profile.name} does not use this host's preemption timer, which counts at"
            f" {mhz} MHz (host {model.name}, rate {model.preemption_timer_rate}); since"
            f" {profile.hv_off.rule.since} 429 MHz is the most; leave --timer preemption out, or take another"
            " host"
        )


class Host:
    """One host in virtual time.

    Attributes:
        model: what its own work costs.
        tsc_khz: frequency of its TSC, which all its CPUs share.
        seed: of the model's draws, 0 to 2^64-1.
        start_tsc: its TSC when a vCPU is created.
        tsc_frac_bits: fraction bits of its TSC scaling: 48 is VMX; 32 is SVM, which has no preemption timer.
        on_interrupt: called for every timer interrupt that reached its handler.
        on_event: called for every event, the interrupts among them; None makes none.
        module: what the kvm module holds for all vCPUs of all VMs, made of profile and parameters.
        active: the VM whose vCPU went on last.
        cpus: its physical CPUs; without a number of them there is one for each vCPU.
    """

    def __init__(
        self,
        tsc_khz: int | None = None,
        model: HostModel | str = DEFAULT,
        profile: Profile = SERIES,
        parameters: ModuleParameters | None = None,
        seed: int = 0,
        start_tsc: int = 1_000_000,
        tsc_frac_bits: int = VMX_FRAC_BITS,
        on_interrupt: Callable[[TimerInterrupt], None] = measure_nothing,
        on_event: Callable[[Event], None] | None = None,
        pcpus: int | None = None,
    ) -> None:
        """A host without VMs.

        Args:
            tsc_khz: None for the model's.
            model: one, or the name or file of one (`hosts.find_model`).
            parameters: None for the defaults.
            pcpus: how many physical CPUs, 1 or more; vCPUs are placed on them in turns as they are created.
                None is one for each vCPU.

        Raises:
            UsageError: the profile's kernel has no such parameter, or there is no such model.
            WorldError: the model's file cannot be read.
        """
        self.model = find_model(model, tsc_khz)
        self.tsc_khz = self.model.tsc_khz if tsc_khz is None else tsc_khz
        self.profile = profile
        self.parameters = ModuleParameters() if parameters is None else parameters
        self.module = ModuleState(profile, self.parameters.lapic_timer_advance_ns, self.tsc_khz)
        self.seed = seed
        self.start_tsc = start_tsc
        self.tsc_frac_bits = tsc_frac_bits
        self.on_interrupt = on_interrupt
        self.on_event = on_event
        self.vms: list[Vm] = []
        self.active: Vm | None = None
        self.cpus = [self._physical_cpu(index) for index in range(pcpus or 0)]
        self._one_each = pcpus is None
        self._placed = 0

    @property
    def has_hv_timer(self) -> bool:
        """Whether KVM uses the VMX preemption timer here (`enable_preemption_timer`)."""
        return (
            self.parameters.preemption_timer
            and self.tsc_frac_bits == VMX_FRAC_BITS
            and uses_hv_timer(self.profile.hv_off, self.tsc_khz, self.model.preemption_timer_rate)
        )

    def close(self) -> None:
        """Free the CPUs under its vCPUs; they cannot run any more. Twice is once."""
        for vm in self.vms:
            for vcpu in vm.vcpus:
                vcpu.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def create_vm(self, mwait_in_guest: bool = False) -> Vm:
        """A VM without vCPUs.

        Args:
            mwait_in_guest: its guests' MWAIT does not exit (KVM_CAP_X86_DISABLE_EXITS). Their CPUID does not
                offer it; what it changes is which host timers KVM uses for them.
        """
        vm = Vm(self, len(self.vms), mwait_in_guest)
        self.vms.append(vm)
        return vm

    def place(self, vcpu: Vcpu) -> PhysicalCpu:
        """The physical CPU of a new vCPU, for as long as it lives."""
        if self._one_each:
            self.cpus.append(self._physical_cpu(self._placed))
        cpu = self.cpus[self._placed % len(self.cpus)]
        self._placed += 1
        cpu.place(vcpu)
        return cpu

    def _physical_cpu(self, index: int) -> PhysicalCpu:
        return PhysicalCpu(index, self.start_tsc, self.model, self.seed)


class Vm:
    """One virtual machine.

    Attributes:
        mwait_in_guest: its guests' MWAIT does not exit.
        board: its devices.
        ports: the board's I/O ports, console and exit port among them.
        apic_map: which vCPUs take a message.
        active: the vCPU that goes on now; devices read its time.
    """

    def __init__(self, host: Host, index: int, mwait_in_guest: bool = False) -> None:
        self.host = host
        self.index = index
        self.mwait_in_guest = mwait_in_guest
        self.board = Board(clock=VmClock(self), send=self._send_external, extint=self._drive_lint0)
        self.ports = self.board.ports
        self.vcpus: list[Vcpu] = []
        self.apic_map = ApicMap(self.vcpus)
        self.active: Vcpu | None = None

    def create_vcpu(
        self,
        make_engine: Callable[[GuestTsc], CpuEngine],
        tsc_khz: int | None = None,
        wait_for_sipi: bool = False,
    ) -> Vcpu:
        """A vCPU whose guest TSC counts at `tsc_khz`, None for the host's frequency.

        Args:
            make_engine: makes the CPU under it, given the TSC that its guest reads.
            wait_for_sipi: it waits for another one to start it.

        Raises:
            ValueError: the host cannot scale its TSC that far.
        """
        khz = self.host.tsc_khz if tsc_khz is None else tsc_khz
        kind = ApicvVcpu if self.host.parameters.enable_apicv else Vcpu
        vcpu = kind(self, len(self.vcpus), khz, make_engine, wait_for_sipi)
        preemption = vcpu.timer.host_timers.preemption
        if preemption is not None:
            # `vmx_set_hv_timer`, since v5.8 `kvm_can_use_hv_timer`.
            preemption.refused = self.mwait_in_guest or vcpu.timer.posts
        self.vcpus.append(vcpu)
        self.apic_map.forget()
        return vcpu

    @property
    def ended(self) -> bool:
        """Whether its guest has reported or ended the machine, or one of its vCPUs cannot go on."""
        if self.ports.exit_port.value is not None or self.board.power.end is not None:
            return True
        for vcpu in self.vcpus:  # noqa: SIM110 asked at every round, and any() costs more
            if vcpu.failure is not None:
                return True
        return False

    def switch_off(self) -> None:
        """Stop the VM: its vCPUs leave their physical CPUs to others, and nothing of it happens any more."""
        for vcpu in self.vcpus:
            vcpu.cpu.remove(vcpu)
            vcpu.timer.host_timers.hrtimer.cancel()
        self.board.switch_off()

    def leave_as_firmware_does(self) -> None:
        """What a PC's firmware has done before a boot loader runs: virtual wire mode.

        The 8259As are set up, and LINT0 of the bootstrap processor takes their interrupts; KVM has that
        LVT so from reset on (KVM_X86_QUIRK_LINT0_REENABLED).
        """
        self.board.leave_as_firmware_does()
        lapic = self.vcpus[0].lapic
        lapic.stored[LVT_LINT0] = DeliveryMode.EXTINT << ICR_MODE_SHIFT
        lapic.controller.see_lint0()

    def deliver(self, message: Message, vcpus: Iterable[Vcpu], sender: Parts | None = None) -> None:
        """Bring a message to vCPUs; on another CPU than the active one's it comes as an interrupt.

        Args:
            sender: that sends it just now; it takes its own before the access that sends it is over
                (`__apic_accept_irq`).
        """
        message = as_delivered(message)
        for vcpu in vcpus:
            if vcpu is sender:
                vcpu.lapic.controller.accept(message.mode, message.vector, message.level, message.asserted)
            else:
                self._reach(vcpu, partial(vcpu.inbox.append, message))

    def _reach(self, vcpu: Vcpu, call: Callable[[], None]) -> None:
        """Do something to a vCPU: at once on the active one's CPU, on another when that is interrupted."""
        active = self.active
        if active is None or vcpu.cpu is active.cpu:
            call()
        else:
            active.cpu.alone_until = 0
            vcpu.cpu.interrupt(active.clock.now, call)

    def _send_external(self, message: Message) -> None:
        """An I/O APIC's."""
        self.deliver(message, self.apic_map[message, None])

    def _drive_lint0(self, level: bool) -> None:
        """The 8259As' INT is wired to LINT0 of every processor (`pic_unlock` wakes one that accepts it).

        A processor on another physical CPU that would take it is interrupted, as by a message.
        """
        active = self.active
        for vcpu in self.vcpus:
            here = active is None or vcpu.cpu is active.cpu
            if here or not (level and vcpu.lapic.controller.accepts_lint0()):
                vcpu.lapic.controller.set_lint0(level)
            else:
                self._reach(vcpu, partial(self._see_extint, vcpu))

    def _see_extint(self, vcpu: Vcpu) -> None:
        # It may have fallen again by the time it gets there.
        vcpu.lapic.controller.set_lint0(self.board.pics.level)

    def active_at(self) -> int:
        """The host TSC that the active vCPU has reached."""
        return (self.active or self.vcpus[0]).clock.now
