# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory that runs out is told in one line, is status 1, and leaves no file behind."""

import os
import resource
import subprocess
import sys

import pytest

from tests.support.recordings import path_of
from vlapic.cli import main

RECORDING = str(path_of("vmx-bochs27-settsc-adaptive"))
#: Of the machine on which nothing is limited, a limit is told in its own words.
ROOM = resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY

pytestmark = pytest.mark.skipif(
    not ROOM, reason="this process has a limit of its own; try without `ulimit -v`"
)


def limited(mebibytes, *arguments):
    """The command line in a process that may map so much."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (mebibytes << 20, mebibytes << 20))

    command = [sys.executable, "-m", "vlapic", *arguments]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)


@pytest.mark.parametrize(
    ("mebibytes", "arguments"),
    [
        (400, ["run", "--events", "50"]),
        (1400, ["run", "ipi", "--vcpus", "2", "--events", "50"]),
        (60, ["run", "--events", "50"]),
        (60, ["replay", RECORDING]),
        (60, ["convert", RECORDING, "OUT.csv"]),
        (60, ["convert", RECORDING, "OUT.txt"]),
        (600, ["convert", RECORDING, "OUT.parquet"]),
        (900, ["convert", RECORDING, "OUT.parquet"]),
        (900, ["replay", RECORDING, "--trajectory", "OUT.parquet"]),
    ],
)
def test_too_little_memory_is_one_line_and_status_1(mebibytes, arguments, tmp_path):
    if arguments[-1].endswith("parquet"):
        pytest.importorskip("polars")
    (tmp_path / "OUT").mkdir()
    done = limited(mebibytes, *(word.replace("OUT", str(tmp_path / "OUT/x")) for word in arguments))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert "memory" in done.stderr
    assert "stdout" not in done.stderr
    assert os.listdir(tmp_path / "OUT") == []


@pytest.mark.parametrize("mebibytes", [300, 500])
def test_rules_are_not_compiled_where_the_compiler_has_no_room(mebibytes):
    done = limited(mebibytes, "replay", RECORDING, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_only_the_options_of_the_command_are_offered(capsys, monkeypatch):
    def exhausted(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("vlapic.replay.run.replay", exhausted)
    monkeypatch.setattr("vlapic.run", exhausted)
    assert main(["replay", RECORDING]) == 1
    assert "--" not in capsys.readouterr().err
    assert main(["run"]) == 1
    assert capsys.readouterr().err.endswith("or give it less to do (--memory, --vcpus, --vms)\n")


def test_memory_that_ends_in_the_middle_is_told_so(monkeypatch, capsys):
    def exhausted(*args, **kwargs):
        raise MemoryError

    for error in (MemoryError(), OSError(12, "Cannot allocate memory")):
        monkeypatch.setattr("vlapic.run", lambda *args, error=error, **kwargs: (_ for _ in ()).throw(error))
        assert main(["run"]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("vlapic: memory is exhausted: ")
        assert err.count("\n") == 1
