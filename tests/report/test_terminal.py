# SPDX-License-Identifier: GPL-2.0-or-later
"""The terminal report: what it says, and that it stays readable wherever it goes."""

import io
import re

import pytest
from rich.console import Console

from tests.support.made_up import interrupts, run_result, vcpu_result
from vlapic.analysis.regime import Regime, TuningLimits
from vlapic.errors import GuestFailure
from vlapic.kernels.profiles import V5_4
from vlapic.machine.flight_recorder import LastEvent
from vlapic.report import terminal
from vlapic.report.terminal import in_words, live_table, print_run
from vlapic.session.spec import SoFar


class Terminal(io.StringIO):
    """A stream of some encoding."""

    def __init__(self, encoding="utf-8"):
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self):  # type: ignore[override]
        return self._encoding


def report(result, *, width=80, encoding="utf-8", **console):
    out = Terminal(encoding)
    print_run(result, Console(file=out, width=width, highlight=False, **console))
    return out.getvalue()


def row(text, name):
    """The numbers and words of the table's line with that name."""
    (line,) = [line for line in text.splitlines() if line.startswith("  ") and name in line.split()]
    return line.split()[line.split().index(name) + 1 :]


SPREAD = [1200 + index % 40 for index in range(990)] + [2500] * 9 + [5000]


def test_the_table_gives_lateness_in_ns_with_cycles_beside():
    text = report(run_result(vcpu_result(interrupts(SPREAD))))
    assert row(text, "p50") == ["487", "1219", "number", "500", "of", "1000"]
    assert row(text, "p99")[:2] == ["495", "1239"]
    assert row(text, "p99.9") == ["1000", "2500", "number", "999", "of", "1000"]
    assert row(text, "mean")[0] == f"{sum(c * 10**6 // 2_500_000 for c in SPREAD) / 1000:.1f}"
    assert [line for line in text.splitlines() if re.search(r" max +2000 +5000$", line)]
    assert row(text, "early") == ["0", "of", "1000"]


def test_the_table_gives_wait_advancement_regime_and_instructions():
    text = report(run_result(vcpu_result(interrupts([1200] * 200, wait_cycles=12_500))))
    assert row(text, "total") == ["1000000", "0.20", "%", "of", "the", "time"]
    assert row(text, "from") == ["1000"]
    assert row(text, "to")[0:5] == ["1400", "settled", "after", "1", "interrupt"]
    assert re.search(r"^  instructions +min +20 +before the interrupt\n +max +20$", text, re.MULTILINE)


def test_missed_expiries_and_blocked_time_are_told_where_there_are_any():
    quiet = report(run_result())
    assert "missed" not in quiet
    assert "guest's own" not in quiet
    loud = report(run_result(vcpu_result(interrupts([9000] * 10, missed=2, blocked_cycles=5000))))
    assert "10 interrupts, 20 missed" in loud
    assert "guest's own: 2000 at most" in loud


def test_the_histogram_has_a_row_for_each_interval_with_its_number():
    text = report(run_result(vcpu_result(interrupts(SPREAD))))
    rows = re.findall(r"^ +(?:(\d+) to \d+|(\d+) and above|(\d+)) +(\d+)(?:  |$)", text, re.MULTILINE)
    assert sum(int(count) for *_, count in rows) == 1000
    assert [(first, last, count) for first, last, _, count in rows[-2:]] == [
        ("596", "", "9"),
        ("", "1496", "1"),
    ]


def test_the_longest_bar_fills_the_width_and_the_shortest_can_be_seen():
    text = report(run_result(vcpu_result(interrupts([1200] * 10_000 + [1300] * 150))))
    lines = [line for line in text.splitlines() if re.match(r"^ +\d+ +\d+  ", line) or "█" in line]
    assert max(map(len, lines)) <= 80
    assert max(line.count("█") for line in lines) >= 45
    assert [line for line in text.splitlines() if re.search(r" 150  [▏▎▍▌▋▊▉]$", line)]


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal_or_than_eyes_like(width):
    wide = run_result(vcpu_result(interrupts([2**40 + index for index in range(300)], instructions=2**50)))
    for result in (run_result(console="hello\n"), wide):
        lines = report(result, width=width).splitlines()
        assert max(map(len, lines)) <= min(width, 100)
        assert all(line == line.rstrip() for line in lines)


def test_the_guests_console_stands_apart():
    lines = report(run_result(console="one\r\ntwo\n")).splitlines()
    at = lines.index("  one")
    assert lines[at - 1].startswith("console ──")
    assert lines[at + 1] == "  two"
    assert set(lines[at + 2]) == {"─"}


def test_a_guest_cannot_drive_the_terminal():
    text = report(run_result(console="\x1b[2J\a[red]plain[/red]\n"))
    assert "\\x1b[2J\\x07[red]plain[/red]" in text
    assert "\x1b" not in text


def test_without_utf8_the_report_is_ascii():
    text = report(run_result(console="hello\n"), encoding="ascii")
    assert text.isascii()
    assert "####" in text


def test_colour_is_only_on_a_terminal_and_not_with_no_color(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[" not in report(run_result())
    assert "\x1b[32m" in report(run_result(), force_terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", report(run_result(), force_terminal=True))


def test_the_last_line_is_the_result_in_words():
    assert report(run_result()).splitlines()[-1] == (
        "settled at 1400 ns after 1 interrupt; all 200 within 495 ns; none early"
    )


def test_a_guest_that_switched_off_is_said_to_have_above_the_words():
    text = report(run_result(exit_code=None, end="switched the machine off"))
    assert text.splitlines()[-2] == "the guest switched the machine off"
    assert "switched" not in report(run_result())


def test_each_of_several_vcpus_has_its_own_words():
    vcpus = [vcpu_result(interrupts([1200] * 200), vcpu=index) for index in (0, 1)]
    assert [line[:8] for line in report(run_result(*vcpus)).splitlines()[-2:]] == ["vCPU 0: ", "vCPU 1: "]


@pytest.mark.parametrize(
    ("advances", "more", "words"),
    [
        ([0] * 200, {"auto": False, "advance_ns": 0}, "advancement off"),
        ([500, 0, *[0] * 198], {}, "advancement fell from 1000 ns to 0 and stays there"),
        ([3000] * 200, {"auto": False, "advance_ns": 3000}, "advancement fixed at 3000 ns"),
        (
            [1000] * 200,
            {"limits": TuningLimits.of(V5_4), "delta_cycles": 20_000},
            "stuck at the start value of 1000 ns",
        ),
        (
            [1000, 4900] * 100,
            {"limits": TuningLimits.of(V5_4), "delta_cycles": 9000},
            "sawtooth between 1000 and 4900 ns",
        ),
        ([5000] * 200, {}, "held at the cap of 5000 ns"),
        ([1400] * 200, {}, "settled at 1400 ns after 1 interrupt"),
        ([1400] * 124, {}, "at 1400 ns, too soon to call it settled"),
        ([1400] * 100 + [800, 1000] * 50, {"delta_cycles": -500}, "still tuning, at 1000 ns"),
    ],
)
def test_a_regime_has_its_words(advances, more, words):
    more = dict(more)
    delta_cycles = more.pop("delta_cycles", -50)
    events = interrupts([1200] * len(advances), advance_ns=advances, delta_cycles=delta_cycles)
    vcpu = vcpu_result(events, **more)
    assert in_words(vcpu) == f"{words}; all {len(advances)} within 480 ns; none early"


def test_frozen_has_its_words():
    vcpu = vcpu_result(interrupts([1200] * 200, delta_cycles=[50, *[-400] * 199]))
    assert in_words(vcpu).startswith("frozen at 1400 ns, away from what the interrupts need; ")


def test_a_failure_s_last_events_are_a_line_each_below_the_figures():
    told = (LastEvent(999_999, 0, 1, "interrupt 224", 0x1000), LastEvent(1_000_000, 0, 0, "HLT", 0x10_0041))
    text = report(run_result(failure=GuestFailure("halted"), last_events=told))
    assert text.split("\nlast events\n")[1].splitlines()[:3] == [
        "  host TSC               rip",
        "    999999  vCPU 1    0x1000  interrupt 224",
        "   1000000  vCPU 0  0x100041  HLT",
    ]


def test_early_interrupts_are_told_with_the_worst_of_them():
    vcpu = vcpu_result(interrupts([-25, -250, 1200, 1200]))
    assert in_words(vcpu).endswith("; 2 early, by 100 ns at most")


def test_a_run_without_interrupts_is_told_as_such():
    text = report(run_result(vcpu_result([])))
    assert text.splitlines()[-1] == "no timer interrupt reached a handler"
    assert row(text, "p50") == ["-", "-"]


def test_every_regime_has_a_colour():
    assert set(terminal.STYLES) == set(Regime)


@pytest.mark.parametrize("width", [40, 80])
def test_the_live_table_is_whole_on_a_narrow_terminal_too(width):
    vcpus = [
        vcpu_result(interrupts([10**9 + index for index in range(1000)]), vcpu=index) for index in (0, 1)
    ]
    now = SoFar(7, 1000, 500_000_000, lambda: run_result(*vcpus))
    file = Terminal()
    console = Console(file=file, width=width)
    console.print(live_table(now, "", 3.0, console))
    said = file.getvalue().split()
    assert said.count(str((10**9 + 999) * 2 // 5)) == 4  # p99.9 and the greatest of each, in ns
    assert said.count("settled") == 2


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (1, "the only one within 480 ns"),
        (999, "all 999 within 480 ns"),
        (1000, "99.9 % within 480 ns"),
    ],
)
def test_the_words_say_what_so_many_interrupts_can(samples, words):
    assert f"; {words}; " in in_words(vcpu_result(interrupts([1200] * samples)))


def test_a_percentile_of_too_few_interrupts_is_a_dash_and_says_what_it_needs():
    text = report(run_result())
    assert row(text, "p99.9") == ["-", "-", "needs", "1000", "samples,", "200", "there"]
    assert row(text, "p99")[2:] == ["number", "198", "of", "200"]
