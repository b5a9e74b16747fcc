# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of a comparison: one table a vCPU, a column a run, and how each differs from the first.

A row in which runs differ begins with `*`; beside a figure stands its distance from the first run's. Runs
that do not fit the width go into a further table, with the first one again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from vlapic.report.terminal import MAX_WIDTH, in_words_by_vcpu, print_details, printable
from vlapic.session.comparison import FIGURES, Figure, figure_of, setup_differences, too_few, vcpus_of, vms_of
from vlapic.session.results import RunResult, vcpu_name

_NAMES_WIDTH = 23
_VALUE_WIDTH = 11
_CHANGE_WIDTH = 8
#: Of names where a run stands beside the first alone, and how they differ below the figure.
_NARROW_NAMES_WIDTH = 17
#: A label may make its column so wide.
_LABEL_WIDTH = 17

#: Rows that are left out where all is 0.
_RARE = [figure for figure in FIGURES if figure.path in ("missed", "blocked_ns.max")]

Runs = Sequence[tuple[str, dict[str, Any]]]


def print_comparison(runs: Runs, console: Console) -> None:
    """Print what was set up differently, then the tables; `runs` are labels and objects of `run --json`."""
    runs = [(printable(label), of) for label, of in runs]
    console.print(_setup(runs), soft_wrap=True)
    _print_tables(runs, console)


def _print_tables(runs: Runs, console: Console) -> None:
    width = min(console.width, MAX_WIDTH)
    by_vcpu = vcpus_of(runs)
    form = _Form.of([label for label, _ in runs], [of for vcpus in by_vcpu.values() for of in vcpus], width)
    for (vm, vcpu), vcpus in by_vcpu.items():
        name = vcpu_name(vm, vcpu, vms_of(by_vcpu))
        for start in range(1, max(len(runs), 2), form.others):
            chosen = [0, *range(start, min(start + form.others, len(runs)))]
            labels = [runs[at][0] for at in chosen]
            console.print()
            console.print(_table(form, name, labels, [vcpus[at] for at in chosen]), soft_wrap=True)


def print_compared(by: str, results: Sequence[tuple[str, RunResult]], console: Console) -> None:
    """Print runs of now that differ in one option: tables, budgets, latest interrupts, and each in words."""
    guest = "" if by == "guest" else results[0][1].guest
    title = Text("vlapic run ", "dim").append(printable(guest), "not dim bold")
    seed = "" if by == "seed" else f"; seed {results[0][1].seed}"
    values = f"{'   ' if guest else ''}{by}: {', '.join(printable(label) for label, _ in results)}"
    if len(title) + len(values) + len(seed) > min(console.width, MAX_WIDTH):
        values = f"{'   ' if guest else ''}{len(results)} runs, by {by}"  # the tables name them
    title.append(values + seed, "dim")
    console.print(title, soft_wrap=True)
    _print_tables([(label, result.as_json()) for label, result in results], console)
    for label, result in results:
        if result.budgets or result.worst:
            console.print()
            console.print(Text(label, "bold"))
            print_details(result, console)
    console.print()
    width = max(len(label) for label, _ in results)
    for label, result in results:
        for who, words in in_words_by_vcpu(result):
            text = Text(f"{label:<{width}}  {who}").append_text(words)
            console.print(text, soft_wrap=True)


def _setup(runs: Runs) -> Text:
    """What was not set up alike, a line each; that nothing differs is said too."""
    text = Text("vlapic compare ", "dim")
    text.append(", ".join(label for label, _ in runs), "not dim bold")
    differences = setup_differences(runs)
    for name, values in differences.items():
        text.append(f"\n* {name}: " + ", ".join(_value(value) for value in values), "not dim not bold")
    if not differences:
        text.append("\n  set up alike", "not dim not bold")
    return text


class _Form(NamedTuple):
    """How wide the columns of the tables are.

    Attributes:
        names: the column of the figures' names.
        value, change: a run's two columns; no `change` of its own where it stands below the figure.
        others: how many runs stand beside the first.
    """

    names: int
    value: int
    change: int
    others: int

    @classmethod
    def of(cls, labels: Sequence[str], vcpus: Sequence[dict[str, Any] | None], width: int) -> _Form:
        """The form in which no figure is cut or touches another; labels may be cut."""
        there = [vcpu for vcpu in vcpus if vcpu is not None]
        longest = max(len(_value(figure_of(vcpu, figure))) for vcpu in there for figure in FIGURES)
        wanted = max(_VALUE_WIDTH, 1 + longest, min(_LABEL_WIDTH, 1 + max(map(len, labels))))
        if width < _NAMES_WIDTH + 2 * _VALUE_WIDTH + _CHANGE_WIDTH:
            value = max(1 + longest, (width - _NARROW_NAMES_WIDTH) // 2)
            return cls(_NARROW_NAMES_WIDTH, value, 0, 1)
        others = (width - _NAMES_WIDTH - wanted) // (wanted + _CHANGE_WIDTH)
        return cls(_NAMES_WIDTH, wanted, _CHANGE_WIDTH, max(1, others))


def _cut(label: str, width: int) -> str:
    """A label in so many columns, its middle left out if it is longer."""
    if len(label) <= width:
        return label
    end = (width - 2) // 2
    return f"{label[: width - 2 - end]}..{label[len(label) - end :]}"


def _table(form: _Form, name: str, labels: list[str], vcpus: list[dict[str, Any] | None]) -> Text:
    text = Text(f"{name:<{form.names}}", "bold")
    for at, label in enumerate(labels):
        text.append(f"{_cut(label, form.value - 1):>{form.value}}" + " " * (form.change if at else 0), "bold")
    text.rstrip()
    group = ""
    for figure in FIGURES:
        group = figure.group or group
        values = [None if vcpu is None else figure_of(vcpu, figure) for vcpu in vcpus]
        if figure in _RARE and not any(values):
            continue
        text.append("\n").append_text(_row(form, group, figure, values))
    if not form.change:
        text.append("\n  times are in ns", "dim not bold")  # names have no room for it
    few = (too_few(vcpu, figure) for figure in FIGURES for vcpu in vcpus if vcpu is not None)
    for why in dict.fromkeys(filter(None, few)):
        text.append(f"\n  {why}", "dim not bold")
    return text


def _row(form: _Form, group: str, figure: Figure, values: list[Any]) -> Text:
    differs = any(value != values[0] for value in values)
    shown = [_value(value) for value in values]
    changes = ["", *(_change(values[0], value) for value in values[1:])]
    narrow = f"{group.removesuffix(' ns')} {figure.name}"
    name = f"{figure.group:<13}{figure.name}" if form.change else narrow
    text = Text(f"{'*' if differs else ' '} {name:<{form.names - 2}}")
    if not form.change and len(shown[0]) >= form.value:
        text.rstrip()  # a word, which may be wide, behind a short name
    for at, value in enumerate(values):
        style = "bold" if value != values[0] else ""
        text.append(f"{shown[at]:>{form.value}}", style)
        if at and form.change:
            text.append(f" {changes[at]:<{form.change - 1}}")
    text.rstrip()
    if not form.change and any(changes):
        text.append(f"\n{changes[-1]:>{form.names + 2 * form.value}}")
    return text


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else printable(str(value))


def _change(first: Any, value: Any) -> str:
    """How far a figure is from the first run's; empty where that is no question."""
    if not isinstance(first, int | float) or not isinstance(value, int | float) or first == value:
        return ""
    if not first:
        return f"{value:+.7g}"
    change = 100 * (value - first) / abs(first)
    if abs(change) >= 1000:
        return f"{value / first:.3g}x"
    # What differs never reads as 0.
    return f"{change:+.1f}%" if abs(change) >= 0.05 else f"{change:+.1g}%"
