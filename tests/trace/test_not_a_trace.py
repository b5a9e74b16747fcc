# SPDX-License-Identifier: GPL-2.0-or-later
"""What vlapic writes and is no trace is called by its name where one is expected."""

import json

import pytest

from tests.support.recordings import path_of
from vlapic.errors import TraceError
from vlapic.replay import replay
from vlapic.trace import open_trace
from vlapic.trace.write.convert import convert

RECORDING = path_of("svm-shift0-secondvm-adaptive")


def test_a_table_that_convert_wrote_is_named_and_its_trace_asked_for(tmp_path):
    convert(RECORDING, tmp_path / "out.csv")
    with pytest.raises(TraceError, match="is no trace but a table of events, as `vlapic convert` writes it"):
        open_trace(tmp_path / "out.csv")


def test_a_parquet_file_that_convert_wrote_is_named(tmp_path):
    pytest.importorskip("polars", reason="Parquet is of the extra `trace`: pip install polars")
    convert(RECORDING, tmp_path / "out.parquet")
    with pytest.raises(TraceError, match="a Parquet file, as `vlapic convert` writes it; give the trace"):
        open_trace(tmp_path / "out.parquet")


def test_a_trajectory_and_a_result_are_named(tmp_path):
    result = replay(RECORDING, trajectory=tmp_path / "advance.csv")
    with pytest.raises(TraceError, match="a trajectory, as `vlapic replay --trajectory` writes it"):
        open_trace(tmp_path / "advance.csv")
    (tmp_path / "result.json").write_text(json.dumps(result.as_json(), indent=2))
    with pytest.raises(TraceError, match="a result, as `--json` prints it; give the trace of such a run"):
        open_trace(tmp_path / "result.json")
