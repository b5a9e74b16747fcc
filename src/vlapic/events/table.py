# SPDX-License-Identifier: GPL-2.0-or-later
"""Events of one class as columns, by the very declaration that makes one of them a NamedTuple."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar, get_type_hints

import numpy as np
import numpy.typing as npt

E = TypeVar("E")


_dtypes: dict[type[Any], np.dtype[Any]] = {}


def dtype_of(event_type: type[Any]) -> np.dtype[Any]:
    """The structured dtype of a class of event: a field each, in order."""
    if event_type not in _dtypes:
        hints = get_type_hints(event_type, include_extras=True)
        _dtypes[event_type] = np.dtype([(name, hint.__metadata__[0]) for name, hint in hints.items()])
    return _dtypes[event_type]


class Table(Generic[E]):
    """Events of one class as columns: `table["delta_cycles"]` is an array of shape (len(table),)."""

    __slots__ = ("event_type", "rows")

    def __init__(self, event_type: type[E], rows: npt.NDArray[Any]) -> None:
        """Wrap a structured array of dtype `dtype_of(event_type)` and shape (n,)."""
        self.event_type = event_type
        self.rows = rows

    @classmethod
    def of(cls, event_type: type[E], events: Iterable[E]) -> Table[E]:
        """Columns of these events, in their order.

        Raises:
            OverflowError: a value does not fit its column.
        """
        return cls(event_type, np.array(list(events), dtype=dtype_of(event_type)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        return self.rows[column]

    def __iter__(self) -> Iterator[E]:
        """The events again, as they went in."""
        names = _names(self.rows.dtype)
        if not names:
            return itertools.starmap(self.event_type, self.rows.tolist())
        columns = [
            decoded(self.rows[field]) if field in names else self.rows[field].tolist()
            for field in self.rows.dtype.names or ()
        ]
        return itertools.starmap(self.event_type, zip(*columns, strict=True))


def decoded(column: npt.NDArray[np.bytes_]) -> list[str]:
    """A column of names as text, each name decoded once.

    numpy's own way (`np.char.decode`) is slower, and loses a Ctrl-C that comes in the middle of it.
    """
    values: list[bytes] = column.tolist()
    names = {value: value.decode("utf-8", "backslashreplace") for value in set(values)}
    return [names[value] for value in values]


def _names(dtype: np.dtype[Any]) -> list[str]:
    """The fields that hold text."""
    return [name for name in dtype.names or () if dtype[name].kind == "S"]
