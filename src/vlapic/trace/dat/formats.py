# SPDX-License-Identifier: GPL-2.0-or-later
"""Format files: how one kernel lays out the fields of one event, as tracefs's `events/*/*/format` says.

Follows `kernel/trace/trace_events.c: f_show` (v6.19). Nothing else knows a layout: a field that a kernel
moved, widened or left out is found, or missing, by its name here. The print format is read for its tables of
names alone (`__print_symbolic`, `__print_flags`).
"""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

#: No field lies further out: a record is less than a page.
_LARGEST_OFFSET = 1 << 16

_FIELD = re.compile(
    r"\tfield:(?P<declaration>[^;\n]+);\s*offset:(?P<offset>\d{1,6});\s*size:(?P<size>\d{1,6});"
    r"(?:\s*signed:(?P<signed>[01]);)?"
)
_DECLARATION = re.compile(r"(?P<type>.*?)(?P<name>\w+)(?P<array>\[[^\]]*\])?\s*$", re.DOTALL)
_SYMBOLS = re.compile(r"__print_(?:symbolic|flags)\s*\((.*?)\s*,\s*\{", re.DOTALL)
_SYMBOL = re.compile(r'\s*,?\s*\{\s*([^,"{}]{1,200}?)\s*,\s*"([^"]*)"\s*\}')


@dataclass(frozen=True)
class Field:
    """A field of an event.

    Attributes:
        offset: from the record's begin, bytes.
        size: bytes; 0 for an array that goes on to the record's end.
        text: it is an array of characters.
        dynamic: what stands at its place is where it lies and how long it is (`__data_loc`).
    """

    name: str
    offset: int
    size: int
    signed: bool
    text: bool
    dynamic: bool

    def column(self, order: str) -> str | None:
        """Its type for numpy; None if it is no single number nor text of a fixed size."""
        if self.dynamic or not self.size:
            return None
        if self.text:
            return f"S{self.size}"
        if self.size not in (1, 2, 4, 8):
            return None
        return f"{order}{'i' if self.signed else 'u'}{self.size}"


@dataclass(frozen=True)
class Format:
    """The format of one event.

    Attributes:
        number: what a record begins with (`common_type`).
        fields: by name, those in common among them.
        print_format: how the kernel prints it, a C expression.
        place: the byte of the file where it stands, or where what it is packed in begins.
        whole: its text is text throughout; false where NULs, or bytes that are no UTF-8, stand in it.
    """

    system: str
    name: str
    number: int
    fields: dict[str, Field]
    print_format: str
    place: int = 0
    whole: bool = True

    @classmethod
    def of(cls, system: str, text: str, place: int = 0) -> Format | None:
        """From a format file's text; None if that makes no sense."""
        text = text.rstrip("\0")
        name = re.search(r"^name: (\S+)$", text, re.MULTILINE)
        number = re.search(r"^ID: (\d{1,5})$", text, re.MULTILINE)
        if name is None or number is None or int(number[1]) >= 1 << 16:
            return None
        head, _, print_format = text.partition("\nprint fmt:")
        fields = {}
        for match in _FIELD.finditer(head):
            declaration = _DECLARATION.match(match["declaration"])
            if declaration is None or int(match["offset"]) >= _LARGEST_OFFSET:
                continue
            kind = declaration["type"]
            fields[declaration["name"]] = Field(
                declaration["name"],
                int(match["offset"]),
                int(match["size"]),
                signed=match["signed"] != "0",
                text=declaration["array"] is not None and "char" in kind,
                dynamic="__data_loc" in kind or "__rel_loc" in kind,
            )
        return cls(system, name[1], int(number[1]), fields, print_format, place, _is_text(text))

    def lacks(self, name: str, *, optional: bool = False) -> bool:
        """Whether a field that it is to have is not there, or is of no known type: the text is damaged.

        Args:
            optional: not every kernel has it; where the print format speaks of it, this one does.
        """
        field = self.fields.get(name)
        if field is not None:
            return field.column("<") is None
        return not optional or re.search(rf"\bREC->{name}\b", self.print_format) is not None

    @property
    def overlaps(self) -> bool:
        """Whether two fields have a byte in common, as no kernel lays them out."""
        end = 0
        for field in sorted(self.fields.values(), key=lambda field: (field.offset, field.size)):
            if field.offset < end:
                return True
            end = field.offset + field.size
        return False

    def record(self, names: list[str], order: str) -> np.dtype[Any] | None:
        """A record's type for numpy with those of these fields that it has; None if none of them can be read.

        Its size is a multiple of 4, as that of records is.
        """
        columns = [
            (self.fields[name], self.fields[name].column(order)) for name in names if name in self.fields
        ]
        usable = [(field, column) for field, column in columns if column is not None]
        if not usable:
            return None
        end = max(field.offset + field.size for field, _ in usable)
        return np.dtype(
            {
                "names": [field.name for field, _ in usable],
                "formats": [column for _, column in usable],
                "offsets": [field.offset for field, _ in usable],
                "itemsize": -(-end // 4) * 4,
            }
        )

    def record_words(self) -> tuple[int, int]:
        """How long its records are in the ring buffer, from and to, words of 4 bytes.

        One without dynamic fields is as long as its last field says, up to the end of its structure: 8 bytes
        are the largest alignment. Of ftrace's own events some are longer or shorter than their format
        (`kernel_stack`, `print`), and those of user space may be longer (`user_events_write`).
        """
        if self.system == "ftrace" or self.system.startswith("user_events") or not self.fields:
            return 0, _LARGEST_OFFSET
        end = max(field.offset + field.size for field in self.fields.values())
        if any(field.dynamic or not field.size for field in self.fields.values()):
            return -(-end // 4), _LARGEST_OFFSET
        # Of 8 bytes it makes 12 (`rb_calculate_event_length`).
        return -(-end // 4), max(-(-end // 8) * 2, 3)

    @cached_property
    def symbols(self) -> list[dict[int, str]]:
        """The tables of names in the print format, in their order; a table of unknown numbers is empty."""
        tables = []
        for start in _SYMBOLS.finditer(self.print_format):
            at, table = start.end() - 1, {}
            while match := _SYMBOL.match(self.print_format, at):
                number = evaluate(match[1])
                if number is not None:
                    table[number & (1 << 64) - 1] = match[2]
                at = match.end()
            tables.append(table)
        return tables


def _is_text(text: str) -> bool:
    return "\0" not in text and "\ufffd" not in text


_OPERATORS: dict[type[ast.AST], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.LShift: lambda left, right: left << right if 0 <= right < 64 else 0,
    ast.RShift: lambda left, right: left >> right if 0 <= right < 64 else 0,
}


def evaluate(expression: str) -> int | None:
    """The value of a C expression of constants, as print formats have them; None if it is none."""
    plain = re.sub(r"\b(0[xX][0-9a-fA-F]+|\d+)[uUlL]+\b", r"\1", expression)
    plain = re.sub(r"\b0+(?=\d)", "0o", plain) if not re.search(r"\b0\d*[89]", plain) else plain
    try:
        with warnings.catch_warnings():
            # Damage like 0xfor 1 is Python still, and Python would say on stderr what it thinks of it.
            warnings.simplefilter("error")
            return _value(ast.parse(plain.strip(), mode="eval").body)
    except (SyntaxError, Warning, ValueError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int(number)) if number < 1 << 64:
            return number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left), _value(right)) & ((1 << 64) - 1)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand) & ((1 << 64) - 1)
    raise ValueError("no constant")
