# SPDX-License-Identifier: GPL-2.0-or-later
"""Columns as a Parquet file, written by polars as they come, so that memory does not hold the file.

polars takes rows from a source when it wants them, and here they are brought: a thread of its own takes what
is brought, a few chunks at a time. polars comes with the extra `trace`; only this file imports it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from queue import Full, Queue
from typing import Any

import numpy as np
import numpy.typing as npt

from vlapic.errors import OutputError
from vlapic.events.table import decoded
from vlapic.interrupts import take_back_interrupts
from vlapic.memory import in_words, is_room_for
from vlapic.output_file import OutputFile

Array = npt.NDArray[Any]

#: Addresses that polars maps until it writes (2 threads: 1120 MiB, 16: 1330; polars 2.1.0), and then.
_ROOM_TO_BEGIN = 1536 << 20
_ROOM_TO_GO_ON = 256 << 20

#: Chunks that wait to be written.
_WAITING = 4


class ParquetColumns:
    """A Parquet file under way."""

    def __init__(self, path: str | os.PathLike[str], dtypes: Mapping[str, str]) -> None:
        """Begin a file.

        Raises:
            OutputError: it cannot be written, or polars is not installed.
        """
        first = "polars" not in sys.modules
        _check_room(path, _ROOM_TO_BEGIN if first else _ROOM_TO_GO_ON)
        try:
            import polars
            from polars.io.plugins import register_io_source
        except ImportError:
            raise OutputError(
                f"cannot write {os.fspath(path)!r}: Parquet needs the package polars; pip install polars,"
                " or write .csv"
            ) from None
        if first:
            # polars' own answer would give up the file at once; a program that imported it itself keeps that.
            take_back_interrupts()
        self._path = os.fspath(path)
        # polars would say only when the first rows have come that it cannot be written.
        self._file = OutputFile(path)
        try:
            self._begin(polars, register_io_source, dtypes)
        except BaseException:
            self._file.drop()
            raise

    def _begin(self, polars: Any, register_io_source: Any, dtypes: Mapping[str, str]) -> None:
        """Let polars begin to take rows."""
        self._polars = polars
        self._chunks: Queue[Mapping[str, Array] | None] = Queue(_WAITING)
        self._failure: BaseException | None = None
        self._types = {name: _type_of(polars, np.dtype(dtype)) for name, dtype in dtypes.items()}

        def source(
            columns: list[str] | None, predicate: Any, n_rows: int | None, batch_size: int | None
        ) -> Iterator[Any]:
            while (chunk := self._chunks.get()) is not None:
                yield self._frame(chunk)

        def sink() -> None:
            try:
                register_io_source(source, schema=self._types).sink_parquet(self._file.written_to)
            except BaseException as error:  # told by the thread that brings rows
                self._failure = error

        self._thread = threading.Thread(target=sink, name="parquet", daemon=True)
        self._thread.start()

    def write(self, chunk: Mapping[str, Array]) -> None:
        """Append rows."""
        _check_room(self._path, _ROOM_TO_GO_ON)
        self._bring(dict(chunk))

    def end(self, kind: type[BaseException] | None) -> None:
        """Complete the file, or drop it where an exception ended it that is no Ctrl-C."""
        with suppress(OutputError):
            self._bring(None)
        self._thread.join()
        if self._failure is not None:
            self._file.drop()
        self._file.end(kind)
        self._complain()

    def _bring(self, chunk: Mapping[str, Array] | None) -> None:
        while True:
            self._complain()
            if not self._thread.is_alive():
                return
            with suppress(Full):
                self._chunks.put(chunk, timeout=0.2)
                return

    def _complain(self) -> None:
        if isinstance(self._failure, KeyboardInterrupt):
            raise OutputError(
                f"cannot write all of {self._path!r}: polars was interrupted; try again"
            ) from None
        if self._failure is not None:
            reason = " ".join(str(self._failure).split())
            raise OutputError(f"cannot write {self._path!r}: {reason}; try another place") from None

    def _frame(self, chunk: Mapping[str, Array]) -> Any:
        polars = self._polars
        series = []
        for name, column in chunk.items():
            values: Array | list[str] = np.ma.getdata(column)
            if column.dtype.kind == "S":
                values = decoded(np.ma.getdata(column))
            one = polars.Series(name, values, dtype=self._types[name])
            if isinstance(column, np.ma.MaskedArray):
                one = one.set(polars.Series(np.ma.getmaskarray(column)), None)
            series.append(one)
        return polars.DataFrame(series)


def _check_room(path: str | os.PathLike[str], size_bytes: int) -> None:
    """Polars aborts the process where memory ends."""
    if not is_room_for(size_bytes):
        raise OutputError(
            f"cannot write {os.fspath(path)!r}: there is no memory for polars, which needs"
            f" {size_bytes >> 20} MiB of addresses more; {in_words()}, or write .csv"
        )


def _type_of(polars: Any, dtype: np.dtype[Any]) -> Any:
    match dtype.kind:
        case "S":
            return polars.String
        case "b":
            return polars.Boolean
        case "u":
            return {1: polars.UInt8, 2: polars.UInt16, 4: polars.UInt32, 8: polars.UInt64}[dtype.itemsize]
    return {1: polars.Int8, 2: polars.Int16, 4: polars.Int32, 8: polars.Int64}[dtype.itemsize]
