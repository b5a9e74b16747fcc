# SPDX-License-Identifier: GPL-2.0-or-later
"""Records to events: a stretch of records in, a batch of events out.

All records of one event are gathered at once as rows of its format, and become a table.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vlapic.events import (
    DTYPES,
    EVENT_CODES,
    NO_VCPU,
    AdvanceSample,
    Lost,
    Table,
    TimerInterrupt,
    VcpuStart,
)
from vlapic.trace.dat.container import Container
from vlapic.trace.dat.decode import DECODINGS, Decoding, Evidence, Rows
from vlapic.trace.dat.formats import Format
from vlapic.trace.dat.markers import read_marker
from vlapic.trace.dat.merge import Loss, Stretch
from vlapic.trace.dat.names import KernelSymbols
from vlapic.trace.reader import Batch
from vlapic.trace.threads import Threads

Array = npt.NDArray[Any]
#: Rows of each event, with their places in the batch.
Tables = dict[type[Any], list[tuple[Array, Array]]]

#: Fields that every event has.
NUMBER, TID = "common_type", "common_pid"
#: What a write to trace_marker makes, and its field.
MARKER, MARKER_TEXT = "print", "buf"

#: The code of a record that is passed over.
_NONE = 255
#: Threads have smaller numbers (PID_MAX_LIMIT); others are damage.
_LARGEST_TID = 1 << 22
#: More new vCPUs than this in one stretch are damage (KVM_MAX_VCPUS is 4096).
_MOST_VCPUS = 4096


@dataclass(frozen=True)
class _Decoder:
    """How the records of one number are read."""

    decoding: Decoding
    event_format: Format
    record: np.dtype[Any]


def _is_damaged(event_format: Format) -> bool:
    """Whether records cannot be read by their format, and so are lost."""
    if not event_format.whole:
        return True
    if event_format.name == MARKER:
        return MARKER_TEXT not in event_format.fields
    decoding = DECODINGS.get(event_format.name)
    return decoding is not None and not decoding.fits(event_format)


class BatchMaker:
    """Makes batches of one file's stretches; counts what it passes over, notes threads and losses.

    Attributes:
        formats: by number.
        threads, passed_over, lost: as of the reader, to which they belong.
    """

    def __init__(self, container: Container, shift_ns: int) -> None:
        """Learn the formats of a file.

        Args:
            shift_ns: what is added to time stamps.

        Raises:
            ValueError: no event has the fields that all of them have.
        """
        self._order = container.order
        self._shift = np.uint64(shift_ns & (1 << 64) - 1)
        self._symbols = KernelSymbols(container.kallsyms)
        known = [Format.of(*file) for file in container.formats]
        self.formats = {one.number: one for one in known if one is not None}
        self._damaged = {number for number, one in self.formats.items() if _is_damaged(one)}
        self._decoders = dict(self._find_decoders())
        common = next(
            (f.fields for f in self.formats.values() if NUMBER in f.fields and TID in f.fields), None
        )
        if common is None or common[NUMBER].size != 2 or common[TID].size != 4:
            raise ValueError(f"no event has {NUMBER} and {TID}")
        self._number_at, rest = divmod(common[NUMBER].offset, 2)
        self._tid_at, tid_rest = divmod(common[TID].offset, 4)
        if rest or tid_rest:
            raise ValueError(f"{NUMBER} and {TID} are not aligned")
        self._fewest_words = max(self._number_at // 2, self._tid_at) + 1
        self._lengths = {number: one.record_words() for number, one in self.formats.items()}
        self.start(Threads(), Counter(), [])

    def start(self, threads: Threads, passed_over: Counter[str], lost: list[Lost]) -> None:
        """Begin the file anew, noting here what is learnt."""
        self.threads, self.passed_over, self.lost = threads, passed_over, lost

    def _find_decoders(self) -> list[tuple[int, _Decoder]]:
        found = []
        for number, event_format in self.formats.items():
            decoding = DECODINGS.get(event_format.name)
            if decoding is None or number in self._damaged:
                continue
            record = event_format.record(decoding.fields, self._order)
            if record is not None:
                found.append((number, _Decoder(decoding, event_format, record)))
        return found

    def batch(self, stretch: Stretch) -> Batch:
        """The events of a stretch."""
        words, lengths, times = stretch.words, stretch.lengths, stretch.times
        if self._shift:
            times = times + self._shift
        whole = lengths >= self._fewest_words
        codes = np.full(len(words), _NONE, "u1")
        if whole.all():
            numbers, tids = self._common(stretch.data, words)
        else:
            numbers, tids = np.zeros(len(words), "u2"), np.zeros(len(words), "u4")
            numbers[whole], tids[whole] = self._common(stretch.data, words[whole])
        counts = np.bincount(numbers if whole.all() else numbers[whole], minlength=1)
        places: dict[int, Array] = {}
        for number in np.flatnonzero(counts).tolist():
            of_number = numbers == number
            places[number] = np.flatnonzero(of_number if whole.all() else of_number & whole)

        gathered: list[tuple[_Decoder, Array, Array]] = []
        tables: Tables = {}
        markers: list[tuple[int, type[Any], dict[str, Any]]] = []
        wrong: list[Array] = []
        unreadable: list[tuple[Format, Array]] = []
        if not whole.all():
            wrong.append(np.flatnonzero(~whole & (words >= 0)))
        for number, at in places.items():
            decoder = self._decoders.get(number)
            if number not in self._lengths:
                wrong.append(at)
                continue
            if number in self._damaged:
                unreadable.append((self.formats[number], at))
                continue
            least, most = self._lengths[number]
            as_promised = (lengths[at] >= least) & (lengths[at] <= most)
            if not as_promised.all():
                wrong.append(at[~as_promised])
                at = at[as_promised]
            if decoder is None:
                event_format = self.formats.get(number)
                if event_format and event_format.name == MARKER:
                    markers += self._read_markers(event_format, at, stretch, times, tids)
                else:
                    self.passed_over[self.formats[number].name] += len(at)
                continue
            enough = lengths[at] >= decoder.record.itemsize // 4
            if not enough.all():
                wrong.append(at[~enough])
                at = at[enough]
            records = self._gather(stretch.data, words[at], decoder.record)
            gathered.append((decoder, at, records))
        for evidence in (Evidence.STRONG, Evidence.WEAK):
            for decoder, at, records in gathered:
                if decoder.decoding.evidence is evidence:
                    self._note_vcpus(decoder, tids[at], records)
        vms, vcpus = self._vcpus_of(tids)
        for decoder, at, records in gathered:
            event_type = decoder.decoding.event_type
            rows = Rows(records, decoder.event_format, self._symbols)
            events = decoder.decoding.decode(rows, times[at], vms[at], vcpus[at])
            tables.setdefault(event_type, []).append((at, events))
            codes[at] = EVENT_CODES[event_type]
        self._marker_table(markers, vms, vcpus, codes, tables)
        self._lose(stretch, wrong, unreadable, codes, tables)
        return self._put_together(codes, stretch.cpus, tids, tables)

    def _common(self, data: Array, words: Array) -> tuple[Array, Array]:
        numbers = data.view(f"{self._order}u2").take(words * 2 + self._number_at)
        tids = data.view(f"{self._order}u4").take(words + self._tid_at)
        return numbers.astype("u2", copy=False), tids.astype("u4", copy=False)

    @staticmethod
    def _gather(data: Array, words: Array, record: np.dtype[Any]) -> Array:
        """Rows of a type, one from each of these words on: of a view that has one at every word."""
        room = (len(data) - record.itemsize) // 4 + 1
        if room <= 0:
            return np.zeros(0, record)
        # As raw bytes: a row of a type with gaps would be copied field by field.
        every: Array = np.ndarray(room, f"V{record.itemsize}", data, 0, (4,))
        return every[words].view(record)

    def _note_vcpus(self, decoder: _Decoder, tids: Array, records: Array) -> None:
        """Which thread is which vCPU, as its own records say."""
        field = decoder.decoding.vcpu
        if field not in (records.dtype.names or ()):
            return
        left = np.arange(len(tids))
        for _ in range(_MOST_VCPUS):
            if not len(left):
                return
            tid = int(tids[left[0]])
            mine = tids[left] == tid
            if 0 < tid < _LARGEST_TID:
                number, events = int(records[field][left[0]]), int(np.count_nonzero(mine))
                self.threads.is_vcpu(tid, number, events, weak=decoder.decoding.evidence is Evidence.WEAK)
            left = left[~mine]

    def _vcpus_of(self, tids: Array) -> tuple[Array, Array]:
        """The VM and the vCPU of each of many threads, through a table by tid."""
        largest = int(tids.max()) if len(tids) else 0
        if largest >= _LARGEST_TID:
            return self.threads.vcpus_of(tids)
        there = np.flatnonzero(np.bincount(tids, minlength=1)).astype("u4")
        for tid in there.tolist():
            if tid not in self.threads:
                self.threads.note(tid)
        of_each = self.threads.vcpus_of(there)
        columns = []
        for column in of_each:
            table = np.full(largest + 1, NO_VCPU, "u4")
            table[there] = column
            columns.append(table[tids])
        return columns[0], columns[1]

    def _read_markers(
        self, event_format: Format, at: Array, stretch: Stretch, times: Array, tids: Array
    ) -> list[tuple[int, type[Any], dict[str, Any]]]:
        """Of markers, those that are events of ours, with their places and fields."""
        found = []
        offset = event_format.fields[MARKER_TEXT].offset
        for place in at.tolist():
            begin = int(stretch.words[place]) * 4
            text = stretch.data[begin + offset : begin + int(stretch.lengths[place]) * 4].tobytes()
            marker = read_marker(text.partition(b"\0")[0].rstrip(b"\n"))
            if marker is None:
                self.passed_over["tracing_mark_write"] += 1
                continue
            event_type, fields = marker
            tid = int(tids[place])
            if fields["vm"] != NO_VCPU and event_type in (VcpuStart, TimerInterrupt, AdvanceSample):
                self.threads.is_vcpu_of(tid, fields["vm"], fields["vcpu"])
            found.append((place, event_type, fields | {"host_tsc": int(times[place])}))
        return found

    @staticmethod
    def _marker_table(
        markers: list[tuple[int, type[Any], dict[str, Any]]],
        vms: Array,
        vcpus: Array,
        codes: Array,
        tables: Tables,
    ) -> None:
        """Tables of markers; what does not say whose it is, is the thread's."""
        for place, event_type, fields in markers:
            row = np.zeros(1, DTYPES[event_type])
            if fields["vm"] == NO_VCPU:
                fields["vm"] = vms[place]
                if fields["vcpu"] == NO_VCPU:
                    fields["vcpu"] = vcpus[place]
            for name, value in fields.items():
                row[name] = value
            codes[place] = EVENT_CODES[event_type]
            tables.setdefault(event_type, []).append((np.array([place]), row))

    def _lose(
        self,
        stretch: Stretch,
        wrong: list[Array],
        unreadable: list[tuple[Format, Array]],
        codes: Array,
        tables: Tables,
    ) -> None:
        """Events for what was lost, and for records that are none of their event: one for each CPU's.

        Args:
            wrong: places of records that are of no event that the file describes, or not as long as it says.
            unreadable: formats that are damaged, and the places of their records.
        """
        lost: list[tuple[int, Lost]] = []
        for place in np.flatnonzero(stretch.words < 0).tolist():
            lost.append((place, self.loss(stretch.losses[-1 - int(stretch.words[place])])))
        for event_format, places in [*((None, places) for places in wrong), *unreadable]:
            for cpu in np.unique(stretch.cpus[places]).tolist():
                of_cpu = places[stretch.cpus[places] == cpu]
                first, size = int(of_cpu[0]), 4 * int(stretch.lengths[of_cpu].sum())
                place, name = stretch.place(int(stretch.words[first])), ""
                if event_format is not None:
                    place = event_format.place
                    name = event_format.name if event_format.name.isidentifier() else ""
                loss = Loss(int(stretch.times[first]), cpu, len(of_cpu), "damaged", place, size, name)
                lost.append((first, self.loss(loss)))
        lost.sort(key=lambda one: one[0])
        if lost:
            at = np.array([place for place, _ in lost])
            codes[at] = EVENT_CODES[Lost]
            events = [event for _, event in lost]
            self.lost += events
            tables[Lost] = [(at, Table.of(Lost, events).rows)]

    def loss(self, loss: Loss) -> Lost:
        """A loss as an event."""
        time = (loss.time + int(self._shift)) & (1 << 64) - 1 if loss.time else 0
        return Lost(time, NO_VCPU, NO_VCPU, loss.cpu, loss.events, loss.cause, *loss[4:])

    @staticmethod
    def _put_together(codes: Array, cpus: Array, tids: Array, tables: Tables) -> Batch:
        together = {}
        for event_type, parts in tables.items():
            rows = parts[0][1]
            if len(parts) > 1:
                order = np.argsort(np.concatenate([at for at, _ in parts]), kind="stable")
                rows = np.concatenate([some for _, some in parts])[order]
            if len(rows):
                together[event_type] = Table(event_type, rows)
        ours = codes != _NONE
        if ours.all():
            return Batch(codes, cpus, tids, together)
        return Batch(codes[ours], cpus[ours], tids[ours], together)
