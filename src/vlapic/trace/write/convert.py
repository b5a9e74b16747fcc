# SPDX-License-Identifier: GPL-2.0-or-later
"""A trace as another file: all its events as columns (CSV, Parquet), or as ftrace text of a kernel.

Columns hold every class of event in one table: the time, the name of the class, CPU and thread, VM and vCPU,
and then each field that any class has, null where this one has it not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vlapic.errors import UsageError
from vlapic.events import DTYPES, EVENT_TYPES, NO_CPU, NO_VCPU
from vlapic.kernels.profiles import release_numbers
from vlapic.output_file import STDOUT, without_packing
from vlapic.trace import open_trace
from vlapic.trace.reader import Batch, Clock, TraceFacts, TraceReader
from vlapic.trace.source import Origin
from vlapic.trace.tracefs import KNOWN, trace_kernel
from vlapic.trace.write.columns import columns_file
from vlapic.trace.write.ftrace import FtraceTextWriter

Array = npt.NDArray[Any]

#: What a trace can become, by the end of a name.
FORMS = (".parquet", ".csv", ".txt")
#: What leads every row.
_LEAD = {"timestamp": "u8", "event": "S24", "cpu": "u2", "tid": "u4", "vm": "u4", "vcpu": "u4"}
#: Rows that are brought to a file at a time.
_ROWS = 65_536
#: The kernel whose text is written if nobody says.
DEFAULT_TEXT = "v6.1"


@dataclass(frozen=True)
class Converted:
    """What a conversion came to.

    Attributes:
        trace, output: the files.
        events: how many went over.
        left_out: how many the output's form has no words for.
        lost: how many losses the trace tells of.
        lost_in_words: the same for people, a line for each cause.
        passed_over: how many events of the trace were of names that are not read.
        interrupted: a person ended it; the output holds the events up to there.
    """

    trace: str
    output: str
    events: int
    left_out: int
    lost: int
    passed_over: int
    interrupted: bool = False
    lost_in_words: tuple[str, ...] = ()


def convert(
    trace: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    kernel: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Converted:
    """Write the events of a trace to another file, by the end of its name: `.parquet`, `.csv`, `.txt`.

    The last two may be packed: `.csv.gz`, `.txt.xz`, `.txt.zst`. A conversion that fails leaves what stood in
    the output's place as it was.

    Args:
        trace: the file or pipe that is read; `-` is standard input.
        output: the file that is made; one that is there is replaced. `-` is stdout, which gets text.
        kernel: for `.txt`, the kernel whose formats are written, like `v6.1`.
        progress: told how many events have gone over.

    Raises:
        UsageError: the name ends in none of these, the kernel is none, or both are one file.
        TraceError: the trace cannot be read.
        OutputError: the output cannot be written.
    """
    target = os.fspath(output)
    name = ".txt" if target == STDOUT else without_packing(target)
    if not name.endswith(FORMS):
        raise UsageError(
            f"{target!r} ends in none of {', '.join(FORMS)}; the end of its name says what it becomes"
        )
    if name.endswith(".parquet") and name != target.lower():
        raise UsageError(f"{target!r}: Parquet packs itself; leave out what follows .parquet")
    if kernel is not None and not name.endswith(".txt"):
        raise UsageError(f"--kernel is for .txt, which has formats of a kernel; {target!r} has none")
    if kernel is not None:
        _check_kernel(kernel)
    origin = Origin.of(trace)
    if origin.is_file(target):
        raise UsageError(f"{target!r} is the trace itself; choose another file")
    reader = open_trace(origin)
    if name.endswith(".txt"):
        # One advancement of several vCPUs was tuned in that order, and their clocks may be a slice apart.
        reader.file_order = True
        write = _text(reader, target, kernel)
    else:
        write = _columns(reader, target)
    events = left_out = 0
    interrupted = False
    with closing(write):
        try:
            for gone, left in write:
                events, left_out = events + gone, left_out + left
                if progress is not None:
                    progress(events)
        except KeyboardInterrupt:
            interrupted = True
        except BaseException as error:
            with suppress(StopIteration):
                write.throw(error)  # so that what is under way is dropped
            raise
    return Converted(
        reader.path,
        target,
        events,
        left_out,
        len(reader.lost),
        sum(reader.passed_over.values()),
        interrupted or origin.interrupted,
        tuple(reader.losses_in_words()),
    )


def _check_kernel(name: str) -> None:
    try:
        known = trace_kernel(name).known
    except ValueError as error:
        raise UsageError(str(error)) from None
    if not known:
        first, last = (f"v{major}.{minor}" for major, minor in KNOWN)
        raise UsageError(f"the formats of kernel {name} are not known; those of {first} to {last} are")


def union_columns() -> dict[str, str]:
    """Every column of the one table for all classes, with a width that holds each class's."""
    columns = dict(_LEAD)
    fields: dict[str, list[np.dtype[Any]]] = {}
    for event_type in EVENT_TYPES:
        dtype = DTYPES[event_type]
        for name in (dtype.names or ())[3:]:
            fields.setdefault(name, []).append(dtype[name])
    for name, dtypes in fields.items():
        columns[name] = _widest(dtypes)
    return columns


def _widest(dtypes: list[np.dtype[Any]]) -> str:
    kinds = {dtype.kind for dtype in dtypes}
    size = max(dtype.itemsize for dtype in dtypes)
    if kinds <= {"S"}:
        return f"S{size}"
    if kinds == {"b"}:
        return "?"
    # A signed field beside an unsigned one of 64 bits is of none of our classes.
    return f"<i{8 if 'u' in kinds else size}" if "i" in kinds else f"<u{size}"


def _columns(reader: TraceReader, output: str) -> Generator[tuple[int, int], None, None]:
    """Write a table; yields how many events have gone over, and how many were left out."""
    columns = union_columns()
    with columns_file(output, columns) as writer:
        for batch in reader.batches():
            for at in range(0, len(batch), _ROWS):
                part = batch.take(np.arange(at, min(at + _ROWS, len(batch))))
                writer.write(_chunk(part, columns))
                yield len(part), 0


def _chunk(batch: Batch, columns: dict[str, str]) -> dict[str, Array]:
    count = len(batch)
    chunk: dict[str, Any] = {
        name: np.ma.MaskedArray(np.zeros(count, dtype), mask=True)
        if name not in _LEAD
        else np.zeros(count, dtype)
        for name, dtype in columns.items()
    }
    chunk["timestamp"] = batch.times
    chunk["cpu"], chunk["tid"] = batch.cpus.copy(), batch.tids
    for event_type, table in batch.tables.items():
        places = batch.rows_of(event_type)
        chunk["event"][places] = event_type.__name__.encode()
        for name in (table.rows.dtype.names or ())[1:]:
            chunk[name][places] = table[name]
    # A loss's own CPU is in the same column; `NO_VCPU` there becomes the same in 16 bits.
    chunk["cpu"] = np.ma.masked_equal(chunk["cpu"], NO_CPU)
    for name in ("vm", "vcpu"):
        chunk[name] = np.ma.masked_equal(chunk[name], NO_VCPU)
    return chunk


def _text(reader: TraceReader, output: str, kernel: str | None) -> Generator[tuple[int, int], None, None]:
    """Write ftrace text; yields how many events have gone over, and how many were left out."""
    facts = reader.facts
    if kernel is None:
        major, minor = release_numbers(facts.kernel or "")
        kernel = f"v{major}.{minor}" if major else DEFAULT_TEXT
    with FtraceTextWriter.open(
        output,
        kernel,
        host_khz=facts.tsc_khz or 1_000_000,
        in_ns=reader.clock is Clock.NS,
        comments=_facts_as_comments(facts),
    ) as writer:
        for batch in reader.batches():
            left_out = 0
            for event, cpu, tid in zip(batch, batch.cpus.tolist(), batch.tids.tolist(), strict=True):
                if not writer.writes(type(event)):
                    left_out += 1
                    continue
                thread = reader.threads.get(tid)
                # ftrace text always has a CPU.
                cpu = 0 if cpu == NO_CPU else cpu
                writer.write(event, task=(thread.comm if thread else "") or "<...>", tid=tid, cpu=cpu)
            yield len(batch) - left_out, left_out


def _facts_as_comments(facts: TraceFacts) -> list[str]:
    """What a trace says beside its events, as text has it."""
    comments = [] if facts.kernel is None else [f"kernel {facts.kernel}"]
    comments += [
        f"param /sys/module/kvm/parameters/{name} {value}" for name, value in facts.parameters.items()
    ]
    if facts.trace_clock is not None:
        comments.append(f"trace_clock {facts.trace_clock}")
    if facts.tsc_khz is not None:
        comments.append(f"virtual_tsc_khz {facts.tsc_khz}")
    comments += [f"sample {each.interrupts} {each.advance_ns} {each.label}" for each in facts.samples]
    return comments
