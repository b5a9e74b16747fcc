"""Replay as a fold: batch after batch of a trace through the model, and what came of it for each vCPU.

In a batch the waits go to the model in the order of the trace, all vCPUs' together, cut where a vCPU is
created, because that may switch tuning on or off for all of them. Then everybody who counts is shown them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vlapic.events import (
    NO_VCPU,
    AdvanceSample,
    DebugfsSample,
    Sample,
    Table,
    VcpuCreated,
    VcpuStart,
    WaitLapicExpire,
)
from vlapic.regime import AdvanceHistory, TuningLimits, share_ends
from vlapic.replay.checks import Course
from vlapic.replay.delivery import Delivery
from vlapic.replay.flag import Flip, Suspicion, Tail
from vlapic.replay.model import Model, Walked
from vlapic.replay.pairs import vcpu_keys
from vlapic.replay.rebuild import Rebuild
from vlapic.replay.samples import OutsideSample
from vlapic.replay.sources import Chosen, Sources, setting_of
from vlapic.replay.vcpu import Vcpu
from vlapic.rules import Scope, WaitTrace
from vlapic.trace.reader import Batch, Clock

Array = npt.NDArray[Any]

#: Flips of the module's flag that are kept one by one.
FLIPS_KEPT = 1000
#: Events that the model or its samples come from.
_TAKEN = (WaitLapicExpire, VcpuStart, VcpuCreated, Sample, AdvanceSample, DebugfsSample)
#: VMs and vCPUs with numbers below this are found by a table.
_NEAR = 1024


@dataclass(frozen=True)
class Rows:
    """A trajectory's rows as columns of shape (n,): what became of some deltas, in the order of the trace."""

    vm: Array
    vcpu: Array
    index: Array
    timestamp: Array
    delta_cycles: Array
    advance_before_ns: Array
    advance_after_ns: Array


class _Cut(NamedTuple):
    """Something that happens to the model between two waits of a batch."""

    at: int
    time: int
    act: Callable[[Model], object]
    inferred: bool = False


class Replay:
    """A replay under way.

    Attributes:
        chosen: the rules, and why these; None before the first event that needs them.
        vcpus: by their key (`vcpu_keys`), in the order of their appearance.
        flips: changes of the module's flag, the first `FLIPS_KEPT`.
        waits: how many deltas of all vCPUs went into the model.
        unplaced: samples of which nobody knows whose they are.
        suspicions: of a flip where a vCPU's samples part from the model, by its key; None if not looked for.
    """

    def __init__(
        self,
        sources: Sources,
        profile: str | None = None,
        *,
        samples: Iterable[OutsideSample] | None = None,
        flips: Iterable[Flip] = (),
        infer_flag: bool = False,
        on_rows: Callable[[Rows], None] | None = None,
        compiled: bool | None = None,
    ) -> None:
        """Begin.

        Args:
            sources: what is known beside the events.
            profile: the rules' name; None for those of the kernel that recorded.
            samples: to compare with instead of those in the trace.
            flips: of the module's flag, to be made at their `wait`.
            infer_flag: look for a flip where samples part from the model (`suspicions`).
            on_rows: is given the trajectory.
            compiled: whether the rules are; None if they can be.
        """
        self._sources = sources
        self._profile = profile
        self._outside = None if samples is None else sorted(samples, key=_when)
        self._to_flip = list(flips)
        self.suspicions: dict[int, Suspicion] | None = {} if infer_flag else None
        self._on_rows = on_rows
        self._compiled = compiled
        self._model: Model | None = None
        self._near = np.full((_NEAR, _NEAR), -1, np.int32)
        self._seen: set[int] = set()
        #: The advancements there were since a loop beside the VM last read one, of each vCPU.
        self._since_read: dict[int, Array] = {}
        self.chosen: Chosen | None = None
        self.vcpus: dict[int, Vcpu] = {}
        self.flips: list[Flip] = []
        self.waits = 0
        self.unplaced = 0

    def add(self, batch: Batch) -> None:
        """Go on with the next batch of the trace.

        Raises:
            TraceError: a vCPU's TSC frequency cannot be known, or the recording's kernel has no profile.
            UsageError: there is no such profile, or it has no such advancement.
        """
        seen = {key: vcpu.traced for key, vcpu in self.vcpus.items()}
        if any(kind in batch.tables for kind in _TAKEN):
            self._take(batch)
        for key, vcpu in self.vcpus.items():
            waits = vcpu.traced - seen.get(key, 0)
            for beside in (vcpu.delivery, vcpu.rebuild):
                if beside is None:
                    continue
                if beside.tells(batch):
                    beside.add(batch, key)
                else:
                    beside.skip(waits)

    def finish(self) -> None:
        """The trace has ended: compare the samples that stand after its last wait."""
        self._compare_outside({}, {}, last=True)
        share_ends(vcpu.history for vcpu in self.vcpus.values())

    def _take(self, batch: Batch) -> None:
        model = self._rules(batch)
        table, places, bogus = self._waits_of(batch)
        deltas = np.ascontiguousarray(table["delta_cycles"])
        cuts = self._cuts(batch, places)
        starts = batch.tables.get(VcpuStart)
        starting = set() if starts is None else set(vcpu_keys(starts).tolist())
        for kind in (Sample, AdvanceSample):
            self._sampled(batch.tables.get(kind), starting)
        carried = {key: model.advance_ns(vcpu.number) for key, vcpu in self.vcpus.items()}
        parts = [_nothing_walked()]
        numbers = np.zeros(len(deltas), np.int64)
        done = 0
        for cut in [*cuts, _Cut(len(deltas), 0, lambda model: None)]:
            if cut.at > done:
                numbers[done : cut.at] = self._numbers(model, table.rows[done : cut.at])
                parts.append(model.walk(numbers[done : cut.at], deltas[done : cut.at]))
                done = cut.at
            tuned = model.module_tunes
            cut.act(model)
            if tuned is not None and model.module_tunes is not tuned and len(self.flips) < FLIPS_KEPT:
                self.flips.append(Flip(cut.time, self.waits + cut.at, not tuned, cut.inferred))
        for key in bogus:
            self._vcpu(key, None).dropped += 1
        walked = parts[-1] if len(parts) <= 2 else Walked(*map(np.concatenate, zip(*parts, strict=True)))
        carried = {key: carried.get(key, vcpu.history.start_ns) for key, vcpu in self.vcpus.items()}
        firsts = {key: vcpu.events for key, vcpu in self.vcpus.items()}
        courses = self._count(table, places, numbers, walked)
        self._compare(batch, courses, carried)
        self._compare_outside(courses, carried)
        self._compare_debugfs(batch, courses, carried)
        self._suspect(table, numbers, walked, firsts)
        self.waits += len(deltas)
        for vcpu in self.vcpus.values() if model.module_tunes else ():
            vcpu.auto = True

    # -- what a batch has --

    def _rules(self, batch: Batch) -> Model:
        if self._model is None:
            starts = batch.tables.get(VcpuStart)
            self.chosen = self._sources.profile(self._profile, next(iter(starts)) if starts else None)
            self._model = Model(self.chosen.profile, compiled=self._compiled)
        return self._model

    def _waits_of(self, batch: Batch) -> tuple[Table[WaitLapicExpire], Array, list[int]]:
        """The batch's waits and their places, and the vCPUs whose first one was none and is left out."""
        table = batch.tables.get(WaitLapicExpire) or Table.of(WaitLapicExpire, ())
        alone = len(table) == len(batch)
        places = np.arange(len(batch)) if alone else batch.rows_of(WaitLapicExpire)
        assert self.chosen is not None
        traced_by = self.chosen.recorded or self.chosen.profile
        known = len(self._seen) == 1 and self._only(table.rows) is not None
        if traced_by.wait_trace is not WaitTrace.AFTER_EXIT or not len(table) or known:
            return table, places, []
        keys, first = np.unique(vcpu_keys(table), return_index=True)
        bogus = [
            row
            for key, row in zip(keys.tolist(), first.tolist(), strict=True)
            if key not in self._seen and table["delta_cycles"][row] == 0
        ]
        self._seen.update(keys.tolist())
        kept = np.delete(np.arange(len(table)), bogus)
        whose = vcpu_keys(table)[bogus].tolist()
        return Table(WaitLapicExpire, table.rows[kept]), places[kept], whose

    def _cuts(self, batch: Batch, places: Array) -> list[_Cut]:
        """What happens to the model in this batch, in order: creations of vCPUs, flips of the flag."""
        cuts: list[_Cut] = []
        for kind, act in ((VcpuStart, self._start), (VcpuCreated, self._created)):
            if kind in batch.tables:
                at = np.searchsorted(places, batch.rows_of(kind)).tolist()
                cuts += [
                    _Cut(row, event.host_tsc, partial(act, event))
                    for row, event in zip(at, batch.tables[kind], strict=True)
                ]
        end = self.waits + len(places)
        while self._to_flip and self._to_flip[0].wait < end:
            flip = self._to_flip.pop(0)
            cuts.append(_Cut(flip.wait - self.waits, flip.time, lambda model: model.flip(), inferred=True))
        return sorted(cuts, key=lambda cut: cut.at)

    # -- vCPUs --

    def _start(self, start: VcpuStart, model: Model) -> None:
        """A vCPU is created before our eyes."""
        self._vcpu(start.vm << 32 | start.vcpu, start)

    def _sampled(self, table: Table[Any] | None, starting: set[int]) -> None:
        """vCPUs that somebody samples are there, though they may never wait (their advancement is 0)."""
        for key in () if table is None else np.unique(vcpu_keys(table)).tolist():
            if key & NO_VCPU != NO_VCPU and key not in starting:
                self._vcpu(key, None)

    def _created(self, created: VcpuCreated, model: Model) -> None:
        """A vCPU that is not traced is created."""
        model.parameter_at_creation(setting_of(created.parameter, "a marker"))

    def _vcpu(self, key: int, start: VcpuStart | None) -> Vcpu:
        """The vCPU of this key, made if it is new."""
        if key in self.vcpus:
            return self.vcpus[key]
        assert self._model is not None
        assert self.chosen is not None
        frequency = self._sources.frequency(key, start)
        setting = self._sources.setting(start)
        number = self._model.create(setting.ns, frequency.khz, seen=start is not None)
        ratio, frac_bits = self._sources.ratio(start)
        made = self.vcpus[key] = Vcpu(
            vm=key >> 32,
            vcpu=key & NO_VCPU,
            number=number,
            frequency=frequency,
            setting=setting,
            auto=self._model.tunes(number),
            history=AdvanceHistory(self._model.advance_ns(number), TuningLimits.of(self.chosen.profile)),
            rebuild=Rebuild(ratio, frac_bits) if self._sources.reader.clock is Clock.TSC else None,
            delivery=Delivery(hides=self.chosen.hides_deltas),
        )
        if made.vm < _NEAR and made.vcpu < _NEAR:
            self._near[made.vm, made.vcpu] = number
        return made

    def _only(self, rows: Array) -> Vcpu | None:
        """The one vCPU there is, if all of these are its."""
        if len(self.vcpus) != 1:
            return None
        (vcpu,) = self.vcpus.values()
        return vcpu if (rows["vcpu"] == vcpu.vcpu).all() and (rows["vm"] == vcpu.vm).all() else None

    def _numbers(self, model: Model, rows: Array) -> Array:
        """The model's number of the vCPU of each wait."""
        vms, vcpus = rows["vm"], rows["vcpu"]
        only = self._only(rows)
        if only is not None:
            return np.full(len(rows), only.number)
        if vms.max() < _NEAR and vcpus.max() < _NEAR:
            numbers: Array = self._near[vms, vcpus]
            if numbers.min() < 0:
                new = np.flatnonzero(numbers < 0)
                keys = vms[new].astype(np.uint64) << np.uint64(32) | vcpus[new]
                for key in dict.fromkeys(keys.tolist()):
                    self._vcpu(key, None)
                numbers = self._near[vms, vcpus]
            return numbers
        keys, inverse = np.unique(vms.astype(np.uint64) << np.uint64(32) | vcpus, return_inverse=True)
        return np.array([self._vcpu(key, None).number for key in keys.tolist()], np.int32)[inverse]

    # -- what came of it --

    def _count(
        self, table: Table[WaitLapicExpire], places: Array, numbers: Array, walked: Walked
    ) -> dict[int, Course]:
        """Show each vCPU its deltas; the course of every vCPU's advancement in this batch."""
        assert self.chosen is not None
        deltas, times = table["delta_cycles"], table["host_tsc"]
        index = np.zeros(len(deltas) if self._on_rows is not None else 0, np.int64)
        courses = {}
        shared = self.chosen.profile.scope is Scope.GLOBAL
        alone = len(self.vcpus) == 1
        for key, vcpu in self.vcpus.items():
            mine = slice(None) if alone else np.flatnonzero(numbers == vcpu.number)
            seen = slice(None) if shared else mine
            first = vcpu.events
            courses[key] = Course(
                first, places[mine], times[mine], places[seen], times[seen], walked.after_ns[seen]
            )
            vcpu.take(deltas[mine], walked if alone else Walked(*(column[mine] for column in walked)))
            if len(index):
                index[mine] = np.arange(first, vcpu.events)
        if self._on_rows is not None and len(deltas):
            self._on_rows(
                Rows(table["vm"], table["vcpu"], index, times, deltas, walked.before_ns, walked.after_ns)
            )
        return courses

    def _compare(self, batch: Batch, courses: dict[int, Course], carried: dict[int, int]) -> None:
        """Hold the batch's samples against the model."""
        for kind in (Sample, AdvanceSample):
            table = batch.tables.get(kind)
            if table is None or self._outside is not None:
                continue
            places, keys = batch.rows_of(kind), vcpu_keys(table)
            nobody = keys == (NO_VCPU << 32 | NO_VCPU)
            if nobody.any() and len(self.vcpus) == 1:
                keys = np.where(nobody, next(iter(self.vcpus)), keys)
            for key in np.unique(keys).tolist():
                mine = keys == key
                if key not in self.vcpus:
                    self.unplaced += int(np.count_nonzero(mine))
                    continue
                indices, model_ns = courses[key].at_places(places[mine], carried[key])
                self.vcpus[key].check.add(
                    indices, table["host_tsc"][mine], model_ns, table["advance_ns"][mine]
                )

    def _compare_debugfs(self, batch: Batch, courses: dict[int, Course], carried: dict[int, int]) -> None:
        """Hold what a loop beside the VMs read against the model.

        It read after it had written the line before: the value is one that there was between the two.
        """
        table = batch.tables.get(DebugfsSample)
        since = 0
        if (table is None and not self._since_read) or self._outside is not None:
            return
        if table is not None:
            for place, read in zip(batch.rows_of(DebugfsSample).tolist(), table, strict=True):
                key = self._vm_of(read.pid) << 32 | read.number
                vcpu = self.vcpus.get(key)
                if vcpu is None:
                    self.unplaced += 1
                else:
                    model_ns = courses[key].between(since, place, carried[key])
                    if not since:
                        model_ns = np.concatenate([self._since_read.get(key, model_ns[:0]), model_ns])
                    index = courses[key].at_places(np.array([place]), 0)[0]
                    vcpu.check.add_one(int(index[0]), read.host_tsc, model_ns, read.advance_ns)
                since = place
        for key, course in courses.items():
            values = np.unique(course.between(since, len(batch), carried[key]))
            before = self._since_read.get(key, values[:0]) if not since else values[:0]
            self._since_read[key] = np.union1d(before, values)

    def _vm_of(self, pid: int) -> int:
        """The VM of a process: of its threads, or where that is not told, of those made just after it."""
        threads = [thread for thread in self._sources.reader.threads.values() if thread.vm is not None]
        mine = [thread.vm for thread in threads if pid in (thread.tgid, thread.tid)]
        if mine:
            return mine[0] or 0
        later = [thread for thread in threads if thread.tgid is None and thread.tid > pid]
        nearest = min(later, key=lambda thread: thread.tid, default=None)
        return NO_VCPU if nearest is None or nearest.vm is None else nearest.vm

    def _compare_outside(
        self, courses: dict[int, Course], carried: dict[int, int], *, last: bool = False
    ) -> None:
        """Hold the samples from outside against the model, as far as it has come."""
        later = []
        for sample in self._outside or ():
            key = sample.vm << 32 | sample.vcpu
            vcpu = self.vcpus.get(key)
            course = courses.get(key) or Course.over(0 if vcpu is None else vcpu.events)
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

    def _suspect(
        self, table: Table[WaitLapicExpire], numbers: Array, walked: Walked, firsts: dict[int, int]
    ) -> None:
        """Look for a flip of the module's flag where a vCPU's samples part from the model."""
        if self.suspicions is None or self._model is None or self._model.module_tunes is None:
            return
        for key, vcpu in self.vcpus.items():
            suspicion = self.suspicions.setdefault(key, Suspicion())
            mine = np.flatnonzero(numbers == vcpu.number)
            tail = Tail(
                mine + self.waits,
                table["host_tsc"][mine],
                table["delta_cycles"][mine],
                walked.before_ns[mine],
                walked.tuned[mine],
            )
            parting = vcpu.check.parting
            if parting is None:
                suspicion.keep(tail)
            elif suspicion.found is None and parting.index >= firsts[key]:
                since, until = parting.after_index - firsts[key], parting.index - firsts[key]
                suspicion.look(self._model.profile, vcpu.frequency.khz, tail, since, until, parting.sample_ns)


def _nothing_walked() -> Walked:
    numbers, flags = np.zeros(0, np.uint32), np.zeros(0, np.bool_)
    return Walked(numbers, numbers, flags, flags, flags)


def _when(sample: OutsideSample) -> int:
    return (sample.timestamp if sample.index is None else sample.index) or 0
