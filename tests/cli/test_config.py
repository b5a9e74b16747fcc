# SPDX-License-Identifier: GPL-2.0-or-later
"""`vlapic.toml`: what a project asks of every run, and what is said of a file that makes no sense."""

import json

import pytest

from vlapic.cli import main


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder to work in; gives a way to write its vlapic.toml."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="vlapic.toml"):
        (tmp_path / name).write_text(text)

    return write


def run_json(capsys, *arguments):
    status = main(["run", "--json", *arguments])
    out, err = capsys.readouterr()
    return status, json.loads(out), err


def test_the_file_of_the_folder_sets_options_and_budgets(project, capsys):
    project(
        '[run]\nguest = "deadline-hlt"\nevents = 40\nadvance = "auto"\nseed = 3\n'
        '[budget]\nearly = 0\n"p50" = "9us"\n'
    )
    status, printed, err = run_json(capsys)
    assert (status, err) == (0, "vlapic: read vlapic.toml: 2 budgets, 4 options\n")
    assert (printed["guest"], printed["seed"], printed["vcpus"][0]["interrupts"]) == ("deadline-hlt", 3, 40)
    assert [each["budget"] for each in printed["budgets"]] == ["early=0", "p50=9us"]


def test_the_command_line_wins(project, capsys):
    project('[run]\nevents = 40\nseed = 3\ntsc-khz = [1000000]\n[budget]\np99 = "1ns"\nearly = 0\n')
    status, printed, _ = run_json(capsys, "--events", "110", "--budget", "p99=1ms", "deadline")
    assert status == 0
    assert (printed["seed"], printed["vcpus"][0]["interrupts"]) == (3, 110)
    assert printed["vcpus"][0]["tsc_khz"] == 1_000_000
    assert [each["budget"] for each in printed["budgets"]] == ["early=0", "p99=1ms"]


def test_another_file_takes_its_place(project, capsys):
    project("[run]\nseed = 3\n")
    project("[run]\nseed = 4\nevents = 20\n", "ci.toml")
    _, printed, err = run_json(capsys, "--config", "ci.toml")
    assert (printed["seed"], err) == (4, "vlapic: read ci.toml: 0 budgets, 2 options\n")
    assert run_json(capsys, "--config", "/dev/null", "--events", "20")[1]["seed"] == 0


def test_flags_of_the_file_are_true_or_false(project, capsys):
    project("[run]\nquiet = true\nevents = 20\n")
    assert main(["run"]) == 0
    assert capsys.readouterr() == ("", "")


def test_options_of_the_file_contradict_nothing_that_is_varied_on_the_command_line(project, capsys):
    project("[run]\nadvance = 0\nevents = 20\n")
    assert main(["run", "--compare", "advance=100,200", "--json"]) == 0
    assert [each["label"] for each in json.loads(capsys.readouterr().out)["runs"]] == ["100", "200"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[run\n", "vlapic.toml is not TOML at line 1: Expected ']'"),
        (
            "[run]\nseed = " + "1" * 5000,
            "vlapic.toml is not TOML at line 2: a number has more than 40 digits",
        ),
        ("[run]\n\nseed = 0x" + "f" * 5000, "vlapic.toml is not TOML at line 3: a number has more than 40"),
        ("a = " + "[" * 3000, "vlapic.toml is not TOML at line 1: brackets are nested too deeply"),
        ('[run]\nevents = "1_0"\n', "vlapic.toml: --events takes a whole number, not '1_0'"),
        ('[budget]\np99 = "\u0665us"\n', "vlapic.toml: budget 'p99=\u0665us': p99 takes a time"),
        ('[budget]\np99 = "' + "1" * 5000 + 'us"\n', "vlapic.toml: budget "),
        ("budget = 3\n", "vlapic.toml: budget is not a table; write [budget] on a line of its own"),
        ("[budgets]\n", "vlapic.toml: unknown table 'budgets'; did you mean 'budget'?"),
        ("[run]\nevnts = 3\n", "vlapic.toml: unknown option 'evnts'; did you mean 'events'?"),
        (
            "[run]\n" + "k" * 9999 + " = 1\n",
            "vlapic.toml: unknown option 'kkkkkkkkkkkkkkkkkkkkkkkk...kkkkkkkkkkkk'; ",
        ),
        ("[run]\nlist = true\n", "vlapic.toml: unknown option 'list'; "),
        ("[run]\nevents = true\n", "vlapic.toml: events is a text or a number, not True"),
        ("[run]\nquiet = 1\n", "vlapic.toml: quiet is true or false, not 1"),
        ('[run]\nevents = "many"\n', "vlapic.toml: --events takes a whole number, not 'many'"),
        ("[run]\nevents = 1.5\n", "vlapic.toml: --events takes a whole number, not '1.5'"),
        ('[budget]\np95 = "3us"\n', "vlapic.toml: unknown metric 'p95'; did you mean 'p99'?"),
        ("[budget]\np99 = 3\n", "vlapic.toml: budget 'p99=3': p99 takes a time (3us; "),
        ('[budget]\np99.9 = "3us"\n', 'vlapic.toml: a metric with a dot needs quotes: "p99.9" = ...'),
        (
            '[budget]\np99 = "2us"\np99.9 = "3us"\n',
            'vlapic.toml: a metric with a dot needs quotes: "p99.9" = ...',
        ),
        ("[budget]\nearly = true\n", "vlapic.toml: the limit of early is a text or a number, "),
    ],
)
def test_a_file_that_makes_no_sense_is_one_line_and_status_2(project, capsys, text, message):
    project(text)
    assert main(["run", "--events", "5"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"vlapic: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ['"p99.9"', "p99_9"])
def test_two_percentiles_stand_beside_each_other(project, capsys, name):
    project(f'[budget]\np99 = "1ms"\n{name} = "2ms"\n')
    _, printed, _ = run_json(capsys, "--events", "1000")
    assert [(each["budget"], each["met"]) for each in printed["budgets"]] == [
        ("p99=1ms", True), ("p99.9=2ms", True),
    ]  # fmt: skip


def test_bytes_that_are_no_text_are_no_toml(project, tmp_path, capsys):
    (tmp_path / "vlapic.toml").write_bytes(b"\xff\xfe")
    assert main(["run", "--events", "5"]) == 2
    assert capsys.readouterr().err.startswith("vlapic: vlapic.toml is not TOML: ")


def test_a_file_that_was_asked_for_and_is_not_there_is_the_world_s_fault(project, capsys):
    assert main(["run", "--config", "none.toml"]) == 1
    assert capsys.readouterr().err.startswith("vlapic: cannot read 'none.toml': No such file or directory; ")


def test_help_and_the_list_need_no_file_that_makes_sense(project, capsys):
    project("[run\n")
    assert main(["run", "--help"]) == 0


@pytest.mark.parametrize(
    ("text", "arguments", "ending"),
    [
        ('profile = "v5.99"', [], "v6.19; vlapic.toml sets profile"),
        ('guest = "nosuch"', [], "uneven; vlapic.toml sets guest"),
        ("events = 0", [], "18446744073709551615; vlapic.toml sets events"),
        ("live = true", ["--quiet"], "leave one out; vlapic.toml sets live"),
        ("seed = 3", ["--events", "0"], "it takes 1 to 18446744073709551615"),
        ("events = 0", ["--seed", "-1", "--events", "1"], "it takes 0 to 18446744073709551615"),
    ],
)
def test_a_complaint_about_an_option_names_the_file_that_sets_it(project, capsys, text, arguments, ending):
    project(f"[run]\n{text}\n")
    assert main(["run", *arguments]) == 2
    assert capsys.readouterr().err.endswith(f"{ending}\n")


def test_budgets_among_the_options_are_told_where_they_belong(project, capsys):
    project('[run]\nbudget = ["p99=3us"]\n')
    assert main(["run"]) == 2
    assert "budgets have a table of their own; write [budget], then METRIC = LIMIT" in capsys.readouterr().err
