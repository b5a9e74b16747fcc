"""The last things that each vCPU did: kept at all times, for the report of a guest that fails.

Events (`vlapic.events`) tell everything, where somebody asked for them. These few are there without asking:
why the guest was left, in KVM's words, and what was delivered to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vlapic.machine.vcpu import Vcpu

#: How many a vCPU keeps.
KEPT = 8
#: Of each of several vCPUs that failed together, at least.
_AT_LEAST = 2

#: What is kept of an interrupt's delivery, by its vector.
INTERRUPT = tuple(f"interrupt {vector}" for vector in range(256))

#: What a vCPU keeps of them: host TSC, what, RIP.
Ring = deque[tuple[int, str, int]]


class LastEvent(NamedTuple):
    """One of them.

    Attributes:
        host_tsc: when.
        vm, vcpu: whose.
        what: the exit's reason as kvm_exit has it; or `interrupt V`, `NMI`, `INIT`, `SIPI P`, vector
            and page in decimal.
        rip: where the guest was, ahead of what happened.
    """

    host_tsc: int
    vm: int
    vcpu: int
    what: str
    rip: int


def ring() -> Ring:
    """Nothing yet."""
    return deque(maxlen=KEPT)


def last_events(vcpus: Sequence[Vcpu]) -> tuple[LastEvent, ...]:
    """The last events of the first vCPU that failed and of those of its VM that failed with it, by time."""
    vm = next((vcpu.vm for vcpu in vcpus if vcpu.failure is not None), None)
    failed = [vcpu for vcpu in vcpus if vcpu.vm is vm and vcpu.failure is not None]
    each = max(KEPT // len(failed), _AT_LEAST) if failed else 0
    found = [
        LastEvent(host_tsc, vcpu.vm.index, vcpu.index, what, rip)
        for vcpu in failed
        for host_tsc, what, rip in list(vcpu.last)[-each:]
    ]
    return tuple(sorted(found, key=lambda event: event.host_tsc))
