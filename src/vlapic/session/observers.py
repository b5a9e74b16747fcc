# SPDX-License-Identifier: GPL-2.0-or-later
"""Observers: what is told of a run's events while it runs. One that fails is dropped, and the run goes on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from types import TracebackType

from vlapic.errors import OutputError
from vlapic.events import Event
from vlapic.interrupts import ends_well
from vlapic.trace.write.ftrace import FtraceTextWriter

Observer = Callable[[Event], None]

#: Events whose lines are made together. More would live long enough for the garbage collector to visit them.
_EVENTS_AT_ONCE = 256


def all_of(observers: Sequence[Observer]) -> Observer | None:
    """One observer that tells all of these; None for none, so that no event need be made.

    An observer that raises an exception is dropped with a RuntimeWarning, and is told nothing more.
    """
    if not observers:
        return None
    left = tuple(observers)

    def tell(event: Event) -> None:
        nonlocal left
        for observer in left:
            try:
                observer(event)
            except Exception as error:
                left = tuple(other for other in left if other is not observer)
                warnings.warn(
                    f"an observer failed with {type(error).__name__}: {error}; the run goes on without"
                    f" {observer!r}",
                    RuntimeWarning,
                    stacklevel=2,
                )

    return tell


class TraceFile:
    """A trace that is written as long as its file can be; a context manager that completes it.

    Attributes:
        failure: why the file is not whole, in a line; None while it is.
    """

    def __init__(self, writer: FtraceTextWriter) -> None:
        self._writer = writer
        self._open = True
        self._events: list[Event] = []
        self.failure: str | None = None

    def write(self, event: Event) -> None:
        """Append one event, at the latest when the file is completed."""
        self._events.append(event)
        if len(self._events) >= _EVENTS_AT_ONCE:
            self._write_events()

    def _write_events(self) -> None:
        if self.failure is None:
            try:
                self._writer.write_all(self._events)
            except OutputError as error:
                self.failure = str(error)
        # Only now: after a Ctrl-C amid the lines `close` makes them again.
        self._events.clear()

    def close(self) -> None:
        """Complete the file. A second call does nothing."""
        if self._open:
            self._open = False
            self._write_events()
            try:
                self._writer.close()
            except OutputError as error:
                # The first failure is the one to tell.
                self.failure = self.failure or str(error)

    def __enter__(self) -> TraceFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._open and not ends_well(kind):
            self._open = False
            self._writer.drop()
        self.close()
