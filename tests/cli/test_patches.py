# SPDX-License-Identifier: GPL-2.0-or-later
"""`vlapic patches`: the table, one fix in depth, JSON, what is refused."""

import json

import pytest

from vlapic.cli import main


def test_one_fix_is_told_event_by_event_on_both_sides(capsys):
    assert main(["patches", "6"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("6  Clean up the code for handling of a pre-expired hv_timer: shown\n")
    assert "   deadline_ns          800\n" in said
    (traced,) = [
        line for line in said.splitlines() if "kvm_hv_timer_state 0" in line and "traced" not in line
    ]
    assert traced.startswith(" " * 41)  # only on the side with the fix
    assert all(len(line) <= 80 for line in said.splitlines())


def test_json_has_parameters_figures_and_verdict(capsys):
    assert main(["patches", "7", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "vlapic.patches/1"
    (fix,) = found["fixes"]
    assert list(fix) == ["fix", "title", "symptom", "parameters", "without", "with", "shown"]
    assert (fix["fix"], fix["shown"]) == (7, True)
    assert (fix["without"]["divides"], fix["with"]["divides"]) == (fix["parameters"]["interrupts"], 0)


@pytest.mark.slow
def test_all_seven_are_shown_in_order(capsys):
    assert main(["patches"]) == 0
    said = capsys.readouterr().out
    assert [line[0] for line in said.splitlines() if line.endswith(": shown")] == list("1234567")
    assert said.endswith("\n7 of 7 fixes shown\n")


def test_a_verdict_that_fails_is_status_3(capsys, monkeypatch):
    from dataclasses import replace

    from vlapic import patches

    never = replace(patches.SCENARIOS[7], verdict=lambda *figures: False)
    monkeypatch.setitem(patches.SCENARIOS, 7, never)
    assert main(["patches", "7"]) == 3
    assert "NOT SHOWN" in capsys.readouterr().out


def test_ctrl_c_keeps_what_was_shown(capsys, monkeypatch):
    from vlapic import patches

    examined = patches.examine

    def interrupted(scenario):
        if scenario.fix == 2:
            raise KeyboardInterrupt
        return examined(scenario)

    monkeypatch.setattr(patches, "examine", interrupted)
    assert main(["patches"]) == 130
    told = capsys.readouterr()
    assert "1 of 1 fixes shown" in told.out
    assert told.err == "vlapic: interrupted; the fixes shown are those so far\n"


@pytest.mark.parametrize("fix", ["8", "\u0663", "+3", "1_0", "9" * 30])
def test_an_unknown_fix_is_one_line_and_status_2(capsys, fix):
    assert main(["patches", fix]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"vlapic: no fix {fix!r} in the series; known: 1 to 7\n")


def test_a_race_that_is_forced_is_called_so(capsys):
    assert main(["patches", "3"]) == 0
    said = capsys.readouterr().out
    assert "   forced race, updates lost  " in said
    assert "   race                 forced: each round all read the value before any writes it\n" in said
