# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs side by side: the same guest with one option varied, or results that were kept as JSON.

What is compared is what `vlapic run --json` prints; a run of now and one of last year are treated alike.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from vlapic.analysis.regime import Regime
from vlapic.errors import (
    STATUS_BUDGET,
    STATUS_GUEST,
    STATUS_INTERRUPTED,
    STATUS_OK,
    STATUS_WORLD,
    UsageError,
    WorldError,
    unknown_name,
)
from vlapic.kernels.profiles import find_profile
from vlapic.numerals import MOST_DIGITS, shown
from vlapic.session import results
from vlapic.session.options import COMPARABLE, NOT_COMPARABLE
from vlapic.session.results import RunResult
from vlapic.session.run import run_spec
from vlapic.session.spec import RunSpec, SoFar
from vlapic.signature import checked

SCHEMA = "vlapic.compare/1"
#: Exit statuses of several runs: the first that one of them has is that of all.
_STATUSES = (STATUS_WORLD, STATUS_GUEST, STATUS_INTERRUPTED, STATUS_BUDGET, STATUS_OK)
#: What of a run's object is an outcome; every other plain value of it is set up by whoever ran it.
_OUTCOMES = {"schema", "exit_code", "end", "console", "virtual_seconds", "wall_seconds", "instructions"}
#: The setting of a vCPU that a run does not have.
_NOT_THERE = "-"
#: What is set up of a vCPU.
_VCPU_SETUP = ("tsc_khz", "tsc_ratio", "timer")


@dataclass(frozen=True)
class Variants:
    """One option and its values, in the order they are compared in.

    Attributes:
        by: the option's name.
        values: by label, as they were written.
    """

    by: str
    values: dict[str, Any]

    @classmethod
    def parse(cls, text: str) -> Variants:
        """Read `OPTION=A,B[,C]`; without an option the values are profiles.

        Raises:
            UsageError: there is no such option, or there are not two different values.
        """
        by, equals, listed = text.partition("=")
        if not equals and by in COMPARABLE:
            raise UsageError(f"compare {text!r} has no values; give two or more, as in {by}=A,B")
        if not equals:
            by, listed = "profile", text
        by = by.strip().removeprefix("--").replace("_", "-")
        if by in NOT_COMPARABLE:
            known = ", ".join(sorted(COMPARABLE))
            raise UsageError(f"compare {by}: it changes nothing that a run comes to; known: {known}")
        if by not in COMPARABLE:
            raise unknown_name("option to compare", by, COMPARABLE)
        labels = [label.strip() for label in listed.split(",")]
        if len(labels) < 2:
            raise UsageError(f"compare {text!r} has one value; give two or more, as in {by}=A,B")
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            raise UsageError(f"compare {text!r} has {twice!r} twice")
        values = {label: _value_of(by, label) for label in labels}
        if by == "profile":
            names = [find_profile(label).name for label in labels]
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise UsageError(f"compare {text!r} has the profile {twice!r} twice")
        return cls(by, values)

    def options(self) -> dict[str, dict[str, Any]]:
        """The argument of :func:`vlapic.run` that each run has of its own, by label."""
        name = COMPARABLE[self.by].parameter
        return {label: {name: value} for label, value in self.values.items()}


def _value_of(by: str, label: str) -> Any:
    try:
        return COMPARABLE[by].read(label)
    except ValueError as error:
        raise UsageError(f"compare {by}={label}: it is {error}") from None


@dataclass(frozen=True)
class Comparison:
    """What the runs of a comparison came to.

    Attributes:
        by: the option that was varied.
        runs: label and result of each, in order; after an interruption those that were begun.
        asked_for: how many were to be run.
    """

    by: str
    runs: tuple[tuple[str, RunResult], ...]
    asked_for: int

    @property
    def interrupted(self) -> bool:
        """Whether a person stopped it."""
        return len(self.runs) < self.asked_for or any(result.interrupted for _, result in self.runs)

    @property
    def exit_status(self) -> int:
        """What the command line ends with."""
        found = {result.exit_status for _, result in self.runs}
        if self.interrupted:
            found.add(STATUS_INTERRUPTED)
        return next(status for status in _STATUSES if status in found)

    def objects(self) -> list[tuple[str, dict[str, Any]]]:
        """Label and JSON object of each run."""
        return [(label, result.as_json()) for label, result in self.runs]

    def as_json(self) -> dict[str, Any]:
        """The object `vlapic run --compare --json` prints."""
        return comparison_json(self.by, self.objects())


def comparison_json(by: str, runs: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """An object of the schema `vlapic.compare/1`."""
    return {"schema": SCHEMA, "by": by, "runs": [{"label": label, "run": of} for label, of in runs]}


@checked
def compare(
    guest: str | os.PathLike[str] = "deadline",
    *,
    variants: Variants | str,
    progress: Callable[[SoFar, str], None] | None = None,
    **options: Any,
) -> Comparison:
    """Run a guest once for each value of an option; all else is the same.

    Args:
        guest: as for :func:`vlapic.run`.
        variants: the option and its values; text is read as `Variants.parse` does.
        progress: called a few times a second, with the label of the run.
        options: of :func:`vlapic.run`, for every run.

    Raises:
        UsageError, WorldError: as :func:`vlapic.run` does.
    """
    if isinstance(variants, str):
        variants = Variants.parse(variants)
    specs: dict[str, RunSpec] = {}
    for label, own in variants.options().items():
        show = None if progress is None else partial(_labelled, progress, label)
        specs[label] = RunSpec(**{"guest": guest} | options | own | {"progress": show})
    for spec in specs.values():
        spec.check()
    runs: list[tuple[str, RunResult]] = []
    for label, spec in specs.items():
        try:
            result = run_spec(spec)
        except KeyboardInterrupt:  # before it ran, or after
            if not runs:
                raise
            break
        runs.append((label, result))
        if result.interrupted:
            break
    return Comparison(variants.by, tuple(runs), len(variants.values))


def _labelled(progress: Callable[[SoFar, str], None], label: str, now: SoFar) -> None:
    progress(now, label)


def read_kept(paths: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Read results that `--json` printed, `-` from standard input: label and object of each run.

    A file with a comparison has several. Labels are the files' names, as far as these differ.

    Raises:
        WorldError: a file cannot be read, or is something else.
    """
    names = [Path(path).name.removesuffix(".json") for path in paths]
    runs = []
    for path, name in zip(paths, names, strict=True):
        label = name if names.count(name) == 1 else path
        kept = _read(path)
        if kept.get("schema") == SCHEMA:
            runs += [(f"{label} {each['label']}", each["run"]) for each in kept["runs"]]
        else:
            runs.append((label, kept))
    return runs


def _read(path: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text("utf-8")
        kept = json.loads(text, parse_constant=_no_number, parse_float=_finite, parse_int=_whole)
    except OSError as error:
        raise WorldError(f"cannot read {path!r}: {error.strerror}; keep a result by run --json") from None
    except RecursionError:
        raise WorldError(f"{path!r} is nested too deeply to be a result; keep one by run --json") from None
    except UnicodeDecodeError:
        raise WorldError(
            f"{path!r} is not JSON (it is no text in UTF-8); keep a result by run --json"
        ) from None
    except ValueError as error:
        raise WorldError(f"{path!r} is not JSON ({error}); keep a result by run --json") from None
    try:
        many = kept["schema"] == SCHEMA
        for run_object in [each["run"] for each in kept["runs"]] if many else [kept]:
            _check_run(run_object)
        if many:
            [str(each["label"]) for each in kept["runs"]]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        wanted = f"neither a result ({results.SCHEMA}) nor a comparison ({SCHEMA})"
        raise WorldError(f"{path!r} is {wanted}: {_what_is_wrong(error)}") from None
    assert isinstance(kept, dict)
    return kept


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(text: str) -> float:
    """A number of JSON, which a float can be too small for."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{shown(text)} is out of range")
    return number


def _whole(text: str) -> int:
    """A whole number of JSON, which may be too long for any figure, and for Python."""
    if len(text.removeprefix("-")) > MOST_DIGITS:
        raise ValueError(f"a number has more than {MOST_DIGITS} digits")
    return int(text)


def _check_run(of: Any) -> None:
    """Raise what goes wrong if an object is not a run's."""
    if of["schema"] != results.SCHEMA:
        raise ValueError(f"its schema is {of['schema']!r}")
    for name, kind, words in _KINDS:
        if not isinstance(of.get(name), kind | None) or isinstance(of.get(name), bool):
            raise ValueError(f"its {name} is {words}")
    if not isinstance(of["vcpus"], list) or not of["vcpus"]:
        raise ValueError("vcpus is no list of vCPUs")
    for vcpu in of["vcpus"]:
        if not (type(vcpu["vm"]) is type(vcpu["id"]) is int):
            raise ValueError("vm and id of a vCPU are no numbers")
        for figure in FIGURES:
            found = figure_of(vcpu, figure)
            expected = str if figure.path == "regime" else int | float | None
            if not isinstance(found, expected) or isinstance(found, bool):
                raise ValueError(f"{figure.path} is no figure")
            if isinstance(found, int | float) and found < 0 and not figure.signed:
                raise ValueError(f"{figure.path} is {found}, less than 0")
            if isinstance(found, float) and figure.path in _COUNTS:
                raise ValueError(f"{figure.path} is {found}, and counts something")
        _check_order(vcpu)
        if vcpu["regime"] not in set(Regime):
            raise ValueError(f"{vcpu['regime']!r} is no regime")
    if len({(vcpu["vm"], vcpu["id"]) for vcpu in of["vcpus"]}) < len(of["vcpus"]):
        raise ValueError("it has a vCPU twice")


#: Figures that count something.
_COUNTS = ("interrupts", "missed", "lateness_ns.early", "advance_ns.settled_after")
#: Of a run's object: what they are, if they are known.
_KINDS: tuple[tuple[str, type, str], ...] = (
    ("profile", str, "no name"),
    ("guest", str, "no name"),
    ("engine", str, "no name"),
    ("seed", int, "no whole number"),
    ("exit_code", int, "no whole number"),
)
#: Figures of which none is greater than one that follows.
_RISING = (
    ("lateness_ns", "p50", "p99", "p99_9", "max"),
    ("lateness_ns", "min", "p50"),
    ("lateness_ns", "min", "mean", "max"),
    ("wait_ns", "max", "total"),
    ("blocked_ns", "max", "total"),
    ("advance_ns", "min", "initial", "max"),
    ("advance_ns", "min", "final", "max"),
)


def _check_order(vcpu: dict[str, Any]) -> None:
    """Raise what cannot be of figures that are each right by itself."""
    early, interrupts = vcpu["lateness_ns"]["early"], vcpu["interrupts"]
    if early is not None and interrupts is not None and early > interrupts:
        raise ValueError(f"lateness_ns.early is {early}, of {interrupts} interrupts")
    for group, *names in _RISING:
        if vcpu[group].get("exact") is False:
            continue  # percentiles are of buckets, and may be beside what they are of
        known = [(name, vcpu[group].get(name)) for name in names]
        known = [(name, value) for name, value in known if isinstance(value, int | float)]
        for (low, less), (high, more) in pairwise(known):
            if less > more:
                raise ValueError(f"{group}.{low} is {less}, more than {group}.{high}, {more}")


def _what_is_wrong(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing"
    return str(error) if type(error) is ValueError else "it has another form"


@dataclass(frozen=True)
class Figure:
    """A row of the table: which value of a vCPU's object, and what people call it."""

    group: str
    name: str
    path: str

    @property
    def signed(self) -> bool:
        """Whether it may be negative: a lateness, because an interrupt can come early."""
        return self.path.startswith("lateness_ns.") and self.name != "early"


FIGURES = (
    Figure("interrupts", "", "interrupts"),
    Figure("", "missed", "missed"),
    Figure("lateness ns", "mean", "lateness_ns.mean"),
    Figure("", "p50", "lateness_ns.p50"),
    Figure("", "p99", "lateness_ns.p99"),
    Figure("", "p99.9", "lateness_ns.p99_9"),
    Figure("", "max", "lateness_ns.max"),
    Figure("", "early", "lateness_ns.early"),
    Figure("busy wait ns", "total", "wait_ns.total"),
    Figure("", "max", "wait_ns.max"),
    Figure("blocked ns", "max", "blocked_ns.max"),
    Figure("advance ns", "from", "advance_ns.initial"),
    Figure("", "to", "advance_ns.final"),
    Figure("", "settled", "advance_ns.settled_after"),
    Figure("regime", "", "regime"),
)


def figure_of(vcpu: dict[str, Any], figure: Figure) -> Any:
    """The value of a figure in a vCPU's object.

    A percentile that rests on too few interrupts is None, whatever a result that was kept has there.
    """
    value: Any = vcpu
    for part in figure.path.split("."):
        value = value[part]
    return None if value is not None and too_few(vcpu, figure) else value


def too_few(vcpu: dict[str, Any], figure: Figure) -> str | None:
    """Why a figure of a vCPU's object is not known, if it is a percentile of too few interrupts."""
    name = figure.path.rpartition(".")[2]
    samples = vcpu["interrupts"]
    if name not in results.PERCENTILES or not isinstance(samples, int) or not samples:
        return None
    return results.too_few_samples(name, samples)


def vcpus_of(
    runs: Sequence[tuple[str, dict[str, Any]]],
) -> dict[tuple[int, int], list[dict[str, Any] | None]]:
    """The vCPUs that any run has, by VM and number; for each run its object, None where it has none."""
    keys = sorted({(vcpu["vm"], vcpu["id"]) for _, of in runs for vcpu in of["vcpus"]})
    by_run = [{(vcpu["vm"], vcpu["id"]): vcpu for vcpu in of["vcpus"]} for _, of in runs]
    return {key: [vcpus.get(key) for vcpus in by_run] for key in keys}


def vms_of(vcpus: Iterable[tuple[int, int]]) -> int:
    """How many VMs these vCPUs, each a VM and a number, belong to."""
    return len({vm for vm, _ in vcpus})


def setup_differences(runs: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, list[Any]]:
    """What was not set up alike: by name, the value of each run (None where it does not say)."""
    names = [name for _, of in runs for name in of if name not in _OUTCOMES]
    settings: dict[str, list[Any]] = {}
    for name in dict.fromkeys(names):
        values = [of.get(name) for _, of in runs]
        if not any(isinstance(value, dict | list) for value in values):
            settings[name] = values
    settings["vCPUs"] = [len(of["vcpus"]) for _, of in runs]
    vcpus = vcpus_of(runs)
    for (vm, vcpu), objects in vcpus.items():
        for name in _VCPU_SETUP:
            who = results.vcpu_name(vm, vcpu, vms_of(vcpus))
            settings[f"{who} {name}"] = [of.get(name) if of is not None else _NOT_THERE for of in objects]
    return {name: values for name, values in settings.items() if _differ(values)}


def _differ(values: list[Any]) -> bool:
    there = [value for value in values if value is not _NOT_THERE]
    return any(value != there[0] for value in there)
