# SPDX-License-Identifier: GPL-2.0-or-later
"""Text traces: lines a second into columns, beside plain splitting and a regular expression a line.

A recording is repeated with its times moved on. Readers take turns, and the best of several is printed beside
the median, because the machine is shared; what is counted is the processor's time. Compare ratios, not
figures of different days. trace-cmd reads no text; where it is installed, what it takes to print as many
events of a trace.dat is the peer, and what it printed is read too.
"""

from __future__ import annotations

import lzma
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench_dat import write_large

from vlapic.trace import open_trace

RECORDINGS = Path(__file__).parent.parent / "tests" / "traces"
TURNS = 5
LINES = 1_000_000
_LINE = re.compile(rb" +(\S+)-(\d+) +\[(\d+)\] \S+ +(\d+): (\w+): (.*)")


def repeated(name: str, path: Path) -> int:
    """Write a recording's events over and over until there are enough; how many lines that makes."""
    text = lzma.decompress((RECORDINGS / f"{name}.txt.xz").read_bytes()).decode()
    pieces = [
        match.groups()
        for line in text.splitlines()
        if (match := re.match(r"( .*?\] \S+ +)(\d+)(: .*)", line))
    ]
    span = int(pieces[-1][1]) - int(pieces[0][1]) + 1000
    rounds = LINES // len(pieces)
    with path.open("w") as file:
        for turn in range(rounds):
            file.writelines(f"{head}{int(at) + turn * span}{tail}\n" for head, at, tail in pieces)
    return rounds * len(pieces)


def read_columns(path: Path) -> int:
    return sum(len(batch) for batch in open_trace(path).batches())


def split(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if line.split())


def match(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if _LINE.match(line))


def in_turns(path: Path, *works: Callable[[Path], int]) -> list[list[float]]:
    times: list[list[float]] = [[] for _ in works]
    for _ in range(TURNS):
        for work, taken in zip(works, times, strict=True):
            begin = time.process_time()
            work(path)
            taken.append(time.process_time() - begin)
    return times


def row(what: str, lines: int, times: list[float], against: list[float], more: str = "") -> None:
    best, median = lines / min(times) / 1e6, lines / statistics.median(times) / 1e6
    ratio = min(against) / min(times)
    print(f"{what:34} {best:8.2f} {median:8.2f}  M lines/s   {ratio:5.2f} of plain splitting  {more}")


def beside_trace_cmd(folder: Path) -> None:
    """Let trace-cmd print a trace.dat, and read what it printed."""
    dat, path = folder / "trace.dat", folder / "report.txt"
    lines = write_large(dat, LINES)
    printing = []
    for _ in range(TURNS):
        begin = resource.getrusage(resource.RUSAGE_CHILDREN)
        with path.open("wb") as file:
            subprocess.run(["trace-cmd", "report", dat], stdout=file, stderr=subprocess.DEVNULL, check=True)
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        printing.append(end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime)
    ours, plain = in_turns(path, read_columns, split)
    print(f"printed by trace-cmd, {lines} lines, {path.stat().st_size / 1e6:.0f} MB")
    row(
        "  vlapic, to columns in order",
        lines,
        ours,
        plain,
        f"{min(printing) / min(ours):.1f} times trace-cmd",
    )
    row("  line.split()", lines, plain, plain)
    row("  trace-cmd report, printing them", lines, printing, plain)


def main() -> None:
    print(f"{'':34} {'best':>8} {'median':>8}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.txt"
        for name in ("svm-shift0-adv3000", "svm-shift0-adaptive-lean"):
            lines = repeated(name, path)
            ours, plain, regular = in_turns(path, read_columns, split, match)
            print(f"{name}, {lines} lines, {path.stat().st_size / 1e6:.0f} MB")
            row("  vlapic, to columns in order", lines, ours, plain, "aim 1 M lines/s")
            row("  line.split()", lines, plain, plain)
            row("  a regular expression, its groups", lines, regular, plain)
        if shutil.which("trace-cmd"):
            beside_trace_cmd(Path(folder))
        else:
            print("trace-cmd is not installed; try `apt install trace-cmd`")
        events = in_memory = 0
        for batch in open_trace(path).batches():
            events += len(batch)
            in_memory += batch.codes.nbytes + batch.cpus.nbytes + batch.tids.nbytes
            in_memory += sum(table.rows.nbytes for table in batch.tables.values())
        print(f"{'bytes an event in memory':34} {in_memory / events:8.1f}  aim below 100")
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import vlapic.trace"], check=True)
        print(f"{'process start and import':34} {(time.perf_counter() - begin) * 1e3:8.0f}  ms")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{'peak memory of this process':34} {peak / 1024:8.0f}  MiB")


if __name__ == "__main__":
    main()
