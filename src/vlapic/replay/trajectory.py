# SPDX-License-Identifier: GPL-2.0-or-later
"""The trajectory of a replay as a file: a row for every kvm_wait_lapic_expire, as CSV or Parquet.

Columns: vm, vcpu, index (of the delta, from 0, for each vCPU), timestamp, delta_cycles, advance_before_ns,
advance_after_ns. Rows are in the order of the trace.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

from vlapic.replay.replayer import Rows
from vlapic.trace.write.columns import ColumnWriter, open_columns

#: Widths of the columns.
DTYPES = {
    "vm": "u4",
    "vcpu": "u4",
    "index": "u8",
    "timestamp": "u8",
    "delta_cycles": "i8",
    "advance_before_ns": "u4",
    "advance_after_ns": "u4",
}


class Trajectory:
    """A trajectory's file, by its name: `.csv` or `.parquet`; a context manager that completes it.

    Raises:
        UsageError: the name ends in neither.
        OutputError: it cannot be written, now or at any later call.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._writer: ColumnWriter = open_columns(path, DTYPES)

    def add(self, rows: Rows) -> None:
        """Append rows."""
        columns: dict[str, Any] = vars(rows)
        self._writer.write({name: columns[name].astype(dtype) for name, dtype in DTYPES.items()})

    def __enter__(self) -> Trajectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._writer.end(kind)
