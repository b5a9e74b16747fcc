# SPDX-License-Identifier: GPL-2.0-or-later
"""Several CPUs in virtual time: which of them goes on next, and how far.

Each physical CPU has a clock of its own. The one furthest behind goes on, ties by index, up to a slice past
the next one; a step ends at its next exit, so that what it sent to another is seen without delay, unless
nobody else could have gone on before it anyway. None sleeps past another that has something to do
(`PhysicalCpu.others_at`), for that one may wake it up before its own event. The order depends on virtual time
alone and is the same in every run. Which vCPU goes on where several share a physical CPU that one says
(`pcpu.py`).

CPUs on which no VM has vCPUs in common can never see each other, unless the kvm module keeps one advancement
for all of them. Such groups run further past each other, so
that no guest is stopped for nothing; it changes only the order in which events of different groups are told,
and not even that where somebody is told all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vlapic.errors import GuestFailure
from vlapic.machine.pcpu import PhysicalCpu
from vlapic.machine.vcpu import Vcpu

#: Host cycles that a CPU may run past the one behind which it was.
SLICE_CYCLES = 1000
#: Host cycles that a group of CPUs may run past another one.
LEAD_CYCLES = 1_000_000

#: Host cycles after which a CPU that handles its exits by itself comes back for a look around.
ALONE_CYCLES = 10_000_000

FOREVER = "halted for ever: no APIC timer is armed, no interrupt can come"


#: Says how far the guest on a CPU may run at its next step, in host TSC; None is as far as it likes.
Horizon = Callable[[PhysicalCpu], int | None]


def step(vcpus: Sequence[Vcpu], horizon: Horizon | None = None) -> bool:
    """Let the CPU that is furthest behind go on.

    Returns:
        False if none can, now or ever.
    """
    group, until = _furthest_behind(_groups(vcpus), _lead(vcpus))
    return _step(group, until, horizon)


def run(
    vcpus: Sequence[Vcpu], finished: Callable[[], bool], rounds: int, horizon: Horizon | None = None
) -> bool:
    """Run vCPUs until `finished`, or a number of rounds are over, or nothing can happen any more.

    In the last case a vCPU that has not failed yet gets a failure that says so. vCPUs that were switched off
    count no more.

    Returns:
        Whether there may be more to run.
    """
    groups, lead = _groups(vcpus), _lead(vcpus)
    group = groups[0]
    until: int | None = 0  # nothing is done before that: the first round chooses
    # One vCPU alone has nobody to be compared with.
    alone = group[0].alone if horizon is None and groups == [[group[0]]] else None
    if alone is not None:
        alone.make_active()
    for _ in range(rounds):
        if finished():
            return False
        if alone is not None and not alone.sleeping and alone.failure is None:
            group[0].alone_until = group[0].clock.now + ALONE_CYCLES
            alone.step()
            continue
        if _step(group, until, horizon):
            continue
        group, until = _furthest_behind(groups, lead)
        if not _step(group, until, horizon):
            for vcpu in vcpus:
                if vcpu.failure is None and vcpu in vcpu.cpu.vcpus:
                    vcpu.failure = GuestFailure(_why_for_ever(vcpu), vcpu.engine.rip)
            return False
    return True


def _why_for_ever(vcpu: Vcpu) -> str:
    unheard = vcpu.vm.board.unheard()
    return f"{FOREVER}; {unheard}" if unheard else FOREVER


def _groups(vcpus: Sequence[Vcpu]) -> list[list[PhysicalCpu]]:
    """The physical CPUs of vCPUs, in order of their numbers; those that a VM connects are in one group."""
    groups: list[tuple[set[object], list[PhysicalCpu]]] = []
    for cpu in sorted({vcpu.cpu for vcpu in vcpus}, key=lambda cpu: cpu.index):
        vms, cpus = {vcpu.vm for vcpu in cpu.vcpus}, [cpu]
        apart = []
        for other_vms, other_cpus in groups:
            if vms & other_vms:
                vms, cpus = vms | other_vms, other_cpus + cpus
            else:
                apart.append((other_vms, other_cpus))
        groups = [*apart, (vms, cpus)]
    return [sorted(cpus, key=lambda cpu: cpu.index) for _, cpus in groups]


def _lead(vcpus: Sequence[Vcpu]) -> int:
    """How far a group may run past the others.

    Where the module tunes for all, it is no further than a CPU may within a group.
    """
    told = any(vcpu.facts.on_event is not None for vcpu in vcpus)
    return SLICE_CYCLES if told or vcpus[0].facts.module.tunes_for_all else LEAD_CYCLES


def _furthest_behind(groups: list[list[PhysicalCpu]], lead: int) -> tuple[list[PhysicalCpu], int | None]:
    """The group that goes on, and the host TSC up to which it may; None is as far as it likes."""
    if len(groups) == 1:
        return groups[0], None
    ready: list[tuple[int, int, list[PhysicalCpu]]] = []
    for group in groups:
        times = [at for cpu in group if (at := cpu.ready_at()) is not None]
        if times:
            ready.append((min(times), len(ready), group))
    if not ready:
        return groups[0], None
    ready.sort()
    return ready[0][2], ready[1][0] + lead if len(ready) > 1 else None


def _step(group: list[PhysicalCpu], until: int | None, horizon: Horizon | None) -> bool:
    """Let the CPU furthest behind of a group go on; False if none has anything to do before `until`."""
    chosen, at = None, 0
    next_at = None
    for cpu in group:
        ready = cpu.ready_at()
        if ready is None:
            continue
        if chosen is None:
            chosen, at = cpu, ready
        elif ready < at:
            chosen, at, next_at = cpu, ready, at
        elif next_at is None or ready < next_at:
            next_at = ready
    if chosen is None or (until is not None and at >= until):
        return False
    chosen.others_at = until
    if next_at is not None:
        chosen.others_at = next_at if until is None else min(until, next_at)
        until = next_at + SLICE_CYCLES if until is None else min(until, next_at + SLICE_CYCLES)
    alone_until = at + ALONE_CYCLES if until is None else min(until, at + ALONE_CYCLES)
    if horizon is not None and (limit := horizon(chosen)) is not None:
        until = limit if until is None else min(until, limit)
        alone_until = min(alone_until, limit)
    chosen.alone_until = alone_until if next_at is None else min(alone_until, next_at)
    chosen.step(until)
    return True
