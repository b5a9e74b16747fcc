# SPDX-License-Identifier: GPL-2.0-or-later
"""`vlapic replay`, `convert` and `record`: what they print and end with, what they say of bad input."""

import csv
import json
import re
import sys

import pytest

from tests.support.recordings import path_of
from tests.support.replay_text import HEADER, deadline, line, sample, start, wait
from vlapic.cli import main

SECOND_VM = str(path_of("svm-shift0-secondvm-adaptive"))


@pytest.fixture
def written(tmp_path):
    """Write a trace and give its path."""

    def write(*lines, name="trace.txt"):
        path = tmp_path / name
        path.write_text(HEADER + "".join(lines))
        return str(path)

    return write


def complaint(capsys):
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vlapic: ")
    assert len(err.splitlines()) == 1
    return err


def test_a_replay_prints_its_report(capsys):
    assert main(["replay", SECOND_VM]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "profile v6.1: the trace says kernel 6.1.0-56-amd64" in out
    assert "tuning went off for all vCPUs before delta 10" in out
    assert out.splitlines()[-1] == "all 40 samples agree with the model"


def test_json_has_the_schema_and_a_reason_for_every_null(capsys):
    assert main(["replay", SECOND_VM, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["profile"]) == ("vlapic.replay/1", "v6.1")
    (vcpu,) = found["vcpus"]
    assert (vcpu["vm"], vcpu["vcpu"], vcpu["events"], vcpu["filtered"], vcpu["resets"]) == (0, 0, 40, 0, 0)
    assert (vcpu["checked"], vcpu["mismatches"], vcpu["parting"]) == (40, 0, None)
    assert vcpu["advance_ns"]["initial"] == 1000
    assert vcpu["advance_ns"]["final"] == 2628
    assert "vcpus[0].parting" in found["unavailable"]


def test_a_sample_that_differs_ends_with_3_and_says_where(written, capsys):
    trace = written(start(1), wait(10, 800), sample(20, 1100), wait(30, 800), sample(40, 1201), wait(50, 800))
    assert main(["replay", trace]) == 3
    out = capsys.readouterr().out
    assert (
        "model and samples part between delta 1 and delta 2, at 40: the model has 1200 ns, the kernel 1201 ns"
        in out
    )
    assert out.splitlines()[-1] == "1 of 2 samples differ from the model"


def test_samples_come_from_a_csv_file_by_time_or_by_number(written, tmp_path, capsys):
    trace = written(start(1), wait(10, 800), wait(20, 800), sample(25, 9))
    samples = tmp_path / "samples.csv"
    samples.write_text("timestamp,advance_ns\n5,1000\n10,1100\n15,1100\n99,1200\n")
    assert main(["replay", trace, "--samples", str(samples), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["vcpus"][0]["checked"] == 4
    samples.write_text("index,advance_ns\n0,1000\n1,1100\n2,1200\n3,1300\n")
    assert main(["replay", trace, "--samples", str(samples), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["vcpus"][0]["checked"], found["unplaced"]) == (3, 1)


def test_samples_that_have_no_place_are_told_of_when_quiet_too(written, tmp_path, capsys):
    trace = written(start(1), wait(10, 800), wait(20, 800))
    samples = tmp_path / "samples.csv"
    samples.write_text("index,advance_ns\n0,1000\n3,1300\n")
    assert main(["replay", trace, "--samples", str(samples), "--quiet"]) == 0
    assert "vlapic: 1 sample could not be placed: of no vCPU in the trace" in complaint(capsys)
    samples.write_text("vcpu,index,advance_ns\n9,0,1000\n9,1,1300\n")
    for quiet in ((), ("--quiet",), ("--json",)):
        assert main(["replay", trace, "--samples", str(samples), *quiet]) == 1
        said = capsys.readouterr()
        assert "none of the samples in" in said.err
        assert len(said.err.splitlines()) == 1
        assert bool(said.out) == (quiet != ("--quiet",))


def test_one_sample_is_no_plural(written, capsys):
    assert main(["replay", written(start(1), wait(10, 800), sample(20, 1100))]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "the only sample agrees with the model"
    assert main(["replay", written(start(1), wait(10, 800), sample(20, 1))]) == 3
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 1 sample differs from the model"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "begin with 'a,b'"),
        ("index,advance_ns\n1,x\n", "samples.csv:2 is no sample"),
        ("index,advance_ns\n1,-5\n", "advance_ns -5"),
        ("", "begin with ''"),
    ],
)
def test_a_csv_file_that_holds_no_samples_is_told_so(written, tmp_path, capsys, text, said):
    samples = tmp_path / "samples.csv"
    samples.write_text(text)
    assert main(["replay", written(start(1), wait(10, 800)), "--samples", str(samples)]) == 1
    assert said in complaint(capsys)


def test_a_trace_without_deltas_says_what_it_needs_what_it_found_and_how_to_record(written, capsys):
    assert main(["replay", written(deadline(5, 1000), line(6, "sched_wakeup: comm=x"))]) == 1
    said = complaint(capsys)
    assert "has no kvm_wait_lapic_expire" in said
    assert "Msr (1)" in said
    assert "sched_wakeup (1)" in said
    assert "trace-cmd record -C x86-tsc" in said


def test_an_unknown_frequency_says_what_to_give_and_where_to_read_it(written, capsys):
    assert main(["replay", written(wait(10, 800))]) == 1
    said = complaint(capsys)
    assert "--tsc-khz" in said
    assert "NAME.toml" in said
    assert "dmesg" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--profile", "v6.2"], "unknown profile 'v6.2'; did you mean"),
        (["--tsc-khz", "0"], "TSC frequency 0 kHz is out of range"),
        (["--advance", "often"], "--advance takes 'auto' or a whole number"),
        (["--advance", "3000", "--profile", "v6.12"], "profile v6.12 takes auto or 0"),
        (["--trajectory", "x.xlsx"], "ends in neither .csv nor .parquet"),
        (["--sample", "x"], "did you mean '--samples'"),
    ],
)
def test_wrong_arguments_end_with_2(written, capsys, arguments, said):
    assert main(["replay", written(start(1), wait(10, 800)), *arguments]) == 2
    assert said in complaint(capsys)


def test_a_file_that_is_missing_or_no_trace_ends_with_1(tmp_path, capsys):
    assert main(["replay", str(tmp_path / "none.txt")]) == 1
    complaint(capsys)
    (tmp_path / "poem.txt").write_text("roses are red\n")
    assert main(["replay", str(tmp_path / "poem.txt")]) == 1
    complaint(capsys)


def test_a_trajectory_that_cannot_be_written_ends_with_1(written, capsys):
    assert main(["replay", written(start(1), wait(10, 800)), "--trajectory", "/nowhere/at/all.csv"]) == 1
    assert "cannot write '/nowhere/at/all.csv'" in complaint(capsys)


def test_a_sidecar_says_what_the_trace_does_not(written, tmp_path, capsys):
    trace = written(wait(10, 800), wait(20, 800))
    (tmp_path / "trace.toml").write_text(
        'kernel = "5.3.0"\ntsc_khz = 1000000\n[parameters]\nlapic_timer_advance_ns = 2000\n'
    )
    assert main(["replay", trace, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["profile"], found["profile_from"]) == ("v5.3", "the sidecar says kernel 5.3.0")
    (vcpu,) = found["vcpus"]
    assert (vcpu["tsc_khz"], vcpu["parameter"], vcpu["regime"]) == (1_000_000, 2000, "fixed")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("khz = [", "is no TOML"),
        ("tsc_kz = 5", "a key 'tsc_kz'; did you mean 'tsc_khz'?"),
        ("tsc_khz = '5'", "expected a whole number"),
        ("kernel = 6.1", "expected a release in quotes"),
        ("parameters = 3", "expected a table"),
        (
            "[parameters]\nlapic_timer_advance_ns = 'often'",
            "expected -1, a number of ns up to 4294967295, Y or N",
        ),
        ("[parameters]\nlapic_timer_advance_ns = -5", "expected -1, a number of ns up to 4294967295, Y or N"),
    ],
)
def test_a_sidecar_that_is_wrong_is_told_so(written, tmp_path, capsys, text, said):
    trace = written(start(1), wait(10, 800))
    (tmp_path / "trace.toml").write_text(text)
    assert main(["replay", trace]) == 1
    assert said in complaint(capsys)


def test_a_vcpu_that_was_tuned_before_the_trace_began_starts_where_it_was(written, capsys):
    trace = written(sample(5, 2000), wait(10, 800), sample(20, 2100))
    khz = ["--tsc-khz", "1000000"]
    assert main(["replay", trace, *khz]) == 3
    assert (
        "it had 2000 ns before its first delta, so it was tuned before the trace began: --start 2000"
        in capsys.readouterr().out
    )
    assert main(["replay", trace, *khz, "--start", "2000"]) == 0
    assert "all 2 samples agree" in capsys.readouterr().out


def test_each_vcpu_has_a_start_of_its_own(written, capsys):
    trace = written(wait(10, 800), wait(11, 800, vcpu=1, tid=201), wait(20, 800))
    asked = ["--tsc-khz", "1000000", "--start", "0.0=2000", "--start", "0.1=3000", "--json"]
    assert main(["replay", trace, *asked]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["advance_ns"]["initial"], each["advance_ns"]["final"]) for each in found["vcpus"]] == [
        (2000, 2200),
        (3000, 3100),
    ]


@pytest.mark.parametrize(
    ("starts", "status", "said"),
    [
        (["x"], 2, "--start 'x' is no advancement; it takes a number of ns"),
        (["5", "6"], 2, "--start '5' is no advancement"),
        (["0.0=4294967296"], 2, "start 4294967296 ns is out of range"),
        (["2000"], 1, "the trace shows the creation of every vCPU in it (0.0)"),
        (["0.7=2000"], 1, "no vCPU 0.7 was there before the trace"),
    ],
)
def test_a_start_that_is_of_no_vcpu_is_told_so(written, capsys, starts, status, said):
    trace = written(start(1), wait(10, 800))
    assert main(["replay", trace, *(word for text in starts for word in ("--start", text))]) == status
    assert said in complaint(capsys)


@pytest.mark.parametrize("end", ["csv", "parquet"])
def test_convert_writes_every_event_as_a_row(tmp_path, capsys, end):
    out = tmp_path / f"out.{end}"
    assert main(["convert", SECOND_VM, str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    if end == "csv":
        rows = list(csv.DictReader(out.read_text().splitlines()))
        deltas = [int(row["delta_cycles"]) for row in rows if row["event"] == "WaitLapicExpire"]
        assert rows[0]["event"] == "TscOffset"
        assert rows[0]["delta_cycles"] == ""
    else:
        polars = pytest.importorskip("polars", reason="Parquet needs polars: pip install polars")
        frame = polars.read_parquet(out)
        rows = frame["event"].to_list()
        deltas = frame.filter(polars.col("event") == "WaitLapicExpire")["delta_cycles"].to_list()
        assert frame["delta_cycles"].null_count() > 0
    assert len(rows) == found["events"]
    assert len(deltas) == 40
    assert deltas[:3] == [1709, 1493, 1317]


def test_a_trace_converted_to_text_replays_as_before(tmp_path, capsys):
    out = str(tmp_path / "out.txt")
    assert main(["convert", SECOND_VM, out]) == 0
    capsys.readouterr()
    answers = []
    for trace in (SECOND_VM, out):
        assert main(["replay", trace, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        (vcpu,) = found["vcpus"]
        # vlapic's own start marker says which VM it is.
        del vcpu["vm_inferred"]
        answers.append((found["profile"], found["flips"], vcpu))
    assert answers[0] == answers[1]


def test_one_value_of_several_vcpus_keeps_its_order_as_text(tmp_path, capsys):
    trace, out = str(tmp_path / "run.txt"), str(tmp_path / "out.txt")
    run = ["run", "scaled", "--profile", "v5.0", "--vms", "2", "--events", "100", "--trace", trace, "--quiet"]
    assert main(run) == 0
    assert main(["convert", trace, out]) == 0
    assert main(["replay", out]) == 0
    assert re.search("all [1-9][0-9]* samples agree", capsys.readouterr().out)


def test_a_trace_in_ns_stays_one_as_text(tmp_path, capsys):
    trace = tmp_path / "trace.txt"
    trace.write_text(
        HEADER + line(0, "x").replace(f"{0:12d}:", "  12.345678901:").replace("x", "kvm_entry: vcpu 0")
    )
    assert main(["convert", str(trace), str(tmp_path / "out.txt"), "--kernel", "v5.4"]) == 0
    assert "   12.345678901: kvm_entry: vcpu 0\n" in (tmp_path / "out.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["out.xlsx"], 2, "ends in none of .parquet, .csv, .txt"),
        (["out.csv", "--kernel", "v5.4"], 2, "--kernel is for .txt"),
        (["out.txt", "--kernel", "5.x"], 2, "is no kernel"),
        (["out.txt", "--kernel", "v9.9"], 2, "kernel v9.9 are not known; those of v4.0 to v6.19 are"),
        (["out.txt", "--kernel", "v3.19"], 2, "kernel v3.19 are not known"),
        (["/nowhere/out.csv"], 1, "cannot write"),
    ],
)
def test_convert_says_what_is_wrong(tmp_path, monkeypatch, capsys, arguments, status, said):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", SECOND_VM, *arguments]) == status
    assert said in complaint(capsys)


def test_convert_does_not_write_over_its_trace(tmp_path, capsys):
    trace = tmp_path / "trace.txt"
    trace.write_text(HEADER + wait(10, 800))
    assert main(["convert", str(trace), str(trace)]) == 2
    assert "is the trace itself" in complaint(capsys)
    assert trace.read_text() == HEADER + wait(10, 800)


def test_parquet_without_polars_names_the_package(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "polars", None)
    assert main(["convert", SECOND_VM, str(tmp_path / "out.parquet")]) == 1
    assert "Parquet needs the package polars; pip install polars, or write .csv" in complaint(capsys)


@pytest.mark.parametrize("output", ["/dev/stdout", "out", "out.json"])
def test_convert_names_every_form_before_it_reads_anything(output, capsys):
    assert main(["convert", "/nowhere/trace.txt", output]) == 2
    assert f"{output!r} ends in none of .parquet, .csv, .txt; the end of its name says" in complaint(capsys)


def test_an_unknown_profile_is_told_before_anything_is_read(capsys):
    assert main(["replay", "/nowhere/trace.txt", "--profile", "v6.2"]) == 2
    assert "unknown profile 'v6.2'; did you mean" in complaint(capsys)


@pytest.mark.parametrize("command", [["replay"], ["convert"]])
def test_how_far_a_trace_is_read_is_shown_on_a_terminal(command, tmp_path, monkeypatch, capsys):
    outputs = [str(tmp_path / "out.csv")] if command == ["convert"] else []
    monkeypatch.setattr("vlapic.cli.progress.SHOWN_EVERY_SECONDS", 0)
    assert main([*command, SECOND_VM, *outputs]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert main([*command, SECOND_VM, *outputs]) == 0
    assert re.search(r"[1-9]\d* events read, \d+\.\d million/s", capsys.readouterr().err)


@pytest.mark.parametrize("read", ["trace", "samples"])
def test_a_trajectory_writes_over_nothing_that_is_read(read, written, tmp_path, capsys):
    trace = written(start(1), wait(10, 800), name="trace.csv")
    (tmp_path / "samples.csv").write_text("index,advance_ns\n0,1000\n")
    before = (tmp_path / f"{read}.csv").read_text()
    arguments = ["--samples", str(tmp_path / "samples.csv"), "--trajectory", str(tmp_path / f"{read}.csv")]
    assert main(["replay", trace, *arguments]) == 2
    assert f"would write over the {read}; give it another name" in complaint(capsys)
    assert (tmp_path / f"{read}.csv").read_text() == before
