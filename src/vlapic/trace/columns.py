"""Columns as a file, chunk by chunk: CSV by the standard library, Parquet by polars (`parquet.py`).

A chunk is an array for each column, all of one length; what a masked array masks is null, in CSV nothing.
Text is bytes (`S`) in memory and UTF-8 in the file. Numbers are decimal, flags `true` and `false`.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vlapic.errors import OutputError, UsageError
from vlapic.events.table import decoded

Array = npt.NDArray[Any]

#: Rows that are turned into text at a time.
_ROWS = 65_536


class ColumnWriter(Protocol):
    """A file of columns under way."""

    def write(self, chunk: Mapping[str, Array]) -> None:
        """Append rows.

        Raises:
            OutputError: the file cannot be written.
        """

    def close(self) -> None:
        """Complete the file.

        Raises:
            OutputError: the file cannot be written.
        """


class CsvColumns:
    """A CSV file: a line of names, then a line a row."""

    def __init__(self, path: str | os.PathLike[str], dtypes: Mapping[str, str]) -> None:
        self._path = os.fspath(path)
        try:
            self._file = open(path, "w", newline="", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise cannot_write(self._path, error) from None
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._rows.writerow(dtypes)

    def write(self, chunk: Mapping[str, Array]) -> None:
        count = len(next(iter(chunk.values())))
        try:
            for at in range(0, count, _ROWS):
                columns = [_texts(column[at : at + _ROWS]) for column in chunk.values()]
                self._rows.writerows(zip(*columns, strict=True))
        except OSError as error:
            raise cannot_write(self._path, error) from None

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise cannot_write(self._path, error) from None


def _texts(column: Array) -> list[Any]:
    """A column's values as CSV has them."""
    values: list[Any]
    match column.dtype.kind:
        case "S":
            values = decoded(np.ma.getdata(column))
        case "b":
            values = np.where(np.ma.getdata(column), "true", "false").tolist()
        case _:
            values = np.ma.getdata(column).tolist()
    if isinstance(column, np.ma.MaskedArray):
        values = [
            "" if null else value for value, null in zip(values, np.ma.getmaskarray(column), strict=True)
        ]
    return values


def open_columns(path: str | os.PathLike[str], dtypes: Mapping[str, str]) -> ColumnWriter:
    """Begin a file of these columns (name and numpy dtype), by the end of its name: `.csv` or `.parquet`.

    Raises:
        UsageError: the name ends in neither.
        OutputError: the file cannot be written, or polars is not installed, which writes Parquet.
    """
    name = os.fspath(path).lower()
    if name.endswith(".csv"):
        return CsvColumns(path, dtypes)
    if name.endswith(".parquet"):
        from vlapic.trace.parquet import ParquetColumns

        return ParquetColumns(path, dtypes)
    raise UsageError(f"{os.fspath(path)!r} ends in neither .csv nor .parquet; its name says what it becomes")


def cannot_write(path: str, error: OSError) -> OutputError:
    """The error for a file that cannot be written."""
    return OutputError(f"cannot write {path!r}: {error.strerror}; try another place")
