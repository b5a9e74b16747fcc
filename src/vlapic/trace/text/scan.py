# SPDX-License-Identifier: GPL-2.0-or-later
"""A form read from many lines at once, column by column.

The twin of `Form.read`, which reads one text with a regular expression and decides what a form means: what is
read here is what that would read, and what is not read here may still be read there.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from vlapic.trace.templates import Field, Form
from vlapic.trace.text.words import PAD_BEFORE, Text, decimals_at, hashes, hex_at, starts_with

Array = npt.NDArray[Any]

#: How much of a text field's place is searched for what follows it.
_WINDOW = 64
#: Longest text that a column takes.
_NAME = 28


class Scanned(NamedTuple):
    """What a form gave.

    Attributes:
        read: whether each line has the form.
        columns: by field; numbers as u8 (negative ones modulo 2^64), text as byte strings; of no meaning
            where a line was not read.
    """

    read: Array
    columns: dict[str, Array]


def scan(form: Form, text: Text, starts: Array, ends: Array) -> Scanned | None:
    """Read a form from the texts between these positions; None if no line begins with it."""
    at = starts
    read = np.ones(len(starts), bool)
    columns: dict[str, Array] = {}
    for number, piece in enumerate(form.pieces):
        if isinstance(piece, bytes):
            read &= starts_with(text, at, piece)
            at = at + len(piece)
        else:
            following = form.pieces[number + 1] if number + 1 < len(form.pieces) else None
            values, at, here = _field(form, piece, following, text, at, ends)
            columns[piece.name] = values
            read &= here
        # What was not read must not lead out of the text.
        at = np.minimum(at, ends)
        if number == 0 and not read.any():
            return None
    return Scanned(read & (at == ends), columns)


def _field(
    form: Form, field: Field, following: Any, text: Text, at: Array, ends: Array
) -> tuple[Array, Array, Array]:
    """A field's values, where it ends, and where it was there."""
    match field.kind:
        case "u":
            values, lengths = decimals_at(text, at)
            return values, at + lengths, (lengths > 0) & (lengths < 20)
        case "d":
            negative = text.bytes[at] == ord("-")
            values, lengths = decimals_at(text, at + negative)
            values = np.where(negative, ~values + np.uint64(1), values)
            return values, at + negative + lengths, (lengths > 0) & (lengths < 20)
        case "x":
            values, lengths = hex_at(text, at)
            return values, at + lengths, (lengths > 0) & (lengths <= 16)
        case "p":
            prefix = 2 * starts_with(text, at, b"0x")
            values, lengths = hex_at(text, at + prefix)
            return values, at + prefix + lengths, (lengths > 0) & (lengths <= 16)
        case "words":
            return _words(field, text, at)
        case "symbol":
            return _symbol(form, text, at)
        case "w":
            return _word(text, at, ends)
    return _string(following, text, at, ends)


def _words(field: Field, text: Text, at: Array) -> tuple[Array, Array, Array]:
    values = np.zeros(len(at), np.uint64)
    lengths = np.zeros(len(at), np.int64)
    found = np.zeros(len(at), bool)
    for word in sorted(field.words, key=len, reverse=True):
        here = starts_with(text, at, word.encode()) & ~found
        values[here] = field.words.index(word)
        lengths[here] = len(word)
        found |= here
        if found.all():
            break
    return values, at + lengths, found


def _symbol(form: Form, text: Text, at: Array) -> tuple[Array, Array, Array]:
    """A word up to the next space that has a number, or a number in hex."""
    windows = sliding_window_view(text.bytes, 32)[at]
    lengths = np.argmax(windows <= ord(" "), axis=1)
    keys, inverse = np.unique(hashes(text, at, lengths), return_inverse=True)
    known = _symbol_hashes(form)
    values = np.array([known.get(key, -1) for key in keys.tolist()], np.int64)[inverse]
    is_hex = starts_with(text, at, b"0x")
    numbers, digits = hex_at(text, at + 2)
    ends = np.where(is_hex, at + 2 + digits, at + lengths)
    found = np.where(is_hex, (digits > 0) & (digits <= 16), values >= 0)
    return np.where(is_hex, numbers, values.astype(np.uint64)), ends, found


@lru_cache
def _symbol_hashes(form: Form) -> dict[int, int]:
    joined = Text(b"".join(form.symbols))
    lengths = np.array([len(name) for name in form.symbols])
    starts = PAD_BEFORE + np.cumsum(lengths) - lengths
    return dict(zip(hashes(joined, starts, lengths).tolist(), form.symbols.values(), strict=True))


def _word(text: Text, at: Array, ends: Array) -> tuple[Array, Array, Array]:
    """Text up to the next blank, or to the end."""
    windows = sliding_window_view(text.bytes, _WINDOW)[at]
    hits = windows == ord(" ")
    lengths = np.where(hits.any(axis=1), np.argmax(hits, axis=1), _WINDOW)
    lengths = np.minimum(lengths, ends - at)
    found = (lengths > 0) & (lengths < _WINDOW)
    return text.strings(at, np.minimum(lengths, _NAME), _NAME), at + lengths, found


def _string(following: Any, text: Text, at: Array, ends: Array) -> tuple[Array, Array, Array]:
    """Text up to the literal that follows, or to the end."""
    if following is None:
        lengths = ends - at
        return text.strings(at, np.minimum(lengths, _NAME), _NAME), ends.copy(), np.ones(len(at), bool)
    mark = following[:4]
    windows = sliding_window_view(text.bytes, _WINDOW)[at]
    width = _WINDOW - len(mark) + 1
    hits = windows[:, :width] == mark[0]
    for offset, byte in enumerate(mark[1:], 1):
        hits &= windows[:, offset : offset + width] == byte
    lengths = np.argmax(hits, axis=1)
    found = hits[np.arange(len(at)), lengths] & (at + lengths < ends)
    return text.strings(at, np.minimum(lengths, _NAME), _NAME), at + lengths, found
