# SPDX-License-Identifier: GPL-2.0-or-later
"""The seven fixes: each bug is there without its fix and gone with it, and the verdict is computed."""

import pytest

from vlapic.errors import UsageError
from vlapic.kernels.fixes import FIXES
from vlapic.kernels.profiles import SERIES
from vlapic.machine.hostmodel.model import Cost, Draws
from vlapic.patches import SCENARIOS, examine, find, show
from vlapic.patches.story import lines

ALL = pytest.mark.parametrize("fix", SCENARIOS)
#: The same; the scenario of thousands of interrupts takes a few seconds a run.
EACH = pytest.mark.parametrize(
    "fix", [pytest.param(fix, marks=[pytest.mark.slow] if fix == 3 else []) for fix in SCENARIOS]
)


@pytest.fixture(scope="module")
def shown():
    """Every fix, shown once."""
    return {fix: show(fix) for fix in SCENARIOS}


def test_every_fix_of_the_series_has_a_scenario():
    assert list(SCENARIOS) == list(FIXES) == [1, 2, 3, 4, 5, 6, 7]
    assert all(scenario.fix == fix for fix, scenario in SCENARIOS.items())


@ALL
def test_a_fix_is_shown_by_its_scenario(shown, fix):
    assert shown[fix].shown


@EACH
def test_with_the_sides_exchanged_a_fix_is_not_shown(fix):
    assert not examine(SCENARIOS[fix], without=SERIES, with_fix=SERIES.without(fix)).shown


@EACH
def test_two_sides_that_both_have_the_fix_show_nothing(fix):
    assert not examine(SCENARIOS[fix], without=SERIES).shown


@EACH
def test_a_scenario_comes_to_the_same_figures_every_time(shown, fix):
    assert show(fix).as_json() == shown[fix].as_json()


@ALL
def test_every_figure_shown_was_measured_on_both_sides(shown, fix):
    for side in (shown[fix].without, shown[fix].with_fix):
        assert set(SCENARIOS[fix].labels) <= set(side.figures)


@ALL
def test_a_story_ends_in_the_handler_and_fits_its_column(shown, fix):
    for side in (shown[fix].without, shown[fix].with_fix):
        told = lines(side.story, SCENARIOS[fix].parameters["host_khz"])
        assert told[0][0] == "Exit"
        assert told[-1][0] == "TimerInterrupt"
        assert [ns for _, ns, _ in told] == sorted(ns for _, ns, _ in told)
        assert all(len(text) <= 40 for _, _, text in told)


def test_1_a_stalling_host_makes_a_timer_come_before_the_guest_runs_one_instruction(shown):
    without, with_fix = shown[1].without.figures, shown[1].with_fix.figures
    # 1000 ns and 110 steps of an eighth up, each rounded down.
    value = 1000
    for _ in range(110):
        value += value // 8
    assert without["last_advance_ns"] == value
    assert without["guest_said"] == "stall: the last interrupt came before its hlt"
    assert with_fix["highest_advance_ns"] == 5000
    assert with_fix["guest_said"] == "stall: 111 interrupts"


def test_2_a_wait_in_host_cycles_ends_half_its_length_early_or_a_whole_length_late(shown):
    without, with_fix = shown[2].without.figures, shown[2].with_fix.figures
    assert without["half_before_deadline_ns"] == without["twice_before_deadline_ns"] == 4500
    assert (without["half_most_late_ns"], without["twice_most_late_ns"]) == (-2250, 4500)
    assert (with_fix["half_most_late_ns"], with_fix["twice_most_late_ns"]) == (0, 0)


def test_3_a_shared_value_suits_one_vcpu_and_updates_of_the_other_are_lost(shown):
    without, with_fix = shown[3].without.figures, shown[3].with_fix.figures
    assert without["value_of_vcpus"] == without["value_of_vms"] == "froze for all"
    assert without["advance_ns_of_vms"][0] == without["advance_ns_of_vms"][1]
    assert [round(value, -1) for value in with_fix["advance_ns_of_vms"]] == [500, 4000]


def test_5_the_guest_itself_sees_its_one_shots_early(shown):
    without, with_fix = shown[5].without.figures, shown[5].with_fix.figures
    # Advanced by 1000 ns, 500 ns late; the guest reads its TSC 400 cycles before it writes the count.
    assert without["guest_saw_early"] == 100
    assert -500 <= without["guest_least_late_ns"] < 0
    assert with_fix["guest_least_late_ns"] >= 0


def test_an_unknown_fix_is_refused_with_the_list():
    for wrong in ("0", "8", "cap", "-1", "1.0"):
        with pytest.raises(UsageError, match=r"no fix .* in the series; known: 1 to 7$"):
            find(wrong)
    assert find("3") is find(3) is SCENARIOS[3]


@pytest.mark.parametrize("quantiles", [(7,), (7, 9)])
def test_a_cost_may_begin_otherwise_than_it_goes_on(quantiles):
    draws = Draws(0, 0).of("hrtimer", Cost(quantiles, first=(100, 50)))
    plain = Draws(0, 0).of("hrtimer", Cost(quantiles))
    assert [next(draws) for _ in range(5)] == [100, 50, *(next(plain) for _ in range(3))]


def test_the_first_draws_of_a_cost_are_held_against_its_range():
    with pytest.raises(ValueError, match="a cost is 0 to"):
        Cost((7,), first=(1 << 32,))


def test_what_was_shown_is_short_as_text(shown):
    assert repr(shown[1]) == "<Shown fix 1: shown>"


def test_a_number_that_is_no_fix_is_quoted_as_a_number():
    with pytest.raises(UsageError, match=r"^no fix 0 in the series; known: 1 to 7$"):
        find(0)
