# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast trace.dat is read: events to columns, against `trace-cmd report FILE > /dev/null`.

    python benchmarks/bench_dat.py [EVENTS]

The file is a recording's pages over and over, later each time, plain, on one CPU. Both readers are run in
turn on the same file; the ratio tells more than the times. Targets: ten times trace-cmd on 5 million events
without the start of the process, three times with it on 850 000, and under 100 bytes an event.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.dat_files import Made
from tests.support.dat_ring import Machine

from vlapic.trace.dat import open_dat

RECORDING = Path(__file__).resolve().parent.parent / "tests/trace/data/svm-tscdeadline-latency.dat"
EVENTS = 5_000_000
EVENTS_WITH_START = 850_000
ROUNDS = 3

STREAM = """
import re, sys, time
from vlapic.trace.dat import open_dat
start = time.perf_counter()
trace = open_dat(sys.argv[1])
events = sum(len(batch) for batch in trace.batches())
seconds = time.perf_counter() - start
status = open("/proc/self/status").read()
print(events, seconds, *(re.search(name + r":\\s+(\\d+)", status)[1] for name in ("VmHWM", "RssFile")))
"""


def write_large(path: Path, events: int) -> int:
    """Write a file of at least so many events; how many it has."""
    recording = open_dat(RECORDING)
    pages = np.concatenate([pages.data for stream in recording.streams() for pages in stream.source])
    times = np.concatenate([batch.times for batch in recording.batches()])
    repeats = -(-events // len(times))
    span = int(times[-1] - times[0]) + 1000
    parts = []
    for repeat in range(repeats):
        later = pages.copy()
        stamps = later.reshape(-1).view("<u8")[:: pages.shape[1] // 8]
        stamps += np.uint64(span * repeat)
        parts.append(later.tobytes())
    container = recording.container
    formats = [(system, text) for system, text, *_ in container.formats]
    made = Made({"": [b"".join(parts)]}, Machine(), formats=formats, kallsyms=b"")
    path.write_bytes(made.v7())
    return repeats * len(times)


def decode(path: Path, *, keep: bool) -> tuple[float, int, int]:
    """Seconds to decode a file into columns, the number of events, and their bytes; whether all are kept."""
    start = time.perf_counter()
    if keep:
        tables = list(open_dat(path).read().values())
        seconds = time.perf_counter() - start
        return seconds, sum(map(len, tables)), sum(table.rows.nbytes for table in tables)
    events = size = 0
    for batch in open_dat(path).batches():
        events += len(batch)
        size += sum(table.rows.nbytes for table in batch.tables.values())
    return time.perf_counter() - start, events, size


def run(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def line(
    what: str, seconds: float, events: int, peer: float | None = None, target: int | None = None
) -> None:
    ratio = "" if peer is None else f"  {peer / seconds:5.1f} times trace-cmd"
    aim = "" if target is None else f" (target {target})"
    print(f"  {what:<34} {seconds:6.2f} s  {events / seconds / 1e6:6.2f} million events/s{ratio}{aim}")


def main() -> None:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    peer = shutil.which("trace-cmd")
    if peer is None:
        print("trace-cmd is not installed (apt install trace-cmd): no ratios")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "large.dat"
        events = write_large(path, wanted)
        decoded, kept, theirs = [], [], []
        for _ in range(ROUNDS):
            for seconds, keep in ((decoded, False), (kept, True)):
                took, count, size = decode(path, keep=keep)
                assert count == events, (count, events)
                seconds.append(took)
            if peer:
                theirs.append(run([peer, "report", str(path)]))
        best = min(theirs, default=None)
        megabytes = path.stat().st_size / 1e6
        print(f"{events} events, {megabytes:.0f} MB; best of {ROUNDS}; {size / events:.1f} bytes an event")
        line("decoded to columns, in stretches", min(decoded), events, best, 10)
        line("the same, all kept", min(kept), events, best)
        if best is not None:
            line("trace-cmd report", best, events)
        command = [sys.executable, "-c", STREAM, str(path)]
        streamed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        mebibytes = (int(streamed[2]) - int(streamed[3])) / 1024
        print(f"  streamed: {mebibytes:.0f} MiB at most, beside the mapped file")

        events = write_large(path, min(wanted, EVENTS_WITH_START))
        ours, theirs = [], []
        for _ in range(2 * ROUNDS):
            ours.append(run([sys.executable, "-c", STREAM, str(path)]))
            if peer:
                theirs.append(run([peer, "report", str(path)]))
        start = min(run([sys.executable, "-c", "import vlapic.trace.dat"]) for _ in range(ROUNDS))
        print(f"{events} events, the start of the process included ({start:.2f} s of it imports)")
        best = min(theirs, default=None)
        line("vlapic", min(ours), events, best, 3)
        if best is not None:
            line("trace-cmd report", best, events)


if __name__ == "__main__":
    main()
