# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of a comparison: what differs is marked, and it stays readable at any width."""

import io
import re

import pytest
from rich.console import Console

from tests.support.made_up import interrupts, run_result, vcpu_result
from vlapic.report.comparison import print_compared, print_comparison
from vlapic.session.budgets import check, parse_all


def drawn(show, *, width=80, **console):
    out = io.StringIO()
    show(Console(file=out, width=width, highlight=False, **console))
    return out.getvalue()


def result(late, **fields):
    return run_result(vcpu_result(interrupts([late] * 200, **fields)))


def kept(*results, width=80, **console):
    runs = [(f"run{at}", of.as_json()) for at, of in enumerate(results)]
    return drawn(lambda on: print_comparison(runs, on), width=width, **console)


def row(text, *names):
    (line,) = [line for line in text.splitlines() if all(name in line.split() for name in names)]
    return line


def test_a_row_that_differs_is_marked_and_says_how_far_from_the_first():
    text = kept(result(1200), result(1500), result(1200))
    assert row(text, "p99").split() == ["*", "p99", "480", "600", "+25.0%", "480"]
    assert row(text, "early").split() == ["early", "0", "0", "0"]
    assert row(text, "p99").startswith("* ")
    assert row(text, "early").startswith("  ")


def test_a_figure_is_compared_with_zero_by_their_difference():
    text = kept(result(1200, wait_cycles=0), result(1200, wait_cycles=31_250))
    assert row(text, "busy", "total").split()[-3:] == ["0", "2500000", "+2500000"]


@pytest.mark.parametrize(
    ("first", "second", "change"), [(10, 215, "21.5x"), (100_000, 100_001, "+0.001%"), (1000, 1001, "+0.1%")]
)
def test_a_change_is_a_factor_where_it_is_great_and_never_reads_as_0(first, second, change):
    text = kept(result(1200, wait_cycles=first), result(1200, wait_cycles=second))
    assert row(text, "busy", "total").split()[-1] == change


def test_what_a_kept_result_says_cannot_drive_the_terminal():
    text = kept(run_result(), run_result(guest="\x1b[31mred"))
    assert "\x1b" not in text
    assert r"* guest: deadline, \x1b[31mred" in text


def test_a_title_is_one_line_however_many_runs_there_are():
    runs = [(f"v5.{at}", result(1200)) for at in range(20)]
    lines = drawn(lambda on: print_compared("profile", runs, on)).splitlines()
    assert lines[0] == "vlapic run deadline   20 runs, by profile; seed 0"


def test_a_regime_that_differs_is_marked_without_a_number():
    off = vcpu_result(interrupts([1200] * 200, advance_ns=0), auto=False, advance_ns=0)
    text = kept(run_result(), run_result(off))
    assert row(text, "regime").split() == ["*", "regime", "settled", "off"]


def test_rows_of_nothing_but_zeros_are_left_out_where_they_are_rare():
    assert "blocked" not in kept(result(1200), result(1300))
    assert "blocked" in kept(result(1200), result(1300, blocked_cycles=100))


def test_what_was_not_set_up_alike_is_said_first():
    other = run_result(guest="tickless", seed=9)
    lines = kept(run_result(), other).splitlines()
    assert lines[:3] == ["vlapic compare run0, run1", "* seed: 0, 9", "* guest: deadline, tickless"]
    assert kept(run_result(), run_result()).splitlines()[1] == "  set up alike"


@pytest.mark.parametrize("width", [40, 80, 100, 200])
@pytest.mark.parametrize("runs", [2, 3, 4, 7])
def test_runs_that_do_not_fit_go_into_a_further_table_with_the_first(width, runs):
    text = kept(*[result(1200 + 100 * at) for at in range(runs)], width=width)
    heads = [line.split()[2:] for line in text.splitlines() if line.startswith("vCPU 0")]
    assert [head[0] for head in heads] == ["run0"] * len(heads)
    assert [label for head in heads for label in head[1:]] == [f"run{at}" for at in range(1, runs)]
    tables = text.split("vCPU 0")[1:]
    assert max(len(line) for table in tables for line in table.splitlines()[1:]) <= min(width, 100)
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_where_it_is_narrow_no_figure_is_cut_and_the_change_stands_below():
    text = kept(result(1200), result(1500), width=40)
    at = text.splitlines().index("* lateness p99           480        600")
    assert text.splitlines()[at + 1] == "+25.0%".rjust(39)
    assert max(map(len, text.splitlines()[1:])) <= 40


def test_a_figure_however_great_touches_no_other():
    great = result(10**15, advance_ns=2**32 - 1)
    assert row(kept(great, great), "p99").split() == ["p99", "400000000000000", "400000000000000"]
    narrow = row(kept(great, great, width=40), "lateness", "p99")
    assert narrow.split()[2:] == ["400000000000000", "400000000000000"]


def test_a_label_that_is_too_long_loses_its_middle():
    long = [
        ("deadline-hlt-with-a-long-name-0", result(1200)),
        ("deadline-hlt-with-a-long-name-1", result(1300)),
    ]
    text = drawn(lambda on: print_compared("guest", long, on))
    head = next(line for line in text.splitlines() if line.startswith("vCPU 0"))
    assert head.split()[2:] == ["deadlin..-name-0", "deadlin..-name-1"]


def test_a_percentile_that_is_just_the_greatest_value_is_a_dash_and_says_what_it_needs():
    text = kept(result(1200), result(1500))
    assert row(text, "p99.9", "-").split() == ["p99.9", "-", "-"]
    assert "\n  p99.9 needs 1000 samples, 200 there" in text
    older = [("old", result(1200).as_json()), ("new", result(1500).as_json())]
    older[0][1]["vcpus"][0]["lateness_ns"]["p99_9"] = 480  # as it was printed once
    text = drawn(lambda on: print_comparison(older, on))
    assert row(text, "p99.9", "-").split() == ["p99.9", "-", "-"]


def test_each_vcpu_has_a_table_and_one_that_a_run_has_not_is_a_dash():
    vcpus = [vcpu_result(interrupts([1200] * 50), vcpu=id) for id in (0, 1)]
    text = kept(run_result(*vcpus), run_result(vcpus[0]))
    assert re.findall(r"^vCPU \d", text, re.MULTILINE) == ["vCPU 0", "vCPU 1"]
    assert text.split("vCPU 1 ")[1].count(" -\n") >= 10


def test_colour_is_not_what_marks_a_difference():
    plain = kept(result(1200), result(1500))
    coloured = kept(result(1200), result(1500), force_terminal=True, color_system="truecolor")
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_runs_of_now_end_with_their_budgets_and_each_in_words():
    def held(of):
        return run_result(*of.vcpus, budgets=check(parse_all(["p99=500ns"]), of))

    runs = [("0", held(result(1200))), ("auto", held(result(1500)))]
    lines = drawn(lambda on: print_compared("advance", runs, on)).splitlines()
    assert lines[0] == "vlapic run deadline   advance: 0, auto; seed 0"
    assert "  MISSED  p99=500ns  vCPU 0  600 ns, 100 ns (20 %) too much" in lines
    assert lines[-2:] == [
        "0     settled at 1400 ns after 1 interrupt; all 200 within 480 ns; none early",
        "auto  settled at 1400 ns after 1 interrupt; all 200 within 600 ns; none early",
    ]
