# SPDX-License-Identifier: GPL-2.0-or-later
"""Types of the command line's arguments. They read text; which values make sense the library says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
from click.core import ParameterSource

from vlapic.errors import UsageError
from vlapic.numerals import real_number, shown, whole_number
from vlapic.output_file import STDOUT

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def number(option: str) -> Callable[[str], int]:
    """The type of an option that takes a decimal number."""

    def read(text: str) -> int:
        try:
            return whole_number(text)
        except ValueError:
            raise UsageError(f"{option} takes a whole number, not {shown(text)}") from None

    return read


def number_or_auto(option: str) -> Callable[[str], int | str]:
    """The type of an option that takes a decimal number or `auto`."""

    def read(text: str) -> int | str:
        if text == "auto":
            return text
        try:
            return whole_number(text)
        except ValueError:
            raise UsageError(f"{option} takes 'auto' or a whole number, not {shown(text)}") from None

    return read


def numbers(option: str) -> Callable[[str], list[int]]:
    """The type of an option that takes decimal numbers with commas between them."""
    one = number(option)

    def read(text: str) -> list[int]:
        return [one(part) for part in text.split(",")]

    return read


def seconds(option: str) -> Callable[[str], float]:
    """The type of an option that takes a time in seconds, whole or with a fraction."""

    def read(text: str) -> float:
        try:
            return real_number(text)
        except ValueError:
            raise UsageError(f"{option} takes a number of seconds, not {shown(text)}") from None

    return read


def number_option(*names: str, **settings: Any) -> Callable[[Decorated], Decorated]:
    """`click.option` of one that takes a decimal number; its metavar is N if none is given."""
    return click.option(*names, type=number(names[0]), **{"metavar": "N"} | settings)


def json_option(explained: str) -> Callable[[Decorated], Decorated]:
    """`--json`, as the parameter `as_json`; `explained` says what it prints."""
    return click.option("--json", "as_json", is_flag=True, help=explained)


quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but what went wrong.")


class Contradiction(NamedTuple):
    """Two options that cannot both be meant, by their parameters' names, and why."""

    one: str
    other: str
    why: str


CONTRADICTIONS = (
    Contradiction("list_guests", "print_host", "each prints something else and runs nothing"),
    Contradiction("quiet", "live", "one shows less than a report, the other more"),
    Contradiction("quiet", "as_json", "one prints nothing, the other the result"),
    Contradiction("quiet", "worst", "one prints nothing, the other the latest interrupts"),
    Contradiction("as_json", "live", "one is for programs, the other for people"),
    Contradiction("events_off", "trace", "a trace is made of events"),
    Contradiction("events_off", "worst", "the steps are known from events"),
    Contradiction("compare", "trace", "each run would write over the trace of the one before"),
)


def refuse_overwriting(ctx: click.Context, config: Path | None) -> None:
    """Refuse an output whose file is another output's, or one that the run reads.

    Args:
        ctx: of `vlapic run`.
        config: the file that options were read from, None if there is none.

    Raises:
        UsageError: one is; the message names both.
    """
    from vlapic.machine.guests.images.modules import ModuleFile

    taken = [("guest", ctx.params["guest"]), ("--host", ctx.params["host"])]
    taken += [("--module", str(ModuleFile.of(module).path)) for module in ctx.params["modules"]]
    taken += [("the configuration", str(config))] if config is not None else []
    for name in ("trace", "junit"):
        path = ctx.params[name]
        if path is None:
            continue
        for other, its in taken:
            if _one_file(path, its):
                raise UsageError(f"--{name} {path!r} would write over {other} {its!r}; give it another name")
        taken.append((f"--{name}", path))


def _one_file(path: str, other: str) -> bool:
    """Whether both paths are one regular file, there or not yet."""
    if os.path.exists(path) and not os.path.isfile(path):
        return False  # a device or a pipe takes both
    return os.path.realpath(path) == os.path.realpath(other)


def refuse_contradictions(ctx: click.Context) -> None:
    """Refuse options that contradict each other.

    Raises:
        UsageError: two do; the message names them and says why.
    """
    options = {param.name: max(param.opts, key=len) for param in ctx.command.params}
    for one, other, why in CONTRADICTIONS:
        if ctx.params[one] and ctx.params[other]:
            raise UsageError(
                f"{options[one]} and {options[other]} contradict each other: {why}; leave one out"
            )
    for output in ("trace", "junit"):
        if ctx.params[output] == STDOUT and ctx.params["as_json"]:
            raise UsageError(
                f"--{output} - and --json contradict each other: both would go to stdout;"
                f" give --{output} a file"
            )
    by = (ctx.params["compare"] or "").partition("=")
    varied = (by[0].strip() if by[1] else "profile").replace("_", "-")
    names = {max(param.opts, key=len): param.name for param in ctx.command.params}
    for option in (f"--{varied}", varied):
        name = names.get(option)
        if (
            by[0]
            and name not in (None, "compare")
            and ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        ):
            shown = option if option.startswith("--") else option.upper()
            raise UsageError(
                f"--compare varies {varied}, and {shown} sets it: they contradict each other; leave one out"
            )
