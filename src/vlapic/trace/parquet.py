"""Columns as a Parquet file, written by polars as they come, so that memory does not hold the file.

polars takes rows from a source when it wants them, and here they are brought: a thread of its own takes what
is brought, a few chunks at a time. polars comes with the extra `trace`; only this file imports it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from queue import Full, Queue
from threading import Thread
from typing import Any

import numpy as np
import numpy.typing as npt

from vlapic.errors import OutputError

Array = npt.NDArray[Any]

#: Chunks that wait to be written.
_WAITING = 4


class ParquetColumns:
    """A Parquet file under way."""

    def __init__(self, path: str | os.PathLike[str], dtypes: Mapping[str, str]) -> None:
        """Begin a file.

        Raises:
            OutputError: it cannot be written, or polars is not installed.
        """
        try:
            import polars
            from polars.io.plugins import register_io_source
        except ImportError:
            raise OutputError(
                f"cannot write {os.fspath(path)!r}: Parquet needs polars, which is not installed; install"
                " vlapic[trace], or write .csv"
            ) from None
        self._path = os.fspath(path)
        try:
            # polars would say so only when the first rows have come.
            open(path, "wb").close()
        except OSError as error:
            raise OutputError(f"cannot write {self._path!r}: {error.strerror}; try another place") from None
        self._polars = polars
        self._chunks: Queue[Mapping[str, Array] | None] = Queue(_WAITING)
        self._failure: Exception | None = None
        self._types = {name: _type_of(polars, np.dtype(dtype)) for name, dtype in dtypes.items()}

        def source(
            columns: list[str] | None, predicate: Any, n_rows: int | None, batch_size: int | None
        ) -> Iterator[Any]:
            while (chunk := self._chunks.get()) is not None:
                yield self._frame(chunk)

        def sink() -> None:
            try:
                register_io_source(source, schema=self._types).sink_parquet(self._path)
            except Exception as error:  # told by the thread that brings rows
                self._failure = error

        self._thread = Thread(target=sink, name="parquet", daemon=True)
        self._thread.start()

    def write(self, chunk: Mapping[str, Array]) -> None:
        """Append rows."""
        self._bring(dict(chunk))

    def close(self) -> None:
        """Complete the file."""
        with suppress(OutputError):
            self._bring(None)
        self._thread.join()
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
        if self._failure is not None:
            reason = " ".join(str(self._failure).split())
            raise OutputError(f"cannot write {self._path!r}: {reason}; try another place") from None

    def _frame(self, chunk: Mapping[str, Array]) -> Any:
        polars = self._polars
        series = []
        for name, column in chunk.items():
            values = np.ma.getdata(column)
            if values.dtype.kind == "S":
                values = np.char.decode(values, "utf-8", "backslashreplace")
            one = polars.Series(name, values, dtype=self._types[name])
            if isinstance(column, np.ma.MaskedArray):
                one = one.set(polars.Series(np.ma.getmaskarray(column)), None)
            series.append(one)
        return polars.DataFrame(series)


def _type_of(polars: Any, dtype: np.dtype[Any]) -> Any:
    match dtype.kind:
        case "S":
            return polars.String
        case "b":
            return polars.Boolean
        case "u":
            return {1: polars.UInt8, 2: polars.UInt16, 4: polars.UInt32, 8: polars.UInt64}[dtype.itemsize]
    return {1: polars.Int8, 2: polars.Int16, 4: polars.Int32, 8: polars.Int64}[dtype.itemsize]
