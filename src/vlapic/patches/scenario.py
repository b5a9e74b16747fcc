# SPDX-License-Identifier: GPL-2.0-or-later
"""What a scenario is, and what showing one comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vlapic.events import Event
from vlapic.kernels.fixes import FIXES
from vlapic.kernels.profiles import SERIES, Profile

#: What a scenario measured, by name; a name ends in its unit where it has one. JSON values.
Figures = dict[str, Any]
Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Side:
    """One of the two runs of a scenario.

    Attributes:
        figures: what was measured.
        story: the events of one interrupt, from the write that armed its timer to its handler.
    """

    figures: Figures
    story: tuple[Event, ...] = ()


@dataclass(frozen=True)
class Scenario:
    """How one fix is shown.

    Attributes:
        fix: its number, 1 to 7.
        symptom: what goes wrong without it, in a line.
        parameters: of host and guests, all there are; printed with what came of them.
        labels: the figures in words, in the order in which they are shown.
        story: which interrupt the story tells, in words.
        measure: run it by a profile's rules.
        verdict: whether the figures without and with the fix show the bug and its end.
    """

    fix: int
    symptom: str
    parameters: Parameters
    labels: Mapping[str, str]
    story: str
    measure: Callable[[Parameters, Profile], Side]
    verdict: Callable[[Parameters, Figures, Figures], bool]


@dataclass(frozen=True)
class Shown:
    """A scenario that was run on both sides.

    Attributes:
        shown: whether the bug is there without the fix, and gone with it.
    """

    scenario: Scenario
    without: Side
    with_fix: Side
    shown: bool

    def __repr__(self) -> str:
        return f"<Shown fix {self.scenario.fix}: {'shown' if self.shown else 'not shown'}>"

    @property
    def title(self) -> str:
        """Of the patch, as it was posted."""
        return FIXES[self.scenario.fix].title

    def as_json(self) -> dict[str, Any]:
        """An element of `fixes` in the schema."""
        return {
            "fix": self.scenario.fix,
            "title": self.title,
            "symptom": self.scenario.symptom,
            "parameters": dict(self.scenario.parameters),
            "without": self.without.figures,
            "with": self.with_fix.figures,
            "shown": self.shown,
        }


def examine(scenario: Scenario, without: Profile | None = None, with_fix: Profile | None = None) -> Shown:
    """Run a scenario by two profiles: the series without the scenario's fix, and the series."""
    before = scenario.measure(
        scenario.parameters, SERIES.without(scenario.fix) if without is None else without
    )
    after = scenario.measure(scenario.parameters, SERIES if with_fix is None else with_fix)
    verdict = scenario.verdict(scenario.parameters, before.figures, after.figures)
    return Shown(scenario, before, after, verdict)
