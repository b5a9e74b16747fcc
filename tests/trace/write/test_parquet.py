# SPDX-License-Identifier: GPL-2.0-or-later
"""Parquet files that come into being chunk by chunk."""

import sys

import pytest

from tests.support.limits import run

pytest.importorskip("polars", reason="Parquet needs polars: pip install polars")

INTERRUPTED = """
import os, signal, sys
import numpy as np
from vlapic.trace.write.parquet import ParquetColumns

writer = ParquetColumns(sys.argv[1], {"n": "u8"})
told = 0
for number in range(20):
    writer.write({"n": np.full(10_000, number, "u8")})
    if number == 10:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([signal.SIGUSR1], 1)
        except KeyboardInterrupt:
            told += 1
writer.end(None)
print(told)
"""


def test_ctrl_c_is_told_to_who_writes_and_costs_no_row(tmp_path):
    import polars

    out = tmp_path / "out.parquet"
    done = run([sys.executable, "-c", INTERRUPTED, str(out)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
    assert polars.read_parquet(out)["n"].to_list()[::10_000] == list(range(20))
