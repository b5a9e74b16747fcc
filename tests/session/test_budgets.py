# SPDX-License-Identifier: GPL-2.0-or-later
"""Budgets: what they say, what they are held against, and what is said when one is missed."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.made_up import interrupts, run_result, vcpu_result
from vlapic.errors import UsageError
from vlapic.session.budgets import METRICS, Budget, check, parse_all

#: 1200, 1500 and 5000 cycles are 480, 600 and 2000 ns; three of 1000 are early.
LATE = [-100] * 3 + [1200] * 900 + [1500] * 96 + [5000]


def held(text, *vcpus, **fields):
    """The results of one budget against a run; without vCPUs of one with the lateness above."""
    vcpus = vcpus or (vcpu_result(interrupts(LATE, wait_cycles=2500)),)
    return check([Budget.parse(text)], run_result(*vcpus, **fields))


@pytest.mark.parametrize(
    ("text", "limit", "unit"),
    [
        ("p99=3us", 3000, "ns"),
        ("p99=1.5us", 1500, "ns"),
        ("p99=0.1ns", Fraction(1, 10), "ns"),
        ("p99.9=2ms", 2_000_000, "ns"),
        ("p99_9=2 ms", 2_000_000, "ns"),
        ("max=1s", 10**9, "ns"),
        ("p50=5000cycles", 5000, "cycles"),
        ("mean=0", 0, "ns"),
        ("min=-100ns", -100, "ns"),
        ("early=0", 0, ""),
        ("early=0.5%", Fraction(1, 2), "%"),
        ("wait=1%", 1, "%"),
        ("wait=5ms", 5_000_000, "ns"),
        ("settled=14", 14, ""),
        ("advance=5us", 5000, "ns"),
        (" p99 = 3us ", 3000, "ns"),
    ],
)
def test_a_budget_is_a_metric_and_a_limit_with_its_unit(text, limit, unit):
    budget = Budget.parse(text)
    assert (budget.limit, budget.unit) == (limit, unit)


@given(st.integers(0, 10**12), st.sampled_from([("ns", 1), ("us", 10**3), ("ms", 10**6), ("s", 10**9)]))
def test_a_time_is_read_exactly_in_any_unit(number, unit):
    name, factor = unit
    assert Budget.parse(f"max={number}{name}").limit == number * factor
    assert Budget.parse(f"max={number}.125{name}").limit == (number + Fraction(1, 8)) * factor


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p99", "budget 'p99' has no limit; write METRIC=LIMIT, for example p99=3us"),
        ("p95=3us", "unknown metric 'p95'; did you mean 'p99'?"),
        ("jitter=3us", "unknown metric 'jitter'; known: advance, blocked, blocked-max, early, "),
        ("p99=3", "p99 takes a time (3us; ns, us, ms or s) or cycles (5000cycles), not '3'"),
        ("p99=3%", "p99 takes a time (3us; ns, us, ms or s) or cycles (5000cycles), not '3%'"),
        ("p99=3uss", "not '3uss'"),
        ("p99=", "not ''"),
        ("p99=1e3ns", "not '1e3ns'"),
        ("early=3us", "early takes a number of interrupts (0) or a share (1%), not '3us'"),
        ("wait=7", "wait takes a share (1%) or a time (3us; ns, us, ms or s), not '7'"),
        ("p99=3us,early=0", "not '3us,early=0'; several budgets are an option each"),
        ("early=-1", "budget 'early=-1': early is never below 0; expected 0 or more"),
        ("wait=-1us", "wait is never below 0; expected 0 or more"),
        ("wait=101%", "a share is never above 100%; expected 0% to 100%"),
        ("settled=1.5", "settled is counted; expected a whole number"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused_with_what_is_allowed(text, message):
    with pytest.raises(UsageError) as refused:
        Budget.parse(text)
    assert message in str(refused.value)


def test_one_metric_has_one_limit():
    with pytest.raises(UsageError, match="two budgets for p99: p99=3us and p99=4us"):
        parse_all(["p99=3us", "early=0", "p99=4us"])
    assert len(parse_all(["p99=3us", "p99=5000cycles"])) == 2


@pytest.mark.parametrize(
    ("text", "figure", "met"),
    [
        ("p50=480ns", 480, True),
        ("p50=479.9ns", 480, False),
        ("p50=1200cycles", 1200, True),
        ("p50=1199cycles", 1200, False),
        ("p99=600ns", 600, True),
        ("p99.9=599ns", 600, False),
        ("max=2us", 2000, True),
        ("max=1999ns", 2000, False),
        ("min=-40ns", -40, True),
        ("min=-39ns", -40, False),
        ("early=3", 3, True),
        ("early=2", 3, False),
        ("early=0.3%", Fraction(3, 10), True),
        ("early=0.29%", Fraction(3, 10), False),
        ("missed=0", 0, True),
        ("wait=0.2%", Fraction(1, 5), True),
        ("wait=0.1999%", Fraction(1, 5), False),
        ("wait=1ms", 1_000_000, True),
        ("wait-max=999ns", 1000, False),
        ("blocked=0", 0, True),
        ("settled=1", 1, True),
        ("settled=0", 1, False),
        ("advance=1399ns", 1400, False),
    ],
)
def test_a_figure_at_its_limit_keeps_the_budget_and_one_beyond_it_does_not(text, figure, met):
    (result,) = held(text)
    assert (result.figure, result.met) == (figure, met)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_every_metric_can_be_had_in_each_of_its_units(name):
    for unit in METRICS[name].read:
        (result,) = held(f"{name}={100 if unit == '%' else 1_000_000}{unit}")
        assert result.figure is not None
        assert result.met is not METRICS[name].at_least


@pytest.mark.parametrize("text", ["p99=3s", "p50=3s", "max=3s", "min=-3s", "early=100%", "settled=1000"])
def test_what_was_not_measured_keeps_no_budget(text):
    (result,) = held(text, vcpu_result([]))
    assert (result.figure, result.met) == (None, False)
    assert result.in_words() == "no timer interrupt reached a handler"


@pytest.mark.parametrize(
    ("text", "samples", "words"),
    [
        ("p99.9=1s", 999, "p99.9 needs 1000 samples, 999 there"),
        ("p99=1s", 99, "p99 needs 100 samples, 99 there"),
        ("p99=9999cycles", 99, "p99 needs 100 samples, 99 there"),
        ("p50=1s", 1, "p50 needs 2 samples, 1 there"),
    ],
)
def test_a_percentile_of_too_few_interrupts_keeps_no_budget_and_says_how_many_it_takes(text, samples, words):
    (few,) = held(text, vcpu_result(interrupts([1200] * samples)))
    assert (few.figure, few.met, few.in_words()) == (None, False, words)
    assert held(text, vcpu_result(interrupts([1200] * (samples + 1))))[0].met


def test_a_vcpu_that_ends_frozen_or_capped_keeps_no_budget_for_settling():
    frozen = vcpu_result(interrupts([1200] * 200, delta_cycles=[50, *[-400] * 199]))
    capped = vcpu_result(interrupts([1200] * 200, advance_ns=5000))
    for vcpu, why in ((frozen, "frozen away from what the interrupts need"), (capped, "held at the cap")):
        (result,) = held("settled=50", vcpu)
        assert not result.met
        assert result.in_words() == f"not settled: the advancement is {why}"


def test_every_vcpu_is_held_against_every_budget():
    fast, slow = (vcpu_result(interrupts([late] * 100), vcpu=id) for id, late in enumerate((1200, 5000)))
    results = check(parse_all(["p99=1us", "early=0"]), run_result(fast, slow))
    assert [(it.budget, it.vcpu, it.met) for it in results] == [
        ("p99=1us", 0, True), ("p99=1us", 1, False), ("early=0", 0, True), ("early=0", 1, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("p99=400ns", "600 ns, 200 ns (50 %) too much"),
        ("early=0", "3, 3 too much"),
        ("wait=0.1%", "0.2 %, 0.1 % too much"),
        ("min=-30ns", "-40 ns, 10 ns (33.3 %) too little"),
        ("p50=1100cycles", "1200 cycles, 100 cycles (9.09 %) too much"),
        ("p99=1us", "600 ns"),
        ("p99=1ns", "600 ns, 599 ns (59900 %) too much"),
    ],
)
def test_a_missed_budget_says_the_figure_and_by_how_much(text, words):
    assert held(text)[0].in_words() == words


def test_a_run_that_misses_a_budget_ends_with_3_unless_something_worse_happened():
    missed = {"budgets": held("p99=400ns")}
    assert run_result(**missed).exit_status == 3
    assert run_result(**missed, exit_code=1).exit_status == 4
    assert run_result(**missed, interrupted=True).exit_status == 130
    assert run_result(**missed, trace_failure="full").exit_status == 1
    assert run_result(budgets=held("p99=1us")).exit_status == 0


def test_the_json_has_numbers_and_the_reason_for_a_figure_that_is_not_there():
    vcpu = vcpu_result(interrupts([1200] * 110))
    results = [*held("p99=1.5us", vcpu), *held("settled=5", vcpu), *held("wait=1%", vcpu)]
    printed = run_result(vcpu, budgets=tuple(results)).as_json()
    assert printed["budgets"][0] == {
        "budget": "p99=1.5us", "vm": 0, "vcpu": 0, "limit": 1500, "figure": 480, "unit": "ns", "met": True,
    }  # fmt: skip
    assert (printed["budgets"][1]["figure"], printed["budgets"][1]["met"]) == (None, False)
    assert "did not stay near" in printed["unavailable"]["budgets[1].figure"]
    assert printed["budgets"][2]["unit"] == "%"
