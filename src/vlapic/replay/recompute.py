# SPDX-License-Identifier: GPL-2.0-or-later
"""Deltas computed again from what a trace says beside them, and held against those that the kernel printed.

The guest's TSC at a wait's event is the event's time, scaled and with the offset added. Less the deadline
that is the delta, plus what tracing itself cost, which is nearly constant. Where it is not, the recording
does not fit together: its clock is another one, events were lost, or the guest's TSC was moved unseen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vlapic.analysis.statistics import Distribution
from vlapic.replay.deadlines import Deadlines, Paired
from vlapic.replay.vcpu_index import VcpuEvents
from vlapic.tsc import U64_BITS, multiply_wide_limbs

Array = npt.NDArray[Any]

#: What tracing costs may differ from the usual by so many guest cycles, a page of the ring buffer and an
#: interrupt included.
COST_SPREAD_CYCLES = 4096
#: More than that between a TSC read and the event of it is no cost of tracing: the clock or the offset is
#: wrong.
COST_MOST_CYCLES = 1_000_000


@dataclass
class Rebuild:
    """One vCPU's deltas, computed again.

    Attributes:
        ratio, frac_bits: of the guest's TSC; a ratio of 0 is not scaled.
        compared: how many deltas had a deadline and an offset to be computed from.
        unpaired: how many had none: one-shot and periodic timers, or lost events.
        misfits: how many of those compared do not fit.
        first_misfit: index of the first of these, None if there is none.
        cost_cycles: what was computed minus what was recorded, guest cycles.
    """

    ratio: int = 0
    frac_bits: int = 0
    compared: int = 0
    unpaired: int = 0
    misfits: int = 0
    first_misfit: int | None = None
    cost_cycles: Distribution = field(default_factory=Distribution)
    _deadlines: Deadlines = field(default_factory=Deadlines)
    _usual: int | None = None
    _seen: int = 0

    def add(self, events: VcpuEvents, number: int) -> None:
        """Go on with the next batch of a trace whose clock is the host's TSC; `number` is the vCPU's."""
        paired = self._deadlines.add(events, number)
        usable = paired.known & paired.offset_known
        costs = self._costs(paired)[usable]
        self.compared += len(costs)
        self.unpaired += len(usable) - len(costs)
        if len(costs):
            self._judge(costs, np.flatnonzero(usable) + self._seen)
        self._seen += len(usable)

    def tells(self, events: VcpuEvents) -> bool:
        """Whether a batch has anything that its deltas could be computed from."""
        return self._deadlines.has_any(events)

    def skip(self, waits: int) -> None:
        """Go on with a batch of so many waits that nothing is known of."""
        self.unpaired += waits
        self._seen += waits

    @property
    def fits(self) -> bool | None:
        """Whether the recording fits together; None where nothing could be compared."""
        return None if not self.compared else not self.misfits

    def _costs(self, paired: Paired) -> Array:
        guest = scaled(paired.times, self.ratio, self.frac_bits) + paired.tsc_offset
        cost: Array = (guest - paired.deadline_tsc - paired.delta_cycles.view(np.uint64)).view(np.int64)
        return cost

    def _judge(self, costs: Array, indices: Array) -> None:
        possible = costs[(costs >= 0) & (costs <= COST_MOST_CYCLES)]
        if self._usual is None and len(possible):
            self._usual = int(np.sort(possible)[(len(possible) - 1) // 2])
        if self._usual is None:
            astray = np.ones(len(costs), np.bool_)
        else:
            astray = np.abs(costs - self._usual) > COST_SPREAD_CYCLES
        if astray.any():
            self.misfits += int(np.count_nonzero(astray))
            if self.first_misfit is None:
                self.first_misfit = int(indices[astray][0])
        values, counts = np.unique(costs, return_counts=True)
        self.cost_cycles.add(zip(values.tolist(), counts.tolist(), strict=True))


def scaled(host_tsc: Array, ratio: int, frac_bits: int) -> Array:
    """`tsc.scale` of a column; a ratio of 0 leaves it as it is."""
    if ratio in (0, 1 << frac_bits):
        return host_tsc
    high, low = multiply_wide_limbs(host_tsc, np.uint64(ratio))  # type: ignore[arg-type]
    moved: Array = np.bitwise_or(high << np.uint64(U64_BITS - frac_bits), low >> np.uint64(frac_bits))
    return moved
