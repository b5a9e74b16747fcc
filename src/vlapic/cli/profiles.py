# SPDX-License-Identifier: GPL-2.0-or-later
"""`vlapic profiles`: the kernels that vlapic can be, rule by rule, and what changed from one to another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from vlapic.cli import complete
from vlapic.cli.arguments import json_option
from vlapic.cli.output import emit, print_by_rich, print_json
from vlapic.errors import STATUS_OK, UsageError
from vlapic.kernels.fixes import FIXES
from vlapic.kernels.profiles import PROFILES, Profile, find_profile
from vlapic.kernels.rules import RuleEnum

SCHEMA = "vlapic.kernels.profiles/1"
#: Headings of `row`.
HEADINGS = ("name", "kernel", "since", "what it changes", "of")


@click.command("profiles")
@click.argument("name", required=False, shell_complete=complete.profiles)
@click.option(
    "--diff",
    "other",
    metavar="NAME",
    shell_complete=complete.profiles,
    help="Show what changed from the one profile to this one.",
)
@json_option("Print the rows as JSON.")
def command(name: str | None, other: str | None, as_json: bool) -> int:
    """List the profiles, or show the rules of the one called NAME.

    A profile is a kernel, or the series of seven fixes that --profile takes if you say nothing. series-3 is
    the series without its fix 3.
    """
    if other is not None:
        if name is None:
            raise UsageError(
                f"--diff {other} needs a profile to start from: vlapic profiles v5.0 --diff {other}"
            )
        before, after = find_profile(name), find_profile(other)
        emit(lambda: _print_changes(before, after, as_json))
    elif name is not None:
        profile = find_profile(name)
        emit(lambda: _print_one(profile, as_json))
    else:
        emit(lambda: _print_all(as_json))
    return STATUS_OK


# -- as people read it --


def words(question: str) -> str:
    """A question of a profile as two words: too_short is "too short"."""
    return question.replace("_", " ")


def changed(profile: Profile) -> str:
    """The questions that a profile answers otherwise than the kernel before it; nothing for the oldest."""
    if not profile.base:
        return ""
    return ", ".join(map(words, find_profile(profile.base).changes(profile)))


def row(profile: Profile) -> tuple[str, ...]:
    """A profile in the list of all."""
    return profile.name, profile.kernel, profile.since, changed(profile), profile.base


def source(rule: RuleEnum) -> str:
    """The release that first had a rule, and its commit where one is known."""
    return f"{rule.rule.since}, {rule.rule.commit}" if rule.rule.commit else rule.rule.since


# -- as JSON --


def _rule_object(rule: RuleEnum) -> dict[str, Any]:
    return {
        "rule": rule.name,
        "question": rule.question,
        "does": rule.rule.does,
        "since": rule.rule.since,
        "commit": rule.rule.commit or None,
        "effect": rule.rule.effect,
    }


def as_json_object(profile: Profile) -> dict[str, Any]:
    """A profile with all its rules; what is not known is null."""
    return {
        "name": profile.name,
        "kernel": profile.kernel,
        "since": profile.since,
        "base": profile.base or None,
        "changes": list(find_profile(profile.base).changes(profile)) if profile.base else [],
        "trace_kernel": profile.trace_kernel,
        "hz": profile.hz,
        "fixes": [
            {"number": fix.number, "title": fix.title, "merged": fix.merged}
            for fix in FIXES.values()
            if fix.number in profile.fixes
        ],
        "rules": {question: _rule_object(rule) for question, rule in profile.rules.items()},
    }


def _print_json(found: dict[str, Any]) -> None:
    print_json({"schema": SCHEMA} | found)


# -- printing --


def _print_all(as_json: bool) -> None:
    if as_json:
        _print_json({"profiles": [as_json_object(profile) for profile in PROFILES.values()]})
        return
    _print_table(HEADINGS, map(row, PROFILES.values()))


def _print_one(profile: Profile, as_json: bool) -> None:
    if as_json:
        _print_json({"profiles": [as_json_object(profile)]})
        return
    print(f"{profile.name}: {profile.kernel}\n")
    _print_table(
        ("question", "rule", "since"),
        ((words(question), rule.rule.does, source(rule)) for question, rule in profile.rules.items()),
    )
    if profile.fixes:
        print()
        _print_table(
            ("fix", "title", "merged in"),
            (
                (str(fix.number), fix.title, fix.merged)
                for fix in FIXES.values()
                if fix.number in profile.fixes
            ),
        )


def _print_changes(before: Profile, after: Profile, as_json: bool) -> None:
    changes = before.changes(after)
    if as_json:
        _print_json(
            {
                "from": before.name,
                "to": after.name,
                "hz": [before.hz, after.hz],
                "changes": [
                    {"name": name, "from": _rule_object(old), "to": _rule_object(new)}
                    for name, (old, new) in changes.items()
                ],
            }
        )
        return
    if changes:
        print(f"{before.name} to {after.name}: {len(changes)} of {len(before.rules)} rules differ\n")
        _print_table(
            ("question", "what changed", "since", "effect"),
            (
                (words(name), f"{new.rule.does}; before: {old.rule.does}", source(new), new.rule.effect)
                for name, (old, new) in changes.items()
            ),
        )
    else:
        print(f"{before.name} and {after.name} have the same rules")
    if before.hz != after.hz:
        print(
            f"HZ is {before.hz} in {before.name} and {after.hz} in {after.name},"
            " which changes how long ndelay() takes"
        )


def _print_table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    from rich import box
    from rich.table import Table

    from vlapic.report.tables import whole

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for at, heading in enumerate(headings):
        table.add_column(heading, no_wrap=at == 0)
    for cells in rows:
        table.add_row(*cells)
    print_by_rich(lambda console: console.print(whole(table, console)))
