# SPDX-License-Identifier: GPL-2.0-or-later
"""What lines of one event say: its forms tried on all of them, then their regular expressions on the rest."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vlapic.events import DTYPES
from vlapic.trace.exit_reasons import plugin_reason
from vlapic.trace.markers import can_be
from vlapic.trace.templates import Form
from vlapic.trace.text.scan import scan
from vlapic.trace.text.words import Text

Array = npt.NDArray[Any]

#: A state that is a number.
_NUMBER = re.compile(rb"0x[0-9a-f]{1,16}|0|[1-9][0-9]{0,18}")

#: Longest text that is read by a regular expression.
_LONGEST = 512


@dataclass
class Part:
    """Lines that had one form.

    Attributes:
        event_type: what they become.
        form: what they had.
        lines: which they are.
        rows: their events, without time; `vm` and `vcpu` only if the form says them.
    """

    event_type: type[Any]
    form: Form
    lines: Array
    rows: Array


@dataclass
class Payload:
    """One event's forms.

    Attributes:
        forms: with the event that each makes; the one that fitted last is the first.
    """

    forms: list[tuple[type[Any], Form]]
    parts: list[Part] = field(default_factory=list)

    def read(self, text: Text, lines: Array, starts: Array, ends: Array, unfinished: int) -> Array:
        """Read lines into `parts`.

        Args:
            lines: the lines' numbers, in order.
            starts, ends: where each one's text stands.
            unfinished: a line that may go on where the text ends, -1 if there is none: it is taken only if
                its form cannot go on.

        Returns:
            The lines that have none of the forms.
        """
        self.parts = []
        for event_type, form in tuple(self.forms):
            if not len(lines):
                return lines
            scanned = scan(form, text, starts, ends)
            if scanned is None:
                continue
            rows, fits = _rows(event_type, form, scanned.columns, len(lines))
            fits &= scanned.read
            if not form.closed:
                fits &= lines != unfinished
            if not fits.any():
                continue
            if fits.all():
                self.parts.append(Part(event_type, form, lines, rows))
                lines = lines[:0]
            else:
                self.parts.append(Part(event_type, form, lines[fits], rows[fits]))
                lines, starts, ends = lines[~fits], starts[~fits], ends[~fits]
            self.forms.remove((event_type, form))
            self.forms.insert(0, (event_type, form))
        left = [
            line
            for line, start, end in zip(lines.tolist(), starts.tolist(), ends.tolist(), strict=False)
            if not self._read_one(text.cut(start, min(end, start + _LONGEST)), line, line == unfinished)
        ]
        return np.array(left, np.int64)

    def _read_one(self, text: bytes, line: int, unfinished: bool) -> bool:
        for event_type, form in self.forms:
            fields = form.read(text)
            if fields is None or (unfinished and not form.closed):
                continue
            columns: dict[str, Array] = {
                name: np.array([value.encode() if isinstance(value, str) else value % (1 << 64)])
                for name, value in fields.items()
            }
            columns = {
                name: column if column.dtype.kind == "S" else column.astype(np.uint64)
                for name, column in columns.items()
            }
            rows, fits = _rows(event_type, form, columns, 1)
            if fits[0]:
                self.parts.append(Part(event_type, form, np.array([line]), rows))
                return True
        return False


def _rows(event_type: type[Any], form: Form, columns: dict[str, Array], count: int) -> tuple[Array, Array]:
    """Events of a form's columns, and which of them have values that an event can have."""
    if form.decode is not None:
        columns = form.decode(columns)
    dtype = DTYPES[event_type]
    rows = np.zeros(count, dtype)
    fits = np.ones(count, bool)
    for name, column in columns.items():
        if name.startswith("_"):
            continue
        kind, size = dtype[name].kind, dtype[name].itemsize
        if kind == "u" and size < 8:
            fits &= column <= np.uint64((1 << 8 * size) - 1)
        elif kind == "b":
            fits &= column <= np.uint64(1)
        elif kind == "i" and size < 8:
            limit = np.uint64(1 << (8 * size - 1))
            fits &= column + limit < limit + limit
        rows[name] = _NAMED[name](column) if name in _NAMED else column
    fits &= can_be(event_type, columns)
    return rows, fits


def _task_states(column: Array) -> Array:
    """sched_switch's states by their letters, where a printer gives numbers in place of them."""
    from vlapic.trace.dat.decode import TASK_STATES
    from vlapic.trace.dat.names import flag_names

    name = flag_names(TASK_STATES)
    states, where = np.unique(column, return_inverse=True)
    letters = [
        name(int(state, 0)).encode() if _NUMBER.fullmatch(state) else state for state in states.tolist()
    ]
    return np.array(letters, column.dtype)[where] if letters != states.tolist() else column


#: Fields whose text has more than one way to say a thing.
_NAMED: dict[str, Callable[[Array], Array]] = {"reason": plugin_reason, "previous_state": _task_states}
