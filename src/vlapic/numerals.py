# SPDX-License-Identifier: GPL-2.0-or-later
"""What a number looks like in text that people and other programs write: one rule for all of it.

A whole number is ASCII digits, with `-` before them if it is negative, and nothing else: `12`, `-1`, `007`.
Python's `int()` takes more: `1_0`, `+5`, the digits of other scripts, blanks around, and it raises an error
of its own for thousands of digits. A slip of the pen must not pass for a number, so the command line,
configurations, samples and headers all ask here. What is hexadecimal says so, by `0x`, or by the format that
it stands in.

Numbers in TOML and JSON are as TOML and JSON have them.
"""

from __future__ import annotations

import re

#: The longest number that is read; every quantity of ours has 20 digits at most.
MOST_DIGITS = 40
#: How much of a text an error shows.
_SHOWN = 48

_WHOLE = re.compile(rf"-?[0-9]{{1,{MOST_DIGITS}}}")
_FRACTION = re.compile(
    rf"-?(?:[0-9]{{1,{MOST_DIGITS}}}(?:\.[0-9]{{0,{MOST_DIGITS}}})?|\.[0-9]{{1,{MOST_DIGITS}}})"
    r"(?:[eE][+-]?[0-9]{1,2})?"
)
_HEX = re.compile(rf"0[xX][0-9a-fA-F]{{1,{MOST_DIGITS}}}")


def whole_number(text: str, within: tuple[int, int] | None = None) -> int:
    """The number that a text is, in decimal.

    Args:
        text: digits of ASCII, at most `MOST_DIGITS`, with `-` before them if it is negative; no blanks.
        within: the least and the greatest that it may be; None is no limit.

    Raises:
        ValueError: it is none, or out of range.
    """
    if _WHOLE.fullmatch(text) is None:
        raise ValueError(f"{shown(text)} is no whole number")
    value = int(text)
    if within is not None and not within[0] <= value <= within[1]:
        raise ValueError(f"{value} is not from {within[0]} to {within[1]}")
    return value


def hex_number(text: str) -> int:
    """The number that a text is, in hexadecimal behind `0x`.

    Raises:
        ValueError: it is none.
    """
    if _HEX.fullmatch(text) is None:
        raise ValueError(f"{shown(text)} is no hexadecimal number; it begins with 0x")
    return int(text, 16)


def real_number(text: str) -> float:
    """The number that a text is, in decimal, whole or with a point or an exponent: `2`, `0.5`, `-1e-3`.

    It is finite: there is no way to write one that is not.

    Raises:
        ValueError: it is none.
    """
    if _FRACTION.fullmatch(text) is None:
        raise ValueError(f"{shown(text)} is no number")
    return float(text)


def shown(text: str) -> str:
    """A text in quotes for an error's one line, its middle left out where it is long."""
    if len(text) > _SHOWN:
        text = f"{text[: _SHOWN // 2]}...{text[-_SHOWN // 4 :]}"
    return repr(text)


def counted(number: int, what: str, several: str | None = None) -> str:
    """So many of something, in words: `1 sample`, `2 samples`.

    Args:
        what: the name of one.
        several: the name of several, if it is not that with an s.
    """
    return f"{number} {what if number == 1 else several or f'{what}s'}"
