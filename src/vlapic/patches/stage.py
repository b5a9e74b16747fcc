"""A host and its guests, run to their reports: what a scenario measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

from vlapic.events import Event, TimerInterrupt
from vlapic.kernels.profiles import Profile
from vlapic.machine.engines.unicorn.engine import UnicornEngine
from vlapic.machine.guests.loader import MIB, LoadedGuest, Results, load
from vlapic.machine.guests.programs import PROGRAMS
from vlapic.machine.host import Host, ModuleParameters, Vm
from vlapic.machine.hostmodel.model import HostModel
from vlapic.machine.limits import Limits, run_to_end
from vlapic.machine.vcpu import Vcpu
from vlapic.tsc import GuestTsc

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
    loaded: list[LoadedGuest] = field(default_factory=list)
    interrupts: list[TimerInterrupt] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

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

    def count(interrupt: TimerInterrupt) -> None:
        played.interrupts.append(interrupt)
        if after is not None and len(played.interrupts) == after[0]:
            after[1](host)

    host = Host(model=model, profile=profile, parameters=ModuleParameters(advance, preemption))
    host.on_interrupt = count
    played = Played(host)
    host.on_event = played.events.append
    with ExitStack() as stack:
        for some in (guests, then):
            vms = [_switch_on(played, guest, stack) for guest in some]
            if vms:
                run_to_end(vms, Limits(), lambda vm: len(played.of(vm.vcpus[0])), lambda: None)
    return played


def _switch_on(played: Played, guest: Guest, stack: ExitStack) -> Vm:
    """A VM more on the host, with a guest in it; its CPUs are closed with `stack`."""
    host = played.host
    image = PROGRAMS[guest.program].image()
    cpus = len(guest.tsc_khz)
    loaded = load(image, _MEMORY_BYTES, guest.interrupts, guest.delta_cycles, cpus=cpus)
    played.loaded.append(loaded)
    vm = host.create_vm()

    def engine(tsc: GuestTsc) -> UnicornEngine:
        made = UnicornEngine(loaded.memory, tsc, host.model.cycles_per_insn, first=loaded.first)
        return stack.enter_context(made)

    for index, khz in enumerate(guest.tsc_khz):
        vm.create_vcpu(engine, khz, wait_for_sipi=index > 0)
    vm.board.describe(cpus=cpus, memory_bytes=_MEMORY_BYTES, command_line=b"")
    return vm
