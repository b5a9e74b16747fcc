# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces and batches made up for tests of replay."""

import csv
import lzma

from tests.support.recordings import path_of
from vlapic.replay.run import replay

HEADER = "# tracer: nop\n#\n"
#: What every pinned recording's vCPU is.
KHZ = 1_000_000


def line(time, event, tid=200, task="vmm", cpu=0):
    return f"{task:>16}-{tid:<7d} [{cpu:03d}] d..1. {time:12d}: {event}\n"


def wait(time, delta, vcpu=0, **who):
    word = "early" if delta < 0 else "late"
    return line(time, f"kvm_wait_lapic_expire: vcpu {vcpu}: delta {delta} ({word})", **who)


def sample(time, advance, done=0):
    return line(time, f"tracing_mark_write: LAB sample done={done} advance={advance} offset=0")


def start(time, advance=1000, khz=KHZ, offset=0):
    return line(
        time, f"tracing_mark_write: LAB start khz={khz} offset={offset} ratio=-1 frac=-1 advance={advance}"
    )


def deadline(time, tsc):
    return line(time, f"kvm_msr: msr_write 6e0 = {tsc:#x}")


def replayed(tmp_path, text, name="trace.txt", **options):
    path = tmp_path / name
    path.write_text(text)
    return replay(path, **options)


def rows(tmp_path, trace, **options):
    """The trajectory's lines."""
    out = tmp_path / "trajectory.csv"
    result = replay(trace, trajectory=out, **options)
    return result, out.read_bytes()


def advances(tmp_path, trace, **options):
    """The advancement after every delta, in order."""
    _, text = rows(tmp_path, trace, **options)
    return [int(row["advance_after_ns"]) for row in csv.DictReader(text.decode().splitlines())]


def text_of(name):
    return lzma.decompress(path_of(name).read_bytes()).decode()
