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


#: Says how far a vCPU may run at its next step, in host TSC; None is as far as it likes.
Horizon = Callable[[Vcpu], int | None]


def step(vcpus: Sequence[Vcpu], horizon: Horizon | None = None) -> bool:
    """Let the vCPU that is furthest behind go on.

    Returns:
        False if none can, now or ever.
    """
    if len(vcpus) == 1 and not vcpus[0].sleeping and vcpus[0].failure is None:
        chosen, until = vcpus[0], None
    else:
        ready = sorted((at, place) for place, vcpu in enumerate(vcpus) if (at := vcpu.ready_at()) is not None)
        if not ready:
            return False
        chosen = vcpus[ready[0][1]]
        until = ready[1][0] + SLICE_CYCLES if len(ready) > 1 else None
    if horizon is not None and (limit := horizon(chosen)) is not None:
        until = limit if until is None else min(until, limit)
    chosen.vm.active = chosen
    chosen.step(until)
    return True


def run(
    vcpus: Sequence[Vcpu], finished: Callable[[], bool], rounds: int, horizon: Horizon | None = None
) -> bool:
    """Run vCPUs until `finished`, or a number of rounds are over, or nothing can happen any more.

    In the last case a vCPU that has not failed yet gets a failure that says so.

    Returns:
        Whether there may be more to run.
    """
    for _ in range(rounds):
        if finished():
            return False
        if not step(vcpus, horizon):
            asleep = [vcpu for vcpu in vcpus if vcpu.failure is None]
            for vcpu in asleep:
                vcpu.failure = GuestFailure(FOREVER.reason, vcpu.engine.rip)
            return False
    return True
