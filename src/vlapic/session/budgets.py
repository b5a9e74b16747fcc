# SPDX-License-Identifier: GPL-2.0-or-later
"""Budgets: limits that the figures of a run have to keep, such as `p99=3us`, `early=0`, `wait=1%`.

A budget holds for every vCPU. Limits and figures are exact fractions, so that a figure at its limit keeps it
on any machine. A figure that is not known keeps no budget: nothing was measured, nothing settled, or a
percentile rests on so few interrupts that it is just the greatest of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

from vlapic.errors import UsageError, unknown_name
from vlapic.numerals import MOST_DIGITS, shown

if TYPE_CHECKING:  # results bring numpy with them, and a shell asks for the metrics at every key
    from vlapic.session.results import BudgetResult, RunResult, VcpuResult

#: Units a limit may have, and what one of them is: how many of which unit figures are given in.
UNITS: dict[str, tuple[int, str]] = {
    "ns": (1, "ns"),
    "us": (1_000, "ns"),
    "µs": (1_000, "ns"),
    "ms": (1_000_000, "ns"),
    "s": (1_000_000_000, "ns"),
    "cycles": (1, "cycles"),
    "%": (1, "%"),
    "": (1, ""),
}

#: What a metric is for one vCPU of a run, None if that is not known.
Read = Callable[["VcpuResult", "RunResult"], "int | float | Fraction | None"]

_LIMIT = re.compile(
    rf"(?P<number>-?[0-9]{{1,{MOST_DIGITS}}}(?:\.[0-9]{{1,{MOST_DIGITS}}})?) ?(?P<unit>[a-zµ]*|%)"
)


class Metric(NamedTuple):
    """A figure that can have a budget.

    Attributes:
        name: how it is asked for.
        what: what it is, for people.
        read: how to read it, by the unit its limit is in ("" is a count).
        at_least: the limit is the least it may be, instead of the most.
    """

    name: str
    what: str
    read: dict[str, Read]
    at_least: bool = False


def _late(figure: str) -> dict[str, Read]:
    return {
        "ns": lambda vcpu, run: getattr(vcpu.lateness_ns, figure),
        "cycles": lambda vcpu, run: getattr(vcpu.lateness_cycles, figure),
    }


def _share(part: int, whole: int) -> Fraction | None:
    return Fraction(100 * part, whole) if whole else None


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("p50", "lateness that half of the interrupts do not exceed", _late("p50")),
        Metric("p99", "lateness that 99 % do not exceed", _late("p99")),
        Metric("p99.9", "lateness that 99.9 % do not exceed", _late("p99_9")),
        Metric("max", "the greatest lateness", _late("max")),
        Metric("mean", "the mean lateness", _late("mean")),
        Metric("min", "the least lateness, at least the limit (negative is early)", _late("min"), True),
        Metric(
            "early",
            "interrupts before their deadline",
            {
                "": lambda vcpu, run: vcpu.lateness_ns.early,
                "%": lambda vcpu, run: _share(vcpu.lateness_ns.early, vcpu.interrupts),
            },
        ),
        Metric(
            "missed",
            "expiries that shared another one's interrupt",
            {
                "": lambda vcpu, run: vcpu.missed,
                "%": lambda vcpu, run: _share(vcpu.missed, vcpu.interrupts + vcpu.missed),
            },
        ),
        Metric(
            "wait",
            "the host's busy wait, in all",
            {
                "%": lambda vcpu, run: _share(vcpu.wait_ns.total, run.virtual_ns),
                "ns": lambda vcpu, run: vcpu.wait_ns.total,
            },
        ),
        Metric("wait-max", "the longest busy wait", {"ns": lambda vcpu, run: vcpu.wait_ns.max}),
        Metric(
            "blocked",
            "lateness that is the guest's own, in all",
            {
                "%": lambda vcpu, run: _share(vcpu.blocked_ns.total, run.virtual_ns),
                "ns": lambda vcpu, run: vcpu.blocked_ns.total,
            },
        ),
        Metric("blocked-max", "the same of one interrupt", {"ns": lambda vcpu, run: vcpu.blocked_ns.max}),
        Metric(
            "settled",
            "interrupts until the advancement settled",
            {"": lambda vcpu, run: vcpu.advance_ns.settled_after},
        ),
        Metric("advance", "the advancement at the end", {"ns": lambda vcpu, run: vcpu.advance_ns.final}),
    )
}

#: What a limit looks like, by the unit figures are given in.
_EXAMPLES = {"ns": "a time (3us; ns, us, ms or s)", "cycles": "cycles (5000cycles)", "%": "a share (1%)"}
_EXAMPLES[""] = "a number of interrupts (0)"


@dataclass(frozen=True)
class Budget:
    """A metric and its limit.

    Attributes:
        text: as it was written.
        metric: what is limited.
        limit: in `unit`.
        unit: "ns", "cycles", "%", or "" for a count.
    """

    text: str
    metric: Metric
    limit: Fraction
    unit: str

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read METRIC=LIMIT.

        Raises:
            UsageError: there is no such metric, or that is no limit for it.
        """
        name, equals, limit = (part.strip() for part in text.partition("="))
        name = name.replace("p99_9", "p99.9")
        if not equals:
            raise UsageError(f"budget {text!r} has no limit; write METRIC=LIMIT, for example p99=3us")
        if name not in METRICS:
            raise unknown_name("metric", name, METRICS)
        metric = METRICS[name]
        found = _LIMIT.fullmatch(limit)
        factor, unit = UNITS.get(found["unit"], (0, "?")) if found else (0, "?")
        if found and limit == "0" and "" not in metric.read:
            unit = next(iter(metric.read))
        if not found or unit not in metric.read:
            takes = " or ".join(_EXAMPLES[known] for known in metric.read)
            several = "; several budgets are an option each" if "," in limit else ""
            raise UsageError(f"budget {shown(text)}: {name} takes {takes}, not {shown(limit)}{several}")
        budget = cls(f"{name}={limit}", metric, Fraction(found["number"]) * factor, unit)
        if wrong := budget._pointless():
            raise UsageError(f"budget {text!r}: {wrong}")
        return budget

    def _pointless(self) -> str | None:
        """Why no figure could ever miss it, or none ever keep it; None if it can be kept and missed."""
        if self.limit < 0 and "cycles" not in self.metric.read:
            return f"{self.metric.name} is never below 0; expected 0 or more"
        if self.unit == "%" and self.limit > 100:
            return "a share is never above 100%; expected 0% to 100%"
        if not self.unit and self.limit.denominator != 1:
            return f"{self.metric.name} is counted; expected a whole number"
        return None

    def check(self, vcpu: VcpuResult, run: RunResult) -> BudgetResult:
        """Hold one vCPU of a run against this budget."""
        from vlapic.session.results import BudgetResult

        figure = self.metric.read[self.unit](vcpu, run)
        return BudgetResult(
            budget=self.text,
            limit=self.limit,
            unit=self.unit,
            at_least=self.metric.at_least,
            vm=vcpu.vm,
            vcpu=vcpu.id,
            figure=None if figure is None else Fraction(figure),
            unknown=self._why_unknown(vcpu) if figure is None else "",
        )

    def _why_unknown(self, vcpu: VcpuResult) -> str:
        from vlapic.session.results import NOTHING_MEASURED, not_settled, too_few_samples

        if not vcpu.interrupts:
            return NOTHING_MEASURED
        if self.metric.name == "settled":
            return f"not settled: {not_settled(vcpu)}"
        return str(too_few_samples(self.metric.name.replace(".", "_"), vcpu.interrupts))


def parse_all(texts: Iterable[str]) -> tuple[Budget, ...]:
    """Budgets as they are written, one a metric and unit.

    Raises:
        UsageError: one cannot be read, or two limit the same.
    """
    budgets: dict[tuple[str, str], Budget] = {}
    for text in texts:
        budget = Budget.parse(text)
        before = budgets.setdefault((budget.metric.name, budget.unit), budget)
        if before is not budget:
            raise UsageError(f"two budgets for {budget.metric.name}: {before.text} and {budget.text}")
    return tuple(budgets.values())


def check(budgets: Sequence[Budget], run: RunResult) -> tuple[BudgetResult, ...]:
    """Hold every vCPU of a run against every budget, in the order of the budgets."""
    return tuple(budget.check(vcpu, run) for budget in budgets for vcpu in run.vcpus)
