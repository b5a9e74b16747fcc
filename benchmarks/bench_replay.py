# SPDX-License-Identifier: GPL-2.0-or-later
"""Replay once a trace is loaded: deltas through a profile's rules, with all that is counted of them.

The columns are made up (a lateness that wanders, two vCPUs or one), and given to the fold in batches as a
reader would. Compared in the same run with the same fold on rules as they stand, and with the bare walk.

    python benchmarks/bench_replay.py [--events N]
"""

from __future__ import annotations

import argparse
import time
import tracemalloc

import numpy as np

from vlapic.events import DTYPES, EVENT_CODES, Table, VcpuStart, WaitLapicExpire
from vlapic.kernels.profiles import PROFILES
from vlapic.replay.assumptions import Sources
from vlapic.replay.model import Model, numba_is_installed
from vlapic.replay.replayer import Replay
from vlapic.trace.reader import Batch, Clock, TraceReader
from vlapic.trace.sidecar import Sidecar
from vlapic.trace.source import Origin

KHZ = 2_500_000
BATCH = 1 << 20
EVENTS = 20_000_000
#: Deltas that go through the rules as they stand.
FEW = 200_000


class Loaded(TraceReader):
    """A trace that is in memory."""

    def __init__(self, loaded: list[Batch]) -> None:
        super().__init__("loaded", "columns")
        self.clock = Clock.TSC
        self._loaded = loaded

    def batches(self):
        return iter(self._loaded)


def made(events: int, vcpus: int, profile: str) -> list[Batch]:
    """Batches of deltas around 0, as a vCPU that has settled sees them, with a spike now and then."""
    random = np.random.default_rng(1)
    batches = []
    starts = Table.of(
        VcpuStart,
        [VcpuStart(0, 0, vcpu, KHZ, 0, 0, 0, profile, 1000, "auto") for vcpu in range(vcpus)],
    )
    nobody = np.zeros(vcpus)
    batches.append(Batch.of([(starts, np.arange(vcpus), nobody, nobody)]))
    for at in range(0, events, BATCH):
        count = min(BATCH, events - at)
        rows = np.zeros(count, DTYPES[WaitLapicExpire])
        rows["host_tsc"] = np.arange(at, at + count) * 250_000
        rows["vcpu"] = np.arange(count) % vcpus
        rows["delta_cycles"] = random.integers(-600, 900, count)
        rows["delta_cycles"][::97] = 30_000
        codes = np.full(count, EVENT_CODES[WaitLapicExpire], "u1")
        zeros = np.zeros(count, "<u4")
        batches.append(
            Batch(codes, zeros.astype("<u2"), zeros, {WaitLapicExpire: Table(WaitLapicExpire, rows)})
        )
    return batches


def fold(loaded: list[Batch], compiled: bool) -> float:
    """Seconds of one replay."""
    replay = Replay(Sources(Loaded(loaded), Origin(__file__), Sidecar()), compiled=compiled)
    begun = time.perf_counter()
    for batch in loaded:
        replay.add(batch)
    return time.perf_counter() - begun


def walk(loaded: list[Batch], profile: str) -> float:
    """Seconds of the rules alone."""
    model = Model(PROFILES[profile], compiled=True)
    model.create(None, KHZ)
    begun = time.perf_counter()
    for batch in loaded[1:]:
        deltas = batch.tables[WaitLapicExpire]["delta_cycles"]
        model.walk(np.zeros(len(deltas), np.int32), deltas)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=EVENTS)
    events = parser.parse_args().events
    if not numba_is_installed():
        print("numba is not installed (pip install numba); rules as they stand:")
    for profile in ("series", "v5.3", "v6.1"):
        for vcpus in (1, 2):
            loaded = made(events, vcpus, profile)
            few = made(FEW, vcpus, profile)
            plain = FEW / fold(few, compiled=False)
            line = f"{profile:8} {vcpus} vCPU: "
            if numba_is_installed():
                fold(few, compiled=True)  # compiles
                seconds = min(fold(loaded, compiled=True) for _ in range(2))
                line += f"{events / seconds / 1e6:6.1f} million deltas/s compiled"
                if vcpus == 1:
                    line += f" (the rules alone {events / walk(loaded, profile) / 1e6:.1f})"
                line += f", {events / seconds / plain:.0f} times "
            print(line + f"the {plain / 1e6:.2f} million/s of rules as they stand")
    tracemalloc.start()
    fold(loaded, compiled=numba_is_installed())
    peak = tracemalloc.get_traced_memory()[1]
    print(f"beside the columns: {peak / events:.1f} bytes a delta at most ({peak >> 20} MiB in all)")


if __name__ == "__main__":
    main()
