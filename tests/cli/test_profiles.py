# SPDX-License-Identifier: GPL-2.0-or-later
"""`vlapic profiles`: the list, one profile, what changed; as people read it and as JSON."""

import json
from dataclasses import replace

import pytest

from vlapic.cli import main
from vlapic.kernels.profiles import PROFILES, SERIES, find_profile


@pytest.fixture
def printed(capsys, monkeypatch):
    """What the command prints on a wide terminal."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        assert main(["profiles", *arguments]) == 0
        return capsys.readouterr().out

    return run


def test_the_list_has_every_profile_with_its_kernel(printed):
    lines = printed().splitlines()[2:]
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(PROFILES)
    v5_1 = next(line for line in lines if line.startswith("v5.1 "))
    assert "5.1.0" in v5_1
    assert "scope, parameter, overflow, wait, too short" in v5_1


def test_one_profile_shows_each_rule_with_the_release_and_commit_it_came_with(printed):
    text = printed("v5.3")
    assert text.startswith("v5.3: 5.3.1\n")
    assert all(rule.rule.does in text for rule in find_profile("v5.3").rules.values())
    assert "ec0671d5684a" in text


def test_the_series_shows_its_fixes_and_a_part_of_it_those_that_are_left(printed):
    assert "Track lapic timer advance per vCPU" in printed("series")
    part = printed("series-3")
    assert "Track lapic timer advance per vCPU" not in part
    assert "Hard cap the auto-calculated" in part


def test_a_diff_says_what_changed_since_when_and_to_what_effect(printed):
    text = printed("v5.2", "--diff", "v5.3")
    assert text.startswith("v5.2 to v5.3: 6 of ")
    assert "after the next exit, the last delta since" in text
    assert "before: when the busy wait reads the TSC" in text
    assert "v5.3, ec0671d5684a" in text
    assert "one bogus `delta 0 (late)` a vCPU" in text
    assert "Whose" not in text


def test_kernels_with_the_same_rules_say_so_and_what_else_they_differ_in(printed, monkeypatch):
    assert printed("v5.0", "--diff", "v5.0") == "v5.0 and v5.0 have the same rules\n"
    monkeypatch.setitem(PROFILES, "v5.1", replace(PROFILES["v5.0"], name="v5.1", hz=250))
    assert printed("v5.0", "--diff", "v5.1") == (
        "v5.0 and v5.1 have the same rules\n"
        "HZ is 1000 in v5.0 and 250 in v5.1, which changes how long ndelay() takes\n"
    )


def test_v6_12_and_v6_19_differ_in_what_debian_took_from_v7_2_and_in_hz(printed):
    text = printed("v6.12", "--diff", "v6.19")
    assert text.startswith("v6.12 to v6.19: 1 of ")
    assert text.endswith("HZ is 250 in v6.12 and 1000 in v6.19, which changes how long ndelay() takes\n")


def test_as_json_every_profile_has_every_rule(printed):
    found = json.loads(printed("--json"))
    assert found["schema"] == "vlapic.kernels.profiles/1"
    assert [each["name"] for each in found["profiles"]] == list(PROFILES)
    for each in found["profiles"]:
        profile = PROFILES[each["name"]]
        assert {name: rule["rule"] for name, rule in each["rules"].items()} == {
            name: rule.name for name, rule in profile.rules.items()
        }
        assert (each["base"] or "") == profile.base
    series = found["profiles"][0]
    assert [fix["number"] for fix in series["fixes"]] == sorted(SERIES.fixes)
    assert series["rules"]["overflow"]["commit"] is None


def test_a_diff_as_json_has_both_rules(printed):
    found = json.loads(printed("v5.3", "--diff", "v5.4", "--json"))
    assert (found["from"], found["to"]) == ("v5.3", "v5.4")
    assert [(each["name"], each["from"]["rule"], each["to"]["rule"]) for each in found["changes"]] == [
        ("ending", "DONE", "MODULE_FLAG"),
        ("tuning", "EIGHTH_OF_ADVANCE", "EIGHTH_OF_DELTA"),
    ]
    assert found["hz"] == [1000, 1000]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["v5.5"], "unknown profile 'v5.5'; did you mean 'v5.4', the newest up to it? known: series, v5.0"),
        (["v5.3", "--diff", "v7"], "unknown profile 'v7'"),
        (["series-9"], "no fix 9 in the series; did you mean 7? known: 1 to 7"),
        (["--diff", "v5.4"], "--diff v5.4 needs a profile to start from: vlapic profiles v5.0 --diff v5.4"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(arguments, complaint, capsys):
    assert main(["profiles", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"vlapic: {complaint}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
