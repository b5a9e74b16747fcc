# SPDX-License-Identifier: GPL-2.0-or-later
"""`vlapic patches`: each of the seven fixes on a running guest, without it and with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import click

from vlapic.cli import complete
from vlapic.cli.arguments import json_option
from vlapic.cli.output import complain, console, emit, print_by_rich, print_json
from vlapic.errors import STATUS_BUDGET, STATUS_INTERRUPTED, STATUS_OK

if TYPE_CHECKING:
    from vlapic.patches import Shown

SCHEMA = "vlapic.patches/1"


@click.command("patches")
@click.argument("fix", required=False, shell_complete=complete.fixes)
@json_option("Print figures, parameters and verdicts as JSON.")
def command(fix: str | None, as_json: bool) -> int:
    """Show the seven fixes of the series on running guests, or one of them, 1 to 7, event by event.

    The exit status is 0 if every bug is there without its fix and gone with it, else 3.
    """
    from vlapic.patches import SCENARIOS, examine, find

    wanted = list(SCENARIOS.values()) if fix is None else [find(fix)]
    done: list[Shown] = []
    interrupted = False
    try:
        for scenario in wanted:
            with _working(f"fix {scenario.fix}: {scenario.symptom}", quiet=as_json):
                shown = examine(scenario)
            done.append(shown)
            if not as_json:
                emit(partial(_print, shown, in_depth=fix is not None))
    except KeyboardInterrupt:
        interrupted = True
    if as_json:
        found = {"schema": SCHEMA, "fixes": done}
        emit(lambda: print_json(found))
    elif done and fix is None:
        emit(partial(_print_summary, done))
    if interrupted:
        return complain("interrupted; the fixes shown are those so far", STATUS_INTERRUPTED)
    return STATUS_OK if all(shown.shown for shown in done) else STATUS_BUDGET


@contextmanager
def _working(what: str, *, quiet: bool) -> Iterator[None]:
    """Say on a terminal what is being run."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    with console(stderr=True).status(what):
        yield


def _print(shown: Shown, in_depth: bool) -> None:
    from vlapic.report.patches import print_in_depth, print_shown

    print_by_rich(partial(print_in_depth if in_depth else print_shown, shown))
    if not in_depth:
        print()


def _print_summary(done: list[Shown]) -> None:
    from vlapic.report.patches import print_summary

    print_by_rich(partial(print_summary, done))
