# SPDX-License-Identifier: GPL-2.0-or-later
"""`vlapic compare`: results that were kept, side by side."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from vlapic.cli.arguments import json_option
from vlapic.cli.output import emit, print_by_rich, print_json
from vlapic.errors import STATUS_OK, UsageError


@click.command("compare")
@click.argument("files", nargs=-1, type=click.Path(), metavar="A.json B.json [...]")
@json_option("Print them as one JSON object.")
def command(files: tuple[str, ...], as_json: bool) -> int:
    """Show results of `vlapic run --json` side by side, whatever their guest, seed or profile.

    What differs in how they were set up is said first. A file of `vlapic run --compare --json` has several;
    - is standard input.
    """
    from vlapic.session.comparison import comparison_json, read_kept

    runs = read_kept(files)
    if len(runs) < 2:
        found = "no result" if not runs else "one result"
        raise UsageError(f"{found} to compare; give two or more, kept by run --json")
    emit(lambda: _print(runs, as_json, comparison_json("file", runs)))
    return STATUS_OK


def _print(runs: list[tuple[str, dict[str, Any]]], as_json: bool, comparison: dict[str, Any]) -> None:
    if as_json:
        print_json(comparison)
        return
    from vlapic.report.comparison import print_comparison

    print_by_rich(partial(print_comparison, runs))
