# SPDX-License-Identifier: GPL-2.0-or-later
"""The text of an event as data: literals and fields, written and read by the same declaration.

A form is a line of text with fields in braces, `{name:conversion}`:

    {rip:x}             hex; `08x` and `016x` are padded, all are read alike
    {vcpu}              decimal, without a sign; `03u` is padded
    {delta_cycles:d}    decimal, with a sign if it is negative
    {timer:p}           an address: hex, with or without 0x
    {reason:s}          text, up to what follows the field
    {mode:w}            text without blanks
    {level:edge|level}  one of these words; the value is the word's number
    {register:symbol}   a word of the form's table of symbols, or hex with 0x

A name that begins with `_` is not stored when read; what is written for it is the form's to compute.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

from vlapic.tsc import to_s64

#: What a form computes from an event beside its fields, or from the fields read beside the event's.
Compute = Mapping[str, Callable[[Any], Any]]
#: The event's fields from all fields that were read, as numbers or as columns.
Decode = Callable[[dict[str, Any]], dict[str, Any]]

_FIELD = re.compile(r"\{(\w+)(?::([^}]*))?\}")
_NUMBERS = re.compile(r"0?\d*[udx]$|p$")


class Field(NamedTuple):
    """A place in a form that varies.

    Attributes:
        name: of the event's field.
        kind: `u`, `d`, `x`, `p`, `s`, `w`, `words` or `symbol`.
        width: zeros fill a number up to it when it is written.
        words: what it can be, of kind `words`.
    """

    name: str
    kind: str
    width: int = 0
    words: tuple[str, ...] = ()

    @property
    def stored(self) -> bool:
        """Whether it is a field of the event's."""
        return not self.name.startswith("_")


class Form:
    """One form of an event's text.

    Attributes:
        text: the declaration.
        pieces: its literals (`bytes`) and fields, in order.
        symbols: numbers of the words that a `symbol` field may be.
        decode: makes the event's fields of those read, if they are not the same.
        closed: it ends in a literal, so that a line that ends there is whole.
        swallows: it ends in text, which may be anything.
        pattern: an event's text is `pattern % values(event)[1:]`.
    """

    def __init__(
        self,
        text: str,
        *,
        computed: Compute | None = None,
        decode: Decode | None = None,
        symbols: Mapping[int, str] | None = None,
    ) -> None:
        self.text = text
        self.decode = decode
        self.symbols = {name.encode(): number for number, name in (symbols or {}).items()}
        self._names = dict(symbols or {})
        self._computed = dict(computed or {})
        self.pieces: list[bytes | Field] = []
        at = 0
        for match in _FIELD.finditer(text):
            if match.start() > at:
                self.pieces.append(text[at : match.start()].encode())
            self.pieces.append(_field(match[1], match[2] or "u"))
            at = match.end()
        if at < len(text):
            self.pieces.append(text[at:].encode())
        self.fields = [piece for piece in self.pieces if isinstance(piece, Field)]
        self.closed = isinstance(self.pieces[-1], bytes)
        self.swallows = isinstance(self.pieces[-1], Field) and self.pieces[-1].kind in ("s", "w")
        self.pattern = "".join(
            piece.decode().replace("%", "%%") if isinstance(piece, bytes) else _percent(piece)
            for piece in self.pieces
        )
        self.regex = re.compile(
            b"".join(self._group(piece) for piece in self.pieces) + rb"[ \r]*\Z", re.DOTALL
        )

    @property
    def stored(self) -> set[str]:
        """The names of the event's fields that it carries; what is computed of others not among them."""
        return {field.name for field in self.fields if field.stored}

    @cached_property
    def values(self) -> Callable[[Any], tuple[Any, ...]]:
        """What gives an event's time, and what is printed of it, in the order of the fields.

        One expression, compiled when it is first asked for, as a NamedTuple's own methods are: a call for
        each field would take longer than all else.
        """
        names: dict[str, Any] = {}
        values = ", ".join(["event.host_tsc", *(self._expression(field, names) for field in self.fields)])
        function: Callable[[Any], tuple[Any, ...]] = eval(f"lambda event: ({values},)", names)
        return function

    def write(self, event: Any) -> str:
        """An event's text."""
        text: str = self.pattern % self.values(event)[1:]
        return text

    def read(self, text: bytes) -> dict[str, int | str] | None:
        """The fields of one text, None if it has another form; numbers are as they stand, signed."""
        match = self.regex.match(text)
        if match is None:
            return None
        return {
            field.name: self._value(field, group)
            for field, group in zip(self.fields, match.groups(), strict=True)
        }

    def _expression(self, field: Field, names: dict[str, Any]) -> str:
        """What is printed of an event for a field, as an expression; `names` gets what it refers to."""
        value = f"event.{field.name}"
        if field.name in self._computed:
            names[f"compute_{field.name}"] = self._computed[field.name]
            value = f"compute_{field.name}(event)"
        match field.kind:
            case "d":
                names["to_s64"] = to_s64
                value = f"to_s64({value})"
            case "words":
                names[f"words_{field.name}"] = field.words
                value = f"words_{field.name}[{value}]"
            case "symbol":
                names[f"symbol_{field.name}"] = lambda number: self._names.get(number, f"{number:#x}")
                value = f"symbol_{field.name}({value})"
        return value

    def _value(self, field: Field, text: bytes) -> int | str:
        match field.kind:
            case "s" | "w":
                return text.decode(errors="backslashreplace")
            case "words":
                return field.words.index(text.decode())
            case "symbol":
                return self.symbols[text] if text in self.symbols else int(text, 16)
            case "x" | "p":
                return int(text, 16)
        return int(text)

    def _group(self, piece: bytes | Field) -> bytes:
        if isinstance(piece, bytes):
            return re.escape(piece)
        match piece.kind:
            case "x":
                return rb"([0-9a-fA-F]{1,16})"
            case "p":
                return rb"((?:0x)?[0-9a-fA-F]{1,16})"
            case "u":
                return rb"([0-9]{1,20})"
            case "d":
                return rb"(-?[0-9]{1,20})"
            case "s":
                return rb"(.*?)"
            case "w":
                return rb"([^ ]+)"
            case "words":
                longest_first = sorted(piece.words, key=len, reverse=True)
                return b"(" + b"|".join(re.escape(word.encode()) for word in longest_first) + b")"
        words = b"|".join(re.escape(name) for name in sorted(self.symbols, key=len, reverse=True))
        return b"(" + words + rb"|0x[0-9a-fA-F]{1,16})"


def _field(name: str, conversion: str) -> Field:
    if "|" in conversion:
        return Field(name, "words", words=tuple(conversion.split("|")))
    if _NUMBERS.match(conversion):
        return Field(name, conversion[-1], int(conversion[:-1] or 0))
    return Field(name, conversion)


def _percent(field: Field) -> str:
    match field.kind:
        case "x":
            return f"%0{field.width}x" if field.width else "%x"
        case "p":
            return "%016x"
        case "u":
            return f"%0{field.width}d" if field.width else "%d"
        case "d":
            return "%d"
    return "%s"
