# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of a run for a terminal: a table a vCPU, its lateness as a histogram, the guest's console, and
the result in words.

Its tables fit 80 columns, and in another form 40; no figure is ever cut. Numbers are plain digits, so that
they can be searched for and copied. Colour is rich's affair: only on a terminal, never with NO_COLOR. Where
the output is not UTF-8, everything of ours is ASCII.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from vlapic.analysis.regime import SETTLED_EVENTS, Regime
from vlapic.analysis.spans import Span
from vlapic.analysis.statistics import Bin
from vlapic.report.tables import whole
from vlapic.session.results import (
    NOTHING_MEASURED,
    PERCENTILES,
    BudgetResult,
    RunResult,
    VcpuResult,
    too_few_samples,
    vcpu_name,
)

if TYPE_CHECKING:
    from vlapic.machine.flight_recorder import LastEvent
    from vlapic.session.spec import SoFar

#: How a regime looks; what needs a person's eye is loud.
STYLES = {
    Regime.OFF: "cyan",
    Regime.NOT_ADVANCED: "cyan",
    Regime.KILLED: "bold red",
    Regime.FIXED: "cyan",
    Regime.STUCK: "bold red",
    Regime.SAWTOOTH: "bold red",
    Regime.CAPPED: "yellow",
    Regime.FROZEN: "yellow",
    Regime.UNTUNED: "yellow",
    Regime.SETTLED: "green",
    Regime.TUNING: "yellow",
}

APICV = {"": "", "on": "APICv, ", "posted": "APICv, posted timer interrupts, "}
TIMERS = {"hrtimer": "host hrtimer", "preemption": "VMX preemption timer"}

#: The report is no wider than this, however wide the terminal is: eyes have to travel from a name to its
#: number.
MAX_WIDTH = 100
#: Below this width tables take another form: what else there is to say goes below a row's figures.
NARROW = 64

_EIGHTHS = " ▏▎▍▌▋▊▉"
_NONE = "-"


def print_run(result: RunResult, console: Console) -> None:
    """Print the whole report."""
    width = min(console.width, MAX_WIDTH)
    ascii_only = console.options.ascii_only
    show = partial(console.print, soft_wrap=True)
    show(_title(result))
    for vcpu in result.vcpus:
        show()
        show(_vcpu_line(vcpu, len(result.consoles)))
        show(_table(vcpu, result.virtual_ns, width))
        if vcpu.histogram:
            show()
            show(_histogram(vcpu.histogram, width, ascii_only))
    line = "-" if ascii_only else "─"
    said = [(vm, console) for vm, console in enumerate(result.consoles) if console]
    for vm, console_text in said:
        whose = f"console of VM {vm} " if len(result.consoles) > 1 else "console "
        show()
        show(Text(whose.ljust(width, line), "dim"))
        show(Text("\n".join(f"  {said}" for said in printable(console_text).splitlines())))
    if said:
        show(Text(line * width, "dim"))
    if result.worst or result.budgets or result.last_events:
        print_details(result, console)
    show()
    if result.end_text is not None:
        show(result.end_text)
    for who, words in in_words_by_vcpu(result):
        show(Text(who).append_text(words))


def print_details(result: RunResult, console: Console) -> None:
    """Print what there is beside the figures: the latest interrupts, budgets, a failure's last events."""
    vms, narrow = len(result.consoles), console.width < NARROW
    for span in result.worst or ():
        console.print()
        console.print(steps(span, vms, narrow), soft_wrap=True)
    if result.budgets:
        console.print()
        console.print(_budgets(result.budgets, vms, narrow), soft_wrap=True)
    if result.last_events:
        console.print()
        console.print(_last_events(result.last_events, vms, narrow), soft_wrap=True)


def in_words_by_vcpu(result: RunResult) -> list[tuple[str, Text]]:
    """For each vCPU whose words they are (empty if there is one vCPU), and the words."""
    several = len(result.vcpus) > 1
    return [
        (
            f"{vcpu_name(vcpu.vm, vcpu.id, len(result.consoles))}: " if several else "",
            Text(in_words(vcpu), STYLES[Regime(vcpu.regime)]),
        )
        for vcpu in result.vcpus
    ]


def live_table(now: SoFar, label: str, rate: float, console: Console | None = None) -> Group:
    """A run so far: a line, and a table with a row a vCPU, to be drawn again and again.

    Args:
        now: how far it is.
        label: of the run, may be empty.
        rate: timer interrupts of the first vCPU a second of wall time.
        console: where it is drawn; the table takes another form if it does not fit. None: it fits.
    """
    result = now.result()
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for heading in ("vCPU", "interrupts", "p50 ns", "p99 ns", "p99.9", "max", "early", "advance"):
        table.add_column(heading, justify="right", no_wrap=True, min_width=7 if heading != "vCPU" else 4)
    table.add_column("regime", no_wrap=True)
    for vcpu in result.vcpus:
        late = vcpu.lateness_ns
        figures = (vcpu.interrupts, late.p50, late.p99, late.p99_9, late.max, late.early)
        regime = Regime(vcpu.regime)
        table.add_row(
            f"{vcpu.vm}.{vcpu.id}" if vcpu.vm else str(vcpu.id),
            *map(_number, figures),
            str(vcpu.advance_ns.final),
            Text(regime, STYLES[regime]),
        )
    done = f"{now.interrupts} of {now.asked_for} interrupts, {rate:.0f}/s"
    line = f"{done}, {result.virtual_seconds:.3f} s of virtual time"
    shown = table if console is None else whole(table, console)
    return Group(Text(f"{label}: {line}" if label else line), shown)


def in_words(vcpu: VcpuResult) -> str:
    """One vCPU in a line: what the advancement did, how late nearly all came at most, how many were early."""
    if not vcpu.interrupts:
        return NOTHING_MEASURED
    early = "none early"
    if vcpu.lateness_ns.early:
        assert vcpu.lateness_ns.min is not None
        early = f"{vcpu.lateness_ns.early} early, by {-vcpu.lateness_ns.min} ns at most"
    return f"{_advancement_in_words(vcpu)}; {_within(vcpu)}; {early}"


def _within(vcpu: VcpuResult) -> str:
    """How late nearly all arrive at most; all, where so few do not tell of 99.9 %."""
    late = vcpu.lateness_ns
    if late.p99_9 is not None:
        return f"99.9 % within {late.p99_9} ns"
    return f"{'the only one' if vcpu.interrupts == 1 else f'all {vcpu.interrupts}'} within {late.max} ns"


def _advancement_in_words(vcpu: VcpuResult) -> str:
    advance = vcpu.advance_ns
    words = {
        Regime.OFF: "advancement off",
        Regime.NOT_ADVANCED: "not advanced: no timer was armed early",
        Regime.KILLED: f"advancement fell from {advance.initial} ns to 0 and stays there",
        Regime.FIXED: f"advancement fixed at {advance.final} ns",
        Regime.STUCK: f"stuck at the start value of {advance.final} ns",
        Regime.SAWTOOTH: f"sawtooth between {advance.min} and {advance.max} ns",
        Regime.CAPPED: f"held at the cap of {advance.final} ns",
        Regime.FROZEN: f"frozen at {advance.final} ns, away from what the interrupts need",
        Regime.UNTUNED: f"untuned, at {advance.final} ns: no interrupt came to the busy wait, which tunes it",
        Regime.SETTLED: f"settled at {advance.final} ns after {_interrupts(advance.settled_after or 0)}",
        Regime.TUNING: f"still tuning, at {advance.final} ns",
    }
    if vcpu.regime == Regime.TUNING and vcpu.interrupts - 3 * vcpu.interrupts // 4 < SETTLED_EVENTS:
        return f"at {advance.final} ns, too soon to call it settled"
    return words[Regime(vcpu.regime)]


def _interrupts(number: int) -> str:
    return f"{number} interrupt{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """A guest's text with its control characters made visible, so that a guest cannot drive the terminal."""
    return "".join(
        c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode()
        for c in text.replace("\r\n", "\n")
    )


def _title(result: RunResult) -> Text:
    host = "" if result.host == "default" else f"host {printable(result.host)}, "
    text = Text("vlapic run ", "dim")
    text.append(result.guest, "bold")
    text.append(
        f"   {result.engine} CPU, profile {result.profile}, {APICV[result.apicv]}{host}{_distance(result)}"
        f"seed {result.seed}\n"
        f"{result.virtual_seconds:.6f} s of virtual time, {result.instructions} guest instructions",
        "dim",
    )
    return text


def _distance(result: RunResult) -> str:
    return "" if result.delta_cycles is None else f"deadlines {result.delta_cycles} cycles apart, "


def _vcpu_line(vcpu: VcpuResult, vms: int) -> Text:
    missed = f", {vcpu.missed} missed" if vcpu.missed else ""
    return Text(vcpu_name(vcpu.vm, vcpu.id, vms), "bold").append(
        f"   {_interrupts(vcpu.interrupts)}{missed}, TSC {vcpu.tsc_khz / 1000:.3f} MHz,"
        f" {TIMERS.get(vcpu.timer, vcpu.timer)}",
        "not bold",
    )


def _table(vcpu: VcpuResult, virtual_ns: int, width: int) -> Text:
    ns, cycles, wait, advance = vcpu.lateness_ns, vcpu.lateness_cycles, vcpu.wait_ns, vcpu.advance_ns
    rows: list[tuple[str, str, object, object, str | Text]] = [
        ("lateness", "mean", _mean(ns.mean), _mean(cycles.mean), ""),
        ("", "p50", ns.p50, cycles.p50, _rests_on(vcpu, "p50")),
        ("", "p99", ns.p99, cycles.p99, _rests_on(vcpu, "p99")),
        ("", "p99.9", ns.p99_9, cycles.p99_9, _rests_on(vcpu, "p99_9")),
        ("", "max", ns.max, cycles.max, _blocked(vcpu)),
        ("", "early", ns.early, "", f"of {vcpu.interrupts}"),
        ("busy wait", "total", wait.total, "", _share(wait.total, virtual_ns)),
        ("", "max", wait.max, "", ""),
        ("advancement", "from", advance.initial, "", ""),
        ("", "to", advance.final, "", _regime(vcpu)),
        ("instructions", "min", vcpu.instructions_before_interrupt.min, "", "before the interrupt"),
        ("", "max", vcpu.instructions_before_interrupt.max, "", ""),
    ]
    narrow = width < NARROW
    names_width, cycles_width = (17, 11) if narrow else (21, 12)
    text = Text(f"  {'':{names_width}}{'ns':>10}{'cycles':>{cycles_width}}", "dim")
    whole_group = ""
    for group, name, in_ns, in_cycles, note in rows:
        whole_group = group or whole_group
        names = f"{whole_group} {name}" if narrow else f"{group:<14}{name}"
        figures = f"{_number(in_ns):>10}{_number(in_cycles):>{cycles_width}}"
        line = f"  {names:<{names_width}}{figures}"
        text.append(f"\n  {names:<{names_width}}", "not dim")
        text.append(figures.rstrip(), "not dim bold")
        if len(line) + 3 + len(note) <= width:
            text.append(" " * (len(figures) - len(figures.rstrip()) + 3 if note else 0))
            text.append_text(note if isinstance(note, Text) else Text(note))
        elif note:
            text.append("\n    ").append_text(note if isinstance(note, Text) else Text(note))
    return text


def steps(span: Span, vms: int, narrow: bool = False) -> Text:
    """One interrupt's way to its handler, a line a step, or two where it is narrow; `vms` is how many VMs
    there are.
    """
    who = vcpu_name(span.interrupt.vm, span.interrupt.vcpu, vms)
    own = f", {span.blocked_ns} ns of it the guest's own" if span.blocked_ns else ""
    text = Text(f"{span.lateness_ns} ns late", "bold")
    text.append(f"   {who}, interrupt {span.number}{own}", "not bold")
    number, after, deadline = (9, 11, "deadline +") if narrow else (10, 16, "after deadline")
    text.append(f"\n  {'':9}{'took ns':>{number}}{'sum ns':>{number}}{deadline:>{after}}", "not bold dim")
    for step in span.durations():
        text.append(f"\n  {step.step:<9}{step.took_ns:>{number}}{step.sum_ns:>{number}}", "not bold not dim")
        text.append(f"{step.after_deadline_ns:>{after}}", "not bold not dim")
        text.append(f"{_below(narrow, '   ')}{step.what}", "not bold not dim")
    return text


def _below(narrow: bool, between: str = "  ") -> str:
    """What stands between a row's figures and more of it: the end of the line, where it is narrow."""
    return "\n    " if narrow else between


def _budgets(budgets: tuple[BudgetResult, ...], vms: int, narrow: bool) -> Text:
    """A line a budget and vCPU: met or missed, the figure, by how much; or two where it is narrow."""
    width = max(len(each.budget) for each in budgets)
    names = [vcpu_name(each.vm, each.vcpu, vms) for each in budgets]
    who_width = max(map(len, names))
    text = Text("budgets", "bold")
    for each, who in zip(budgets, names, strict=True):
        verdict = Text("met   ", "not bold green") if each.met else Text("MISSED", "bold red")
        text.append("\n  ", "not bold").append_text(verdict)
        text.append(f"  {each.budget:<{width}}  {who:<{who_width}}".rstrip(), "not bold")
        text.append(f"{'' if narrow else ' ' * (who_width - len(who))}{_below(narrow)}", "not bold")
        text.append(each.in_words(), "not bold")
    return text


def _last_events(events: tuple[LastEvent, ...], vms: int, narrow: bool) -> Text:
    """What vCPUs that failed did last, a line each: when, whose it was, where the guest stood, what."""
    names = [vcpu_name(each.vm, each.vcpu, vms) for each in events]
    who_width = max(map(len, names))
    tsc_width = max(len("host TSC"), *(len(str(each.host_tsc)) for each in events))
    rip_width = max(len(f"{each.rip:#x}") for each in events)
    text = Text("last events", "bold")
    text.append(f"\n  {'host TSC':>{tsc_width}}  {'':{who_width}}  {'rip':>{rip_width}}", "not bold dim")
    for each, who in zip(events, names, strict=True):
        text.append(
            f"\n  {each.host_tsc:>{tsc_width}}  {who:<{who_width}}  {each.rip:>#{rip_width}x}",
            "not bold not dim",
        )
        text.append(f"{_below(narrow)}{each.what}", "not bold not dim")
    return text


def _rests_on(vcpu: VcpuResult, percentile: str) -> str:
    """Which of how many interrupts a percentile is, or how many it would need."""
    samples = vcpu.interrupts
    if not samples:
        return ""
    if too_few := too_few_samples(percentile, samples):
        return too_few.partition(" ")[2]
    rank = f"number {-(-samples * PERCENTILES[percentile] // 1000)} of {samples}"
    return rank if vcpu.lateness_ns.exact and vcpu.lateness_cycles.exact else f"{rank}, 0.1 % more at most"


def _number(value: object) -> str:
    return _NONE if value is None else str(value)


def _mean(value: float | None) -> str | None:
    return None if value is None else f"{value:.1f}"


def _share(part_ns: int, whole_ns: int) -> str:
    return f"{100 * part_ns / whole_ns:.2f} % of the time" if whole_ns else ""


def _blocked(vcpu: VcpuResult) -> str:
    return f"guest's own: {vcpu.blocked_ns.max} at most" if vcpu.blocked_ns.max else ""


def _regime(vcpu: VcpuResult) -> Text:
    after = vcpu.advance_ns.settled_after
    settled = f" after {_interrupts(after)}" if vcpu.regime == Regime.SETTLED and after is not None else ""
    return Text(f"{vcpu.regime}{settled}", STYLES[Regime(vcpu.regime)])


def _histogram(bins: tuple[Bin, ...], width: int, ascii_only: bool) -> Text:
    """Rows of an interval, its number of interrupts, and a bar of that length."""
    names = [_interval(row) for row in bins]
    most = max(row.values for row in bins)
    name_width = max(len("lateness, ns"), *map(len, names))
    count_width = max(len("interrupts"), len(str(most)))
    room = max(10, width - name_width - count_width - 6)
    text = Text(f"  {'lateness, ns':>{name_width}}  {'interrupts':>{count_width}}", "dim")
    for name, row in zip(names, bins, strict=True):
        bar = _bar(row.values, most, room, ascii_only)
        text.append(f"\n  {name:>{name_width}}  {row.values:>{count_width}}{'  ' if bar else ''}", "not dim")
        text.append(bar, "not dim cyan")
    return text


def _interval(row: Bin) -> str:
    if row.low is None:
        return f"below {row.high}"
    if row.high is None:
        return f"{row.low} and above"
    return f"{row.low}" if row.high == row.low + 1 else f"{row.low} to {row.high - 1}"


def _bar(value: int, most: int, room: int, ascii_only: bool) -> str:
    """A bar of `value` parts in `most`, in eighths of a column; anything at all can be seen."""
    eighths = -(-value * room * 8 // most) if most else 0
    if ascii_only:
        return "#" * -(-eighths // 8)
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()
