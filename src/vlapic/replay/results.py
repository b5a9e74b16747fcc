# SPDX-License-Identifier: GPL-2.0-or-later
"""What a replay came to, as frozen data, and its JSON (schema `vlapic.replay/1`).

What is not known is None; in the JSON that is null, with the reason under `unavailable`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vlapic.analysis.regime import NOT_SETTLED, Regime
from vlapic.errors import STATUS_BUDGET, STATUS_INTERRUPTED, STATUS_OK, STATUS_WORLD
from vlapic.json_data import first, json_data
from vlapic.replay.apicv_deltas import Stretch
from vlapic.replay.checks import Parting
from vlapic.replay.module_flag import Flip
from vlapic.session.results import Advancement, nulls

SCHEMA = "vlapic.replay/1"
#: Stretches and flips that the JSON lists one by one.
LISTED = 100


@dataclass(frozen=True)
class Costs:
    """What tracing cost, in guest cycles; None without any delta compared."""

    min: int | None
    median: int | None
    max: int | None


@dataclass(frozen=True)
class Rebuilt:
    """Deltas computed again from deadline, time, offset and ratio, and held against the recorded ones.

    Attributes:
        compared: how many could be.
        unpaired: how many had no deadline or offset to be computed from.
        misfits: how many of those compared do not fit.
        first_misfit: index of the first of these; None if there is none.
        cost_cycles: computed minus recorded, which is what tracing cost.
    """

    compared: int
    unpaired: int
    misfits: int
    first_misfit: int | None
    cost_cycles: Costs


@dataclass(frozen=True, kw_only=True)
class VcpuReplay:
    """One vCPU of a replay.

    Attributes:
        vm, vcpu: which one.
        vm_inferred: its VM follows from names and neighbouring threads only.
        tsc_khz: the frequency of its TSC, and where that is from.
        approximate: the frequency is fitted, and so the trajectory may be off; its error is
            `tsc_khz_error`.
        parameter: the module parameter it was created under, `auto` or ns, and where that is from.
        events: deltas that went through the rules.
        advance_ns: the advancement; `settled_after` counts events.
        filtered: deltas too large to tune with.
        resets: how often tuning came out above the limit and began anew.
        dropped: deltas that were none: a kernel's bogus first one.
        while_off: deltas that came although the advancement was 0.
        regime: what the advancement did (`vlapic.analysis.regime.Regime`).
        created: the trace shows its creation; else it was there before.
        checked, mismatches: samples compared, and those that differ.
        parting: where model and samples part; None if they do not.
        rebuilt: deltas computed again; None where the trace's clock is not the TSC.
        virtualised: whether the hardware delivered the interrupts (APICv); None if the trace does not tell.
        hidden: deltas that the kernel kept to itself.
        unobserved: where these are.
    """

    vm: int
    vcpu: int
    vm_inferred: bool
    tsc_khz: int
    tsc_khz_from: str
    tsc_khz_error: float | None
    approximate: bool
    parameter: int | str
    parameter_from: str
    events: int
    advance_ns: Advancement
    filtered: int
    resets: int
    dropped: int
    while_off: int
    regime: str
    created: bool
    checked: int
    mismatches: int
    parting: Parting | None
    rebuilt: Rebuilt | None
    virtualised: bool | None
    hidden: int
    unobserved: tuple[Stretch, ...] = field(metadata=first(LISTED))


@dataclass(frozen=True)
class ReplayResult:
    """What a replay came to.

    Attributes:
        trace: the file.
        form: what kind of file it is.
        clock: `tsc`, `ns` or `unknown`: what its times count.
        resolution_ns: where that is ns, what its times are whole multiples of, as far as can be seen: 1000 is
            text with microseconds. None of other clocks, and of trace.dat.
        kernel: the release that recorded it; None if nobody says.
        profile: the rules' name, and why these.
        vcpus: one result a vCPU.
        flips: changes of the module's flag.
        lost, lost_events: how many losses the trace tells of, and of how many events as far as it says.
        lost_in_words: the same for people, a line for each cause.
        disordered: events that stood further from their time than a batch.
        unplaced: samples of which nobody knows whose they are, or where.
        passed_over: events of names that are not read.
        interrupted: a person ended it; the results are those of the trace up to there.
        samples_given: samples were given beside the trace.
    """

    trace: str
    form: str
    clock: str
    kernel: str | None
    profile: str
    profile_from: str
    vcpus: tuple[VcpuReplay, ...]
    flips: tuple[Flip, ...] = ()
    lost: int = 0
    lost_events: int = 0
    lost_in_words: tuple[str, ...] = ()
    disordered: int = 0
    unplaced: int = 0
    passed_over: int = 0
    interrupted: bool = False
    resolution_ns: int | None = None
    samples_given: bool = False

    @property
    def events(self) -> int:
        """Deltas of all vCPUs."""
        return sum(vcpu.events for vcpu in self.vcpus)

    @property
    def checked(self) -> int:
        """Samples of all vCPUs."""
        return sum(vcpu.checked for vcpu in self.vcpus)

    @property
    def mismatches(self) -> int:
        """Samples of all vCPUs that the model does not agree with."""
        return sum(vcpu.mismatches for vcpu in self.vcpus)

    @property
    def nothing_compared(self) -> bool:
        """Whether samples were given of which not one has a place in the trace."""
        return self.samples_given and bool(self.unplaced) and not self.checked

    @property
    def exit_status(self) -> int:
        """What the command line ends with."""
        if self.interrupted:
            return STATUS_INTERRUPTED
        if self.nothing_compared:
            return STATUS_WORLD
        return STATUS_BUDGET if self.mismatches else STATUS_OK

    def as_json(self) -> dict[str, Any]:
        """The object `vlapic replay --json` prints; `unavailable` has the reason of every null."""
        known = {
            "schema": SCHEMA,
            "trace": self.trace,
            "form": self.form,
            "clock": self.clock,
            "resolution_ns": self.resolution_ns,
            "kernel": self.kernel,
            "profile": self.profile,
            "profile_from": self.profile_from,
            "lost": {"losses": self.lost, "events": self.lost_events, "in_words": list(self.lost_in_words)},
            "disordered": self.disordered,
            "unplaced": self.unplaced,
            "passed_over": self.passed_over,
            "flips": json_data(self.flips[:LISTED]),
            "vcpus": json_data(self.vcpus),
        }
        return known | {"unavailable": {path: self._why_null(path) for path in nulls(known)}}

    def _why_null(self, path: str) -> str:
        reasons = {
            "kernel": "neither the trace nor a sidecar says it",
            "resolution_ns": "only text with times in ns shows it",
            "tsc_khz_error": "the frequency is not fitted",
            "parting": "model and samples agree, or there are no samples",
            "rebuilt": "the trace's clock is not the host's TSC",
            "first_misfit": "no delta compared does not fit",
            "virtualised": "the trace lacks events to tell: kvm_entry, kvm_apic_accept_irq",
        }
        if path.endswith("settled_after"):
            index = int(path.partition("[")[2].partition("]")[0])
            return NOT_SETTLED[Regime(self.vcpus[index].regime)]
        return reasons.get(path.rpartition(".")[2], "no delta could be compared")
