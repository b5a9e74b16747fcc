# SPDX-License-Identifier: GPL-2.0-or-later
"""The last things that each vCPU did: kept at all times, for the report of a guest that fails.

Events (`vlapic.events`) tell everything, where somebody asked for them. These few are there without asking:
why the guest was left, in KVM's words, and what was delivered to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

#: How many a vCPU keeps.
KEPT = 8
#: Of each of several vCPUs that failed together, at least.
_AT_LEAST = 2

#: What is kept of an interrupt's delivery, by its vector.
INTERRUPT = tuple(f"interrupt {vector}" for vector in range(256))


class Ring(deque[tuple[int, str, int]]):
    """The last things that one vCPU did: host TSC, what, RIP; as many as are kept.

    Attributes:
        vm, vcpu: whose, by their numbers.
    """

    def __init__(self, vm: int, vcpu: int) -> None:
        """Nothing yet."""
        super().__init__(maxlen=KEPT)
        self.vm = vm
        self.vcpu = vcpu


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


def last_events(rings: Sequence[Ring]) -> tuple[LastEvent, ...]:
    """The last events of vCPUs that failed, by time: of the first one and of those of its VM.

    Args:
        rings: of every vCPU that failed; none at all gives no events.
    """
    together = [ring for ring in rings if ring.vm == rings[0].vm]
    each = max(KEPT // len(together), _AT_LEAST) if together else 0
    found = [
        LastEvent(host_tsc, ring.vm, ring.vcpu, what, rip)
        for ring in together
        for host_tsc, what, rip in list(ring)[-each:]
    ]
    return tuple(sorted(found, key=lambda event: event.host_tsc))
