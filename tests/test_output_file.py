# SPDX-License-Identifier: GPL-2.0-or-later
"""Files are put in their place when they are whole, and leave it as it was where they fail."""

import gzip
import lzma
import os
import subprocess
import sys
from contextlib import suppress

import pytest
import zstandard

from tests.support.recordings import path_of
from vlapic.cli import main
from vlapic.errors import OutputError, UsageError
from vlapic.output_file import OutputFile
from vlapic.session.observers import TraceFile
from vlapic.trace.write.columns import columns_file
from vlapic.trace.write.ftrace import FtraceTextWriter

RECORDING = str(path_of("vmx-bochs27-settsc-adaptive"))


def test_a_file_is_not_in_its_place_before_it_is_whole(tmp_path):
    place = tmp_path / "out"
    with OutputFile(place) as file:
        file.write(b"one, ")
        assert not place.exists()
        file.write(b"two")
    assert place.read_bytes() == b"one, two"
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_that_fails_leaves_what_stood_there(tmp_path):
    place = tmp_path / "out"
    place.write_bytes(b"of yesterday")
    with suppress(ValueError), OutputFile(place) as file:
        file.write(b"x" * 3_000_000)
        raise ValueError
    assert place.read_bytes() == b"of yesterday"
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_that_a_person_ends_is_kept(tmp_path):
    with suppress(KeyboardInterrupt), OutputFile(tmp_path / "out") as file:
        file.write(b"so far")
        raise KeyboardInterrupt
    assert (tmp_path / "out").read_bytes() == b"so far"


def test_a_file_that_is_forgotten_leaves_nothing(tmp_path):
    file = OutputFile(tmp_path / "out")
    file.write(b"x")
    del file
    assert os.listdir(tmp_path) == []


def test_a_link_and_the_mode_of_what_stood_there_stay(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    with OutputFile(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        with OutputFile(tmp_path / "out"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640


def test_a_name_as_long_as_can_be_is_written(tmp_path):
    with OutputFile(tmp_path / ("n" * 255)) as file:
        file.write(b"x")
    assert os.listdir(tmp_path) == ["n" * 255]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("missing/out", "No such file or directory"),
        ("", "No such file or directory"),
        (".", "Is a directory"),
    ],
)
def test_a_place_that_cannot_be_written_is_found_at_once(place, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=rf"cannot write the trace '{place}': {reason}; try another place"):
        OutputFile(place, "the trace")


def test_a_full_disk_is_told_once_and_the_file_is_not_kept():
    file = OutputFile("/dev/full")
    with pytest.raises(OutputError, match="No space left on device"):
        file.write(b"x" * 2_000_000)
    file.keep()


def test_a_trace_whose_disk_is_full_half_way_is_not_there(tmp_path, monkeypatch):
    place = tmp_path / "trace.txt"
    trace = TraceFile(FtraceTextWriter.open(place, "v6.1", host_khz=1))
    monkeypatch.setattr(os, "write", full)
    trace.close()
    assert "No space left" in trace.failure
    assert os.listdir(tmp_path) == []


def full(*args):
    raise OSError(28, "No space left on device")


def test_a_pipe_gets_what_is_written_as_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE)
    with OutputFile(tmp_path / "pipe") as file:
        file.write(b"through")
        assert not file.seekable()
    assert reader.communicate()[0] == b"through"


UNPACKED = {".gz": gzip.decompress, ".xz": lzma.decompress, ".zst": lambda data: unzstd(data)}


def unzstd(data):
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


@pytest.mark.parametrize("end", UNPACKED)
@pytest.mark.parametrize("form", [".txt", ".csv"])
def test_convert_packs_by_the_end_of_the_name(end, form, tmp_path, capsys):
    packed, plain = tmp_path / f"out{form}{end}", tmp_path / f"out{form}"
    for path in (packed, plain):
        assert main(["convert", RECORDING, str(path)]) == 0
    unpacked = UNPACKED[end](packed.read_bytes())
    # The header of a text counts its events where it can be written at the end.
    lines = [line for line in plain.read_bytes().splitlines() if b"entries-in-buffer" not in line]
    found = unpacked.splitlines()
    assert [line for line in found if line != b"#"] == [line for line in lines if line != b"#"]


def test_run_packs_its_trace_by_the_end_of_the_name_and_always_alike(tmp_path, capsys):
    packed = []
    for name in ("a.txt.gz", "b.txt.gz"):
        assert main(["run", "--events", "20", "--trace", str(tmp_path / name), "--json"]) == 0
        packed.append((tmp_path / name).read_bytes())
    assert packed[0] == packed[1]
    assert b"tracer: nop" in gzip.decompress(packed[0])
    assert main(["replay", str(tmp_path / "a.txt.gz")]) == 0


def test_a_packed_parquet_is_refused(tmp_path, capsys):
    assert main(["convert", RECORDING, str(tmp_path / "out.parquet.gz")]) == 2
    assert "Parquet packs itself" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def ends_with(error, monkeypatch):
    """Let the reading of a text end so behind its first batch."""
    from vlapic.trace.text.reader import TextReader

    real = TextReader.batches

    def batches(self):
        yield next(iter(real(self)))
        raise error

    monkeypatch.setattr(TextReader, "batches", batches)


@pytest.mark.parametrize("name", ["out.csv", "out.txt", "out.parquet"])
def test_a_conversion_that_fails_leaves_what_stood_there(name, tmp_path, capsys, monkeypatch):
    if name.endswith("parquet"):
        pytest.importorskip("polars")
    (tmp_path / name).write_bytes(b"of yesterday")
    ends_with(MemoryError, monkeypatch)
    assert main(["convert", RECORDING, str(tmp_path / name)]) == 1
    assert "memory" in capsys.readouterr().err
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == b"of yesterday"


INTERRUPTED = """
import os, signal, sys
from vlapic.output_file import OutputFile

place, end = sys.argv[1:]
real, calls = os.write, 0

def interrupted(fd, data):
    # Alternately before and after what is asked for has been done, and a part of it.
    global calls
    calls += 1
    if calls % 3 == 0:
        raise KeyboardInterrupt
    done = real(fd, data[: max(len(data) // 2, 1)])
    if calls % 3 == 1:
        raise KeyboardInterrupt
    return done

os.write = interrupted
file = OutputFile(place + end)
for number in range(40):
    try:
        file.write(b"%06d\\n" % number * 20_000)
    except KeyboardInterrupt:
        pass
while True:
    try:
        file.keep()
        break
    except KeyboardInterrupt:
        pass
"""


@pytest.mark.parametrize("end", ["", ".gz"])
def test_ctrl_c_neither_cuts_nor_doubles_what_was_given(end, tmp_path):
    place = str(tmp_path / "out")
    subprocess.run([sys.executable, "-c", INTERRUPTED, place, end], check=True)
    data = (tmp_path / f"out{end}").read_bytes()
    assert (gzip.decompress(data) if end else data) == b"".join(b"%06d\n" % n * 20_000 for n in range(40))


def test_columns_that_a_person_ends_are_whole_rows(tmp_path):
    import numpy as np

    with suppress(KeyboardInterrupt), columns_file(tmp_path / "out.csv", {"n": "u8"}) as writer:
        writer.write({"n": np.arange(1000)})
        raise KeyboardInterrupt
    assert (tmp_path / "out.csv").read_text().splitlines() == ["n", *map(str, range(1000))]


@pytest.mark.parametrize("name", ["out.csv", "out.txt", "out.parquet"])
def test_a_conversion_that_a_person_ends_has_the_events_so_far(name, tmp_path, capsys, monkeypatch):
    if name.endswith("parquet"):
        pytest.importorskip("polars")
    ends_with(KeyboardInterrupt, monkeypatch)
    assert main(["convert", RECORDING, str(tmp_path / name)]) == 130
    assert capsys.readouterr().err == "vlapic: interrupted; the output has the events so far\n"
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).stat().st_size > 10_000


def test_a_dash_is_stdout_and_nothing_else_is_printed_there(tmp_path, capfd):
    assert main(["run", "--events", "20", "--trace", str(tmp_path / "trace.txt"), "--quiet"]) == 0
    assert main(["run", "--events", "20", "--trace", "-"]) == 0
    out, err = capfd.readouterr()
    # A pipe cannot be gone back in, to say how many events there are.
    written = (tmp_path / "trace.txt").read_text().splitlines()
    assert err == ""
    assert out.splitlines() == [line for line in written if "entries-in-buffer" not in line][:2] + written[4:]
    assert main(["convert", str(tmp_path / "trace.txt"), "-", "--kernel", "v5.2"]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[-20:] == written[-20:]
    assert err.startswith("vlapic: stdout: ")
    assert err.endswith(" events\n")


@pytest.mark.parametrize(
    "arguments", [["run", "--trace", "-"], ["run", "--junit", "-"], ["convert", RECORDING, "-"]]
)
def test_two_results_do_not_both_go_to_stdout(arguments, capsys):
    assert main([*arguments, "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "contradict each other: both would go to stdout" in err


def test_a_reader_of_stdout_that_goes_away_is_no_failure():
    command = f"{sys.executable} -m vlapic run --events 3000 --trace - | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("# tracer: nop\n0\n", "")


def test_a_pipe_under_dev_fd_is_written():
    run = f"{sys.executable} -m vlapic run --events 3 --quiet --trace"
    script = f"{run} >(tail -n 1 | cut -c 1-20; echo over) | cat"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.endswith("over\n")
    done = subprocess.run(["bash", "-c", f"{run} /dev/stdout | head -n 1"], capture_output=True, text=True)
    assert done.stdout == "# tracer: nop\n"


@pytest.mark.parametrize("end", [".bz2", ".lz4", ".lzma", ".Z", ".zip"])
def test_a_packing_that_is_not_known_is_refused(tmp_path, end):
    with pytest.raises(UsageError, match=rf"ends in \{end}, .*known: .gz, .xz, .zst"):
        OutputFile(tmp_path / f"out.txt{end}")
    assert os.listdir(tmp_path) == []


def test_a_stdout_that_is_closed_is_told_so():
    command = f"exec {sys.executable} -m vlapic run --events 5 --trace - >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "vlapic: cannot write the trace '-': it is closed\n")


def test_a_reader_that_left_is_told_nothing():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "vlapic", "convert", RECORDING, "-"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
