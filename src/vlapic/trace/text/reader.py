# SPDX-License-Identifier: GPL-2.0-or-later
"""Text traces: read stretch by stretch, each line's event found by its name and read by its forms."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from vlapic.events import (
    EVENT_CODES,
    NO_VCPU,
    Entry,
    Exit,
    HvTimerState,
    Lost,
    Table,
    TimerInterrupt,
    TscOffset,
    WaitLapicExpire,
)
from vlapic.trace.compression import Pieces
from vlapic.trace.markers import HANDLERS, MARKER_BEGINNINGS, MARKER_NAMES, MARKER_OPENINGS, MARKERS
from vlapic.trace.reader import TRACE_CLOCKS, Batch, Clock, TraceReader, in_time_order
from vlapic.trace.text.comments import read_aside
from vlapic.trace.text.lines import NO_TID, PREFIX, Lines, read_lines
from vlapic.trace.text.names import Names
from vlapic.trace.text.payload import Part, Payload
from vlapic.trace.text.words import Text, hashes, starts_with
from vlapic.trace.text.wrapped import Fit, Wrapping, joined, last_beginning, unsure, unwrapped, whole_lines
from vlapic.trace.tracepoints import TRACEPOINTS

Array = npt.NDArray[Any]

#: Text that is read at a time; measured, larger ones leave the cache.
STRETCH = 4 << 20
#: Events that tell who printed them.
_PROBED = 100
#: Longest line; what is longer is cut into lines of no meaning.
LONGEST_LINE = 1 << 20

#: Events that only a vCPU's own thread makes, with its number; then one that another thread may make.
_EVIDENCE = (Entry, WaitLapicExpire, Exit, HvTimerState)
_WEAK_EVIDENCE = (TscOffset,)

#: What `trace-cmd report -R` prints of KVM's events, the fields of their records; of their texts only that of
#: kvm_write_tsc_offset has an equals sign.
_RAW = re.compile(rb"(?:\[FAILED TO PARSE\] )?(?!vcpu=)[a-z_]+=[^ ]")
#: Of the lines above its events, those that only a trace has.
_HEADINGS = ("tracer: ", "entries-in-buffer/entries-written: ", "captured on")
#: What trace-cmd prints before a task where there are several instances or files. A task's name has at most
#: 15 characters in 16 columns, so that two blanks are there; with `-l` it has 8, blanks among them.
_INSTANCE = re.compile(rb"[^:]{1,80}: (?: +|(?=.{8}\Z))")


class TextReader(TraceReader):
    """A text trace: what tracefs, `trace-cmd report` or `perf script` printed, or vlapic wrote."""

    def __init__(
        self, path: str, open_source: Callable[[], BinaryIO | Pieces], form: str = "ftrace text"
    ) -> None:
        """Take a file to be read.

        Args:
            path: its name, for messages.
            open_source: opens its text anew.
            form: what it is, for people.
        """
        self._open_source = open_source
        names = [point.name for point in TRACEPOINTS]
        self._names = Names([*names, *MARKER_NAMES])
        self._first_marker = len(names)
        self._others = len(names) + len(MARKER_NAMES)
        super().__init__(path, form)

    def begin(self) -> None:
        super().begin()
        self._payloads = [
            Payload([(point.event_type, form) for form in point.line_forms]) for point in TRACEPOINTS
        ]
        self._markers = Payload(list(MARKERS))
        self._payload_of = {
            **{point.name: payload for point, payload in zip(TRACEPOINTS, self._payloads, strict=True)},
            **dict.fromkeys(MARKER_NAMES, self._markers),
        }
        self._wrapping = Wrapping()
        self._line_number = 0
        self._last_time = 0
        # Lines so far that were an entry of a buffer, damaged ones among them.
        self._entries = 0
        # Whether the last line so far was that of an interrupt.
        self._interrupt_told = False
        # Whether times are ns, by their point or their unit; None before the first event.
        self._in_ns: bool | None = None
        # That lines that are events say it.
        self._point_sure = False
        #: The first of KVM's events that has raw fields in place of its text.
        self.raw_event: str | None = None

    @property
    def header_only(self) -> bool:
        """Whether what was read so far, without an event, can be what stands above a trace's events."""
        facts = self.facts
        if any(line.startswith(_HEADINGS) for line in facts.header):
            return True
        told = facts.kernel or facts.trace_clock or facts.tsc_khz or facts.parameters
        return bool(told) and not self.lost

    def batches(self) -> Iterator[Batch]:
        self.begin()
        return self._stretches() if self.file_order else in_time_order(self._stretches(), self.facts)

    def probe(self) -> int:
        """Read the first stretch that has events for what it tells of the file.

        Returns:
            How many lines of it are events, ours or not.
        """
        self.begin()
        for text, lines, _ in self._read_all():
            first = np.flatnonzero(lines.read)[:_PROBED]
            if len(first):
                self.form = _form_of(text, lines, first)
                return int(np.count_nonzero(lines.read))
        return 0

    def _stretches(self) -> Iterator[Batch]:
        return (batch for _, _, batch in self._read_all())

    def _read_all(self) -> Iterator[tuple[Text, Lines, Batch]]:
        """Each stretch of whole lines; its text is there until the next one."""
        text = Text()
        left = b""
        with self._open_source() as source:
            while fresh := source.read(STRETCH):
                cut = fresh.rfind(b"\n") + 1
                if not cut and len(left) + len(fresh) < LONGEST_LINE:
                    left += fresh
                    continue
                if cut and len(fresh) == STRETCH:
                    # What may be the rest of the last line is in the next stretch.
                    cut = last_beginning(fresh[:cut]) or cut
                if len(left) + len(fresh) > text.room:
                    text = Text(room=len(left) + len(fresh))
                # A line that is longer than any is damaged; what of it does not fit is left out.
                text.put(left, memoryview(fresh)[: cut or len(fresh)])
                left = fresh[cut:][:LONGEST_LINE] if cut else b""
                yield text, *self._read_stretch(text, last=False)
            damage = getattr(source, "damage", None)
            if left or damage:
                text = Text(left)
                yield text, *self._read_stretch(text, last=True, damage=damage)
            if (missing := self.facts.entries - self._entries) > 0:
                # Its headers say that there are more.
                text = Text()
                yield text, *self._read_stretch(text, last=True, damage="unfinished", missing=missing)

    def _read_stretch(
        self, text: Text, *, last: bool, damage: str | None = None, missing: int = 0
    ) -> tuple[Lines, Batch]:
        lines, numbers = self._unwrapped(text, read_lines(text))
        count = len(lines.starts)
        lines.read[unsure(text, lines, self._judge)] = False
        self._find_point(text, lines)
        lines.read &= lines.in_ns == bool(self._in_ns)
        unfinished = count - 1 if last and text.unfinished else -1
        rows = np.flatnonzero(lines.read)
        self._note_threads(text, lines, rows)
        parts, failed = self._read_payloads(text, lines, rows, unfinished)
        self._find_vcpus(parts, lines)
        losses = self._read_asides(text, lines, failed, unfinished, numbers)
        self._entries += len(rows) + sum(lost.events for _, lost in losses if lost.cause != "overrun")
        self._find_clock()
        self._find_resolution(lines)
        physical = int(numbers[-1]) + 1
        if damage is not None:
            losses.append(
                (count, Lost(0, NO_VCPU, NO_VCPU, NO_VCPU, missing, damage, self._line_number + physical))
            )
        batch = self._batch(parts, lines, losses)
        self._line_number += physical
        return lines, batch

    def _unwrapped(self, text: Text, lines: Lines) -> tuple[Lines, Array]:
        """Lines with those put together that were wrapped, and the number of each in the stretch, from 0.

        Behind them is that of the last line in the file, less one where there is none.
        """
        count = len(lines.starts)
        groups = unwrapped(text, lines, self._judge, self._wrapping, known_to_be=bool(self.facts.wrapped))
        if not groups:
            return lines, np.append(np.arange(count), count - 1)
        pieces: list[bytes] = []
        numbers: list[int] = []
        begins = [*lines.starts.tolist(), text.end]
        at = 0
        for first, end in [*groups, (count, count)]:
            if at < first:
                pieces.append(text.cut(begins[at], begins[first]))
                numbers += range(at, first)
            if first < end:
                cut = whole_lines(text, lines, first, end)
                pieces.append(joined(cut, self._wrapping.width) + b"\n")
                numbers.append(first)
            at = end
        if text.unfinished:
            pieces[-1] = pieces[-1].removesuffix(b"\n")
        self.facts.wrapped += len(groups)
        text.put(*pieces)
        return read_lines(text), np.array([*numbers, count - 1])

    def _judge(self, name: bytes, said: bytes) -> Fit:
        """How an event's text fits its forms."""
        payload = self._payload_of.get(name.decode(errors="replace"))
        if payload is None:
            return Fit(known=False, whole=False, closed=False)
        if payload is self._markers:
            if not any(opening in said for opening in MARKER_OPENINGS):
                # A marker of others, which is passed over.
                return Fit(known=False, whole=False, closed=False)
            at = next((said.find(beginning) for beginning in MARKER_BEGINNINGS if beginning in said), 0)
            said = said[at:]
        for _, form in payload.forms:
            if form.read(said) is not None:
                return Fit(known=True, whole=True, closed=not form.swallows, ends=form.closed)
        return Fit(known=True, whole=False, closed=False)

    def _find_resolution(self, lines: Lines) -> None:
        """Whether times in ns are whole microseconds, as most printers have them."""
        if self._in_ns and self.facts.resolution_ns != 1 and lines.read.any():
            whole = not np.any(lines.times[lines.read] % np.uint64(1000))
            self.facts.resolution_ns = 1000 if whole else 1

    def _find_point(self, text: Text, lines: Lines) -> None:
        """Whether times have a point: as lines that are events say, if there are any, else as most lines."""
        if self._point_sure or not lines.read.any():
            return
        with_point = [np.flatnonzero(lines.read & (lines.in_ns == point)) for point in (False, True)]
        events = [self._whole(text, lines, rows) for rows in with_point]
        self._point_sure = any(events)
        if self._point_sure:
            self._in_ns = events[1] > events[0]
        elif self._in_ns is None:
            self._in_ns = len(with_point[1]) > len(with_point[0])

    def _whole(self, text: Text, lines: Lines, rows: Array) -> float:
        """How many of these lines are events that have one of their forms, by some of them."""
        if not len(rows):
            return 0
        names = self._names.numbers_of(text, lines.name_starts[rows], lines.name_ends[rows])
        ours = rows[names < self._others]
        some = ours[:: max(len(ours) // _PROBED, 1)].tolist()
        whole = 0
        for row in some:
            name = text.cut(int(lines.name_starts[row]), int(lines.name_ends[row]))
            whole += self._judge(name, text.cut(int(lines.text_starts[row]), int(lines.ends[row]))).whole
        return whole * len(ours) / max(len(some), 1)

    def _find_clock(self) -> None:
        """Name the clock: a line of the header may say it; else whole numbers are cycles."""
        if self._in_ns is None:
            return
        named = self.facts.trace_clock
        clock = Clock.NS if self._in_ns else Clock.TSC
        if named is not None and not (self._in_ns and TRACE_CLOCKS.get(named) is Clock.TSC):
            clock = TRACE_CLOCKS.get(named, Clock.UNKNOWN)
        if clock is Clock.TSC and self.facts.since_start:
            clock = Clock.UNKNOWN
            # So that what is written of it (`vlapic convert`) says it as well.
            self.facts.trace_clock = "unknown"
        self.clock = clock

    def _note_threads(self, text: Text, lines: Lines, rows: Array) -> None:
        if not len(rows):
            return
        starts = lines.starts[rows]
        said = hashes(text, starts, lines.comm_ends[rows] - starts)
        said ^= lines.tids[rows].astype(np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15)
        # Every thread with each name that its lines have, in the order of the file.
        _, first, counts = np.unique(said, return_index=True, return_counts=True)
        order = np.argsort(first)
        for row, events in zip(rows[first[order]].tolist(), counts[order].tolist(), strict=True):
            comm = text.cut(int(lines.starts[row]), int(lines.comm_ends[row])).strip()
            comm = _INSTANCE.sub(b"", PREFIX.sub(b"", comm, 1).lstrip())
            if lines.tids[row] == NO_TID:
                continue
            tgid = int(lines.tgids[row])
            self.threads.note(
                int(lines.tids[row]),
                "" if comm == b"<...>" else comm[:64].decode(errors="backslashreplace"),
                None if tgid < 0 else tgid,
                events,
            )

    def _read_payloads(
        self, text: Text, lines: Lines, rows: Array, unfinished: int
    ) -> tuple[list[Part], list[Array]]:
        """What the events say that are ours; and the lines that should be and are not."""
        names = self._names.numbers_of(text, lines.name_starts[rows], lines.name_ends[rows])
        counts = np.bincount(names, minlength=self._others)
        parts: list[Part] = []
        failed: list[Array] = []
        for number, payload in enumerate(self._payloads):
            if counts[number]:
                mine = rows[names == number]
                left = payload.read(text, mine, lines.text_starts[mine], lines.ends[mine], unfinished)
                failed.append(left)
                parts += payload.parts
                if len(left) and not payload.parts:
                    self._note_raw(TRACEPOINTS[number].name, text, lines, int(left[0]))
        marked = rows[(names >= self._first_marker) & (names < self._others)]
        if len(marked):
            starts = _skip_function(text, lines.text_starts[marked], lines.ends[marked])
            other = self._markers.read(text, marked, starts, lines.ends[marked], unfinished)
            parts += self._without_doubles(self._markers.parts, len(lines.starts))
            for row in other.tolist():
                # What begins as one that is read, and is none, says something that cannot be.
                if text.raw.startswith(MARKER_OPENINGS, int(starts[np.searchsorted(marked, row)])):
                    failed.append(np.array([row]))
                else:
                    self.passed_over["tracing_mark_write"] += 1
        for number in np.flatnonzero(counts[self._others :]).tolist():
            self.passed_over[self._names.names[self._others + number]] += int(counts[self._others + number])
        return parts, failed

    def _note_raw(self, name: str, text: Text, lines: Lines, row: int) -> None:
        said = text.cut(int(lines.text_starts[row]), int(lines.ends[row]))
        if self.raw_event is None and name.startswith("kvm_") and _RAW.match(said):
            self.raw_event = name

    def _without_doubles(self, parts: list[Part], count: int) -> list[Part]:
        """Leave out handlers' lines that follow the line of the same interrupt."""
        told = np.zeros(count + 1, bool)
        told[0] = self._interrupt_told
        for part in parts:
            if part.event_type is TimerInterrupt and part.form not in HANDLERS:
                told[part.lines + 1] = True
        self._interrupt_told = bool(told[count])
        for part in parts:
            if part.form in HANDLERS:
                fresh = ~told[part.lines]
                part.lines, part.rows = part.lines[fresh], part.rows[fresh]
        return parts

    def _find_vcpus(self, parts: list[Part], lines: Lines) -> None:
        """Learn which threads are vCPUs."""
        for part in parts:
            if _is_own(part):
                for tid, vm, vcpu in _who(part, lines):
                    self.threads.is_vcpu_of(tid, vm, vcpu)
        for kinds in (_EVIDENCE, _WEAK_EVIDENCE):
            for part in parts:
                if part.event_type in kinds and "vcpu" in part.form.stored:
                    for tid, vcpu, events in _counted(part, lines):
                        self.threads.is_vcpu(tid, vcpu, events, weak=kinds is _WEAK_EVIDENCE)

    def _read_asides(
        self, text: Text, lines: Lines, failed: list[Array], unfinished: int, numbers: Array
    ) -> list[tuple[int, Lost]]:
        """What lines that are no events tell, and what is lost, each with its line."""
        losses: list[tuple[int, Lost]] = []
        damaged = [row for rows in failed for row in rows.tolist()]
        for row in np.flatnonzero(~lines.read & (lines.starts < lines.ends)).tolist():
            number = self._line_number + int(numbers[row]) + 1
            found = read_aside(text.cut(int(lines.starts[row]), int(lines.ends[row])), number, self.facts)
            if found is None:
                damaged.append(row)
            else:
                losses += [(row, lost) for lost in found]
        if unfinished >= 0 and lines.starts[unfinished] == lines.ends[unfinished]:
            damaged.append(unfinished)
        if unfinished in damaged:
            damaged.remove(unfinished)
            number = self._line_number + int(numbers[unfinished]) + 1
            losses.append((unfinished, Lost(0, NO_VCPU, NO_VCPU, NO_VCPU, 1, "unfinished", number)))
        if damaged:
            first = min(damaged)
            number = self._line_number + int(numbers[first]) + 1
            losses.append((first, Lost(0, NO_VCPU, NO_VCPU, NO_VCPU, len(damaged), "damaged", number)))
        return losses

    def _batch(self, parts: list[Part], lines: Lines, losses: list[tuple[int, Lost]]) -> Batch:
        """The events of a stretch, with their times, threads and vCPUs."""
        merged: dict[type[Any], list[tuple[Array, Array]]] = {}
        for part in parts:
            tids = lines.tids[part.lines].astype("<u4")
            vms, vcpus = self.threads.vcpus_of(tids)
            stored = part.form.stored
            part.rows["host_tsc"] = lines.times[part.lines]
            if not _is_own(part):
                part.rows["vm"] = vms
            if "vcpu" not in stored:
                part.rows["vcpu"] = vcpus
            merged.setdefault(part.event_type, []).append((part.lines, part.rows))
        places = len(lines.starts) + 1
        codes = np.full(places, 255, np.uint8)
        if losses:
            losses.sort(key=lambda loss: loss[0])
            at_losses, lost_rows = self._lost_rows(lines, losses)
            merged[Lost] = [(at_losses, lost_rows)]
        tables: dict[type[Any], Table[Any]] = {}
        for event_type, pieces in merged.items():
            at = np.concatenate([piece[0] for piece in pieces])
            rows = np.concatenate([piece[1] for piece in pieces])
            if len(pieces) > 1:
                order = np.argsort(at, kind="stable")
                at, rows = at[order], rows[order]
            codes[at] = EVENT_CODES[event_type]
            tables[event_type] = Table(event_type, rows)
        present = np.flatnonzero(codes != 255)
        # Where a file ends too early is behind its last line.
        cpus, tids = np.append(lines.cpus, 0), np.append(lines.tids, 0)
        times = np.append(lines.times, np.uint64(0))
        if losses:
            times[at_losses] = lost_rows["host_tsc"]
        batch = Batch.timed(
            codes[present], cpus[present].astype("<u2"), tids[present].astype("<u4"), tables, times[present]
        )
        if len(present):
            self._last_time = int(batch.times[-1])
        return batch

    def _lost_rows(self, lines: Lines, losses: list[tuple[int, Lost]]) -> tuple[Array, Array]:
        """Losses as rows, with the time of the last event before each."""
        read = np.flatnonzero(lines.read)
        at = np.array([row for row, _ in losses])
        before = np.searchsorted(read, at) - 1
        timed = []
        for (_, lost), place in zip(losses, before.tolist(), strict=True):
            time = int(lines.times[read[place]]) if place >= 0 else self._last_time
            timed.append(lost._replace(host_tsc=time))
        self.lost += timed
        return at, Table.of(Lost, timed).rows


def _is_own(part: Part) -> bool:
    """Whether a marker of vlapic's own says which vCPU of which VM it is."""
    return part.form.text.startswith("vlapic:")


def _who(part: Part, lines: Lines) -> Iterator[tuple[int, int, int]]:
    """Each thread of a part's lines once, with the VM and the vCPU that its line says."""
    tids = lines.tids[part.lines]
    _, first = np.unique(tids, return_index=True)
    chosen = part.rows[first]
    return zip(tids[first].tolist(), chosen["vm"].tolist(), chosen["vcpu"].tolist(), strict=True)


def _counted(part: Part, lines: Lines) -> Iterator[tuple[int, int, int]]:
    """Each thread of a part's lines with each vCPU that its lines say, and how many lines say so."""
    said = lines.tids[part.lines].astype(np.uint64) << np.uint64(32) | part.rows["vcpu"]
    keys, counts = np.unique(said, return_counts=True)
    return zip(
        (keys >> np.uint64(32)).tolist(),
        (keys & np.uint64(NO_VCPU)).tolist(),
        counts.tolist(),
        strict=True,
    )


def _skip_function(text: Text, starts: Array, ends: Array) -> Array:
    """Where markers begin, behind the function that wrote them, if that is told."""
    named = starts_with(text, starts, b"tracing_mark_write: ")
    starts = starts + named * len(b"tracing_mark_write: ")
    plain = np.zeros(len(starts), bool)
    for beginning in MARKER_BEGINNINGS:
        plain |= starts_with(text, starts, beginning)
    for row in np.flatnonzero(~plain).tolist():
        colon = text.raw.find(b": ", starts[row], min(ends[row], starts[row] + 80))
        if colon >= 0 and text.raw.startswith(MARKER_BEGINNINGS, colon + 2):
            starts[row] = colon + 2
    return starts


def _form_of(text: Text, lines: Lines, rows: Array) -> str:
    """Who printed lines: each leaves other blanks; behind a long name trace-cmd leaves but one."""
    row = int(rows[0])
    if text.raw[lines.name_starts[row] - 1] == ord(":"):
        return "perf script text"
    if np.any(lines.name_ends[rows] + 2 < lines.text_starts[rows]):
        return "trace-cmd report text"
    return "ftrace text"
