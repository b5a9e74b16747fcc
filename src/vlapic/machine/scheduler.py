"""Several vCPUs in virtual time: which of them goes on next, and how far.

Each vCPU's physical CPU has a clock of its own. The one furthest behind goes on, ties by index, up to a slice
past the next one; a step ends at its next exit in any case, so that what it sent to another is seen without
delay. The order depends on virtual time alone and is the same in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vlapic.errors import GuestFailure
from vlapic.machine.vcpu import Vcpu

#: Host cycles that a vCPU may run past the one behind which it was.
SLICE_CYCLES = 1000

FOREVER = GuestFailure("halted for ever: no timer is armed, no interrupt can come")


def step(vcpus: Sequence[Vcpu]) -> bool:
    """Let the vCPU that is furthest behind go on.

    Returns:
        False if none can, now or ever.
    """
    if len(vcpus) == 1 and not vcpus[0].sleeping and vcpus[0].failure is None:
        vcpus[0].vm.active = vcpus[0]
        vcpus[0].step()
        return True
    ready = sorted((at, place) for place, vcpu in enumerate(vcpus) if (at := vcpu.ready_at()) is not None)
    if not ready:
        return False
    horizon = ready[1][0] + SLICE_CYCLES if len(ready) > 1 else None
    chosen = vcpus[ready[0][1]]
    chosen.vm.active = chosen
    chosen.step(horizon)
    return True


def run(vcpus: Sequence[Vcpu], finished: Callable[[], bool], rounds: int) -> bool:
    """Run vCPUs until `finished`, or a number of rounds are over, or nothing can happen any more.

    In the last case a vCPU that has not failed yet gets a failure that says so.

    Returns:
        Whether there may be more to run.
    """
    for _ in range(rounds):
        if finished():
            return False
        if not step(vcpus):
            asleep = [vcpu for vcpu in vcpus if vcpu.failure is None]
            for vcpu in asleep:
                vcpu.failure = GuestFailure(FOREVER.reason, vcpu.engine.rip)
            return False
    return True
