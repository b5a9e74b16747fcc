# SPDX-License-Identifier: GPL-2.0-or-later
"""Text as 8-byte words: numbers at many places of a buffer read in a few operations on whole columns.

A word is eight characters, the first in its lowest byte. A byte's top bit serves as its flag, so that eight
characters are judged by one addition. All positions are in the padded buffer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided, sliding_window_view

Array = npt.NDArray[Any]

#: Newlines before and after the text, so that a word or a window near its ends is there.
PAD_BEFORE = 64
PAD_AFTER = 128


def _each(byte: int) -> np.uint64:
    return np.uint64(byte * 0x0101_0101_0101_0101)


_FLAGS = _each(0x80)
_LOW7 = _each(0x7F)
_ONES = _each(0x01)
_ZERO_DIGIT = _each(0x30)
_SPACES = _each(0x20)
_0, _1, _7, _8, _16, _32, _56, _64 = (np.uint64(n) for n in (0, 1, 7, 8, 16, 32, 56, 64))
_3 = np.uint64(3)
_POWERS = np.array([10**n for n in range(20)], np.uint64)


class Text:
    """A stretch of text, padded, in a buffer that may be used again for the next one.

    Attributes:
        raw: the buffer.
        bytes: its characters.
        words: the word that begins at each position.
        end: where the text ends; it begins at `PAD_BEFORE`.
    """

    def __init__(self, text: bytes = b"", room: int = 0) -> None:
        """A text, in a buffer with room for another of some length."""
        self.raw = bytearray(b"\n" * (PAD_BEFORE + max(room, len(text)) + PAD_AFTER))
        self.bytes = np.frombuffer(self.raw, np.uint8)
        self.words: Array = as_strided(
            self.bytes[:8].view("<u8"), shape=(len(self.raw) - 7,), strides=(1,), writeable=False
        )
        self.end = PAD_BEFORE
        self.put(text)

    def put(self, *pieces: bytes | memoryview) -> None:
        """Have another text in this one's place, made of some pieces.

        Raises:
            ValueError: there is not enough room.
        """
        length = sum(len(piece) for piece in pieces)
        if length > self.room:
            raise ValueError(f"a text of {length} characters in a buffer for {self.room}")
        buffer, at = memoryview(self.raw), PAD_BEFORE
        for piece in pieces:
            buffer[at : at + len(piece)] = piece
            at += len(piece)
        buffer[at : at + PAD_AFTER] = b"\n" * PAD_AFTER
        self.end = at

    @property
    def room(self) -> int:
        """How long a text can be."""
        return len(self.raw) - PAD_BEFORE - PAD_AFTER

    @property
    def unfinished(self) -> bool:
        """Whether its last line does not end."""
        return self.end > PAD_BEFORE and self.raw[self.end - 1] != ord("\n")

    def positions(self, byte: int) -> Array:
        """Where a character stands, in the text itself."""
        return np.flatnonzero(self.bytes[PAD_BEFORE : self.end] == byte) + PAD_BEFORE

    def cut(self, start: int, end: int) -> bytes:
        """The characters of one place."""
        return bytes(memoryview(self.raw)[start:end])

    def strings(self, starts: Array, lengths: Array, size: int) -> Array:
        """The characters at many places, `size` at most, as fixed-width byte strings."""
        windows = sliding_window_view(self.bytes, size)[starts]
        windows = windows * (np.arange(size) < lengths[:, None])
        return windows.astype(np.uint8, copy=False).view(f"S{size}").reshape(-1)


def _not_digits(words: Array) -> Array:
    """A flag for every character that is no digit, of words xored with zeros."""
    return (((words & _LOW7) + _each(0x76)) | words) & _FLAGS


def _flag_count(flags: Array) -> Array:
    return ((flags >> _7) * _ONES >> _56).astype(np.int64)


def _decimal(digits: Array) -> Array:
    """The number that eight digits are, the first in the lowest byte; zero bytes are zeros."""
    pairs = ((digits * np.uint64(2561)) >> _8) & np.uint64(0x00FF_00FF_00FF_00FF)
    fours = ((pairs * np.uint64(6_553_601)) >> _16) & np.uint64(0x0000_FFFF_0000_FFFF)
    return (fours * np.uint64(42_949_672_960_001)) >> _32


def _last_digits(words: Array) -> tuple[Array, Array]:
    digits = words ^ _ZERO_DIGIT
    other = _not_digits(digits)
    other = other | (other >> _8)
    other = other | (other >> _16)
    other = other | (other >> _32)
    mask = (other >> _7) * np.uint64(0xFF)
    return _decimal(digits & ~mask), 8 - _flag_count(other)


def decimals_before(text: Text, ends: Array) -> tuple[Array, Array]:
    """The decimal numbers that end before these positions, and how many digits they have (24 at most)."""
    values, lengths = _last_digits(text.words[ends - 8])
    for done in (8, 16):
        longer = np.flatnonzero(lengths == done)
        if not len(longer):
            break
        more, digits = _last_digits(text.words[ends[longer] - done - 8])
        more = np.where(digits > 0, more, _0)
        values[longer] += more * _POWERS[done]
        lengths[longer] += digits
    return values, lengths


def spaces_before(text: Text, ends: Array) -> Array:
    """How many spaces stand before these positions (56 at most)."""
    return _run(text, ends - 8, -8)


def spaces_at(text: Text, starts: Array) -> Array:
    """How many spaces stand at these positions (56 at most)."""
    return _run(text, starts, 8)


def _run(text: Text, starts: Array, step: int) -> Array:
    counts = np.zeros(len(starts), np.int64)
    rows = np.arange(len(starts))
    at = starts
    for _ in range(7):
        words = text.words[at] ^ _SPACES
        other = (((words & _LOW7) + _LOW7) | words) & _FLAGS
        if step < 0:
            other = other | (other >> _8)
            other = other | (other >> _16)
            other = other | (other >> _32)
            here = 8 - _flag_count(other)
        else:
            here = _before_first(other)
        counts[rows] += here
        rows = rows[here == 8]
        if not len(rows):
            break
        at = starts[rows] + np.sign(step) * counts[rows]
    return counts


def _before_first(flags: Array) -> Array:
    """How many characters come before the first that is flagged; 8 if none is."""
    lowest = flags & (~flags + _1)
    return _flag_count((lowest - _1) & _FLAGS)


def decimals_at(text: Text, starts: Array) -> tuple[Array, Array]:
    """The decimal numbers at these positions, and how many digits they have (24 at most)."""
    return _numbers_at(text, starts, _first_digits, 10)


def hex_at(text: Text, starts: Array) -> tuple[Array, Array]:
    """The hexadecimal numbers at these positions, and how many digits they have (24 at most)."""
    return _numbers_at(text, starts, _first_hex, 16)


def _numbers_at(text: Text, starts: Array, read: Any, base: int) -> tuple[Array, Array]:
    values, lengths = read(text.words[starts])
    for done in (8, 16):
        longer = np.flatnonzero(lengths == done)
        if not len(longer):
            break
        more, digits = read(text.words[starts[longer] + done])
        if base == 10:
            values[longer] = values[longer] * _POWERS[digits] + more
        else:
            values[longer] = (values[longer] << (digits.astype(np.uint64) * np.uint64(4))) | more
        lengths[longer] += digits
    return values, lengths


def _first_digits(words: Array) -> tuple[Array, Array]:
    digits = words ^ _ZERO_DIGIT
    lengths = _before_first(_not_digits(digits))
    return _decimal(digits << (_64 - (lengths.astype(np.uint64) << _3))), lengths


def _first_hex(words: Array) -> tuple[Array, Array]:
    letters = (words | _SPACES) ^ _each(0x60)
    low = letters & _LOW7
    not_letters = ((low + _each(0x79)) | letters | ~(low + _LOW7)) & _FLAGS
    lengths = _before_first(_not_digits(words ^ _ZERO_DIGIT) & not_letters)
    digits = (words & _each(0x0F)) + ((words >> np.uint64(6)) & _ONES) * np.uint64(9)
    digits = digits << (_64 - (lengths.astype(np.uint64) << _3))
    pairs = ((digits * np.uint64(0x1001)) >> _8) & np.uint64(0x00FF_00FF_00FF_00FF)
    fours = ((pairs * np.uint64(0x100_0001)) >> _16) & np.uint64(0x0000_FFFF_0000_FFFF)
    return (fours * np.uint64(0x1_0000_0000_0001)) >> _32, lengths


def starts_with(text: Text, starts: Array, literal: bytes) -> Array:
    """Whether these positions begin with some characters."""
    found: Array | None = None
    for at in range(0, len(literal), 8):
        part = literal[at : at + 8]
        wanted = np.uint64(int.from_bytes(part, "little"))
        words = text.words[starts + at] if at else text.words[starts]
        if len(part) < 8:
            words = words & np.uint64((1 << 8 * len(part)) - 1)
        here = words == wanted
        found = here if found is None else found & here
    return np.ones(len(starts), bool) if found is None else found


def hashes(text: Text, starts: Array, lengths: Array) -> Array:
    """A number for each string: of its first 24 characters and its length."""
    hashed = lengths.astype(np.uint64) * np.uint64(0xD6E8_FEB8_6659_FD93)
    for at, factor in ((0, 0x9E37_79B9_7F4A_7C15), (8, 0xC2B2_AE3D_27D4_EB4F), (16, 0x1656_67B1_9E37_79F9)):
        left = np.clip(lengths - at, 0, 8).astype(np.uint64)
        # Words that nobody has are not fetched, but count.
        words = text.words[starts + at] & _masks[left] if left.any() else _0
        hashed = (hashed ^ words) * np.uint64(factor)
        hashed ^= hashed >> np.uint64(29)
    return hashed


_masks = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)
