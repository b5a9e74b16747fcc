# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run came to, as frozen data, and its JSON (schema `vlapic.run/1`).

Every number of the terminal report, of `--json` and of the library stands here once. What is not known is
None; in the JSON that is null, with the reason under `unavailable`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from vlapic.analysis.regime import NOT_SETTLED, Regime
from vlapic.analysis.statistics import Bin, Distribution, VcpuStatistics, samples_needed
from vlapic.errors import (
    STATUS_BUDGET,
    STATUS_GUEST,
    STATUS_INTERRUPTED,
    STATUS_OK,
    STATUS_WORLD,
    GuestFailure,
)
from vlapic.json_data import NOT_IN_JSON, json_data
from vlapic.machine.guests.programs import PROGRAMS

if TYPE_CHECKING:
    from vlapic.analysis.spans import Span
    from vlapic.machine.flight_recorder import LastEvent

SCHEMA = "vlapic.run/1"
#: The path of what may be null in a budget or a vCPU.
_PLACE = re.compile(r"(?P<table>budgets|vcpus)\[(?P<index>\d+)\].*?(?P<field>\w+)")
#: Rows of the histogram a result keeps for the report.
HISTOGRAM_BINS = 16
#: The percentiles of lateness, per mille, by their field.
PERCENTILES = {"p50": 500, "p99": 990, "p99_9": 999}


#: Why there is no figure of a vCPU without interrupts.
NOTHING_MEASURED = "no timer interrupt reached a handler"


@dataclass(frozen=True)
class Lateness:
    """Guest TSC at the handler's first instruction minus the deadline, in one unit; negative is early.

    A percentile is None unless it rests on enough samples not to be just the greatest of them: 2 for `p50`,
    100 for `p99`, 1000 for `p99_9`. `min`, `mean` and `max` are None without any.

    Attributes:
        measured_by: engine, guest or host.
        samples: how many interrupts they all rest on.
        early: how many of these came before their deadline.
        exact: whether the percentiles are.
    """

    measured_by: str
    samples: int
    min: int | None
    mean: float | None
    p50: int | None
    p99: int | None
    p99_9: int | None
    max: int | None
    early: int
    exact: bool

    @classmethod
    def of(cls, distribution: Distribution, measured_by: str) -> Lateness:
        """The figures of a distribution; `measured_by` is engine, guest or host."""
        return cls(
            measured_by=measured_by,
            samples=distribution.count,
            min=distribution.min,
            mean=distribution.mean,
            **{name: distribution.percentile_if_known(at) for name, at in PERCENTILES.items()},
            max=distribution.max,
            early=distribution.early,
            exact=distribution.exact,
        )


def too_few_samples(name: str, samples: int) -> str | None:
    """Why a percentile of `PERCENTILES` is not known with so many samples; None if it is."""
    needed = samples_needed(PERCENTILES[name])
    if samples >= needed:
        return None
    return f"{name.replace('_', '.')} needs {needed} samples, {samples} there"


@dataclass(frozen=True)
class Advancement:
    """How early the timer fired, in ns. `settled_after` counts interrupts; None if it did not settle."""

    initial: int
    final: int
    min: int
    max: int
    settled_after: int | None


@dataclass(frozen=True)
class Spent:
    """Time spent, in ns: in all, and at most at one interrupt."""

    total: int
    max: int


@dataclass(frozen=True)
class Instructions:
    """The least and the most guest instructions before an interrupt; None without interrupts."""

    min: int | None
    max: int | None


@dataclass(frozen=True)
class VcpuResult:
    """One vCPU of a run.

    Attributes:
        vm, id: which one.
        tsc_khz, tsc_ratio: its TSC frequency and scaling ratio.
        timer: the host timer under its APIC, "hrtimer" or "preemption".
        interrupts: timer interrupts that reached their handler.
        missed: expiries that shared another one's interrupt.
        advance_ns: the timer advancement.
        regime: what the advancement did (`vlapic.analysis.regime.Regime`).
        lateness_ns, lateness_cycles: the same interrupts in ns and in guest TSC cycles.
        wait_ns: the host's busy wait.
        blocked_ns: the part of lateness that is the guest's own: IF, shadow, TPR or LVTT mask against the
            interrupt.
        instructions_before_interrupt: guest instructions.
        histogram: lateness in ns, for the report; not in the JSON.
    """

    vm: int
    id: int
    tsc_khz: int
    tsc_ratio: int
    timer: str
    interrupts: int
    missed: int
    advance_ns: Advancement
    regime: str
    lateness_ns: Lateness
    lateness_cycles: Lateness
    wait_ns: Spent
    blocked_ns: Spent
    instructions_before_interrupt: Instructions
    histogram: tuple[Bin, ...] = field(default=(), repr=False, metadata=NOT_IN_JSON)

    @classmethod
    def of(
        cls,
        statistics: VcpuStatistics,
        *,
        vm: int,
        id: int,
        tsc_ratio: int,
        timer: str,
        measured_by: str = "engine",
    ) -> VcpuResult:
        """What statistics came to."""
        history = statistics.history
        return cls(
            vm=vm,
            id=id,
            tsc_khz=statistics.tsc_khz,
            tsc_ratio=tsc_ratio,
            timer=timer,
            interrupts=statistics.interrupts,
            missed=statistics.missed,
            advance_ns=Advancement(
                initial=history.start_ns,
                final=history.final_ns,
                min=history.low_ns,
                max=history.high_ns,
                settled_after=statistics.settled_after(),
            ),
            regime=str(statistics.regime()),
            lateness_ns=Lateness.of(statistics.lateness_ns, measured_by),
            lateness_cycles=Lateness.of(statistics.lateness_cycles, measured_by),
            wait_ns=Spent(statistics.wait_total_ns, statistics.wait_max_ns),
            blocked_ns=Spent(statistics.blocked_total_ns, statistics.blocked_max_ns),
            instructions_before_interrupt=Instructions(
                statistics.least_instructions, statistics.most_instructions
            ),
            histogram=tuple(statistics.lateness_ns.histogram(HISTOGRAM_BINS)),
        )


@dataclass(frozen=True)
class BudgetResult:
    """How one vCPU kept a budget.

    Attributes:
        budget: the budget as it was written, `METRIC=LIMIT`.
        limit: its limit, in `unit`.
        unit: "ns", "cycles", "%", or "" for a count.
        at_least: whether the limit is the least that the figure may be, instead of the most.
        vm, vcpu: whose figure it is, by their numbers.
        figure: in `unit`; None if it is not known.
        unknown: why it is not; empty if it is.
    """

    budget: str
    limit: Fraction
    unit: str
    at_least: bool
    vm: int
    vcpu: int
    figure: Fraction | None
    unknown: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure is known and within its limit."""
        return self.figure is not None and self.excess <= 0

    @property
    def excess(self) -> Fraction:
        """By how much the figure is beyond its limit; 0 or negative if it is within."""
        if self.figure is None:
            return Fraction(0)
        beyond = self.figure - self.limit
        return -beyond if self.at_least else beyond

    def figure_in_words(self) -> str:
        """The figure with its unit, or why there is none."""
        return self.unknown if self.figure is None else _with_unit(self.figure, self.unit)

    def in_words(self) -> str:
        """The figure, and by how much it is beyond the limit if it is."""
        if self.met or self.figure is None:
            return self.figure_in_words()
        limit = abs(self.limit)
        share = ""
        if limit and self.unit != "%":
            percent = float(100 * self.excess / limit)
            share = f" ({percent:.0f} %)" if percent >= 1000 else f" ({percent:.3g} %)"
        direction = "too little" if self.at_least else "too much"
        return f"{self.figure_in_words()}, {_with_unit(self.excess, self.unit)}{share} {direction}"

    def as_json(self) -> dict[str, Any]:
        """The object of the schema; `unit` is "" for a count, `figure` null if it is not known."""
        return {
            "budget": self.budget,
            "vm": self.vm,
            "vcpu": self.vcpu,
            "limit": _number(self.limit),
            "figure": None if self.figure is None else _number(self.figure),
            "unit": self.unit,
            "met": self.met,
        }


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        engine: the CPU, "emulated" or "kvm".
        profile: the profile's name.
        host: the host model's name.
        seed: of the host model.
        guest: the built-in guest's name, or the path given.
        exit_code: the value the guest reported, 0 is good; None if it reported none. Of several VMs the first
            that is not 0.
        consoles: what it printed, in each VM.
        virtual_ns: how long it ran, in virtual time.
        instructions: guest instructions retired.
        vcpus: one result a vCPU.
        failure: why the guest could not go on, None if it could.
        end: what the guest did to its machine to end it, in words that follow "the guest"; None if it did
            neither switch it off nor reset it. Of several VMs the first that did.
        last_events: what the vCPUs that failed did last, by time; empty without a failure.
        interrupted: whether a person stopped the run.
        trace_failure: why the trace is not whole, in a line; None if it is, or none was asked for.
        budgets: how each vCPU kept the budgets that were given.
        worst: the latest interrupts, the very latest first; None if they were not asked for.
        wall_seconds: how long it took; None where time is virtual.
        notes: what the guest's image asks for and did not get, each in a line.
        delta_cycles: distance of the guest's deadlines, if one was asked for.
        apicv: "on" if the CPU virtualised the APIC, "posted" if timer interrupts were posted too; else empty.
    """

    engine: str
    profile: str
    host: str
    seed: int
    guest: str
    exit_code: int | None
    consoles: tuple[str, ...]
    virtual_ns: int
    instructions: int
    vcpus: tuple[VcpuResult, ...]
    failure: GuestFailure | None = None
    interrupted: bool = False
    trace_failure: str | None = None
    budgets: tuple[BudgetResult, ...] = ()
    worst: tuple[Span, ...] | None = None
    wall_seconds: float | None = None
    apicv: str = ""
    delta_cycles: int | None = None
    last_events: tuple[LastEvent, ...] = ()
    notes: tuple[str, ...] = ()
    end: str | None = None

    @property
    def console(self) -> str:
        """What the first VM's guest printed."""
        return self.consoles[0]

    @property
    def virtual_seconds(self) -> float:
        """How long the guest ran, in seconds of virtual time."""
        return self.virtual_ns / 1e9

    @property
    def exit_status(self) -> int:
        """What the command line ends with: the first of these that is true."""
        if self.trace_failure is not None:
            return STATUS_WORLD
        if self.failure is not None or self.exit_code:
            return STATUS_GUEST
        if self.interrupted:
            return STATUS_INTERRUPTED
        return STATUS_BUDGET if self.missed_budgets else STATUS_OK

    @property
    def missed_budgets(self) -> tuple[BudgetResult, ...]:
        """The budgets that were not kept."""
        return tuple(each for each in self.budgets if not each.met)

    @property
    def failure_text(self) -> str | None:
        """What the guest did wrong, in one line; None if nothing."""
        if self.failure is not None:
            return str(self.failure)
        if not self.exit_code:
            return None
        program = PROGRAMS.get(self.guest)
        words = program.report_in_words(self.exit_code) if program else ""
        return f"the guest reported {self.exit_code}{f': {words}' if words else '; 0 is success'}"

    @property
    def end_text(self) -> str | None:
        """How the guest ended its machine, in one line; None if it did not."""
        return None if self.end is None else f"the guest {self.end}"

    def as_json(self) -> dict[str, Any]:
        """The object `vlapic run --json` prints, in the order of the schema.

        `end` is there if the guest ended its machine, `budgets` and `worst` if they were asked for,
        `last_events` if the guest failed, `notes` if there are any. The reason for every null is under
        `unavailable`, by its path: `wall_seconds`, `vcpus[0].lateness_ns.p50`.
        """
        known: dict[str, Any] = {
            "schema": SCHEMA,
            "engine": self.engine,
            "profile": self.profile,
            **({"apicv": self.apicv} if self.apicv else {}),
            "host": self.host,
            "seed": self.seed,
            **({"delta_cycles": self.delta_cycles} if self.delta_cycles is not None else {}),
            "guest": self.guest,
            "exit_code": self.exit_code,
            **({"end": self.end_text} if self.end else {}),
            "console": self.console,
            **({"consoles": list(self.consoles)} if len(self.consoles) > 1 else {}),
            "virtual_seconds": self.virtual_seconds,
            "wall_seconds": self.wall_seconds,
            "instructions": self.instructions,
            "vcpus": json_data(self.vcpus),
        }
        if self.budgets:
            known["budgets"] = json_data(self.budgets)
        if self.worst is not None:
            known["worst"] = json_data(self.worst)
        if self.notes:
            known["notes"] = list(self.notes)
        if self.last_events:
            known["last_events"] = json_data(self.last_events)
        return known | {"unavailable": {path: self._why_null(path) for path in nulls(known)}}

    def _why_null(self, path: str) -> str:
        if path == "wall_seconds":
            return "virtual time only: the emulated CPU's results do not depend on how fast it ran"
        if path == "exit_code":
            if self.failure is not None:
                return str(self.failure)
            if self.end_text is not None:
                return f"{self.end_text} and reported no value"
            return (
                "interrupted before the guest reported"
                if self.interrupted
                else "the guest did not report a value"
            )
        place = _PLACE.fullmatch(path)
        assert place is not None, path
        index = int(place["index"])
        if place["table"] == "budgets":
            return self.budgets[index].unknown
        vcpu = self.vcpus[index]
        if place["field"] == "settled_after":
            return not_settled(vcpu)
        if vcpu.interrupts and place["field"] in PERCENTILES:
            return str(too_few_samples(place["field"], vcpu.interrupts))
        return NOTHING_MEASURED


def not_settled(vcpu: VcpuResult) -> str:
    """Why the advancement of a vCPU has not settled."""
    return NOT_SETTLED[Regime(vcpu.regime)] if vcpu.interrupts else NOTHING_MEASURED


def vcpu_name(vm: int, vcpu: int, vms: int) -> str:
    """How people call a vCPU where there are so many VMs; the only VM goes without saying."""
    return f"VM {vm} vCPU {vcpu}" if vms > 1 else f"vCPU {vcpu}"


def _with_unit(number: Fraction, unit: str) -> str:
    value = float(number)
    if number.denominator == 1:
        text = str(number)
    else:
        text = f"{value:.1f}" if abs(value) >= 100_000 else f"{value:.6g}"
    return f"{text} {unit}".rstrip()


def _number(number: Fraction) -> int | float:
    return int(number) if number.denominator == 1 else float(number)


def nulls(value: Any, path: str = "") -> list[str]:
    """The paths of all that is None in an object, in its order."""
    if value is None:
        return [path]
    if isinstance(value, dict):
        return [null for key, of in value.items() for null in nulls(of, f"{path}.{key}" if path else key)]
    if isinstance(value, list):
        return [null for index, of in enumerate(value) for null in nulls(of, f"{path}[{index}]")]
    return []
