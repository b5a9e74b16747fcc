# SPDX-License-Identifier: GPL-2.0-or-later
"""What every reader of traces gives: events in the order of time, and what is known beside them.

A reader yields `Batch` by `Batch`, each the trace's next stretch, so that a file larger than memory can be
read. Everything else is made of that: single events, tables of one class, whole columns. A format's reader
implements `batches()` and keeps `threads`, `passed_over` and `lost`; it need not sort (`in_time_order` does).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from vlapic.errors import UsageError, nearest
from vlapic.events import DTYPES, EVENT_CODES, EVENT_TYPES, NO_VCPU, Event, Lost, Table
from vlapic.numerals import counted, shown
from vlapic.trace.threads import Threads

E = TypeVar("E")
Array = npt.NDArray[Any]


class Clock(Enum):
    """What an event's `host_tsc` counts."""

    TSC = "the host's TSC, in cycles"
    NS = "nanoseconds"
    UNKNOWN = "an unknown clock"


#: Clocks of Linux's tracing by their names in trace_clock; what the others count is of no use here.
TRACE_CLOCKS = {
    **dict.fromkeys(("x86-tsc", "tsc2nsec"), Clock.TSC),
    **dict.fromkeys(("local", "global", "perf", "mono", "mono_raw", "boot", "tai"), Clock.NS),
}


class HeaderSample(NamedTuple):
    """`# sample EVENTS ADVANCE LABEL`: the advancement as it was after so many interrupts."""

    interrupts: int
    advance_ns: int
    label: str


class TscConversion(NamedTuple):
    """How a clock's ns were made of TSC cycles: `ns = (cycles * mult >> shift) + offset_ns`."""

    mult: int
    shift: int
    offset_ns: int


@dataclass
class TraceFacts:
    """What a trace says beside its events; None or empty is not said.

    Attributes:
        header: lines above or between the events that begin with `#`, without it.
        kernel: the release of the kernel that recorded it.
        trace_clock: the name of the clock, as tracefs has it: `x86-tsc`, `local`.
        tsc_khz: the guest's TSC frequency, kHz.
        parameters: of the kvm modules, by name without the module's.
        samples: the advancement over time, where the header says it.
        conversion: how the trace's ns were made of TSC cycles.
        of_guest: it was recorded inside a guest, together with the host's trace; its times are the guest's.
        resolution_ns: of times in ns, what they are whole multiples of, as far as can be seen: 1000 is text
            with microseconds. None where the clock is no time or that is not looked at.
        since_start: its times begin at 0 where tracing began, so that they are no clock's own (the kernel's
            latency format, a dump of its buffer).
        wrapped: how many of its lines were put together again from several, as mail programs wrap them.
        refused: facts that the header says and that cannot be, by name: the line's number and what is there.
        entries: how many entries its headers say that there are, of all buffers whose text it has.
        disordered: events that stood later than their time by more than a batch, and so are out of order.
    """

    header: list[str] = field(default_factory=list)
    kernel: str | None = None
    trace_clock: str | None = None
    tsc_khz: int | None = None
    parameters: dict[str, str] = field(default_factory=dict)
    samples: list[HeaderSample] = field(default_factory=list)
    conversion: TscConversion | None = None
    of_guest: bool = False
    resolution_ns: int | None = None
    since_start: bool = False
    wrapped: int = 0
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    entries: int = 0
    disordered: int = 0


@dataclass(frozen=True)
class Batch:
    """A stretch of a trace: its events in order, kept as a table for each class.

    Attributes:
        codes: for each event in order, the number of its class (`EVENT_CODES`); u1.
        cpus: the CPU it was made on, `NO_CPU` where that is not told; u2.
        tids: the thread; u4.
        tables: the events of each class there is, in the same order.
    """

    codes: Array
    cpus: Array
    tids: Array
    tables: dict[type[Any], Table[Any]]

    @classmethod
    def of(cls, tables: Iterable[tuple[Table[Any], Array, Array, Array]]) -> Batch:
        """A batch of tables; with each come the places of its rows in the batch, their CPUs and threads.

        The places are any numbers that rise with the order wanted, over all tables.
        """
        parts = [part for part in tables if len(part[0])]
        if not parts:
            nothing = np.zeros(0, np.intp)
            return cls(nothing.astype("u1"), nothing.astype("<u2"), nothing.astype("<u4"), {})
        places = np.concatenate([part[1] for part in parts])
        order = np.argsort(places, kind="stable")
        codes = np.concatenate([np.full(len(t), EVENT_CODES[t.event_type], "u1") for t, *_ in parts])
        return cls(
            codes[order],
            np.concatenate([part[2] for part in parts]).astype("<u2")[order],
            np.concatenate([part[3] for part in parts]).astype("<u4")[order],
            {part[0].event_type: part[0] for part in parts},
        )

    @classmethod
    def timed(
        cls, codes: Array, cpus: Array, tids: Array, tables: dict[type[Any], Table[Any]], times: Array
    ) -> Batch:
        """A batch whose times are known beside its tables; they are not gathered from these again."""
        batch = cls(codes, cpus, tids, tables)
        batch.__dict__["times"] = times
        return batch

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[Event]:
        """The events, in order."""
        rows = {EVENT_CODES[event_type]: iter(table) for event_type, table in self.tables.items()}
        return (next(rows[code]) for code in self.codes.tolist())

    def rows_of(self, event_type: type[Any]) -> Array:
        """The places in this batch of the events of one class."""
        return np.flatnonzero(self.codes == EVENT_CODES[event_type])

    @cached_property
    def times(self) -> Array:
        """`host_tsc` of every event, in order; u8."""
        times = np.zeros(len(self), "<u8")
        for event_type, table in self.tables.items():
            times[self.rows_of(event_type)] = table["host_tsc"]
        return times

    def take(self, places: Array) -> Batch:
        """The events at these places, in this order; each at most once."""
        codes = self.codes[places]
        row_numbers = np.empty(len(self), np.intp)
        tables: dict[type[Any], Table[Any]] = {}
        for event_type, table in self.tables.items():
            row_numbers[self.rows_of(event_type)] = np.arange(len(table))
            rows = row_numbers[places[codes == EVENT_CODES[event_type]]]
            if len(rows):
                tables[event_type] = Table(event_type, table.rows[rows])
        return Batch(codes, self.cpus[places], self.tids[places], tables)

    def followed_by(self, other: Batch) -> Batch:
        """This batch and then the other one."""
        tables = dict(self.tables)
        for event_type, table in other.tables.items():
            mine = tables.get(event_type)
            rows = table.rows if mine is None else np.concatenate([mine.rows, table.rows])
            tables[event_type] = Table(event_type, rows)
        return Batch(
            np.concatenate([self.codes, other.codes]),
            np.concatenate([self.cpus, other.cpus]),
            np.concatenate([self.tids, other.tids]),
            tables,
        )


class TraceReader(ABC):
    """A trace that can be read, from its beginning, as often as wanted.

    `threads`, `passed_over`, `lost` and what `facts` says are complete once the trace has been read to its
    end; reading it again begins them anew.

    Attributes:
        path: the file, as it was named.
        form: what kind of file it is, for people: `ftrace text`, `perf script text`, `trace.dat 7`.
        clock: what `host_tsc` counts.
        file_order: give events as they stand in the file, where that can be; set before reading. vlapic's
            own traces stand in the order in which things happened to the machine, vCPUs a slice apart.
        facts: what the file says beside its events.
        threads: who made them; which are vCPUs, and of which VM.
        passed_over: how many events of each name were none of ours.
        lost: every `Lost` among the events.
        place_unit: what the place of a `Lost` counts: `line`, or `byte` of a trace.dat.
    """

    place_unit = "line"

    def __init__(self, path: str, form: str) -> None:
        self.path = path
        self.form = form
        self.clock = Clock.UNKNOWN
        self.file_order = False
        self.begin()

    def begin(self) -> None:
        """Forget what was learnt from the events: `batches()` calls this first."""
        self.facts = TraceFacts()
        self.threads = Threads()
        self.passed_over: Counter[str] = Counter()
        self.lost: list[Lost] = []

    @abstractmethod
    def batches(self) -> Iterator[Batch]:
        """The trace from its beginning, in the order of time.

        Raises:
            TraceError: the file cannot be read at all. Damage inside it is a `Lost`.
        """

    def losses_in_words(self) -> list[str]:
        """What was lost as far as the trace has been read, for people: a line for each cause."""
        return list(_in_words(self.lost, self.place_unit))

    def events(self) -> Iterator[Event]:
        """Every event, in the order of time; of equal time, in the order of the file."""
        for batch in self.batches():
            yield from batch

    __iter__ = events

    def tables(self) -> Iterator[Table[Any]]:
        """Every event, as tables of one class; the tables of one class are in the order of time."""
        for batch in self.batches():
            yield from batch.tables.values()

    def columns(self, event_type: type[E]) -> Table[E]:
        """All events of one class."""
        return self.read(event_type)[event_type]

    def read(self, *event_types: type[Any]) -> dict[type[Any], Table[Any]]:
        """All events of some classes (none named: of all) by class, an empty table where there are none.

        Raises:
            UsageError: one is no class of events.
        """
        for event_type in event_types:
            if event_type not in EVENT_TYPES:
                name = getattr(event_type, "__name__", event_type)
                known = {each.__name__: each for each in EVENT_TYPES}
                raise UsageError(
                    f"{shown(str(name))} is no class of events of vlapic.events; {nearest(str(name), known)}"
                )
        found = {event_type: _Growing(event_type) for event_type in event_types or EVENT_TYPES}
        for batch in self.batches():
            for event_type, table in batch.tables.items():
                if event_type in found:
                    found[event_type].append(table.rows)
        return {event_type: Table(event_type, rows.all()) for event_type, rows in found.items()}


def _in_words(lost: list[Lost], unit: str) -> Iterator[str]:
    of_cause = {
        cause: [loss for loss in lost if loss.cause == cause]
        for cause in ("unfinished", "damaged", "overrun")
    }
    if cut := of_cause["unfinished"]:
        cpus = sorted({loss.cpu for loss in cut if loss.cpu != NO_VCPU})
        yield (
            f"the trace is cut off at {unit} {min(loss.place for loss in cut)}{_in_data_of(cpus)}"
            f"{_missing(cut, unit)}; what stands before that was read"
        )
    yield from _formats_in_words(lost, unit)
    if damaged := [loss for loss in of_cause["damaged"] if not loss.tracepoint]:
        first = damaged[0]
        cpus = [] if first.cpu == NO_VCPU else [first.cpu]
        more = f" and in {counted(len(damaged) - 1, 'more place')}" if len(damaged) > 1 else ""
        yield (
            f"the trace is damaged at {unit} {first.place}{_in_data_of(cpus)}{more}{_missing(damaged, unit)};"
            " the rest was read"
        )
    if overrun := of_cause["overrun"]:
        events = sum(loss.events for loss in overrun)
        of_events = f" of {counted(events, 'event')} or more" if events else ""
        yield (
            f"the recording has {counted(len(overrun), 'loss', 'losses')}{of_events}, where its buffer was"
            " full: a larger buffer helps"
        )


def _formats_in_words(lost: list[Lost], unit: str) -> Iterator[str]:
    """Of tracepoints whose format is damaged, how many events that is."""
    formats = [loss for loss in lost if loss.tracepoint]
    for event, place in dict.fromkeys((loss.tracepoint, loss.place) for loss in formats):
        events = sum(loss.events for loss in formats if (loss.tracepoint, loss.place) == (event, place))
        yield (
            f"the format of {event} is damaged, at {unit} {place}: {counted(events, 'event')} of it cannot be"
            " read; the rest was read"
        )


def _in_data_of(cpus: list[int]) -> str:
    if not cpus:
        return ""
    if len(cpus) == 1:
        return f", in CPU {cpus[0]}'s data"
    return f", in the data of CPUs {', '.join(map(str, cpus[:8]))}{' ...' if len(cpus) > 8 else ''}"


def _missing(losses: list[Lost], unit: str) -> str:
    """How much the losses say that they are of; lines are counted in `events`."""
    events = sum(loss.events for loss in losses)
    size = sum(loss.size_bytes for loss in losses)
    counts = [counted(size, "byte")] if size else []
    if events:
        counts.insert(0, f"{counted(events, 'line' if unit == 'line' else 'event')} or more")
    return f": {', '.join(counts)} cannot be read" if counts else ""


class _Growing:
    """Rows of one class that become more; never in memory twice, if the system can move pages."""

    def __init__(self, event_type: type[Any]) -> None:
        self._dtype = DTYPES[event_type]
        # As raw bytes: rows of fields would be copied field by field.
        self._rows = np.zeros(0, f"V{self._dtype.itemsize}")
        self._used = 0

    def append(self, rows: Array) -> None:
        """Put rows behind those that are there."""
        end = self._used + len(rows)
        if end > len(self._rows):
            self._rows.resize(end + end // 2, refcheck=False)
        self._rows[self._used : end] = rows.view(self._rows.dtype)
        self._used = end

    def all(self) -> Array:
        """All of them."""
        self._rows.resize(self._used, refcheck=False)
        return self._rows.view(self._dtype)


def in_time_order(batches: Iterable[Batch], facts: TraceFacts) -> Iterator[Batch]:
    """Sort by time, stably, what is out of order by no more than a batch; the rest is counted.

    CPUs' buffers are merged by whoever prints a trace, but clocks of CPUs differ (`local`), and vlapic writes
    its vCPUs' events as the scheduler has them.
    """
    held: Batch | None = None
    reached = 0
    for batch in batches:
        if not len(batch):
            continue
        fresh = _sorted(batch)
        if held is None:
            held = fresh
            continue
        if int(fresh.times[0]) >= int(held.times[-1]):
            out, held = held, fresh
        else:
            both = _sorted(held.followed_by(fresh))
            places = np.arange(len(both))
            out, held = both.take(places[: len(held)]), both.take(places[len(held) :])
        facts.disordered += int(np.count_nonzero(out.times < reached))
        reached = max(reached, int(out.times[-1]))
        yield out
    if held is not None:
        facts.disordered += int(np.count_nonzero(held.times < reached))
        yield held


def _sorted(batch: Batch) -> Batch:
    times = batch.times
    if np.all(times[1:] >= times[:-1]):
        return batch
    return batch.take(np.argsort(times, kind="stable"))
