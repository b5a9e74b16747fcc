# SPDX-License-Identifier: GPL-2.0-or-later
"""`vlapic compare` and `vlapic run --compare`: runs side by side."""

import json
from pathlib import Path

import pytest

from tests.support.made_up import run_result, vcpu_result
from vlapic.cli import main
from vlapic.session import comparison


@pytest.fixture
def kept(tmp_path, capsys):
    """Two kept results and a kept comparison."""
    paths = []
    for name, options in (
        ("a", ["--seed", "1"]),
        ("b", ["--seed", "2", "deadline-hlt"]),
        ("c", ["--compare", "advance=0,auto"]),
    ):
        path = tmp_path / f"{name}.json"
        assert main(["run", "--json", "--events", "40", *options]) == 0
        path.write_text(capsys.readouterr().out)
        paths.append(str(path))
    return paths


def test_kept_results_are_shown_side_by_side_with_what_was_set_up_differently(kept, capsys):
    assert main(["compare", *kept]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(
        "vlapic compare a, b, c 0, c auto\n* seed: 1, 2, 0, 0\n* guest: deadline, deadline-hlt, "
    )
    assert "vCPU 0" in out


def test_kept_results_as_json_are_one_object(kept, capsys):
    assert main(["compare", "--json", *kept]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["schema"], printed["by"]) == ("vlapic.compare/1", "file")
    assert [each["label"] for each in printed["runs"]] == ["a", "b", "c 0", "c auto"]
    assert printed["runs"][0]["run"] == json.loads(Path(kept[0]).read_text())


def test_one_of_them_may_come_through_a_pipe(kept, capsys, monkeypatch):
    with open(kept[0]) as file:
        monkeypatch.setattr("sys.stdin", file)
        assert main(["compare", "-", str(kept[1]), "--json"]) == 0
    assert [each["label"] for each in json.loads(capsys.readouterr().out)["runs"]] == ["-", "b"]


def test_one_result_is_not_enough(kept, capsys):
    for files, found in (([], "no result"), (kept[:1], "one result")):
        assert main(["compare", *files]) == 2
        assert (
            capsys.readouterr().err == f"vlapic: {found} to compare; give two or more, kept by run --json\n"
        )
    assert main(["compare", kept[2]]) == 0


def test_a_file_that_is_no_result_is_one_line_and_status_1(kept, tmp_path, capsys):
    path = tmp_path / "x.json"
    path.write_text("{}")
    assert main(["compare", kept[0], str(path)]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def test_a_comparison_prints_a_column_each_and_its_words(capsys):
    assert main(["run", "--compare", "timer=hrtimer,preemption", "--events", "50"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "vlapic run deadline   timer: hrtimer, preemption; seed 0"
    assert lines[2].split() == ["vCPU", "0", "hrtimer", "preemption"]
    assert [line.split()[0] for line in lines[-2:]] == ["hrtimer", "preemption"]


def test_budgets_of_a_comparison_name_the_run_that_missed_them(capsys):
    arguments = ["run", "--compare", "advance=0,auto", "--events", "50", "--budget", "p50=700ns"]
    assert main(arguments) == 3
    out, err = capsys.readouterr()
    assert err == "vlapic: 0: 1 of 1 budgets missed\n"
    assert out.count("MISSED") == 1
    assert main([*arguments, "--json"]) == 3
    assert capsys.readouterr().err.startswith("vlapic: 0: missed p50=700ns: vCPU 0: 10")


def test_the_latest_interrupts_are_shown_for_each_run(capsys):
    assert main(["run", "--compare", "advance=0,auto", "--events", "50", "--worst", "1"]) == 0
    assert capsys.readouterr().out.count("took ns") == 2


@pytest.mark.parametrize("option", [["--advance", "0"], ["--advance", "auto"]])
def test_an_option_that_is_varied_cannot_be_set(capsys, option):
    assert main(["run", "--compare", "advance=0,auto", *option]) == 2
    assert capsys.readouterr().err == (
        "vlapic: --compare varies advance, and --advance sets it: they contradict each other; leave one out\n"
    )


def test_ctrl_c_between_two_runs_keeps_those_before(monkeypatch, capsys):
    def run_once(spec):
        if spec.advance:
            raise KeyboardInterrupt
        return run_result()

    monkeypatch.setattr(comparison, "run_spec", run_once)
    assert main(["run", "--compare", "advance=0,1,2", "--json"]) == 130
    out, err = capsys.readouterr()
    assert err == "vlapic: interrupted after run 1 of 3; the results are those so far\n"
    assert [each["label"] for each in json.loads(out)["runs"]] == ["0"]


@pytest.mark.parametrize("as_json", [False, True])
def test_after_ctrl_c_the_runs_so_far_are_shown(monkeypatch, capsys, as_json):
    results = [run_result(), run_result(exit_code=None, interrupted=True)]
    monkeypatch.setattr(comparison, "run_spec", lambda spec: results.pop(0))
    assert main(["run", "--compare", "advance=0,1,2", *["--json"] * as_json]) == 130
    out, err = capsys.readouterr()
    assert err == "vlapic: interrupted in run 2 of 3; the results are those so far\n"
    if as_json:
        assert [each["label"] for each in json.loads(out)["runs"]] == ["0", "1"]
    else:
        assert out.splitlines()[2].split() == ["vCPU", "0", "0", "1"]


def test_one_run_interrupted_at_once_is_shown_alone(monkeypatch, capsys):
    monkeypatch.setattr(comparison, "run_spec", lambda spec: run_result(vcpu_result([]), interrupted=True))
    assert main(["run", "--compare", "advance=0,1,2"]) == 130
    assert capsys.readouterr().out.splitlines()[2].split() == ["vCPU", "0", "0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compare", "seed=1,2", "--seed", "3"], "--compare varies seed, and --seed sets it"),
        (["--compare", "tsc-khz=1,2", "--tsc-khz", "3"], "--compare varies tsc-khz, and --tsc-khz sets it"),
        (["--compare", "tsc_khz=1,2", "--tsc-khz", "3"], "--compare varies tsc-khz, and --tsc-khz sets it"),
        (["--compare", "memory=16,32", "--memory", "64"], "--compare varies memory, and --memory sets it"),
        (["--compare", "guest=deadline,ipi", "storm"], "--compare varies guest, and GUEST sets it"),
    ],
)
def test_what_is_varied_and_set_is_refused_in_a_line(capsys, arguments, message):
    assert main(["run", *arguments]) == 2
    assert capsys.readouterr() == ("", f"vlapic: {message}: they contradict each other; leave one out\n")


def test_guests_that_are_compared_are_no_part_of_the_title(capsys):
    assert main(["run", "--compare", "guest=deadline,deadline-hlt", "--events", "40"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "vlapic run guest: deadline, deadline-hlt; seed 0"
    assert lines[2].split() == ["vCPU", "0", "deadline", "deadline-hlt"]
    assert main(["run", "--compare", "seed=1,2", "--events", "40"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "vlapic run deadline   seed: 1, 2"
