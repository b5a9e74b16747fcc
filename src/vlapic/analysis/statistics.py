# SPDX-License-Identifier: GPL-2.0-or-later
"""Statistics of timer interrupts as folds: events come in chunks of any size, memory stays bounded, order is
theirs.

:class:`Distribution` counts integers and answers percentiles by nearest rank; :class:`VcpuStatistics` is all
that `vlapic run` says about one vCPU. Everything is an integer until a mean is asked for. Which regime an
advancement is in is `regime.py`'s.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import accumulate, pairwise, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vlapic.analysis.regime import (
    UNLIMITED,
    AdvanceHistory,
    Evidence,
    Regime,
    TuningLimits,
    classify,
    settled_after,
)
from vlapic.tsc import cycles_as_ns

if TYPE_CHECKING:
    from vlapic.events import Table, TimerInterrupt

#: Distinct values counted exactly; with one more, values are counted in buckets.
DISTINCT_VALUES = 65_536
#: Rows of a histogram on one side of its body, at most.
MOST_TAIL_ROWS = 4
#: A bucket's width is at most 2^-BUCKET_BITS of any value in it.
BUCKET_BITS = 10


def samples_needed(permille: int) -> int:
    """With how many values or more a percentile of `permille` (0 to 999) is not just the greatest one.

    The nearest rank is below the last one from there on: 2 for the median, 100 for the 99th percentile, 1000
    for 99.9.
    """
    return -(-1000 // (1000 - permille))


class Bin(NamedTuple):
    """A row of a histogram: how many values from `low` up to, not including, `high`; None is an open end."""

    low: int | None
    high: int | None
    values: int


def bucket_of(value: int) -> int:
    """The bucket a value falls in, named by its greatest value.

    Buckets grow with the distance from 0, so those of negative values mirror the others and are rounded
    towards 0: a percentile taken from buckets is never less than the true one.
    """
    magnitude = abs(value)
    shift = max(0, magnitude.bit_length() - BUCKET_BITS - 1)
    least = magnitude >> shift << shift
    return -least if value < 0 else least + (1 << shift) - 1


class Distribution:
    """How often each integer occurred.

    Exact up to `DISTINCT_VALUES` distinct values, then in buckets of relative width 2^-10 (`exact` is False).
    Number, sum, least, greatest and the values below 0 stay exact. In which order and how cut the values came
    makes no difference.

    Attributes:
        count: how many values.
        total: their sum.
        early: how many are below 0.
        exact: whether percentiles are.
    """

    __slots__ = ("_counts", "_max", "_min", "_sorted", "count", "early", "exact", "total")

    def __init__(self, values: Iterable[int] = ()) -> None:
        self.count = 0
        self.total = 0
        self.early = 0
        self.exact = True
        self._min: int | None = None
        self._max: int | None = None
        self._counts: dict[int, int] = {}
        self._sorted: tuple[list[int], list[int]] | None = None
        self.add((value, 1) for value in values)

    def add(self, values: Iterable[tuple[int, int]]) -> None:
        """Count values: pairs of a value and how often it came (more than 0)."""
        counts = self._counts
        for value, times in values:
            self.count += times
            self.total += value * times
            if value < 0:
                self.early += times
            if self._min is None or value < self._min:
                self._min = value
            if self._max is None or value > self._max:
                self._max = value
            key = value if self.exact else bucket_of(value)
            counts[key] = counts.get(key, 0) + times
            if self.exact and len(counts) > DISTINCT_VALUES:
                self.exact = False
                counts = self._counts = _in_buckets(counts)
        self._sorted = None

    @property
    def min(self) -> int | None:
        """The least value; None without values."""
        return self._min

    @property
    def max(self) -> int | None:
        """The greatest value; None without values."""
        return self._max

    @property
    def mean(self) -> float | None:
        """The arithmetic mean, rounded once; None without values."""
        return self.total / self.count if self.count else None

    def _in_order(self) -> tuple[list[int], list[int]]:
        """The values counted, ascending, and for each how many values are not above it."""
        if self._sorted is None:
            keys = sorted(self._counts)
            self._sorted = keys, list(accumulate(self._counts[key] for key in keys))
        return self._sorted

    def percentile_if_known(self, permille: int) -> int | None:
        """The percentile, where it rests on `samples_needed` values or more; else None."""
        return self.percentile(permille) if self.count >= samples_needed(permille) else None

    def percentile(self, permille: int) -> int | None:
        """The value of nearest rank: the least one that at least `permille` (1 to 1000) of the values do not
        exceed.

        None without values. Where not `exact` it may be too great, by less than 2^-10 of itself.
        """
        if self._min is None or self._max is None:
            return None
        keys, reached = self._in_order()
        rank = max(1, -(-self.count * permille // 1000))
        return max(self._min, min(self._max, keys[bisect_left(reached, rank)]))

    def histogram(self, bins: int) -> list[Bin]:
        """The distribution as at most `bins` rows: a body of rows of one width, and what lies outside.

        The body spans the values from the 1st to the 99th percentile. On either side the rows are the wider
        the further out they are, to the open one at the end. A width of the body, and the distances of the
        outer rows from it, are 1, 2 or 5 times a power of ten.

        Args:
            bins: at least 4, two for the ends and two for values on both sides of 0.
        """
        low, high = self.percentile(10), self.percentile(990)
        if low is None or high is None or self._min is None or self._max is None:
            return []
        tail = max(1, min(MOST_TAIL_ROWS, (bins - 2) // 3))
        width = next(w for w in _round_widths() if high // w - low // w + 1 <= bins - 2 * tail)
        start, stop = low // width * width, (high // width + 1) * width
        rows = dict.fromkeys(range(start, stop, width), 0)
        below = _tail_starts(start - 1 - self._min, width, tail)
        above = _tail_starts(self._max - stop, width, tail)
        under, over = dict.fromkeys(below, 0), dict.fromkeys(above, 0)
        for key, times in self._counts.items():
            if key < start:
                under[below[bisect_right(below, start - 1 - key) - 1]] += times
            elif key >= stop:
                over[above[bisect_right(above, key - stop) - 1]] += times
            else:
                rows[key // width * width] += times
        first = [
            Bin(None if end is None else start - end, start - at, under[at])
            for at, end in pairwise((*below, None))
            if at is not None
        ]
        last = [
            Bin(stop + at, None if end is None else stop + end, over[at])
            for at, end in pairwise((*above, None))
            if at is not None
        ]
        return first[::-1] + [Bin(at, at + width, times) for at, times in rows.items()] + last


def _tail_starts(furthest: int, width: int, rows: int) -> list[int]:
    """At which distances from the body the rows of a tail begin, the nearest first: evenly on a scale of
    logarithms, from the width of a row of the body to the value that is furthest out.

    Args:
        furthest: distance of that value, 0 for one right beside the body; below 0 there is no tail.
        width: of a row of the body.
        rows: at most so many.
    """
    if furthest < 0:
        return []
    scale = [step for step in takewhile(lambda step: step <= furthest, _round_widths()) if step >= width]
    picked = min(rows - 1, len(scale))
    return [0, *(scale[len(scale) - 1 - at * (len(scale) // picked)] for at in reversed(range(picked)))]


def _in_buckets(counts: dict[int, int]) -> dict[int, int]:
    buckets: dict[int, int] = {}
    for value, times in counts.items():
        bucket = bucket_of(value)
        buckets[bucket] = buckets.get(bucket, 0) + times
    return buckets


def _round_widths() -> Iterable[int]:
    power = 1
    while True:
        yield from (power, 2 * power, 5 * power)
        power *= 10


class VcpuStatistics:
    """All that is said of one vCPU's timer interrupts: a fold over chunks of them.

    Attributes:
        lateness_cycles: guest TSC at the handler's first instruction minus the deadline; negative is early.
        lateness_ns: each of these as floor(cycles * 10^6 / khz).
        missed: expiries that share another one's interrupt.
        history: the advancement after each interrupt, in ns.
        advanced: whether any of the vCPU's timers expired that was armed early by it; whoever counts says so.
        least_instructions, most_instructions: guest instructions before an interrupt; None without
            interrupts.
    """

    def __init__(
        self,
        *,
        tsc_khz: int,
        host_khz: int,
        auto: bool,
        advance_ns: int,
        limits: TuningLimits = UNLIMITED,
    ) -> None:
        """Start with no interrupt.

        Args:
            tsc_khz: frequency of the guest's TSC.
            host_khz: frequency of the host's TSC.
            auto: whether the advancement tunes itself.
            advance_ns: the advancement the vCPU starts with.
            limits: those of the profile's tuning.
        """
        self.tsc_khz = tsc_khz
        self.host_khz = host_khz
        self.auto = auto
        self.advanced = True
        self.lateness_cycles = Distribution()
        self.lateness_ns = Distribution()
        self.history = AdvanceHistory(advance_ns, limits)
        self.missed = 0
        self.least_instructions: int | None = None
        self.most_instructions: int | None = None
        self._wait_cycles = [0, 0]
        self._blocked_cycles = [0, 0]

    @property
    def interrupts(self) -> int:
        """How many interrupts reached their handler."""
        return self.lateness_cycles.count

    def add(self, table: Table[TimerInterrupt]) -> None:
        """Go on with interrupts of this vCPU, in order."""
        if not len(table):
            return
        # Both are points on one TSC modulo 2^64: their distance is signed.
        lateness = (table["handler_tsc"] - table["deadline_tsc"]).view(np.int64)
        values, counts = np.unique(lateness, return_counts=True)
        pairs = list(zip(values.tolist(), counts.tolist(), strict=True))
        self.lateness_cycles.add(pairs)
        self.lateness_ns.add((cycles_as_ns(value, self.tsc_khz), times) for value, times in pairs)
        self.missed += int(table["missed"].sum(dtype=np.uint64))
        _sum_and_max(self._wait_cycles, table["wait_cycles"])
        _sum_and_max(self._blocked_cycles, table["blocked_cycles"])
        least, most = int(table["instructions"].min()), int(table["instructions"].max())
        if self.least_instructions is None or self.most_instructions is None:
            self.least_instructions, self.most_instructions = least, most
        else:
            self.least_instructions = min(self.least_instructions, least)
            self.most_instructions = max(self.most_instructions, most)
        self.history.add(table["advance_ns"], table["delta_cycles"], table["waited"])

    @property
    def wait_total_ns(self) -> int:
        """Time spent in the busy wait."""
        return cycles_as_ns(self._wait_cycles[0], self.host_khz)

    @property
    def wait_max_ns(self) -> int:
        """The longest busy wait."""
        return cycles_as_ns(self._wait_cycles[1], self.host_khz)

    @property
    def blocked_total_ns(self) -> int:
        """The part of all lateness during which the guest would not take the interrupt."""
        return cycles_as_ns(self._blocked_cycles[0], self.tsc_khz)

    @property
    def blocked_max_ns(self) -> int:
        """The same, of the interrupt that had most of it."""
        return cycles_as_ns(self._blocked_cycles[1], self.tsc_khz)

    def regime(self) -> Regime:
        """What the advancement did, in a word."""
        return classify(self._evidence())

    def settled_after(self) -> int | None:
        """After how many interrupts the advancement settled; None if it did not."""
        return settled_after(self._evidence())

    def _evidence(self) -> Evidence:
        return Evidence(self.history, self.auto, self.advanced)


def _sum_and_max(into: list[int], column: npt.NDArray[Any]) -> None:
    """Add a column of unsigned 64-bit numbers to [sum, greatest]."""
    # In halves, because the sum may not fit 64 bits.
    high, low = column >> np.uint64(32), column & np.uint64(0xFFFF_FFFF)
    into[0] += (int(high.sum()) << 32) + int(low.sum())
    into[1] = max(into[1], int(column.max()))
