"""`vlapic run` as a whole: timer interrupts per second of wall time, the first table, the help.

A and B take turns, and the best of several is printed beside the median, because the machine is shared. Every
figure is of this run; compare ratios, not figures of different days.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import vlapic

TURNS = 5
INTERRUPTS = 20_000


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def process(*arguments: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def in_turns(*works: Callable[[], object]) -> list[list[float]]:
    """Times of each work, TURNS of each, taken in turns."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(TURNS):
        for work, taken in zip(works, times, strict=True):
            taken.append(seconds(work))
    return times


def row(what: str, best: float, median: float, unit: str, more: str = "") -> None:
    print(f"{what:38} {best:12,.1f} {median:12,.1f}  {unit:14} {more}")


def rate(times: list[float]) -> tuple[float, float]:
    return INTERRUPTS / min(times), INTERRUPTS / statistics.median(times)


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

    bare, help_, table = in_turns(
        process("-c", "pass"), process("-m", "vlapic", "--help"), process("-m", "vlapic", "run")
    )
    row("bare interpreter", min(bare) * 1e3, statistics.median(bare) * 1e3, "ms")
    above = (min(help_) - min(bare)) * 1e3
    row("vlapic --help", min(help_) * 1e3, statistics.median(help_) * 1e3, "ms", f"{above:.0f} above bare")
    row("vlapic run, to its table", min(table) * 1e3, statistics.median(table) * 1e3, "ms", "aim below 2000")


if __name__ == "__main__":
    main()
