# SPDX-License-Identifier: GPL-2.0-or-later
"""A host: its TSC, its module parameters, its costs; it owns VMs and the physical CPUs under them."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from vlapic.apic.advance_state import ModuleState
from vlapic.apic.backends import uses_hv_timer
from vlapic.errors import UsageError
from vlapic.events import Event, TimerInterrupt
from vlapic.kernels.profiles import SERIES, Profile
from vlapic.machine.facts import HostFacts, ModuleParameters
from vlapic.machine.hostmodel.model import DEFAULT, HostModel
from vlapic.machine.hostmodel.named import find_model
from vlapic.machine.pcpu import PhysicalCpu
from vlapic.machine.vm import Vm
from vlapic.tsc import VMX_FRAC_BITS

__all__ = ["Host", "ModuleParameters", "Vm", "check_preemption_timer"]


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
        vm = Vm(self, self.facts(), len(self.vms), mwait_in_guest)
        self.vms.append(vm)
        return vm

    def facts(self) -> HostFacts:
        """What the VMs are told that are created now."""
        return HostFacts(
            model=self.model,
            profile=self.profile,
            parameters=self.parameters,
            module=self.module,
            seed=self.seed,
            tsc_khz=self.tsc_khz,
            start_tsc=self.start_tsc,
            tsc_frac_bits=self.tsc_frac_bits,
            has_hv_timer=self.has_hv_timer,
            on_interrupt=self.on_interrupt,
            on_event=self.on_event,
        )

    def next_cpu(self) -> PhysicalCpu:
        """The physical CPU that the next new vCPU is for, as long as it lives: they are taken in turns."""
        if self._one_each:
            self.cpus.append(self._physical_cpu(self._placed))
        cpu = self.cpus[self._placed % len(self.cpus)]
        self._placed += 1
        return cpu

    def _physical_cpu(self, index: int) -> PhysicalCpu:
        return PhysicalCpu(index, self.start_tsc, self.model, self.seed)
