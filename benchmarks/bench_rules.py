# SPDX-License-Identifier: GPL-2.0-or-later
"""How many tuning steps a second: interpreted, in plain numpy, compiled.

    python benchmarks/bench_rules.py [ROUNDS]

All three tune the same vCPUs with the same deltas and must come to the same advancements. The ways are
interleaved round by round; shown are the best and the median of the rounds, and ratios of the best. Target:
compiled at least 50 million steps a second on one core. Needs the extra `fast`.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from vlapic.apic import compiled
from vlapic.apic.advance import tuning_of
from vlapic.kernels.profiles import (
    ADJUST_MAX_CYCLES,
    ADJUST_MIN_CYCLES,
    ADJUST_STEP,
    ADVANCE_CAP_NS,
    ADVANCE_START_NS,
    SERIES,
    V5_4,
    Profile,
)
from vlapic.tsc import NS_PER_MS, U32

VCPUS = 20_000
EVENTS = 200
#: What the interpreted rule is given; it would take a minute with all.
INTERPRETED_VCPUS = 500
KHZ = 2_500_000

Array = npt.NDArray[Any]
NumpyStep = Callable[[Array, Array, Array, Array], tuple[Array, Array]]


def numpy_series(advance: Array, done: Array, early: Array, distance: Array) -> tuple[Array, Array]:
    """One delta for each vCPU by the rules of `series`, as one writes it in numpy."""
    step = np.minimum(
        distance * np.uint64(NS_PER_MS) // np.uint64(KHZ) & np.uint64(U32), advance // ADJUST_STEP
    )
    tuned = np.minimum(np.where(early, advance - step, advance + step), ADVANCE_CAP_NS)
    return np.where(done, advance, tuned), done | (distance < ADJUST_MIN_CYCLES)


def numpy_v5_4(advance: Array, done: Array, early: Array, distance: Array) -> tuple[Array, Array]:
    """The same by the rules of v5.4."""
    step = distance * np.uint64(NS_PER_MS) // np.uint64(KHZ) // ADJUST_STEP
    tuned = np.where(early, advance - step, advance + step) & np.uint64(U32)
    tuned = np.where(tuned > ADVANCE_CAP_NS, ADVANCE_START_NS, tuned)
    counts = (distance >= ADJUST_MIN_CYCLES) & (distance <= ADJUST_MAX_CYCLES)
    return np.where(counts, tuned, advance).astype(np.uint64), done


class Deltas:
    """What comes to the vCPUs: more late ones than early ones, few so near that they end tuning."""

    def __init__(self) -> None:
        source = np.random.default_rng(7)
        self.early = source.random((VCPUS, EVENTS)) < 0.45
        self.distance = source.integers(90, 12_000, (VCPUS, EVENTS), np.uint64)
        self.khz = np.full(VCPUS, KHZ, np.uint64)
        # numpy goes through the events and takes all vCPUs at once: each event's are to lie side by side.
        self.early_by_event = np.ascontiguousarray(self.early.T)
        self.distance_by_event = np.ascontiguousarray(self.distance.T)


def by_python(deltas: Deltas, profile: Profile) -> Callable[[], tuple[float, list[int]]]:
    """Seconds a step of the interpreted rule, and the advancements it came to."""
    tune = tuning_of(profile.tuning, profile.ending, profile.overflow)
    rows = [
        list(zip(deltas.early[vcpu].tolist(), deltas.distance[vcpu].tolist(), strict=True))
        for vcpu in range(INTERPRETED_VCPUS)
    ]

    def run() -> tuple[float, list[int]]:
        final = []
        begin = time.perf_counter()
        for row in rows:
            advance, done = ADVANCE_START_NS, False
            for early, distance in row:
                advance, done = tune(advance, done, early, distance, KHZ)
            final.append(advance)
        return (time.perf_counter() - begin) / (INTERPRETED_VCPUS * EVENTS), final

    return run


def by_numpy(deltas: Deltas, step: NumpyStep) -> Callable[[], tuple[float, list[int]]]:
    """The same of numpy, event by event over all vCPUs."""

    def run() -> tuple[float, list[int]]:
        advance, done = np.full(VCPUS, ADVANCE_START_NS, np.uint64), np.zeros(VCPUS, bool)
        begin = time.perf_counter()
        for early, distance in zip(deltas.early_by_event, deltas.distance_by_event, strict=True):
            advance, done = step(advance, done, early, distance)
        return (time.perf_counter() - begin) / (VCPUS * EVENTS), advance.tolist()

    return run


def by_machine_code(deltas: Deltas, profile: Profile) -> Callable[[], tuple[float, list[int]]]:
    """The same of the compiled rule, vCPU by vCPU."""
    fold = compiled.fold(profile)
    after = np.zeros((VCPUS, EVENTS), np.uint64)

    def run() -> tuple[float, list[int]]:
        advance, done = np.full(VCPUS, ADVANCE_START_NS, np.uint64), np.zeros(VCPUS, bool)
        begin = time.perf_counter()
        fold(advance, done, deltas.early, deltas.distance, deltas.khz, after)
        return (time.perf_counter() - begin) / (VCPUS * EVENTS), advance.tolist()

    return run


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    deltas = Deltas()
    print(f"{'million steps a second':10}{'best':>10}{'median':>10}")
    for profile, step in ((SERIES, numpy_series), (V5_4, numpy_v5_4)):
        ways = {
            "interpreted": by_python(deltas, profile),
            "numpy": by_numpy(deltas, step),
            "compiled": by_machine_code(deltas, profile),
        }
        finals = [way()[1] for way in ways.values()]  # compiles, too
        assert finals[1] == finals[2]
        assert finals[0] == finals[1][:INTERPRETED_VCPUS]
        times = [[way()[0] for way in ways.values()] for _ in range(rounds)]
        columns = dict(zip(ways, zip(*times, strict=True), strict=True))
        best = {name: min(column) for name, column in columns.items()}
        for name, column in columns.items():
            speed, median = 1e-6 / best[name], 1e-6 / statistics.median(column)
            print(f"{profile.name:8}{name:14}{speed:10.2f}{median:10.2f}")
        print(
            f"{'':8}compiled/interpreted {best['interpreted'] / best['compiled']:.0f},"
            f" compiled/numpy {best['numpy'] / best['compiled']:.1f}"
        )


if __name__ == "__main__":
    main()
