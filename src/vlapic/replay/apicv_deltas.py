# SPDX-License-Identifier: GPL-2.0-or-later
"""How a vCPU's timer interrupts were delivered, and which of their deltas a kernel kept to itself.

With APICv the hardware takes vectors from the virtual APIC page: KVM injects none and sees no EOI. From v5.8
to v5.17 a vCPU that is entered again without a round of its loop (the fast path of the preemption timer's
exit and of a deadline's write) overwrites the delta before it is traced: an interrupt was accepted between
two writes of TSC_DEADLINE, and no delta came.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vlapic.events import AcceptIrq, Entry, Eoi, InjectVirq, Msr, WaitLapicExpire
from vlapic.replay.deadlines import MSR_TSC_DEADLINE
from vlapic.replay.vcpu_index import VcpuEvents

Array = npt.NDArray[Any]

#: Kernels that enter a guest again before they trace its delta: from the first, before the second.
HIDING_KERNELS = ((5, 8), (5, 18))
#: Events without which a batch tells nothing of deliveries.
_TOLD_BY = (AcceptIrq, Entry, InjectVirq, Eoi, Msr)
#: Stretches that are kept one by one.
STRETCHES_KEPT = 1000


class Stretch(NamedTuple):
    """Deltas that were not traced, one after the other.

    Attributes:
        after_index: how many deltas of the vCPU came before it.
        first_time, last_time: `host_tsc` of the writes of TSC_DEADLINE that it lies between.
        deltas: how many are missing.
    """

    after_index: int
    first_time: int
    last_time: int
    deltas: int


@dataclass
class Delivery:
    """What one vCPU's events say of its deliveries; folds over batches.

    Attributes:
        unobserved: the stretches of deltas that were not traced, the first `STRETCHES_KEPT`.
        hidden: how many deltas these and the others come to.
    """

    hides: bool = False
    unobserved: list[Stretch] = field(default_factory=list)
    hidden: int = 0
    _accepted: int = 0
    _entries: int = 0
    _injected: int = 0
    _eois: int = 0
    _waits: int = 0
    _open_write: int | None = None
    _open_accept: bool = False
    _open_wait: bool = False
    _open_stretch: bool = False

    def add(self, events: VcpuEvents, number: int) -> None:
        """Go on with the next batch; `number` is the vCPU's."""
        wait_places, _ = events.of(WaitLapicExpire, number)
        accept_places, accepts = events.of(AcceptIrq, number)
        _, injections = events.of(InjectVirq, number)
        self._accepted += len(accepts)
        self._entries += len(events.of(Entry, number)[0])
        self._eois += len(events.of(Eoi, number)[0])
        # What is injected again was interrupted on its way; APICv does that too.
        self._injected += int(np.count_nonzero(~injections["reinjected"]))
        if self.hides:
            places, msrs = events.of(Msr, number)
            writes = (msrs["msr"] == MSR_TSC_DEADLINE) & msrs["write"]
            self._find_hidden(places[writes], msrs["host_tsc"][writes], wait_places, accept_places)
        self._waits += len(wait_places)

    def tells(self, events: VcpuEvents) -> bool:
        """Whether a batch has anything but waits of it."""
        return events.has(*_TOLD_BY)

    def skip(self, waits: int) -> None:
        """Go on with a batch that has only so many waits of it."""
        self._waits += waits
        self._open_wait |= waits > 0

    @property
    def virtualised(self) -> bool | None:
        """Whether the hardware delivered (APICv); None where the trace lacks the events to tell."""
        if not (self._accepted and self._entries and self._waits):
            return None
        return not self._injected and not self._eois

    def _find_hidden(self, writes: Array, times: Array, waits: Array, accepts: Array) -> None:
        """Between two writes of TSC_DEADLINE an interrupt without a delta is a hidden one."""
        before = np.concatenate([[0], writes])
        waited = np.diff(np.searchsorted(waits, before)) > 0
        accepted = np.diff(np.searchsorted(accepts, before)) > 0
        for number, (time, has_delta, has_interrupt) in enumerate(
            zip(times.tolist(), waited.tolist(), accepted.tolist(), strict=True)
        ):
            opened = self._open_write
            if opened is not None:
                if (has_interrupt or self._open_accept) and not (has_delta or self._open_wait):
                    index = self._waits + int(np.searchsorted(waits, writes[number]))
                    self._hide(index, opened, time)
                else:
                    self._open_stretch = False
            self._open_write, self._open_accept, self._open_wait = time, False, False
        last = writes[-1] if len(writes) else 0
        self._open_accept |= bool((accepts >= last).any())
        self._open_wait |= bool((waits >= last).any())

    def _hide(self, index: int, first_time: int, last_time: int) -> None:
        self.hidden += 1
        if self._open_stretch and self.unobserved:
            stretch = self.unobserved[-1]
            self.unobserved[-1] = stretch._replace(last_time=last_time, deltas=stretch.deltas + 1)
        elif len(self.unobserved) < STRETCHES_KEPT:
            self.unobserved.append(Stretch(index, first_time, last_time, 1))
        self._open_stretch = True
