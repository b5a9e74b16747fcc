# SPDX-License-Identifier: GPL-2.0-or-later
"""`vlapic convert`: a trace as columns, or as the text of a kernel."""

from __future__ import annotations

import os

import click

from vlapic.cli.arguments import json_option
from vlapic.cli.output import complain, emit, has_reader, print_json
from vlapic.cli.progress import events_progress
from vlapic.errors import STATUS_INTERRUPTED, STATUS_OK, UsageError
from vlapic.output_file import STDOUT

SCHEMA = "vlapic.convert/1"


@click.command("convert")
@click.argument("trace", type=click.Path())
@click.argument("output", metavar="OUT.parquet|.csv|.txt|-", type=click.Path())
@click.option(
    "--kernel",
    metavar="vX.Y",
    show_default="the one that recorded, else v6.1",
    help="For .txt: the kernel whose formats are written.",
)
@json_option("Print how many events went over as JSON.")
def command(trace: str, output: str, kernel: str | None, as_json: bool) -> int:
    """Write the events of TRACE as a table (.parquet, .csv) or as ftrace text (.txt).

    TRACE may come through a pipe; - is standard input. As the output - is stdout, which gets ftrace text.
    """
    to_stdout = output == STDOUT
    if to_stdout and as_json:
        raise UsageError("the output - and --json contradict each other: both would go to stdout")
    from vlapic.trace.write.convert import convert

    with events_progress(quiet=as_json) as show:
        done = convert(trace, output, kernel=kernel, progress=show)
    counts = {
        "events": done.events,
        "left_out": done.left_out,
        "lost": done.lost,
        "passed_over": done.passed_over,
    }
    if as_json:
        found = {"schema": SCHEMA, "trace": done.trace, "output": done.output, **counts}
        found["lost_in_words"] = list(done.lost_in_words)
        emit(lambda: print_json(found))
    else:
        said = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count)
        lines = [f"{'stdout' if to_stdout else done.output}: {said or 'no events'}", *done.lost_in_words]
        if to_stdout and not has_reader():
            lines = []  # it left before the end, and asks for no more
        if to_stdout:
            for line in lines:
                complain(line, STATUS_OK)
        else:
            emit(lambda: print("\n".join(lines)))
    if done.interrupted:
        has = "the output has the events so far" if os.path.exists(done.output) else "there is no output yet"
        return complain(f"interrupted; {has}", STATUS_INTERRUPTED)
    return STATUS_OK
