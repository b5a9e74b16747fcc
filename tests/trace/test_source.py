# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces through pipes: the same as their files, as often as they are opened."""

import array
import fcntl
import gzip
import json
import os
import signal
import subprocess
import sys
import termios
import threading
import time

import pytest

from tests.support.limits import HANGS_S, run
from tests.support.recordings import opened, path_of, text_of
from vlapic.errors import TraceError
from vlapic.trace import open_trace
from vlapic.trace.source import Origin
from vlapic.trace.write.convert import convert

NAME = "svm-shift0-secondvm-adaptive"
DAT = path_of(NAME).parent.parent / "trace/data/svm-tscdeadline-latency.dat"


@pytest.fixture
def piped(tmp_path):
    """Give the path of a FIFO that gets these bytes once."""

    def make(data):
        path = tmp_path / f"fifo{len(os.listdir(tmp_path))}"
        os.mkfifo(path)
        threading.Thread(target=path.write_bytes, args=(data,), daemon=True).start()
        return path

    return make


def vlapic(*arguments, **streams):
    return run([sys.executable, "-m", "vlapic", *arguments], capture_output=True, **streams)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_a_text_through_a_pipe_is_read_as_often_as_a_file(pack, piped, tmp_path):
    events = list(opened(tmp_path, text_of(NAME)).events())
    trace = open_trace(piped(pack(text_of(NAME))))
    assert list(trace.events()) == events
    assert list(trace.events()) == events


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gz"])
def test_a_trace_dat_through_a_pipe_is_that_of_its_file(pack, piped):
    assert list(open_trace(piped(pack(DAT.read_bytes()))).events()) == list(open_trace(DAT).events())


def test_two_readers_of_one_pipe_do_not_disturb_each_other(piped):
    origin = Origin(piped(b"0123456789" * 1000))
    with origin.open() as one, origin.open() as other:
        assert one.read(4) == other.read(4) == b"0123"
        assert one.seek(8) == 8
        assert (one.read(4), other.read(2)) == (b"8901", b"45")
        assert one.seek(-1, os.SEEK_END) == 9999
        assert one.read() == b"9"


def test_a_replay_of_standard_input_is_that_of_the_file(tmp_path):
    path = tmp_path / "trace.txt"
    path.write_bytes(text_of(NAME))
    by_name = json.loads(vlapic("replay", str(path), "--json").stdout)
    with path.open("rb") as file:
        redirected = json.loads(vlapic("replay", "-", "--json", stdin=file).stdout)
    through_pipe = json.loads(vlapic("replay", "-", "--json", input=path.read_bytes()).stdout)
    assert redirected == through_pipe == by_name | {"trace": "-"}


def test_what_was_read_of_standard_input_before_is_not_read_again(tmp_path):
    path = tmp_path / "trace.txt"
    path.write_bytes(b"not this\n" + text_of(NAME))
    with path.open("rb") as file:
        os.lseek(file.fileno(), 9, os.SEEK_SET)
        done = vlapic("replay", "-", stdin=file)
    assert done.stdout.splitlines()[-1] == b"all 40 samples agree with the model"


def test_convert_reads_a_pipe_and_refuses_to_write_over_standard_input(tmp_path, piped):
    expected = convert(path_of(NAME), tmp_path / "file.csv")
    done = convert(piped(text_of(NAME)), tmp_path / "pipe.csv")
    assert done.events == expected.events
    assert (tmp_path / "pipe.csv").read_bytes() == (tmp_path / "file.csv").read_bytes()
    path = tmp_path / "trace.txt"
    path.write_bytes(text_of(NAME))
    with path.open("rb") as file:
        refused = vlapic("convert", "-", str(path), stdin=file)
    assert (refused.returncode, path.read_bytes()) == (2, text_of(NAME))
    assert b"is the trace itself" in refused.stderr


def test_a_terminal_is_no_trace():
    master, terminal = os.openpty()
    try:
        done = vlapic("replay", "-", stdin=terminal)
    finally:
        os.close(master)
        os.close(terminal)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"'-' is a terminal; expected a trace through a pipe" in done.stderr


def test_a_device_without_an_end_is_no_trace():
    with pytest.raises(TraceError, match="'/dev/zero' is no trace"):
        open_trace("/dev/zero")


def test_a_pipe_that_finds_no_room_says_where_and_what_to_set(piped, monkeypatch):
    class Full:
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    with pytest.raises(TraceError, match=r"cannot keep what .* No space left on device; set TMPDIR"):
        Origin(piped(b"x"))


def test_ctrl_c_ends_a_pipe_and_what_came_is_replayed():
    """`cat trace_pipe | vlapic replay -` has no other end than Ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vlapic", "replay", "-", "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdin.write(text_of(NAME))
    process.stdin.flush()
    while _unread(process.stdin) or not _sleeps(process):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=HANGS_S)
    assert process.returncode == 130
    whole = json.loads(vlapic("replay", str(path_of(NAME)), "--json").stdout)
    assert json.loads(out) == whole | {"trace": "-"}
    assert err == b"vlapic: interrupted; the results are those of the trace so far\n"


def _unread(pipe):
    """How many bytes nobody has read yet."""
    left = array.array("i", [0])
    fcntl.ioctl(pipe.fileno(), termios.FIONREAD, left)
    return left[0]


def _sleeps(process):
    """Whether a process waits, here for more to come."""
    with open(f"/proc/{process.pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "S"
