"""What a terminal shows while a guest runs: a line, or a table of the vCPUs; it goes when the run ends.

Drawn on stderr, when the run reports how far it is: no thread of its own. Where stderr is no terminal there
is nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlapic.session import SoFar


@contextmanager
def progress(*, quiet: bool, live: bool, label: str = "") -> Iterator[Callable[[SoFar], None] | None]:
    """What to call with how far a run is; None where nobody would see it.

    Args:
        quiet: whether nobody wants to.
        live: show the table of the vCPUs instead of a line.
        label: of this run, if there are several.
    """
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
    elif live:
        with _table() as show:
            yield show
    else:
        with _line(label) as show:
            yield show


def interrupts_a_second(now: SoFar, begun: float) -> float:
    """Timer interrupts of the first vCPU a second of wall time, since `begun` of the monotonic clock."""
    return now.interrupts / max(time.monotonic() - begun, 1e-3)


@contextmanager
def _line(label: str) -> Iterator[Callable[[SoFar], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("interrupts, {task.fields[rate]:.0f}/s, {task.fields[seconds]:.3f} s of virtual time"),
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,
        expand=True,
    )
    begun = time.monotonic()
    with bar:
        task = bar.add_task(label, total=None, rate=0.0, seconds=0.0)

        def show(now: SoFar) -> None:
            bar.update(
                task,
                completed=now.interrupts,
                total=now.asked_for,
                rate=interrupts_a_second(now, begun),
                seconds=now.virtual_ns / 1e9,
                refresh=True,
            )

        yield show


@contextmanager
def _table() -> Iterator[Callable[[SoFar], None]]:
    from rich.console import Console
    from rich.live import Live

    from vlapic.report.terminal import live_table

    begun = time.monotonic()
    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:

        def show(now: SoFar) -> None:
            rate = interrupts_a_second(now, begun)
            live.update(live_table(now.result(), now.interrupts, now.asked_for, rate), refresh=True)

        yield show
