# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's TSC frequency from a trace whose clock counts nanoseconds: the slope of a line.

At a busy wait the guest's TSC is the deadline that it was for (the last write of TSC_DEADLINE) plus the
delta; the trace has the time of it in ns. The slope of the one over the other is the frequency. A few points
are off, because the trace's time is taken some time after the TSC was read: they are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vlapic.events import NO_VCPU, Msr, TscOffset, WaitLapicExpire
from vlapic.replay.deadlines import Deadlines, vcpu_keys
from vlapic.replay.vcpu_index import VcpuEvents, VcpuNumbers
from vlapic.trace.reader import TraceReader
from vlapic.tsc import U32

Array = npt.NDArray[Any]

#: Points of a fit; fewer are none.
LEAST_POINTS = 8
#: How often points that are off are looked for again.
_ROUNDS = 4
#: Points further off than so many times the median distance, and more than that many ns, are left out.
_OFF_MEDIANS = 6
_OFF_NS = 50
#: Events that points come from.
_READ = (WaitLapicExpire, Msr, TscOffset)


class Frequency(NamedTuple):
    """A fitted frequency: kHz, its standard error in kHz, and how many points gave it."""

    khz: float
    error_khz: float
    points: int


@dataclass
class _Points:
    deadlines: Deadlines
    times_ns: list[Array]
    guest_tsc: list[Array]


def fit_frequencies(reader: TraceReader) -> dict[int, Frequency]:
    """The TSC frequency of each vCPU of a trace in ns, by its key; of those that it can be told of.

    Reads the whole trace.
    """
    found: dict[int, _Points] = {}
    of_number: list[_Points] = []
    numbers = VcpuNumbers()
    for batch in reader.batches():
        for event_type in _READ:
            table = batch.tables.get(event_type)
            for key in () if table is None else np.unique(vcpu_keys(table)).tolist():
                if key not in found:
                    numbers.give(key >> 32, key & NO_VCPU, len(found))
                    found[key] = _Points(Deadlines(), [], [])
                    of_number.append(found[key])
        events = VcpuEvents(batch, numbers, len(found))
        for number in events.numbers_of(_READ):
            points = of_number[number]
            paired = points.deadlines.add(events, number)
            points.times_ns.append(paired.times[paired.known])
            # Only the host's TSC goes evenly: a guest's that was moved has a step.
            guest = paired.deadline_tsc + paired.delta_cycles.view(np.uint64) - paired.tsc_offset
            points.guest_tsc.append(guest[paired.known])
    fitted = {}
    for key, points in found.items():
        line = fit_line(np.concatenate(points.times_ns), np.concatenate(points.guest_tsc))
        if line is not None:
            fitted[key] = line
    return fitted


def fit_line(times_ns: Array, guest_tsc: Array) -> Frequency | None:
    """The slope of a TSC over nanoseconds, as kHz.

    None where there are too few points, or all at one time, or where it is no frequency (1 kHz to 2^32-1).
    """
    if len(times_ns) < LEAST_POINTS:
        return None
    x = (times_ns - times_ns[0]).view(np.int64).astype(float)
    y = (guest_tsc - guest_tsc[0]).view(np.int64).astype(float)
    steps = np.diff(x) > 0
    if not steps.any():
        return None
    slope = float(np.median(np.diff(y)[steps] / np.diff(x)[steps]))
    intercept = float(np.median(y - slope * x))
    if slope <= 0:
        return None
    kept = np.ones(len(x), np.bool_)
    error = 0.0
    for _ in range(_ROUNDS):
        distance = np.abs(y - slope * x - intercept)
        kept = distance <= max(_OFF_MEDIANS * float(np.median(distance)), _OFF_NS * slope)
        if np.count_nonzero(kept) < LEAST_POINTS:
            return None
        mean_x, mean_y = float(x[kept].mean()), float(y[kept].mean())
        dx, dy = x[kept] - mean_x, y[kept] - mean_y
        spread = float(dx @ dx)
        if spread == 0:
            return None
        slope = float(dx @ dy) / spread
        intercept = mean_y - slope * mean_x
        rest = dy - slope * dx
        error = float(np.sqrt(rest @ rest / (len(rest) - 2) / spread))
    if not 1 <= slope * 1e6 <= U32:
        return None
    return Frequency(slope * 1e6, error * 1e6, int(np.count_nonzero(kept)))
