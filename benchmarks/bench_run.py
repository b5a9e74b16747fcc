# SPDX-License-Identifier: GPL-2.0-or-later
"""`vlapic run` as a whole: interrupts per second, where their time goes, the first table, the help.

A and B take turns, and the best of several is printed beside the median, because the machine is shared. Every
figure is of this run; compare ratios, not figures of different days.
"""

from __future__ import annotations

import cProfile
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import vlapic

TURNS = 5
INTERRUPTS = 20_000


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    begin = clock()
    work()
    return clock() - begin


def process(*arguments: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def in_turns(
    *works: Callable[[], object], clock: Callable[[], float] = time.process_time
) -> list[list[float]]:
    """Times of each work, TURNS of each, taken in turns: CPU time of this process, or by another clock."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(TURNS):
        for work, taken in zip(works, times, strict=True):
            taken.append(seconds(work, clock))
    return times


def row(what: str, best: float, median: float, unit: str, more: str = "") -> None:
    print(f"{what:38} {best:12,.1f} {median:12,.1f}  {unit:14} {more}")


def rate(times: list[float]) -> tuple[float, float]:
    return INTERRUPTS / min(times), INTERRUPTS / statistics.median(times)


#: A layer is the first of these that a file's name has in it; what is written in C counts for its caller.
LAYERS = {
    "vlapic/machine/engines/unicorn/": "emulated CPU, with Unicorn itself",
    "vlapic/machine/": "machine: loop, exits, host model",
    "vlapic/apic/": "device: APIC and timer",
    "vlapic/": "ground, statistics, session",
    "": "others, imports",
}


def layer_of(file: str) -> str:
    return next(layer for part, layer in LAYERS.items() if part in file)


def print_layers(work: Callable[[], object]) -> None:
    """Where the time of a run goes. A profiler makes calls dearer, so that Python's share looks larger."""
    profiler = cProfile.Profile()
    profiler.runcall(work)
    spent: dict[str, float] = defaultdict(float)
    most: dict[str, tuple[float, str]] = {}
    for (file, line, name), (_, _, own, _, callers) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        if file == "~":
            for (caller, _, _), (_, _, theirs, _) in callers.items():
                spent[layer_of(caller)] += theirs
            continue
        layer = layer_of(file)
        spent[layer] += own
        most[layer] = max(most.get(layer, (0.0, "")), (own, f"{Path(file).name}:{line} {name}"))
    total = sum(spent.values())
    for layer in LAYERS.values():
        own, name = most[layer]
        print(f"  {layer:36} {spent[layer] / total:12.0%}   most: {name}, {own / total:.0%}")


def main() -> None:
    print(f"{'':38} {'best':>12} {'median':>12}")
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.txt"
        halting, spinning, traced = in_turns(
            lambda: vlapic.run("deadline-hlt", events=INTERRUPTS),
            lambda: vlapic.run("deadline", events=INTERRUPTS),
            lambda: vlapic.run("deadline-hlt", events=INTERRUPTS, trace=trace),
        )
    row("deadline-hlt, events off", *rate(halting), "interrupts/s", "aim 20 000")
    row("deadline, events off", *rate(spinning), "interrupts/s")
    ratio = min(halting) / min(traced)
    row("deadline-hlt, with --trace", *rate(traced), "interrupts/s", f"{ratio:.2f} of events off")

    print("where the time of deadline-hlt goes, by cProfile")
    print_layers(lambda: vlapic.run("deadline-hlt", events=INTERRUPTS))

    bare, help_, table = in_turns(
        process("-c", "pass"),
        process("-m", "vlapic", "--help"),
        process("-m", "vlapic", "run"),
        clock=time.perf_counter,
    )
    row("bare interpreter", min(bare) * 1e3, statistics.median(bare) * 1e3, "ms")
    above = (min(help_) - min(bare)) * 1e3
    row("vlapic --help", min(help_) * 1e3, statistics.median(help_) * 1e3, "ms", f"{above:.0f} above bare")
    row("vlapic run, to its table", min(table) * 1e3, statistics.median(table) * 1e3, "ms", "aim below 2000")


if __name__ == "__main__":
    main()
