# SPDX-License-Identifier: GPL-2.0-or-later
"""What a shell offers behind <TAB>: names of guests, files, profiles, metrics, options to compare.

Nothing heavy is imported: a shell calls this at every key.
"""

from __future__ import annotations

from click import Context, Parameter
from click.shell_completion import CompletionItem


def guests(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """Built-in guests; a path where none begins so."""
    from vlapic.machine.guests.programs import PROGRAMS

    found = [CompletionItem(name, help=of.summary) for name, of in PROGRAMS.items()]
    return _beginning(incomplete, found) or [CompletionItem(incomplete, type="file")]


def files(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """Paths."""
    return [CompletionItem(incomplete, type="file")]


def profiles(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """Profiles."""
    return _beginning(incomplete, [CompletionItem(name) for name in _profiles()])


def fixes(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """The numbers of the seven fixes, with their titles."""
    from vlapic.kernels.fixes import FIXES

    return _beginning(incomplete, [CompletionItem(str(of.number), help=of.title) for of in FIXES.values()])


def shells(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """Shells that can be taught."""
    from vlapic.cli.completion import SHELLS

    return _beginning(incomplete, [CompletionItem(name) for name in SHELLS])


def timers(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """Host timers."""
    from vlapic.session.options import TIMERS

    return _beginning(incomplete, [CompletionItem(name) for name in TIMERS])


def hosts(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """Host models with a name; a path where none begins so."""
    from vlapic.machine.hostmodel.names import HOST_NAMES

    found = [CompletionItem(name) for name in HOST_NAMES]
    return _beginning(incomplete, found) or [CompletionItem(incomplete, type="file")]


def advancements(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """What --advance takes that is a word, and off."""
    return _beginning(incomplete, [CompletionItem("auto"), CompletionItem("0", help="off")])


def budgets(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """Metrics."""
    if "=" in incomplete:
        return []  # a limit is nobody's to guess
    from vlapic.session.budgets import METRICS

    return _beginning(incomplete, [CompletionItem(f"{name}=", help=of.what) for name, of in METRICS.items()])


def variants(ctx: Context, param: Parameter, incomplete: str) -> list[CompletionItem]:
    """Options to compare, and the next of their values."""
    from vlapic.machine.guests.programs import PROGRAMS
    from vlapic.machine.hostmodel.names import HOST_NAMES
    from vlapic.session.options import COMPARABLE, TIMERS

    by, equals, listed = incomplete.rpartition("=")
    names = {"profile": _profiles(), "timer": list(TIMERS), "host": list(HOST_NAMES), "guest": list(PROGRAMS)}
    values = {by: names.get(by, list(option.offers)) for by, option in COMPARABLE.items()}
    before, comma, last = listed.rpartition(",")
    given = before.split(",")
    left = [name for name in values.get(by or "profile", []) if name not in given]
    found = [CompletionItem(f"{by}{equals}{before}{comma}{name}") for name in left if name.startswith(last)]
    options = [] if equals or comma else [CompletionItem(f"{name}=") for name in values]
    return _beginning(incomplete, options) + found


def _profiles() -> list[str]:
    from vlapic.kernels.profiles import PROFILES

    return list(PROFILES)


def _beginning(incomplete: str, items: list[CompletionItem]) -> list[CompletionItem]:
    return [item for item in items if item.value.startswith(incomplete)]
