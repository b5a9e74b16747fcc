# SPDX-License-Identifier: GPL-2.0-or-later
"""Each wait of a vCPU with the deadline it was for and the TSC offset that held, from the events around it.

A deadline is the last write of TSC_DEADLINE that no earlier wait was for; one-shot and periodic waits have
none. An offset is that of the last kvm_write_tsc_offset, or of a start marker. What is open at the end of a
batch is kept for the next one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vlapic.events import Msr, Table, TscOffset, VcpuStart, WaitLapicExpire
from vlapic.replay.vcpu_index import VcpuEvents

Array = npt.NDArray[Any]

MSR_TSC_DEADLINE = 0x6E0


def vcpu_keys(table: Table[Any] | Array) -> Array:
    """The vCPU of each event as one number: its VM above its own; u8."""
    keys: Array = table["vm"].astype(np.uint64) << np.uint64(32) | table["vcpu"]
    return keys


class Paired(NamedTuple):
    """The waits of a batch with what they were for; arrays of shape (n,).

    Attributes:
        times: `host_tsc` of each.
        delta_cycles: as recorded, s64.
        deadline_tsc: the deadline, u8.
        tsc_offset: the offset, u8; 0 where none is known.
        known: whether there was a deadline for it.
        offset_known: whether its offset is known.
    """

    times: Array
    delta_cycles: Array
    deadline_tsc: Array
    tsc_offset: Array
    known: Array
    offset_known: Array


class Deadlines:
    """Pairs one vCPU's waits, batch by batch."""

    def __init__(self) -> None:
        self._deadline: int | None = None
        self._offset: int | None = None

    def has_any(self, events: VcpuEvents) -> bool:
        """Whether a wait of this batch can have a deadline."""
        return self._deadline is not None or events.has(Msr, TscOffset, VcpuStart)

    def add(self, events: VcpuEvents, number: int) -> Paired:
        """The waits of the next batch; `number` is the vCPU's."""
        wait_places, waits = events.of(WaitLapicExpire, number)
        msr_places, msrs = events.of(Msr, number)
        writes = (msrs["msr"] == MSR_TSC_DEADLINE) & msrs["write"] & ~msrs["fault"]
        offset_places, offsets = self._offsets(events, number)
        deadline, last_write = _latest(
            wait_places, msr_places[writes], msrs["value"][writes], self._deadline or 0
        )
        # A wait is for a write that came after the wait before it; the first one may be for one of an earlier
        # batch.
        fresh = np.diff(last_write, prepend=-1) > 0
        if len(fresh) and last_write[0] < 0:
            fresh[0] = self._deadline is not None
        offset, last_offset = _latest(wait_places, offset_places, offsets, self._offset or 0)
        offset_known = (last_offset >= 0) | (self._offset is not None)
        self._go_on(msrs["value"][writes], len(wait_places), last_write)
        if len(offsets):
            self._offset = int(offsets[-1])
        return Paired(
            waits["host_tsc"], waits["delta_cycles"], deadline, offset, fresh & (deadline != 0), offset_known
        )

    def _go_on(self, written: Array, waits: int, last_write: Array) -> None:
        """Keep the last deadline written, unless the last wait was for it."""
        if not len(written):
            self._deadline = None if waits else self._deadline
        elif waits and last_write[-1] == len(written) - 1:
            self._deadline = None
        else:
            self._deadline = int(written[-1])

    def _offsets(self, events: VcpuEvents, number: int) -> tuple[Array, Array]:
        """Places and values of what tells this vCPU's offset; moves are few.

        A vCPU that is being created has no `previous`: it may be another one that the same thread makes.
        """
        places, moved = events.of(TscOffset, number)
        start_places, starts = events.of(VcpuStart, number)
        told = [
            (place, int(previous), int(offset))
            for place, previous, offset in zip(
                places.tolist(), moved["previous"].tolist(), moved["next"].tolist(), strict=True
            )
        ]
        told += [
            (place, -1, int(offset))
            for place, offset in zip(start_places.tolist(), starts["tsc_offset"].tolist(), strict=True)
        ]
        now, kept = self._offset, []
        for place, previous, offset in sorted(told):
            if previous != 0 or not now:
                kept.append((place, offset))
                now = offset
        return (
            np.array([place for place, _ in kept], np.intp),
            np.array([offset for _, offset in kept], np.uint64),
        )


def _latest(places: Array, at: Array, values: Array, before: int) -> tuple[Array, Array]:
    """For each place the latest of the values that stand before it, and its number, -1 for none in here."""
    last = np.searchsorted(at, places) - 1
    with_before = np.concatenate([np.array([before], np.uint64), values.astype(np.uint64)])
    return with_before[last + 1], last
