# SPDX-License-Identifier: GPL-2.0-or-later
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

from vlapic.analysis.regime import AdvanceHistory, TuningLimits, share_ends
from vlapic.errors import TraceError, UsageError
from vlapic.events import (
    NO_VCPU,
    AcceptIrq,
    AdvanceSample,
    DebugfsSample,
    Entry,
    Eoi,
    InjectVirq,
    Msr,
    Sample,
    Table,
    TscOffset,
    VcpuCreated,
    VcpuStart,
    WaitLapicExpire,
)
from vlapic.kernels.rules import Scope, WaitTrace
from vlapic.replay.apicv_deltas import Delivery
from vlapic.replay.assumptions import AS_GIVEN, Chosen, Sources, setting_of
from vlapic.replay.checks import Courses
from vlapic.replay.deadlines import vcpu_keys
from vlapic.replay.model import TUNED, Model, Walked
from vlapic.replay.module_flag import Flip, Suspicion, Tail
from vlapic.replay.recompute import Rebuild
from vlapic.replay.samples import Comparison, OutsideSample
from vlapic.replay.vcpu import Vcpu
from vlapic.replay.vcpu_index import NONE, Groups, VcpuEvents, VcpuNumbers
from vlapic.trace.reader import Batch, Clock

Array = npt.NDArray[Any]

#: Flips of the module's flag that are kept one by one.
FLIPS_KEPT = 1000
#: Events of a vCPU that its deltas are computed from, or that tell how they were delivered.
_TOLD_BESIDE = (WaitLapicExpire, Msr, TscOffset, VcpuStart, AcceptIrq, Entry, InjectVirq, Eoi)
#: Events that the model or its samples come from.
_TAKEN = (WaitLapicExpire, VcpuStart, VcpuCreated, Sample, AdvanceSample, DebugfsSample)
#: Deltas that are walked and counted at a time: so many, and so many more for each vCPU.
_PIECE = 32_768
_PIECE_OF_EACH = 8_192


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
        comparison: of samples with the model.
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
        self._to_flip = list(flips)
        self.suspicions: dict[int, Suspicion] | None = {} if infer_flag else None
        self._on_rows = on_rows
        self._compiled = compiled
        self._model: Model | None = None
        self._number_of = VcpuNumbers()
        #: vCPUs of which there was a delta.
        self._seen = VcpuNumbers()
        self.chosen: Chosen | None = None
        self.vcpus: dict[int, Vcpu] = {}
        self._by_number: list[Vcpu] = []
        self.flips: list[Flip] = []
        self.waits = 0
        self.comparison = Comparison(sources.reader, self.vcpus, samples)

    def add(self, batch: Batch) -> None:
        """Go on with the next batch of the trace.

        Raises:
            TraceError: a vCPU's TSC frequency cannot be known, or the recording's kernel has no profile.
            UsageError: there is no such profile, or it has no such advancement.
        """
        seen = [vcpu.traced for vcpu in self._by_number]
        if any(kind in batch.tables for kind in _TAKEN):
            self._take(batch)
        events = VcpuEvents(batch, self._number_of, len(self._by_number))
        # Who has nothing in this batch learns nothing of it.
        for number in events.numbers_of(_TOLD_BESIDE):
            vcpu = self._by_number[number]
            waits = vcpu.traced - (seen[number] if number < len(seen) else 0)
            for beside in (vcpu.delivery, vcpu.rebuild):
                if beside is None:
                    continue
                if beside.tells(events):
                    beside.add(events, number)
                else:
                    beside.skip(waits)

    def finish(self) -> None:
        """The trace has ended: compare the samples that stand after its last wait."""
        self.comparison.finish()
        share_ends(vcpu.history for vcpu in self.vcpus.values())

    def _take(self, batch: Batch) -> None:
        model = self._rules(batch)
        table, places, bogus = self._waits_of(batch)
        wanted = self.suspicions is not None or self.comparison.wants(batch)
        cuts = self._cuts(batch, places)
        starts = batch.tables.get(VcpuStart)
        starting = set() if starts is None else set(vcpu_keys(starts).tolist())
        for kind in (Sample, AdvanceSample):
            self._sampled(batch.tables.get(kind), starting)
        carried = {key: model.advance_ns(vcpu.number) for key, vcpu in self.vcpus.items()}
        firsts = {key: vcpu.events for key, vcpu in self.vcpus.items()}
        parts: list[tuple[Array, Walked]] = [(np.zeros(0, np.int32), _nothing_walked())]
        done = 0
        for cut in [*cuts, _Cut(len(table), 0, lambda model: None)]:
            while done < cut.at:
                # A piece at a time, as much as stays in a CPU's cache until everybody has seen it.
                piece = _PIECE + _PIECE_OF_EACH * len(self.vcpus)
                rows = table.rows[done : min(cut.at, done + piece)]
                numbers, deltas = self._numbers(rows), np.ascontiguousarray(rows["delta_cycles"])
                walked = model.walk(numbers, deltas)
                self._count(rows, numbers, deltas, walked)
                if wanted:
                    parts.append((numbers, walked))
                done += len(rows)
            tuned = model.module_tunes
            cut.act(model)
            if tuned is not None and model.module_tunes is not tuned and len(self.flips) < FLIPS_KEPT:
                self.flips.append(Flip(cut.time, self.waits + cut.at, not tuned, cut.inferred))
        for key in bogus:
            self._vcpu(key, None).dropped += 1
        carried = {key: carried.get(key, vcpu.history.start_ns) for key, vcpu in self.vcpus.items()}
        firsts = {key: firsts.get(key, 0) for key in self.vcpus}
        if wanted:
            numbers = np.concatenate([part[0] for part in parts])
            walked = Walked(*map(np.concatenate, zip(*(part[1] for part in parts), strict=True)))
            courses = Courses(
                numbers,
                places,
                table["host_tsc"],
                walked.after_ns,
                {key: (vcpu.number, firsts[key]) for key, vcpu in self.vcpus.items()},
                shared=model.profile.scope is Scope.GLOBAL,
            )
            self.comparison.add(batch, courses, carried)
            self._suspect(table, numbers, walked, firsts)
        self.waits += len(table)
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
        places = batch.rows_of(WaitLapicExpire)
        assert self.chosen is not None
        traced_by = self.chosen.recorded or self.chosen.profile
        if traced_by.wait_trace is not WaitTrace.AFTER_EXIT:
            return table, places, []
        bogus = []
        for at in range(0, len(table), _PIECE):
            rows = table.rows[at : at + _PIECE]
            new = np.flatnonzero(self._seen.of(rows) == NONE)
            keys, first = np.unique(vcpu_keys(rows[new]), return_index=True)
            for key, row in zip(keys.tolist(), new[first].tolist(), strict=True):
                self._seen.give(key >> 32, key & NO_VCPU, 0)
                if rows["delta_cycles"][row] == 0:
                    bogus.append(at + row)
        if not bogus:
            return table, places, []
        kept = np.delete(np.arange(len(table)), bogus)
        whose = vcpu_keys(table.rows[bogus]).tolist()
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
        start_ns = self._sources.start_ns(key, start)
        try:
            number = self._model.create(setting.ns, frequency.khz, seen=start is not None, start_ns=start_ns)
        except UsageError as error:
            if setting.source == AS_GIVEN:
                raise
            raise TraceError(f"{setting.source} has it, but {error}; give --advance or --profile") from None
        ratio, frac_bits = self._sources.ratio(start)
        made = self.vcpus[key] = Vcpu(
            vm=key >> 32,
            vcpu=key & NO_VCPU,
            number=number,
            created=start is not None,
            frequency=frequency,
            setting=setting,
            auto=self._model.tunes(number),
            history=AdvanceHistory(self._model.advance_ns(number), TuningLimits.of(self.chosen.profile)),
            rebuild=Rebuild(ratio, frac_bits) if self._sources.reader.clock is Clock.TSC else None,
            delivery=Delivery(hides=self.chosen.hides_deltas),
        )
        assert number == len(self._by_number)
        self._by_number.append(made)
        self._number_of.give(made.vm, made.vcpu, number)
        return made

    def _numbers(self, rows: Array) -> Array:
        """The model's number of the vCPU of each wait."""
        numbers = self._number_of.of(rows)
        if numbers.min(initial=0) == NONE:
            for key in dict.fromkeys(vcpu_keys(rows[numbers == NONE]).tolist()):
                self._vcpu(key, None)
            numbers = self._number_of.of(rows)
        return numbers

    # -- what came of it --

    def _count(self, rows: Array, numbers: Array, deltas: Array, walked: Walked) -> None:
        """Show each vCPU its deltas, and the trajectory all of them."""
        groups = Groups(numbers, len(self.vcpus))
        mine = [groups.sorted(column) for column in (deltas, walked.after_ns, walked.notes)]
        index = np.zeros(len(deltas) if self._on_rows is not None else 0, np.int64)
        for number in groups.there:
            vcpu = self._by_number[number]
            part = groups.slice_of(number)
            first = vcpu.events
            vcpu.take(*(column[part] for column in mine))
            if len(index):
                index[groups.places_of(number)] = np.arange(first, vcpu.events)
        if self._on_rows is not None:
            self._on_rows(
                Rows(
                    rows["vm"],
                    rows["vcpu"],
                    index,
                    rows["host_tsc"],
                    deltas,
                    walked.before_ns,
                    walked.after_ns,
                )
            )

    def _suspect(
        self, table: Table[WaitLapicExpire], numbers: Array, walked: Walked, firsts: dict[int, int]
    ) -> None:
        """Look for a flip of the module's flag where a vCPU's samples part from the model."""
        if self.suspicions is None or self._model is None or self._model.module_tunes is None:
            return
        groups = Groups(numbers, len(self.vcpus))
        whole = Tail(
            np.arange(len(numbers)) + self.waits,
            table["host_tsc"],
            table["delta_cycles"],
            walked.before_ns,
            walked.noted(TUNED),
        )
        by_vcpu = Tail(*map(groups.sorted, whole))
        for key, vcpu in self.vcpus.items():
            suspicion = self.suspicions.setdefault(key, Suspicion())
            tail = Tail(*(column[groups.slice_of(vcpu.number)] for column in by_vcpu))
            parting = vcpu.check.parting
            if parting is None:
                suspicion.keep(tail)
            elif suspicion.found is None and parting.index >= firsts[key]:
                since, until = parting.after_index - firsts[key], parting.index - firsts[key]
                suspicion.look(self._model.profile, vcpu.frequency.khz, tail, since, until, parting.sample_ns)


def _nothing_walked() -> Walked:
    return Walked(np.zeros(0, np.uint32), np.zeros(0, np.uint32), np.zeros(0, np.uint8))
