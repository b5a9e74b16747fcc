# SPDX-License-Identifier: GPL-2.0-or-later
"""`vlapic record`: how to record a host's timer."""

from __future__ import annotations

import click

from vlapic.cli.arguments import json_option, number_option
from vlapic.cli.output import emit, print_json
from vlapic.errors import STATUS_OK, UsageError


@click.command("record")
@click.option("--print", "print_only", is_flag=True, help="Print the commands; nothing is recorded.")
@click.option(
    "--kernel",
    metavar="RELEASE",
    show_default="this machine's",
    help="The kernel they are for.",
)
@number_option("--seconds", default="60", show_default=True, help="How long to record.")
@click.option("--output", default="trace.dat", show_default=True, metavar="FILE", help="The trace to make.")
@json_option("Print them as JSON.")
def command(print_only: bool, kernel: str | None, seconds: int, output: str, as_json: bool) -> int:
    """Show how to record the timers of a KVM host: a shell script around trace-cmd, every part explained."""
    from vlapic.live.record import recording

    if not (print_only or as_json):
        raise UsageError("record does not record by itself; --print shows the commands that do")
    found = recording(kernel, seconds=seconds, output=output)
    emit(lambda: print_json(found) if as_json else print(found.script))
    return STATUS_OK
