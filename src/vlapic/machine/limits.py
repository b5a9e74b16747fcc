# SPDX-License-Identifier: GPL-2.0-or-later
"""What ends a run: every guest's report, a guest's failure, or a limit somebody has set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from vlapic.machine import scheduler
from vlapic.machine.pcpu import PhysicalCpu
from vlapic.machine.vm import Vm

#: Rounds between two looks at anything but the run, such as progress.
ROUNDS = 512


class Limits(NamedTuple):
    """What ends a VM's run before its guest does; None is no limit.

    Attributes:
        events: timer interrupts of its first vCPU.
        host_tsc: virtual time.
        instructions: guest instructions of all its vCPUs.
    """

    events: int | None = None
    host_tsc: int | None = None
    instructions: int | None = None


def run_to_end(
    vms: Sequence[Vm], limits: Limits, interrupts: Callable[[Vm], int], meanwhile: Callable[[], None]
) -> None:
    """Run VMs of one host to the end.

    A VM whose guest has reported or failed, or that has reached a limit, is switched off; the others go on.

    Args:
        limits: of each VM.
        interrupts: how many timer interrupts a VM's first vCPU has taken.
        meanwhile: called every so many rounds.
    """
    host, running = vms[0].host, list(vms)
    # How far a guest may run need not be asked where only its interrupts are counted.
    bounded = limits.host_tsc is not None or limits.instructions is not None

    def instructions_left(vm: Vm) -> int:
        assert limits.instructions is not None
        return limits.instructions - sum(vcpu.engine.instructions for vcpu in vm.vcpus)

    def at_limit(vm: Vm) -> bool:
        return (
            (limits.events is not None and interrupts(vm) >= limits.events)
            or (limits.host_tsc is not None and vm.active_at() >= limits.host_tsc)
            or (limits.instructions is not None and instructions_left(vm) <= 0)
        )

    def finished() -> bool:
        vm = host.active
        if vm is not None and (vm.ended or at_limit(vm)) and vm in running:
            vm.switch_off()
            running.remove(vm)
        if limits.host_tsc is not None:
            for vm in [vm for vm in running if _sleeps_until(vm, limits.host_tsc)]:
                vm.switch_off()
                running.remove(vm)
        return not running

    def horizon(cpu: PhysicalCpu) -> int | None:
        if limits.instructions is None:
            return limits.host_tsc
        left = min(instructions_left(vm) for vm in vms_on[cpu] if vm in running)
        until = cpu.clock.now + left * vms[0].facts.model.cycles_per_insn
        return until if limits.host_tsc is None else min(until, limits.host_tsc)

    vcpus = [vcpu for vm in vms for vcpu in vm.vcpus]
    vms_on: dict[PhysicalCpu, set[Vm]] = {}
    for vm in vms:
        for vcpu in vm.vcpus:
            vms_on.setdefault(vcpu.cpu, set()).add(vm)
            vcpu.cpu.ends_at = limits.host_tsc
    if limits.instructions is not None:  # how far a guest may run is another host TSC after each exit
        for vcpu in vcpus:
            vcpu.engine.fastpath = None
    while scheduler.run(vcpus, finished, ROUNDS, horizon if bounded else None):
        meanwhile()


def _sleeps_until(vm: Vm, host_tsc: int) -> bool:
    """Whether a VM has something to do, but nothing before a host TSC; its time passes up to there then."""
    if vm.active is None or not vm.active.sleeping:
        return False
    cpus = {vcpu.cpu for vcpu in vm.vcpus}
    times = [at for cpu in cpus if (at := cpu.ready_at()) is not None]
    if not times or min(times) < host_tsc:
        return False
    for cpu in cpus:
        cpu.clock.now = max(cpu.clock.now, host_tsc)
    return True
