# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of a replay for a terminal: what was read, the rules, a table of the vCPUs, and what to know."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlapic.analysis.regime import Regime
from vlapic.numerals import counted
from vlapic.replay.results import ReplayResult, VcpuReplay
from vlapic.report.tables import whole
from vlapic.report.terminal import STYLES

_CLOCKS = {"tsc": "host TSC", "ns": "nanoseconds", "unknown": "unknown clock"}
_NUMBERS = ("events", "initial", "final", "min", "max", "filtered", "resets", "checked", "differ")


def print_replay(result: ReplayResult, console: Console) -> None:
    """Print the whole report."""
    show = partial(console.print, soft_wrap=True)
    kernel = f", kernel {result.kernel}" if result.kernel else ""
    rounded = " (approximate: whole microseconds)" if result.resolution_ns == 1000 else ""
    show(Text(f"{result.trace}: {result.form}, {_CLOCKS[result.clock]}{rounded}{kernel}"))
    show(Text(f"profile {result.profile}: {result.profile_from}"))
    show()
    show(whole(_table(result), console))
    for vcpu in result.vcpus:
        show()
        show(Text(f"vCPU {_name(vcpu)}", "bold"))
        for line in _of_vcpu(vcpu, result):
            show(Text(f"  {line}"))
    notes = list(_of_trace(result))
    if notes:
        show()
        for line in notes:
            show(Text(line))
    show()
    show(_verdict(result))


def _table(result: ReplayResult) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("vCPU", no_wrap=True)
    for heading in _NUMBERS:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("regime", no_wrap=True)
    for vcpu in result.vcpus:
        advance = vcpu.advance_ns
        numbers = vcpu.events, advance.initial, advance.final, advance.min, advance.max
        table.add_row(
            _name(vcpu),
            *map(str, (*numbers, vcpu.filtered, vcpu.resets, vcpu.checked, vcpu.mismatches)),
            Text(vcpu.regime, STYLES[Regime(vcpu.regime)]),
        )
    return table


def _name(vcpu: VcpuReplay) -> str:
    return f"{vcpu.vm}.{vcpu.vcpu}"


def _of_vcpu(vcpu: VcpuReplay, result: ReplayResult) -> Iterator[str]:
    """What there is to know of one vCPU."""
    if vcpu.approximate:
        yield (
            f"TSC {vcpu.tsc_khz} kHz +- {vcpu.tsc_khz_error:.3f}, {vcpu.tsc_khz_from}: the advancement is"
            " approximate"
        )
    else:
        yield f"TSC {vcpu.tsc_khz} kHz ({vcpu.tsc_khz_from})"
    parameter = f"{vcpu.parameter} ns" if isinstance(vcpu.parameter, int) else vcpu.parameter
    yield f"module parameter {parameter} ({vcpu.parameter_from})"
    if vcpu.vm_inferred:
        yield "its VM is inferred from names and neighbouring threads; record with record-tgid to know"
    if vcpu.virtualised:
        yield "delivered by the hardware (APICv): no injections, no EOIs to see"
    if vcpu.dropped:
        yield f"{vcpu.dropped} bogus first delta left out: the kernel's first exit traces one that never was"
    if vcpu.while_off:
        yield (
            f"{counted(vcpu.while_off, 'delta')} at an advancement of 0, with which no kernel waits:"
            " parameter, rules or frequency are not the host's"
        )
    if vcpu.hidden:
        first = vcpu.unobserved[0]
        yield (
            f"{counted(vcpu.hidden, 'delta')} unobserved in"
            f" {counted(len(vcpu.unobserved), 'stretch', 'stretches')}, the first after delta"
            f" {first.after_index}: this kernel enters the guest again before it traces them"
        )
    yield from _rebuilt(vcpu)
    parting = vcpu.parting
    if parting is not None:
        yield (
            f"model and samples part between delta {parting.after_index} and delta {parting.index}, at"
            f" {parting.sample_time}: the model has {parting.model_ns} ns, the kernel {parting.sample_ns} ns"
        )
        if not (parting.index or vcpu.created):
            whose = f"{_name(vcpu)}=" if len(result.vcpus) > 1 else ""
            yield (
                f"it had {parting.sample_ns} ns before its first delta, so it was tuned before the trace"
                f" began: --start {whose}{parting.sample_ns} begins there"
            )


def _rebuilt(vcpu: VcpuReplay) -> Iterator[str]:
    rebuilt = vcpu.rebuilt
    if rebuilt is None or not rebuilt.compared:
        return
    if rebuilt.misfits:
        yield (
            f"{rebuilt.misfits} of {rebuilt.compared} deltas do not follow from their deadline, time and"
            f" offset, the first is delta {rebuilt.first_misfit}: another clock, lost events, or a TSC moved"
            " unseen"
        )
    elif rebuilt.compared == 1:
        yield f"1 delta follows from deadline, time and offset; tracing cost {rebuilt.cost_cycles.max} cycles"
    else:
        yield (
            f"{rebuilt.compared} deltas follow from deadline, time and offset; tracing cost"
            f" {rebuilt.cost_cycles.min} to {rebuilt.cost_cycles.max} cycles,"
            f" {rebuilt.cost_cycles.median} mostly"
        )


def _of_trace(result: ReplayResult) -> Iterator[str]:
    """What there is to know of the whole trace."""
    for flip in result.flips:
        how = "samples make it likely" if flip.inferred else "a vCPU was created"
        yield (
            f"tuning went {'on' if flip.on else 'off'} for all vCPUs before delta {flip.wait}, at"
            f" {flip.time}: {how}"
        )
    for line in result.lost_in_words:
        yield f"{line}; deltas may be missing"
    if result.disordered:
        are = "is" if result.disordered == 1 else "are"
        yield f"{counted(result.disordered, 'event')} {are} far out of the order of time"
    if result.unplaced:
        yield unplaced_in_words(result)


def mismatches_in_words(result: ReplayResult) -> str:
    """How many samples differ."""
    differ = "differs" if result.checked == 1 else "differ"
    return f"{result.mismatches} of {counted(result.checked, 'sample')} {differ} from the model"


def unplaced_in_words(result: ReplayResult) -> str:
    """How many samples were compared with nothing, and why."""
    samples = counted(result.unplaced, "sample")
    return f"{samples} could not be placed: of no vCPU in the trace, or beyond its deltas"


def _verdict(result: ReplayResult) -> Text:
    if result.interrupted:
        return Text("interrupted: the results are those of the trace so far", "yellow")
    if result.mismatches:
        return Text(mismatches_in_words(result), "bold red")
    if result.checked:
        agree = "the only sample agrees" if result.checked == 1 else f"all {result.checked} samples agree"
        return Text(f"{agree} with the model", "green")
    return Text("no samples to compare with")
