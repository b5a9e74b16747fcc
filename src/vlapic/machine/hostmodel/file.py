# SPDX-License-Identifier: GPL-2.0-or-later
"""Host models as TOML files: read, with errors that name the line, and written, with every field explained.

A file says what differs from the host `default`. A time is a whole number of cycles or a text with a unit;
it is converted once, by the TSC frequency in force, in integers and rounded down. What is written is in
cycles, so that it reads back as the same model whatever the frequency.
"""

from __future__ import annotations

import json
import os
import re
import textwrap
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

from vlapic import toml
from vlapic.errors import UsageError, WorldError, nearest
from vlapic.machine.hostmodel.fields import FIELDS, TABLES, Field, Kind
from vlapic.machine.hostmodel.model import COST_LIMIT, DEFAULT, Burst, Cost, HostModel, sampled, with_tail
from vlapic.machine.hostmodel.toml_lines import line_of
from vlapic.numerals import MOST_DIGITS, shown

#: A larger file is not read.
MAX_FILE = 16 << 20
_NS_OF = {"ns": 1, "us": 1000, "µs": 1000, "ms": 1_000_000, "s": 1_000_000_000}
_TIME = re.compile(rf"\s*([0-9]{{1,{MOST_DIGITS}}}(?:\.[0-9]{{1,{MOST_DIGITS}}})?)\s*([a-zµ]+)\s*")
_TIME_FORMS = 'whole cycles, or a text like "1500 ns" or "2.5 us"'
_COST_FORMS = "{ mean, spread, tail }, { quantiles } or { samples }, each with or without a unit"
_FIELDS = {(field.table, field.name): field for field in FIELDS}
_WIDTH = 110


class _Wrong(Exception):
    """A value is wrong: what was seen and what was expected."""


def read(path: str | os.PathLike[str], tsc_khz: int | None = None) -> HostModel:
    """The host model in a file.

    Args:
        tsc_khz: frequency of the host's TSC to convert times with, None for the file's.

    Raises:
        WorldError: the file cannot be read.
        UsageError: its content is no host model; the message names the line.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise WorldError(
            f"cannot read the host model {name!r}: {error.strerror};"
            " try --print-host, which prints a model to begin with"
        ) from None
    try:
        text = data.decode()
        if len(data) > MAX_FILE:
            raise ValueError
    except ValueError:
        raise UsageError(f"{name}: no host model; expected TOML text in UTF-8, at most 16 MiB") from None
    return parse(text, name, tsc_khz)


def parse(text: str, path: str, tsc_khz: int | None = None) -> HostModel:
    """The host model in a TOML text; `path` is for messages, and names a model that has no name.

    Raises:
        UsageError: as `read`.
    """
    try:
        document = toml.parse(text)
    except toml.NotToml as error:
        raise UsageError(
            f"{path}:{error.line}: {error}; expected TOML; `--print-host` prints an example"
        ) from None
    return _Reader(text, document, path).model(tsc_khz)


class _Reader:
    """One document on its way to a model."""

    def __init__(self, text: str, document: dict[str, Any], path: str) -> None:
        self._text = text
        self._document = document
        self._path = path
        self._khz = 0

    def model(self, tsc_khz: int | None) -> HostModel:
        self._check_names()
        self._khz = tsc_khz or self._value(_FIELDS["", "tsc_khz"], DEFAULT.tsc_khz)
        found: dict[str, Any] = {"name": Path(self._path).stem, "source": "", "tsc_khz": self._khz}
        for field in FIELDS:
            if field.attribute and field.name != "tsc_khz" and self._has(field):
                found[field.attribute] = self._value(field)
        if "slice_cycles" in found and "min_granularity_cycles" not in found:
            found["min_granularity_cycles"] = found["slice_cycles"]
        exits = {name: self._value(_FIELDS["exits", name]) for name in self._document.get("exits", {})}
        found["exits"] = {**DEFAULT.exits, **exits}
        if "burst" in self._document:
            found["burst"] = self._burst()
        try:
            return replace(DEFAULT, **found)
        except ValueError as error:
            self._complain(("pcpu", "min_granularity"), str(error))

    def _burst(self) -> Burst:
        for name in ("interval", "length"):
            if name not in self._document["burst"]:
                self._complain(("burst",), f"no {name}; expected interval and length")
        interval, length = (self._value(_FIELDS["burst", name]) for name in ("interval", "length"))
        try:
            return Burst(interval, length)
        except ValueError as error:
            self._complain(("burst", "interval"), str(error))

    def _check_names(self) -> None:
        """Whether every table and field is known."""
        for name, value in self._document.items():
            if name in TABLES:
                if not isinstance(value, dict):
                    self._complain((name,), f"{_shown(value)} is no table; expected [{name}] and its fields")
                for inner in value:
                    if (name, inner) not in _FIELDS:
                        known = [field.name for field in FIELDS if field.table == name]
                        self._complain((name, inner), f"no such field; {nearest(inner, known)}")
            elif ("", name) not in _FIELDS:
                known = [*TABLES, *(field.name for field in FIELDS if not field.table)]
                self._complain((name,), f"no such field; {nearest(name, known)}")

    def _has(self, field: Field) -> bool:
        table = self._document.get(field.table, {}) if field.table else self._document
        return field.name in table

    def _value(self, field: Field, default: Any = None) -> Any:
        """What the document says of a field, as the model has it."""
        if not self._has(field):
            return default
        value = (self._document[field.table] if field.table else self._document)[field.name]
        try:
            if field.kind is Kind.COST:
                return _cost(value, self._khz)
            if field.kind is Kind.TEXT:
                if field.name == "name" and value == "":
                    raise _Wrong("'' is no name; leave it out, and it is the file's")
                return _text(value)
            if field.kind is Kind.DURATION:
                return _in_range(_cycles(value, self._khz), field, " cycles")
            if type(value) is not int:
                raise _Wrong(f"{_shown(value)} is no whole number; expected {field.low} to {field.high}")
            return _in_range(value, field, "")
        except _Wrong as wrong:
            path = (field.table, field.name) if field.table else (field.name,)
            self._complain(path, str(wrong))

    def _complain(self, path: tuple[str, ...], wrong: str) -> NoReturn:
        line = line_of(self._text, path)
        where = self._path if line is None else f"{self._path}:{line}"
        raise UsageError(f"{where}: {'.'.join(path):.60}: {wrong}")


def _shown(value: Any) -> str:
    """A value in a message, shortened."""
    if isinstance(value, bool):
        text = str(value).lower()  # as TOML has it
    else:
        text = value.isoformat() if hasattr(value, "isoformat") else repr(value)
    return textwrap.shorten(text, 60, placeholder="...")


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise _Wrong(f"{_shown(value)} is no text on one line")
    return value


def _in_range(value: int, field: Field, unit: str) -> int:
    if not field.low <= value <= field.high:
        raise _Wrong(f"{value}{unit} is out of range; it takes {field.low} to {field.high}{unit}")
    return value


def _cycles(value: Any, khz: int, unit: str = "cycles") -> int:
    """A time in cycles, rounded down; a bare number is in `unit`."""
    if type(value) is int:
        number = Fraction(value)
    elif isinstance(value, str) and (parts := _TIME.fullmatch(value)):
        number, unit = Fraction(parts[1]), parts[2]
    else:
        raise _Wrong(f"{_shown(value)} is no time; expected {_TIME_FORMS}")
    if unit == "cycles":
        if number.denominator != 1:
            raise _Wrong(f"{_shown(value)} is no whole number of cycles; expected {_TIME_FORMS}")
        return int(number)
    if unit not in _NS_OF:
        raise _Wrong(f"unknown unit {shown(unit)}; {nearest(unit, [*_NS_OF, 'cycles'])}")
    return number * _NS_OF[unit] * khz // 1_000_000


def _cost(value: Any, khz: int) -> Cost:
    """A cost in any of its forms."""
    if not isinstance(value, dict):
        return Cost((_bounded(value, khz, "cycles"),))
    parts = dict(value)
    unit = parts.pop("unit", "cycles")
    if unit not in (*_NS_OF, "cycles"):
        raise _Wrong(f"unknown unit {_shown(unit)}; {nearest(str(unit), [*_NS_OF, 'cycles'])}")
    known = ("mean", "spread", "tail", "quantiles", "samples")
    for name in parts:
        if name not in known:
            raise _Wrong(f"no such part of a cost: {shown(name)}; {nearest(name, [*known, 'unit'])}")
    if parts.keys() == {"mean", "spread", "tail"}:
        mean, spread, tail = (_bounded(parts[name], khz, unit) for name in ("mean", "spread", "tail"))
        if mean < spread + tail // 512:
            raise _Wrong(
                f"a mean of {mean} cycles with a spread of {spread} and a tail of {tail} would begin below 0;"
                f" expected at least {spread + tail // 512}, the spread and a 512th of the tail"
            )
        most = mean + spread + tail - tail // 512
        if most >= COST_LIMIT:
            raise _Wrong(f"up to {most} cycles; a cost is less than {COST_LIMIT}")
        return with_tail(mean, spread, tail)
    if len(parts) != 1 or not parts.keys() <= {"quantiles", "samples"}:
        raise _Wrong(f"{{ {', '.join(parts)} }} is no cost; expected {_COST_FORMS}")
    ((form, values),) = parts.items()
    if not isinstance(values, list) or not values:
        raise _Wrong(f"{form} {_shown(values)}; expected a list of times")
    cycles = [_bounded(each, khz, unit) for each in values]
    if form == "samples":
        return sampled(cycles)
    for place in range(1, len(cycles)):
        if cycles[place] < cycles[place - 1]:
            raise _Wrong(
                f"quantiles fall from {cycles[place - 1]} to {cycles[place]} cycles at value {place + 1};"
                " expected each no less than the one before; unordered ones are samples"
            )
    if len(cycles) > 1 and (len(cycles) - 1) & (len(cycles) - 2):
        raise _Wrong(
            f"{len(cycles)} quantiles; expected 1, 2, 3, 5, 9, 17 ... 2^k + 1, at equal steps from the least"
            " to the greatest; other numbers of them are samples"
        )
    return Cost(tuple(cycles))


def _bounded(value: Any, khz: int, unit: str) -> int:
    cycles = _cycles(value, khz, unit)
    if not 0 <= cycles < COST_LIMIT:
        raise _Wrong(f"{cycles} cycles are out of range; it takes 0 to {COST_LIMIT - 1} cycles")
    return cycles


def as_toml(model: HostModel) -> str:
    """The file of a model, every field with its meaning and range; `parse` reads it back as an equal one."""
    lines = [
        "# A host model of vlapic: what the host's own work costs. Read it with: vlapic run --host FILE",
        "#",
        f"# A time is {_TIME_FORMS}.",
        "# A cost is a time that never varies, or a table from which each time is drawn:",
        "#   { mean = M, spread = S, tail = T }  M on average, within S of it, but 1 in 256 up to T more",
        "#   { quantiles = [...] }  2^k + 1 times at equal steps of probability, from least to greatest",
        "#   { samples = [...] }  times that were measured, in any order",
        '# with unit = "ns" for bare numbers if they are not cycles. A cost is less than 2^32 cycles.',
        "# What is left out is as in the host `default`.",
    ]
    table = ""
    for field in FIELDS:
        if field.table == "burst" and model.burst is None:
            continue
        if field.table != table:
            table = field.table
            lines += ["", *_comment(TABLES[table]), f"[{table}]"]
        lines += [
            "",
            *_comment(field.meaning + _range(field)),
            f"{field.name} = {_written(_of(model, field))}",
        ]
    return "\n".join(lines) + "\n"


def _of(model: HostModel, field: Field) -> Any:
    """What a model has in a field."""
    if field.table == "exits":
        return model.exits[field.name]
    if field.table == "burst":
        return getattr(model.burst, field.name)
    return getattr(model, field.attribute)


def _range(field: Field) -> str:
    if field.kind is Kind.NUMBER:
        return f" {field.low} to {field.high}."
    return " A time." if field.kind is Kind.DURATION else ""


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _written(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        return str(value)
    if len(value.quantiles) == 1:
        return str(value.quantiles[0])
    if shape := _as_tail(value):
        return "{{ mean = {}, spread = {}, tail = {} }}".format(*shape)
    rows = textwrap.wrap(
        ", ".join(map(str, value.quantiles)), _WIDTH, initial_indent="    ", subsequent_indent="    "
    )
    return "\n".join(["{ quantiles = [", *rows, "] }"])


def _as_tail(cost: Cost) -> tuple[int, int, int] | None:
    """Mean, spread and tail of a cost that `with_tail` has made, None of another one."""
    quantiles = cost.quantiles
    spread, tail = (quantiles[-2] - quantiles[0]) // 2, quantiles[-1] - quantiles[-2]
    mean = quantiles[0] + spread + tail // 512
    made = len(quantiles) == 257 and with_tail(mean, spread, tail) == cost
    return (mean, spread, tail) if made else None
