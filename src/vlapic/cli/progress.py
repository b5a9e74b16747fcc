# SPDX-License-Identifier: GPL-2.0-or-later
"""What a terminal shows while a guest runs: a line, or a table of the vCPUs; it goes when the run ends.

Drawn on stderr, when the run reports how far it is: no thread of its own. Where stderr is no terminal there
is nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from vlapic.cli.output import console

if TYPE_CHECKING:
    from vlapic.replay.run import SoFar as ReplayedSoFar
    from vlapic.session.spec import SoFar

#: How often what a trace has come to is drawn anew.
SHOWN_EVERY_SECONDS = 0.2


class Show(Protocol):
    """Shows how far a run is."""

    def __call__(self, now: SoFar, label: str = "") -> None:
        """Draw it."""


@contextmanager
def progress(*, quiet: bool, live: bool) -> Iterator[Show | None]:
    """What to call with how far a run is, and its label if there are several; None where it is not seen.

    Args:
        quiet: whether it is not wanted.
        live: show the table of the vCPUs instead of a line.
    """
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
    elif live:
        with _table() as show:
            yield show
    else:
        with _line() as show:
            yield show


@contextmanager
def events_progress(*, quiet: bool) -> Iterator[Callable[[ReplayedSoFar | int], None] | None]:
    """What to call with how far a trace has been read, or how many events; None where it is not seen."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress, TextColumn

    bar = Progress(
        TextColumn("{task.fields[events]} events read, {task.fields[rate]:.1f} million/s{task.fields[more]}"),
        console=console(stderr=True),
        transient=True,
        auto_refresh=False,
    )
    begun = shown = time.monotonic()
    with bar:
        task = bar.add_task("", total=None, events=0, rate=0.0, more="")

        def show(now: ReplayedSoFar | int) -> None:
            nonlocal shown
            clock = time.monotonic()
            if clock - shown >= SHOWN_EVERY_SECONDS:
                shown = clock
                events, more = (now, "") if isinstance(now, int) else (now.events, f", {now.deltas} deltas")
                rate = events / max(clock - begun, 1e-3) / 1e6
                bar.update(task, events=events, rate=rate, more=more, refresh=True)

        yield show


class Rate:
    """Timer interrupts of the first vCPU a second of wall time, since its run began."""

    def __init__(self) -> None:
        self._label = ""
        self._begun = self._shown = time.monotonic()

    def __call__(self, now: SoFar, label: str) -> float:
        if label != self._label:
            # It began when the one before was shown last, or a little later.
            self._label, self._begun = label, self._shown
        self._shown = time.monotonic()
        return now.interrupts / max(self._shown - self._begun, 0.1)


@contextmanager
def _line() -> Iterator[Show]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("interrupts, {task.fields[rate]:.0f}/s, {task.fields[seconds]:.3f} s of virtual time"),
        console=console(stderr=True),
        transient=True,
        auto_refresh=False,
        expand=True,
    )
    rate = Rate()
    with bar:
        task = bar.add_task("", total=None, rate=0.0, seconds=0.0)

        def show(now: SoFar, label: str = "") -> None:
            bar.update(
                task,
                description=label,
                completed=now.interrupts,
                total=now.asked_for,
                rate=rate(now, label),
                seconds=now.virtual_ns / 1e9,
                refresh=True,
            )

        yield show


@contextmanager
def _table() -> Iterator[Show]:
    from rich.live import Live

    from vlapic.report.terminal import live_table

    rate = Rate()
    on = console(stderr=True)
    with Live(console=on, transient=True, auto_refresh=False) as live:

        def show(now: SoFar, label: str = "") -> None:
            live.update(live_table(now, label, rate(now, label), on), refresh=True)

        yield show
