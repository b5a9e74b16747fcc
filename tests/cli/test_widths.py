# SPDX-License-Identifier: GPL-2.0-or-later
"""Every command's tables stay whole on a narrow console, and on one whose width is not known."""

import re

import pytest

from vlapic.cli import main

COMPARED = ["run", "--compare", "advance=0,auto,3000", "--events", "120"]
COMMANDS = {
    "run": ["run", "--events", "120", "--worst", "1", "--budget", "p99=1us", "--budget", "p50=1ms"],
    "compare": COMPARED,
    "profiles": ["profiles"],
    "a profile": ["profiles", "v5.3"],
    "a difference": ["profiles", "v5.0", "--diff", "v5.4"],
    "regs": ["regs"],
    "a patch": ["patches", "7"],
    "replay": ["replay", "trace.txt"],
}


@pytest.fixture
def printed(capsys, tmp_path, monkeypatch):
    """What a command prints with some COLUMNS."""
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--profile", "v6.1", "--events", "120", "--trace", "trace.txt", "--quiet"]) == 0

    def run(columns, arguments):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(arguments) in (0, 3)
        return capsys.readouterr().out

    return run


def figures(text):
    """The numbers in a text."""
    return set(re.findall(r"\d+(?:\.\d+)*", text))


@pytest.mark.parametrize("command", COMMANDS)
def test_40_columns_cut_no_figure(printed, command):
    arguments = COMMANDS[command]
    narrow, wide = printed("40", arguments), printed("100", arguments)
    assert "\u2026" not in narrow
    assert figures(wide) - figures(narrow) == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_known_width_it_is_80(printed, command):
    assert printed("0", COMMANDS[command]) == printed("80", COMMANDS[command])


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_narrower_than_40_columns_is_told_as_in_40(printed, command):
    assert printed("7", COMMANDS[command]) == printed("40", COMMANDS[command])


@pytest.mark.parametrize("command", ["run", "compare", "profiles", "regs"])
def test_tables_of_40_columns_fit_them(printed, command):
    lines = printed("40", COMMANDS[command]).splitlines()
    tables = [line for line in lines if re.match(r"^[* ] ", line)]
    assert tables
    assert max(map(len, tables)) <= 40
