# SPDX-License-Identifier: GPL-2.0-or-later
"""The seven fixes for a terminal: each with what it mends, measured on both sides, and one told in depth."""

from __future__ import annotations

from difflib import SequenceMatcher
from functools import partial
from textwrap import fill, indent
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlapic.kernels.fixes import FIXES
from vlapic.patches import Shown, Side
from vlapic.patches.story import lines
from vlapic.report.tables import whole
from vlapic.report.terminal import MAX_WIDTH

#: The width of a column of a story: two of them and the times between fit 80 columns.
_STORY_WIDTH = 39
_NOTHING = ""


def print_shown(shown: Shown, console: Console) -> None:
    """One fix: title, symptom, figures of both sides, verdict."""
    show = partial(console.print, soft_wrap=True)
    verdict = Text("shown", "green") if shown.shown else Text("NOT SHOWN", "bold red")
    show(Text(f"{shown.scenario.fix}  {shown.title}: ", "bold").append_text(verdict))
    show(indent(fill(shown.scenario.symptom, min(console.width, MAX_WIDTH) - 3), "   "))
    show(whole(_figures(shown), console))


def _figures(shown: Shown) -> Table:
    table = Table(box=None, padding=(0, 0, 0, 2), pad_edge=False, header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("without", justify="right", no_wrap=True)
    table.add_column("with", justify="right", no_wrap=True)
    for name, label in shown.scenario.labels.items():
        table.add_row(f"   {label}", _text(shown.without.figures[name]), _text(shown.with_fix.figures[name]))
    return table


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def print_summary(all_shown: list[Shown], console: Console) -> None:
    """How many of them are shown, and which are not."""
    missing = [str(shown.scenario.fix) for shown in all_shown if not shown.shown]
    line = f"{len(all_shown) - len(missing)} of {len(all_shown)} fixes shown"
    if missing:
        line += f"; not shown: {', '.join(missing)}"
    console.print(Text(line, "bold red" if missing else "green"), soft_wrap=True)


def print_in_depth(shown: Shown, console: Console) -> None:
    """One fix with its parameters, how it was merged, and one interrupt event by event on both sides."""
    show = partial(console.print, soft_wrap=True)
    print_shown(shown, console)
    show()
    show(f"   merged in {FIXES[shown.scenario.fix].merged}")
    for name, value in shown.scenario.parameters.items():
        show(f"   {name:<20} {_text(value)}")
    show()
    show(f"   {shown.scenario.story}; times in ns from its first event")
    host_khz = shown.scenario.parameters["host_khz"]
    if console.width < 2 * _STORY_WIDTH + 2:
        for name, side in (("without", shown.without), ("with", shown.with_fix)):
            show(Text(name, "dim"))
            for _, ns, text in lines(side.story, host_khz):
                show(_line(ns, text))
        return
    show(Text(f"{'without':<{_STORY_WIDTH}}  with", "dim"))
    for left, right in _side_by_side(shown.without, shown.with_fix, host_khz):
        show(f"{left:<{_STORY_WIDTH}}  {right}".rstrip())


def _side_by_side(without: Side, with_fix: Side, host_khz: int) -> list[tuple[str, str]]:
    """The two stories' lines; events of the same kind stand next to each other where they can."""
    left, right = lines(without.story, host_khz), lines(with_fix.story, host_khz)
    rows: list[tuple[str, str]] = []
    matcher = SequenceMatcher(None, [kind for kind, *_ in left], [kind for kind, *_ in right], autojunk=False)
    for operation, left_from, left_to, right_from, right_to in matcher.get_opcodes():
        mine = [_line(ns, text) for _, ns, text in left[left_from:left_to]]
        theirs = [_line(ns, text) for _, ns, text in right[right_from:right_to]]
        if operation == "equal":
            rows += zip(mine, theirs, strict=True)
        else:
            rows += [(line, _NOTHING) for line in mine] + [(_NOTHING, line) for line in theirs]
    return rows


def _line(ns: int, text: str) -> str:
    return f"{ns:>9} {text}"
