"""A host: its TSC, its module parameters, its costs; it owns VMs, and a VM owns vCPUs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from vlapic.events import Event, TimerInterrupt
from vlapic.machine.devices import Ports
from vlapic.machine.engine import CpuEngine
from vlapic.machine.hostmodel import DEFAULT, HostModel
from vlapic.machine.vcpu import Vcpu
from vlapic.profiles import SERIES, Profile
from vlapic.tsc import GuestTsc


@dataclass(frozen=True)
class ModuleParameters:
    """Parameters of the kvm modules, read when a vCPU is created.

    Attributes:
        lapic_timer_advance_ns: None tunes from 1000 ns; a number of ns is used as it is, 0 is off.
        preemption_timer: whether timers may use the VMX preemption timer; else they use hrtimers.
    """

    lapic_timer_advance_ns: int | None = None
    preemption_timer: bool = True


def _ignore(event: TimerInterrupt) -> None:
    """Measure nothing."""


@dataclass
class Host:
    """One host in virtual time.

    Attributes:
        tsc_khz: frequency of its TSC, which all its CPUs share.
        model: what its own work costs.
        seed: of the model's draws, 0 to 2^64-1.
        start_tsc: its TSC when a vCPU is created.
        on_interrupt: called for every timer interrupt that reached its handler.
        on_event: called for every event, the interrupts among them; None makes none.
    """

    tsc_khz: int = 2_500_000
    model: HostModel = DEFAULT
    profile: Profile = SERIES
    parameters: ModuleParameters = ModuleParameters()
    seed: int = 0
    start_tsc: int = 1_000_000
    on_interrupt: Callable[[TimerInterrupt], None] = _ignore
    on_event: Callable[[Event], None] | None = None
    vms: list[Vm] = field(default_factory=list)

    def create_vm(self) -> Vm:
        """A VM without vCPUs."""
        vm = Vm(self, len(self.vms))
        self.vms.append(vm)
        return vm


class Vm:
    """One virtual machine.

    Attributes:
        ports: its console and exit port.
    """

    def __init__(self, host: Host, index: int) -> None:
        self.host = host
        self.index = index
        self.ports = Ports()
        self.vcpus: list[Vcpu] = []

    def create_vcpu(self, make_engine: Callable[[GuestTsc], CpuEngine], tsc_khz: int | None = None) -> Vcpu:
        """A vCPU whose guest TSC counts at `tsc_khz`, None for the host's frequency.

        Args:
            make_engine: makes the CPU under it, given the TSC that its guest reads.

        Raises:
            ValueError: the host cannot scale its TSC that far.
        """
        vcpu = Vcpu(self, len(self.vcpus), self.host.tsc_khz if tsc_khz is None else tsc_khz, make_engine)
        self.vcpus.append(vcpu)
        return vcpu
