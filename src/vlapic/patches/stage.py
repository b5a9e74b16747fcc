# SPDX-License-Identifier: GPL-2.0-or-later
"""A host and its guests, run to their reports: what a scenario measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from vlapic.events import Event, TimerInterrupt
from vlapic.kernels.profiles import Profile
from vlapic.machine.guests.loader import MIB, LoadedGuest, Results
from vlapic.machine.guests.programs import PROGRAMS
from vlapic.machine.host import Host, ModuleParameters, Vm
from vlapic.machine.hostmodel.model import HostModel
from vlapic.machine.limits import Limits, run_to_end
from vlapic.machine.vcpu import Vcpu
from vlapic.session.boot import boot, switch_on
from vlapic.session.spec import MachineSpec, VmSpec

_MEMORY_BYTES = 4 * MIB


class Guest(NamedTuple):
    """One VM's guest.

    Attributes:
        program: a built-in guest's name.
        interrupts: timer interrupts that it is to take, on each of its vCPUs.
        delta_cycles: distance of its deadlines, cycles of its TSC.
        tsc_khz: frequency of each vCPU's TSC.
    """

    program: str
    interrupts: int
    delta_cycles: int
    tsc_khz: tuple[int, ...]


@dataclass
class Played:
    """What a run came to.

    Attributes:
        host: as it is at the end.
        loaded: each VM's guest.
        interrupts: timer interrupts that reached their handlers, in order.
        events: all events in order, the interrupts among them.
    """

    host: Host
    loaded: list[LoadedGuest]
    interrupts: list[TimerInterrupt]
    events: list[Event]

    @property
    def vcpus(self) -> list[Vcpu]:
        """The vCPUs of all VMs, in order."""
        return [vcpu for vm in self.host.vms for vcpu in vm.vcpus]

    def of(self, vcpu: Vcpu) -> list[TimerInterrupt]:
        """A vCPU's interrupts, in order."""
        place = vcpu.vm.index, vcpu.index
        return [each for each in self.interrupts if (each.vm, each.vcpu) == place]

    def value(self, vm: int = 0) -> int | None:
        """What a guest reported, 0 is good; None if it did not."""
        return self.host.vms[vm].ports.exit_value

    def said(self, vm: int = 0) -> str:
        """What a guest printed."""
        return self.host.vms[vm].ports.console.decode().strip()

    def results(self, vm: int = 0) -> Results:
        """What a guest measured itself, from its memory."""
        results = self.loaded[vm].results()
        assert results is not None, "every built-in guest keeps results"
        return results


def play(
    profile: Profile,
    model: HostModel,
    guests: Sequence[Guest],
    *,
    advance: int | None = None,
    preemption: bool = True,
    after: tuple[int, Callable[[Host], None]] | None = None,
    then: Sequence[Guest] = (),
) -> Played:
    """Run guests on one host to their reports.

    Args:
        advance: the module parameter; None is auto.
        preemption: whether timers may use the VMX preemption timer.
        after: what somebody does to the host, once so many interrupts have come, while the guests run.
        then: guests that are started when the first ones are done.
    """

    machine = MachineSpec(
        [_vm(guest) for guest in guests],
        model=model,
        profile=profile,
        parameters=ModuleParameters(advance, preemption),
    )
    loaded = [_load(vm) for vm in machine.vms]
    interrupts: list[TimerInterrupt] = []
    events: list[Event] = []

    def count(interrupt: TimerInterrupt) -> None:
        interrupts.append(interrupt)
        if after is not None and len(interrupts) == after[0]:
            after[1](host)

    with boot(machine, loaded, on_interrupt=count, on_event=events.append) as host:
        played = Played(host, loaded, interrupts, events)
        _run(played, host.vms)
        later = [_vm(guest) for guest in then]
        if later:
            loaded += map(_load, later)
            _run(played, list(map(partial(switch_on, host), later, loaded[len(guests) :])))
    return played


def _vm(guest: Guest) -> VmSpec:
    return VmSpec(
        PROGRAMS[guest.program],
        guest.tsc_khz,
        _MEMORY_BYTES,
        interrupts=guest.interrupts,
        delta_cycles=guest.delta_cycles,
    )


def _load(vm: VmSpec) -> LoadedGuest:
    loaded = vm.load()
    assert isinstance(loaded, LoadedGuest), "a built-in guest is an image"
    return loaded


def _run(played: Played, vms: Sequence[Vm]) -> None:
    """Run VMs to their guests' reports."""
    run_to_end(vms, Limits(), lambda vm: len(played.of(vm.vcpus[0])), lambda: None)
