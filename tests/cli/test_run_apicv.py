# SPDX-License-Identifier: GPL-2.0-or-later
"""`vlapic run` with APICv and posted timer interrupts."""

import json

import pytest

from vlapic.cli import main


def test_a_run_with_apicv_says_so(capsys):
    assert main(["run", "--apicv", "--events", "50"]) == 0
    assert "profile series, APICv, seed 0" in capsys.readouterr().out
    assert main(["run", "--apicv", "--events", "50", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["apicv"], result["vcpus"][0]["timer"]) == ("on", "preemption")


def test_a_run_without_apicv_says_nothing_of_it(capsys):
    assert main(["run", "--events", "50", "--json"]) == 0
    assert "apicv" not in json.loads(capsys.readouterr().out)


def test_mwait_in_the_guest_takes_the_preemption_timer_away(capsys):
    assert main(["run", "--mwait-in-guest", "--events", "50", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["vcpus"][0]["timer"] == "hrtimer"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--apicv", "--pi-inject"], "the kernel of profile series posts no timer interrupts (--pi-inject)"),
        (
            ["--mwait-in-guest", "--timer", "preemption"],
            "with --mwait-in-guest KVM does not use the preemption",
        ),
    ],
)
def test_what_cannot_be_is_one_line_and_status_2(capsys, arguments, words):
    assert main(["run", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1
