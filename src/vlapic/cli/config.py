# SPDX-License-Identifier: GPL-2.0-or-later
"""`vlapic.toml`: what a project asks of `vlapic run`, beside its CI job.

    [budget]
    p99 = "3us"
    early = 0

    [run]
    guest = "deadline-hlt"
    events = 20000

`[budget]` has limits by metric, `[run]` options by name. The command line wins over both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

from vlapic import toml
from vlapic.errors import UsageError, VlapicError, WorldError, unknown_name
from vlapic.numerals import shown

FILE = Path("vlapic.toml")
#: Options that say what to print instead of a run, or where options come from.
NOT_OPTIONS = {"help", "config", "list", "print-host", "budget"}
TABLES = ("budget", "run")
_DOTTED = re.compile(r"^[ \t]*(p[0-9]+\.[0-9]+)[ \t]*=", re.MULTILINE)


class Config(NamedTuple):
    """What a file asks for.

    Attributes:
        path: the file; None if there is none.
        budgets: METRIC=LIMIT, in its order.
        options: values of options, by the parameter's name in click.
    """

    path: Path | None
    budgets: tuple[str, ...]
    options: dict[str, Any]

    @contextmanager
    def blamed(self, ctx: click.Context) -> Iterator[None]:
        """Name the file in a complaint about an option that it sets."""
        try:
            yield
        except UsageError as error:
            params = {param.name: param for param in ctx.command.params}
            blamed = [
                _name(params[name])
                for name, value in self.options.items()
                if ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP
                and (_name(params[name]) in str(error) or repr(value) in str(error))
            ]
            if not blamed:
                raise
            raise UsageError(f"{error}; {self.path} sets {', '.join(blamed)}") from None

    def in_words(self) -> str:
        """What was read, in a line."""
        return f"read {self.path}: {_many(self.budgets, 'budget')}, {_many(self.options, 'option')}"


def read(ctx: click.Context, given: str | None) -> Config:
    """Read the file given, or `vlapic.toml` of the current folder if that is there.

    Args:
        ctx: of the command whose options `[run]` may have.
        given: the path of a file that has to be there.

    Raises:
        WorldError: the file cannot be read.
        UsageError: what it says makes no sense.
    """
    path = Path(given) if given is not None else FILE
    if given is None and not path.exists():
        return Config(None, (), {})
    text = ""
    try:
        text = path.read_text("utf-8")
        tables = toml.parse(text)
    except OSError as error:
        raise WorldError(f"cannot read {str(path)!r}: {error.strerror}; try another --config") from None
    except toml.NotToml as error:
        # Beside a p99, p99.9 would be a part of it.
        if dotted := _DOTTED.search(text):
            raise UsageError(f'{path}: a metric with a dot needs quotes: "{dotted[1]}" = ...') from None
        raise UsageError(f"{path} is not TOML at line {error.line}: {error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not TOML: it is no text in UTF-8") from None
    for name, table in tables.items():
        if name not in TABLES:
            raise _in_file(path, unknown_name("table", name, TABLES))
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {name} is not a table; write [{name}] on a line of its own")
    return Config(path, _budgets(path, tables.get("budget", {})), _options(ctx, path, tables.get("run", {})))


def configure(ctx: click.Context, param: click.Parameter, given: str | None) -> Config:
    """The callback of --config: options of the file become the defaults of the others."""
    if ctx.resilient_parsing:
        return Config(None, (), {})
    config = read(ctx, given)
    ctx.default_map = {**(ctx.default_map or {}), **config.options}
    return config


def with_budgets(config: Config, given: Sequence[str]) -> list[str]:
    """The budgets of the command line, and those of the file for other metrics."""
    metrics = {_metric(text) for text in given}
    return [text for text in config.budgets if _metric(text) not in metrics] + list(given)


def _budgets(path: Path, table: dict[str, Any]) -> tuple[str, ...]:
    from vlapic.session.budgets import parse_all

    for metric, limit in table.items():
        if isinstance(limit, dict):
            dotted = f"{metric}.{next(iter(limit), '')}"
            raise UsageError(f'{path}: a metric with a dot needs quotes: "{dotted}" = ...')
        if isinstance(limit, bool) or not isinstance(limit, str | int | float):
            raise UsageError(
                f'{path}: the limit of {metric} is a text or a number, as in p99 = "3us" or early = 0'
            )
    texts = tuple(f"{metric}={limit}" for metric, limit in table.items())
    try:
        parse_all(texts)
    except VlapicError as error:
        raise _in_file(path, error) from None
    return texts


def _options(ctx: click.Context, path: Path, table: dict[str, Any]) -> dict[str, Any]:
    params = {_name(param): param for param in ctx.command.params}
    known = {name: param for name, param in params.items() if name not in NOT_OPTIONS}
    found = {}
    for name, value in table.items():
        if name == "budget":
            raise UsageError(
                f"{path}: budgets have a table of their own; write [budget], then METRIC = LIMIT"
            )
        if name not in known:
            raise _in_file(path, unknown_name("option", name, known))
        param = known[name]
        flag = isinstance(param, click.Option) and param.is_flag
        if isinstance(value, dict) or flag != isinstance(value, bool):
            wanted = "true or false" if flag else "a text or a number"
            given = shown(value) if isinstance(value, str) else f"{value!r:.48}"
            raise UsageError(f"{path}: {name} is {wanted}, not {given}")
        words = _words(param, value)
        try:
            param.type_cast_value(ctx, words)
        except (VlapicError, click.ClickException) as error:
            raise _in_file(path, error) from None
        assert param.name is not None
        found[param.name] = words
    return found


def _words(param: click.Parameter, value: Any) -> Any:
    """A value as it would be written on the command line."""
    if isinstance(value, bool):
        return value
    if isinstance(value, list):
        words = [str(each) for each in value]
        return words if getattr(param, "multiple", False) else ",".join(words)
    return [str(value)] if getattr(param, "multiple", False) else str(value)


def _name(param: click.Parameter) -> str:
    """How an option is called in the file: as on the command line, without the dashes."""
    return max(param.opts, key=len).lstrip("-")


def _metric(text: str) -> str:
    return text.partition("=")[0].strip().replace("p99_9", "p99.9")


def _many(things: Sequence[object] | dict[str, Any], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"


def _in_file(path: Path, error: Exception) -> UsageError:
    said = error.format_message() if isinstance(error, click.ClickException) else str(error)
    return UsageError(f"{path}: {said}")
