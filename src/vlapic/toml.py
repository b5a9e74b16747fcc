# SPDX-License-Identifier: GPL-2.0-or-later
"""TOML text, with a line for whatever is wrong with it: tomllib lets some of Python's own errors through."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from vlapic.numerals import MOST_DIGITS

_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)")
#: Digits of any base that are more than a number of ours has.
_DIGITS = re.compile(rf"(?:0x)?[0-9a-fA-F][0-9a-fA-F_]{{{MOST_DIGITS},}}")
_GREATEST = 10**MOST_DIGITS


class NotToml(ValueError):
    """A text is no TOML, or more than any file of ours needs; the message says what is wrong.

    Attributes:
        line: where, from 1; the last line if the text ends too early.
    """

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.line = line


def parse(text: str) -> dict[str, Any]:
    """The tables and values of a TOML text; numbers have at most `MOST_DIGITS` digits.

    Raises:
        NotToml: it is none, a number has more, or brackets are nested a thousand deep.
    """
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _PLACE.search(str(error))
        line = int(place[1]) if place and place[1] else len(text.splitlines()) or 1
        raise NotToml(_PLACE.sub("", str(error)), line) from None
    except RecursionError:
        lines = text.split("\n")
        deepest = max(range(len(lines)), key=lambda at: lines[at].count("[") + lines[at].count("{"))
        raise NotToml("brackets are nested too deeply", deepest + 1) from None
    except ValueError:  # Python makes no number of some thousand digits
        raise _too_long(text) from None
    if any(not -_GREATEST < number < _GREATEST for number in _whole_numbers(found)):
        raise _too_long(text)
    return found


def _too_long(text: str) -> NotToml:
    longest = max(_DIGITS.finditer(text), key=lambda found: len(found[0]), default=None)
    line = 1 if longest is None else text.count("\n", 0, longest.start()) + 1
    return NotToml(f"a number has more than {MOST_DIGITS} digits", line)


def _whole_numbers(value: Any) -> Iterator[int]:
    left = [value]  # not by recursion: dotted keys nest as deeply as a line is long
    while left:
        value = left.pop()
        if isinstance(value, int):
            yield value
        elif isinstance(value, dict | list):
            left += value.values() if isinstance(value, dict) else value
