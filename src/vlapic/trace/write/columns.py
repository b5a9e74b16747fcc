# SPDX-License-Identifier: GPL-2.0-or-later
"""Columns as a file, chunk by chunk: CSV by the standard library, Parquet by polars (`parquet.py`).

A chunk is an array for each column, all of one length; what a masked array masks is null, in CSV nothing.
Text is bytes (`S`) in memory and UTF-8 in the file. Numbers are decimal, flags `true` and `false`.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vlapic.errors import UsageError
from vlapic.events.table import decoded
from vlapic.output_file import OutputFile, without_packing

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

    def end(self, kind: type[BaseException] | None) -> None:
        """Complete the file; or drop it, where an exception ended it that is no Ctrl-C.

        Raises:
            OutputError: the file cannot be written.
        """


class CsvColumns:
    """A CSV file: a line of names, then a line a row."""

    def __init__(self, path: str | os.PathLike[str], dtypes: Mapping[str, str]) -> None:
        self._file = OutputFile(path)
        self._write([list(dtypes)])

    def write(self, chunk: Mapping[str, Array]) -> None:
        count = len(next(iter(chunk.values())))
        for at in range(0, count, _ROWS):
            columns = [_texts(column[at : at + _ROWS]) for column in chunk.values()]
            self._write(zip(*columns, strict=True))

    def _write(self, rows: Iterable[Any]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._file.write(text.getvalue().encode())

    def end(self, kind: type[BaseException] | None) -> None:
        self._file.end(kind)


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


@contextmanager
def columns_file(path: str | os.PathLike[str], dtypes: Mapping[str, str]) -> Iterator[ColumnWriter]:
    """A file of columns as `open_columns` begins it, that is completed, or dropped where it fails."""
    writer = open_columns(path, dtypes)
    try:
        yield writer
    except BaseException as error:
        writer.end(type(error))
        raise
    writer.end(None)


def open_columns(path: str | os.PathLike[str], dtypes: Mapping[str, str]) -> ColumnWriter:
    """Begin a file of these columns (name and numpy dtype), by the end of its name: `.csv` or `.parquet`.

    `.csv` may be packed (`.csv.gz`); Parquet packs itself.

    Raises:
        UsageError: the name ends in neither.
        OutputError: the file cannot be written, or polars is not installed, which writes Parquet.
    """
    name = without_packing(path)
    if name.endswith(".csv"):
        return CsvColumns(path, dtypes)
    if name.endswith(".parquet") and os.fspath(path).lower() == name:
        from vlapic.trace.write.parquet import ParquetColumns

        return ParquetColumns(path, dtypes)
    raise UsageError(f"{os.fspath(path)!r} ends in neither .csv nor .parquet; its name says what it becomes")
