# SPDX-License-Identifier: GPL-2.0-or-later
"""Samples of the kernel's own advancement held against the model: of a trace, of a loop, of a file.

A CSV file has a line of names, then a line a sample:

    timestamp,advance_ns            host_tsc (or ns) as the trace has it: the deltas up to then came before
    index,advance_ns                so many deltas of the vCPU came before

with `vm` and `vcpu` beside, where there are several vCPUs. Numbers are as `vlapic.numerals` has them; there
may be blanks around them.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vlapic.errors import TraceError
from vlapic.events import NO_VCPU, AdvanceSample, DebugfsSample, Sample
from vlapic.numerals import shown, whole_number
from vlapic.replay.checks import Array, Course, Courses
from vlapic.replay.deadlines import vcpu_keys
from vlapic.replay.vcpu import Vcpu
from vlapic.trace.reader import Batch, TraceReader
from vlapic.tsc import U32, U64

_COLUMNS = ("timestamp", "index", "advance_ns", "vm", "vcpu")
#: Events that say what the advancement was.
_KINDS = (Sample, AdvanceSample, DebugfsSample)


@dataclass(frozen=True)
class OutsideSample:
    """A sample that is not an event: it stands at a time, or after so many deltas; the other one is None."""

    vm: int
    vcpu: int
    timestamp: int | None
    index: int | None
    advance_ns: int


def read_samples(path: str | os.PathLike[str]) -> list[OutsideSample]:
    """The samples of a CSV file.

    Raises:
        TraceError: it cannot be read, or a line of it is no sample.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise TraceError(
            f"cannot read the samples {os.fspath(path)!r}: {error.strerror}; give a CSV file"
        ) from None
    except UnicodeDecodeError:
        raise TraceError(f"the samples {os.fspath(path)!r} are no text in UTF-8; give a CSV file") from None
    except csv.Error as error:
        why = "a value of it is too long" if "field limit" in str(error) else str(error)
        raise TraceError(f"the samples {os.fspath(path)!r} are no CSV text: {why}; give a CSV file") from None
    names = [name.strip() for name in rows[0]] if rows else []
    if len(set(names)) < len(names):
        raise TraceError(
            f"the samples {os.fspath(path)!r} begin with {shown(','.join(names))}, which has a name"
            " twice; leave one out"
        )
    unknown = [name for name in names if name not in _COLUMNS]
    if unknown or "advance_ns" not in names or not {"timestamp", "index"} & set(names):
        raise TraceError(
            f"the samples {os.fspath(path)!r} begin with {shown(','.join(names))}; expected a line of names:"
            " advance_ns, timestamp or index, and vm and vcpu if there are several"
        )
    return [_sample(names, row, f"{os.fspath(path)}:{line}") for line, row in enumerate(rows[1:], 2) if row]


def _sample(names: list[str], row: list[str], where: str) -> OutsideSample:
    try:
        values = {
            name: whole_number(text.strip(" "))
            for name, text in zip(names, row, strict=True)
            if text.strip(" ")
        }
    except ValueError:
        raise TraceError(
            f"{where} is no sample: {shown(','.join(row))}; expected a whole number for each of"
            f" {', '.join(names)}"
        ) from None
    timestamp, index = values.get("timestamp"), values.get("index")
    if "advance_ns" not in values or (timestamp is None and index is None):
        raise TraceError(f"{where} lacks advance_ns, or both timestamp and index")
    for name, value in values.items():
        most = U32 if name in ("advance_ns", "vm", "vcpu") else U64
        if not 0 <= value <= most:
            raise TraceError(f"{where} has {name} {value}; expected 0 to {most}")
    return OutsideSample(values.get("vm", 0), values.get("vcpu", 0), timestamp, index, values["advance_ns"])


class Comparison:
    """Samples against the model, batch by batch.

    Attributes:
        unplaced: samples of which nobody knows whose they are.
    """

    def __init__(
        self, reader: TraceReader, vcpus: dict[int, Vcpu], outside: Iterable[OutsideSample] | None
    ) -> None:
        """Begin.

        Args:
            reader: of the trace; knows the threads.
            vcpus: by key; may still grow. Their `check` counts.
            outside: samples to compare instead of those in the trace.
        """
        self.unplaced = 0
        self._reader = reader
        self._vcpus = vcpus
        self._outside = None if outside is None else sorted(outside, key=_when)
        #: The advancements there were since a loop beside the VM last read one, of each vCPU.
        self._since_read: dict[int, Array] = {}

    def wants(self, batch: Batch) -> bool:
        """Whether anything is to be compared in this batch, or kept of it."""
        if self._outside is not None:
            return bool(self._outside)
        return bool(self._since_read) or any(kind in batch.tables for kind in _KINDS)

    def add(self, batch: Batch, courses: Courses, carried: dict[int, int]) -> None:
        """Compare the next batch's; `carried` is each vCPU's advancement before it."""
        self._compare(batch, courses, carried)
        self._compare_outside(courses, carried)
        self._compare_debugfs(batch, courses, carried)

    def finish(self) -> None:
        """The trace has ended: compare the samples that stand after its last wait."""
        self._compare_outside(None, {}, last=True)

    def _compare(self, batch: Batch, courses: Courses, carried: dict[int, int]) -> None:
        """Hold the batch's samples against the model."""
        for kind in (Sample, AdvanceSample):
            table = batch.tables.get(kind)
            if table is None or self._outside is not None:
                continue
            places, keys = batch.rows_of(kind), vcpu_keys(table)
            nobody = keys == (NO_VCPU << 32 | NO_VCPU)
            if nobody.any() and len(self._vcpus) == 1:
                keys = np.where(nobody, next(iter(self._vcpus)), keys)
            order = np.argsort(keys, kind="stable")
            there, first = np.unique(keys[order], return_index=True)
            for key, mine in zip(there.tolist(), np.split(order, first[1:]), strict=True):
                if key not in self._vcpus:
                    self.unplaced += len(mine)
                    continue
                indices, model_ns = courses[key].at_places(places[mine], carried[key])
                self._vcpus[key].check.add(
                    indices, table["host_tsc"][mine], model_ns, table["advance_ns"][mine]
                )

    def _compare_debugfs(self, batch: Batch, courses: Courses, carried: dict[int, int]) -> None:
        """Hold what a loop beside the VMs read against the model.

        It read after it had written the line before: the value is one that there was between the two.
        """
        table = batch.tables.get(DebugfsSample)
        since = 0
        if (table is None and not self._since_read) or self._outside is not None:
            return
        if table is not None:
            vm_of = {pid: self._vm_of(pid) for pid in np.unique(table["pid"]).tolist()}
            for place, read in zip(batch.rows_of(DebugfsSample).tolist(), table, strict=True):
                key = vm_of[read.pid] << 32 | read.number
                vcpu = self._vcpus.get(key)
                if vcpu is None:
                    self.unplaced += 1
                else:
                    model_ns = courses[key].between(since, place, carried[key])
                    if not since:
                        model_ns = np.concatenate([self._since_read.get(key, model_ns[:0]), model_ns])
                    index = courses[key].at_places(np.array([place]), 0)[0]
                    vcpu.check.add_one(int(index[0]), read.host_tsc, model_ns, read.advance_ns)
                since = place
        for key in self._vcpus:
            values = np.unique(courses[key].between(since, len(batch), carried[key]))
            before = self._since_read.get(key, values[:0]) if not since else values[:0]
            self._since_read[key] = np.union1d(before, values)

    def _vm_of(self, pid: int) -> int:
        """The VM of a process: of its threads, or where that is not told, of those made just after it."""
        threads = [thread for thread in self._reader.threads.values() if thread.vm is not None]
        mine = [thread.vm for thread in threads if pid in (thread.tgid, thread.tid)]
        if mine:
            return mine[0] or 0
        later = [thread for thread in threads if thread.tgid is None and thread.tid > pid]
        nearest = min(later, key=lambda thread: thread.tid, default=None)
        return NO_VCPU if nearest is None or nearest.vm is None else nearest.vm

    def _compare_outside(
        self, courses: Courses | None, carried: dict[int, int], *, last: bool = False
    ) -> None:
        """Hold the samples from outside against the model, as far as it has come."""
        later = []
        for sample in self._outside or ():
            key = sample.vm << 32 | sample.vcpu
            vcpu = self._vcpus.get(key)
            if courses is None or vcpu is None:
                course = Course.over(0 if vcpu is None else vcpu.events)
            else:
                course = courses[key]
            if not last and (vcpu is None or not course.reaches(sample.index, sample.timestamp)):
                later.append(sample)
            elif vcpu is None:
                self.unplaced += 1
            else:
                now_ns = carried.get(key, vcpu.history.final_ns)
                index, model_ns = course.at(sample.index, sample.timestamp, now_ns)
                if sample.index is not None and sample.index > vcpu.events:
                    self.unplaced += 1
                    continue
                vcpu.check.add(
                    *(
                        np.array([value])
                        for value in (index, sample.timestamp or 0, model_ns, sample.advance_ns)
                    )
                )
        if self._outside is not None:
            self._outside = later


def _when(sample: OutsideSample) -> int:
    return (sample.timestamp if sample.index is None else sample.index) or 0
