# SPDX-License-Identifier: GPL-2.0-or-later
"""Replay one trace: the library call behind `vlapic replay`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from vlapic.errors import TraceError, UsageError
from vlapic.events import NO_VCPU, VcpuStart
from vlapic.kernels.profiles import find_profile
from vlapic.kernels.rules import Ending, Scope
from vlapic.replay.assumptions import Chosen, Sources, profile_in_trace
from vlapic.replay.module_flag import Flip
from vlapic.replay.replayer import Replay
from vlapic.replay.results import Costs, Rebuilt, ReplayResult, VcpuReplay
from vlapic.replay.samples import OutsideSample, read_samples
from vlapic.replay.trajectory import Trajectory
from vlapic.replay.vcpu import Vcpu
from vlapic.session.results import Advancement
from vlapic.session.settings import same_file
from vlapic.signature import checked
from vlapic.trace import open_trace
from vlapic.trace.reader import TraceReader
from vlapic.trace.sidecar import sidecar_of
from vlapic.trace.source import Origin
from vlapic.tsc import U32

#: Flips that are inferred at most; each takes a pass over the trace.
MOST_INFERRED = 64
#: What a trace must have to be replayed, and how to get it.
NEEDED = "kvm_wait_lapic_expire"
RECORDING_LINE = (
    "trace-cmd record -C x86-tsc -e kvm:kvm_wait_lapic_expire -e kvm:kvm_msr -e kvm:kvm_write_tsc_offset"
)


class SoFar(NamedTuple):
    """How far a replay is: deltas that went through the rules, and events read in all."""

    deltas: int
    events: int


@checked
def replay(
    trace: str | os.PathLike[str],
    *,
    profile: str | None = None,
    advance: int | str | None = None,
    start: int | Mapping[tuple[int, int], int] | None = None,
    tsc_khz: int | None = None,
    samples: str | os.PathLike[str] | None = None,
    trajectory: str | os.PathLike[str] | None = None,
    infer_flag: bool = False,
    compiled: bool | None = None,
    progress: Callable[[SoFar], None] | None = None,
) -> ReplayResult:
    """Put every delta of a trace through the rules of a profile.

    Args:
        trace: the file or pipe (`-` is standard input): ftrace text or trace.dat, compressed or not. A
            sidecar `NAME.toml` beside it says what it does not.
        profile: the rules' name; None for those of the kernel that recorded it.
        advance: the module parameter that vCPUs were created under, `auto` or ns; None for what the trace,
            its sidecar or its start markers say.
        start: the advancement that vCPUs had when the trace began, ns, if they were there before: of all, or
            of each by VM and vCPU. None for that of a new one.
        tsc_khz: the frequency of the guests' TSC; None for what these say.
        samples: a CSV file of the true advancement, to be compared instead of the samples in the trace.
        trajectory: file to write the advancement at every delta to, `.csv` or `.parquet`.
        infer_flag: where samples part from the model, look for a flip of the module's flag that explains it.
        compiled: whether the rules are compiled (with numba); None if they can be.
        progress: told how far it is, batch by batch.

    Returns:
        The result up to where a person ended it, also.

    Raises:
        UsageError: an argument is wrong by itself.
        TraceError: the trace cannot be read, has no event of the timer's advancement, or a vCPU's TSC
            frequency cannot be known.
        OutputError: the trajectory cannot be written.
    """
    _check(advance, tsc_khz)
    if profile is not None:
        find_profile(profile)  # before all that comes through a pipe is read
    starts = _starts(start)
    origin = Origin.of(trace)
    if trajectory is not None:
        _check_kept(origin, samples, trajectory)
    reader = open_trace(origin)
    reader.file_order = _is_of_one_value(reader)
    sources = Sources(reader, origin, sidecar_of(origin.name), tsc_khz, advance, starts)
    outside = None if samples is None else read_samples(samples)
    flips: list[Flip] = []
    if infer_flag:
        flips, ended = _infer(sources, profile, outside, compiled, progress)
        if ended is not None:
            return _result(reader, sources, ended, interrupted=True, samples_given=outside is not None)
    with ExitStack() as stack:
        rows = None if trajectory is None else stack.enter_context(Trajectory(trajectory)).add
        fold = Replay(sources, profile, samples=outside, flips=flips, on_rows=rows, compiled=compiled)
        interrupted = _run(reader, fold, progress)
    if not fold.vcpus and not (interrupted or origin.interrupted):
        raise TraceError(_no_events(reader))
    if not interrupted:
        _check_starts(starts, fold)
    if not interrupted and outside is None and (told := _header_samples(reader, fold)):
        # Nothing but the header has samples: once more, now that it is known where they belong.
        fold = Replay(sources, profile, samples=told, flips=flips, compiled=compiled)
        interrupted = _run(reader, fold, progress)
    return _result(
        reader,
        sources,
        fold,
        interrupted=interrupted or origin.interrupted,
        samples_given=outside is not None,
    )


def _check(advance: int | str | None, tsc_khz: int | None) -> None:
    if tsc_khz is not None and not 1 <= tsc_khz <= U32:
        raise UsageError(f"TSC frequency {tsc_khz} kHz is out of range; it takes 1 to {U32} kHz")
    if isinstance(advance, str) and advance != "auto":
        raise UsageError(f"advance {advance!r} is neither 'auto' nor a number of ns; 0 is off")


def _check_kept(
    origin: Origin, samples: str | os.PathLike[str] | None, trajectory: str | os.PathLike[str]
) -> None:
    """The trajectory writes over nothing that is read."""
    what = "the trace" if origin.is_file(trajectory) else ""
    if samples is not None and same_file(Path(samples), trajectory):
        what = "the samples"
    if what:
        raise UsageError(
            f"the trajectory {os.fspath(trajectory)!r} would write over {what}; give it another name"
        )


def _starts(start: int | Mapping[tuple[int, int], int] | None) -> dict[int | None, int]:
    """Advancements at the start by the vCPU's key, None for all."""
    if start is None:
        return {}
    starts: dict[int | None, int] = (
        {None: start}
        if isinstance(start, int)
        else {vm << 32 | vcpu: advance_ns for (vm, vcpu), advance_ns in start.items()}
    )
    for advance_ns in starts.values():
        if not 0 <= advance_ns <= U32:
            raise UsageError(f"start {advance_ns} ns is out of range; it takes 0 to {U32} ns")
    return starts


def _check_starts(starts: dict[int | None, int], fold: Replay) -> None:
    """A start that was given belongs to a vCPU that was there before the trace."""
    before = {key for key, vcpu in fold.vcpus.items() if not vcpu.created}
    seen = ", ".join(f"{vcpu.vm}.{vcpu.vcpu}" for vcpu in fold.vcpus.values())
    for key in starts:
        if key is None and not before:
            raise TraceError(
                f"the trace shows the creation of every vCPU in it ({seen}); a start is of those that were"
                " there before it, so leave it out"
            )
        if key is not None and key not in before:
            raise TraceError(
                f"no vCPU {key >> 32}.{key & NO_VCPU} was there before the trace, and a start was given for"
                f" it; the trace has {seen}"
            )


def _is_of_one_value(reader: TraceReader) -> bool:
    """Whether vlapic made this trace, with one advancement for all vCPUs.

    That was tuned in the order of the file; its vCPUs' clocks may be a slice apart.
    """
    first = next(iter(reader.batches()), None)
    starts = None if first is None else first.tables.get(VcpuStart)
    names = {start.profile for start in starts or () if start.profile}
    return any(profile_in_trace(name).scope is Scope.GLOBAL for name in names)


def _run(reader: TraceReader, fold: Replay, progress: Callable[[SoFar], None] | None) -> bool:
    """Fold the whole trace; whether a person ended it before."""
    events = 0
    try:
        for batch in reader.batches():
            fold.add(batch)
            events += len(batch)
            if progress is not None:
                progress(SoFar(fold.waits, events))
    except KeyboardInterrupt:
        fold.finish()
        return True
    fold.finish()
    return False


def _infer(
    sources: Sources,
    profile: str | None,
    samples: list[OutsideSample] | None,
    compiled: bool | None,
    progress: Callable[[SoFar], None] | None,
) -> tuple[list[Flip], Replay | None]:
    """The flips of the module's flag that samples make likely: found one by one, each by a pass.

    Where a person ended a pass, what it came to is the second; else that is None.
    """
    flips: list[Flip] = []
    while len(flips) < MOST_INFERRED:
        fold = Replay(sources, profile, samples=samples, flips=flips, infer_flag=True, compiled=compiled)
        if _run(sources.reader, fold, progress):
            return flips, fold
        found = [each.found for each in (fold.suspicions or {}).values() if each.found is not None]
        if not found:
            break
        flips = sorted([*flips, min(found, key=lambda flip: flip.wait)], key=lambda flip: flip.wait)
    return flips, None


def _header_samples(reader: TraceReader, fold: Replay) -> list[OutsideSample]:
    """Samples of the trace's header, if it has no others and each interrupt of its one vCPU has a delta."""
    told = reader.facts.samples
    vcpus = list(fold.vcpus.values())
    if not told or fold.comparison.unplaced or any(vcpu.check.checked for vcpu in vcpus):
        return []
    if len(vcpus) != 1 or vcpus[0].events != told[-1].interrupts:
        fold.comparison.unplaced = len(told)
        return []
    return [
        OutsideSample(vcpus[0].vm, vcpus[0].vcpu, None, each.interrupts, each.advance_ns) for each in told
    ]


def _no_events(reader: TraceReader) -> str:
    found = dict(reader.passed_over.most_common(5))
    for batch in reader.batches():
        for event_type, table in batch.tables.items():
            found[event_type.__name__] = found.get(event_type.__name__, 0) + len(table)
    seen = ", ".join(f"{name} ({count})" for name, count in found.items()) or "no event at all"
    if reader.lost and (damage := [loss for loss in reader.lost if loss.cause != "overrun"]):
        where = "; ".join(reader.losses_in_words())
        then = "copy it again" if damage[0].cause == "unfinished" else "copy or record it again"
        return f"no {NEEDED} can be read of {reader.path!r}: {where}; found {seen}. Try to {then}"
    if reader.facts.of_guest:
        return (
            f"the trace {reader.path!r} has no {NEEDED}, and was recorded inside a guest together with its"
            f" host (trace-cmd record -A); found {seen}. Give the host's trace of that recording"
        )
    return (
        f"the trace {reader.path!r} has no {NEEDED}, which the timer's advancement is replayed from; found"
        f" {seen}. A vCPU with advancement 0 makes none. Record it with: {RECORDING_LINE}"
    )


def _result(
    reader: TraceReader, sources: Sources, fold: Replay, *, interrupted: bool, samples_given: bool
) -> ReplayResult:
    chosen = fold.chosen or Chosen(*sources.profile(None, None))
    inferred_vms = {
        (thread.vm, thread.vcpu)
        for thread in reader.threads.values()
        if thread.vm is not None and thread.vm_inferred
    }
    return ReplayResult(
        trace=reader.path,
        form=reader.form,
        clock=reader.clock.name.lower(),
        kernel=sources.sidecar.kernel or reader.facts.kernel,
        profile=chosen.profile.name,
        profile_from=chosen.why,
        vcpus=tuple(
            _vcpu_result(vcpu, (vcpu.vm, vcpu.vcpu) in inferred_vms) for _, vcpu in sorted(fold.vcpus.items())
        ),
        flips=tuple(fold.flips) if chosen.profile.ending is Ending.MODULE_FLAG else (),
        lost=len(reader.lost),
        lost_events=sum(lost.events for lost in reader.lost),
        lost_in_words=tuple(reader.losses_in_words()),
        disordered=reader.facts.disordered,
        unplaced=fold.comparison.unplaced,
        passed_over=sum(reader.passed_over.values()),
        interrupted=interrupted,
        samples_given=samples_given,
        resolution_ns=reader.facts.resolution_ns,
    )


def _vcpu_result(vcpu: Vcpu, vm_inferred: bool) -> VcpuReplay:
    history, rebuild = vcpu.history, vcpu.rebuild
    return VcpuReplay(
        vm=vcpu.vm,
        vcpu=vcpu.vcpu,
        vm_inferred=vm_inferred,
        tsc_khz=vcpu.frequency.khz,
        tsc_khz_from=vcpu.frequency.source,
        tsc_khz_error=vcpu.frequency.error_khz,
        approximate=vcpu.frequency.error_khz is not None,
        parameter="auto" if vcpu.setting.ns is None else vcpu.setting.ns,
        parameter_from=vcpu.setting.source,
        events=vcpu.events,
        advance_ns=Advancement(
            initial=history.start_ns,
            final=history.final_ns,
            min=history.low_ns,
            max=history.high_ns,
            settled_after=vcpu.settled_after,
        ),
        filtered=vcpu.filtered,
        resets=vcpu.resets,
        dropped=vcpu.dropped,
        while_off=vcpu.while_off,
        regime=str(vcpu.regime),
        created=vcpu.created,
        checked=vcpu.check.checked,
        mismatches=vcpu.check.mismatches,
        parting=vcpu.check.parting,
        rebuilt=None
        if rebuild is None
        else Rebuilt(
            compared=rebuild.compared,
            unpaired=rebuild.unpaired,
            misfits=rebuild.misfits,
            first_misfit=rebuild.first_misfit,
            cost_cycles=Costs(
                rebuild.cost_cycles.min, rebuild.cost_cycles.percentile(500), rebuild.cost_cycles.max
            ),
        ),
        virtualised=vcpu.delivery.virtualised,
        hidden=vcpu.delivery.hidden,
        unobserved=tuple(vcpu.delivery.unobserved),
    )
