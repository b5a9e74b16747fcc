# SPDX-License-Identifier: GPL-2.0-or-later
"""`vlapic replay`: the deltas of a recorded trace through a kernel's rules."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

import click

from vlapic.cli.arguments import json_option, number_option, number_or_auto, quiet_option
from vlapic.cli.output import complain, emit, print_by_rich, print_json
from vlapic.cli.progress import events_progress
from vlapic.errors import STATUS_INTERRUPTED, UsageError

if TYPE_CHECKING:
    from vlapic.replay.results import ReplayResult


@click.command("replay")
@click.argument("trace", type=click.Path())
@click.option(
    "--profile",
    metavar="NAME",
    show_default="the kernel's that recorded it, else v6.1",
    help="The rules of timer advancement.",
)
@click.option(
    "--advance",
    type=number_or_auto("--advance"),
    metavar="auto|NS",
    show_default="what the trace says, else auto",
    help="The module parameter under which the vCPUs were created.",
)
@click.option(
    "--start",
    multiple=True,
    metavar="[VM.VCPU=]NS",
    show_default="that of a new vCPU",
    help="Advancement of vCPUs that were there before the trace began; several may be given.",
)
@number_option(
    "--tsc-khz", metavar="KHZ", show_default="what the trace says", help="Frequency of the guests' TSC."
)
@click.option(
    "--samples",
    type=click.Path(),
    metavar="CSV",
    help="Compare with the advancement in this file, instead of the samples in the trace.",
)
@click.option(
    "--infer-flag",
    is_flag=True,
    help="Where samples part from the model, look for a flip of the module's flag that explains it.",
)
@click.option(
    "--trajectory",
    type=click.Path(),
    metavar="FILE",
    help="Write the advancement at every delta to FILE, .csv or .parquet.",
)
@quiet_option
@json_option("Print the result as JSON.")
def command(
    trace: str,
    profile: str | None,
    advance: int | str | None,
    start: tuple[str, ...],
    tsc_khz: int | None,
    samples: str | None,
    infer_flag: bool,
    trajectory: str | None,
    quiet: bool,
    as_json: bool,
) -> int:
    """Put every timer delta of TRACE through the rules of a kernel.

    TRACE is what a host recorded (ftrace text or trace.dat, compressed or not), or what `vlapic run --trace`
    wrote; - is standard input. Samples of the kernel's own advancement in it are compared; the exit status
    is 3 where they differ.
    """
    from vlapic.replay.run import replay

    with events_progress(quiet=quiet) as show:
        result = replay(
            trace,
            profile=profile,
            advance=advance,
            start=_start(start),
            tsc_khz=tsc_khz,
            samples=samples,
            trajectory=trajectory,
            infer_flag=infer_flag,
            progress=show,
        )
    if as_json:
        emit(lambda: print_json(result))
    elif not quiet:
        emit(lambda: _print(result))
    if result.interrupted:
        return complain("interrupted; the results are those of the trace so far", STATUS_INTERRUPTED)
    if result.nothing_compared:
        return complain(
            f"none of the samples in {samples!r} has a place in the trace: they are of no vCPU in it, or"
            " beyond its deltas; give samples of this recording",
            result.exit_status,
        )
    if quiet and (result.mismatches or result.unplaced):
        from vlapic.report.replay import mismatches_in_words, unplaced_in_words

        if result.unplaced:
            complain(unplaced_in_words(result), result.exit_status)
        if result.mismatches:
            complain(f"{mismatches_in_words(result)}; --json says where", result.exit_status)
    return result.exit_status


def _start(given: tuple[str, ...]) -> int | dict[tuple[int, int], int] | None:
    """`--start NS`, or any number of `--start VM.VCPU=NS`."""
    matches = [re.fullmatch(r"(?:(\d{1,9})\.(\d{1,9})=)?(\d{1,20})", text, re.ASCII) for text in given]
    starts: dict[tuple[int, int], int] = {}
    for text, match in zip(given, matches, strict=True):
        if match is None or (match[1] is None and len(given) > 1):
            raise UsageError(
                f"--start {text!r} is no advancement; it takes a number of ns for all vCPUs, or VM.VCPU=NS"
                " for each, like 0.1=2341"
            )
        if match[1] is None:
            return int(match[3])
        starts[int(match[1]), int(match[2])] = int(match[3])
    return starts or None


def _print(result: ReplayResult) -> None:
    from vlapic.report.replay import print_replay

    print_by_rich(partial(print_replay, result))
