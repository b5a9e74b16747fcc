# SPDX-License-Identifier: GPL-2.0-or-later
"""How many steps a regular expression takes, counted: a matcher as slow and as plain as it can be.

It tries what `re` tries, in the order in which `re` tries it, and counts each attempt to match a part of the
expression at one place. `re` itself counts nothing, and the time that it takes is no one's to assert.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

_SETS = {op.CATEGORY_DIGIT: rb"\d", op.CATEGORY_SPACE: rb"\s", op.CATEGORY_WORD: rb"\w"}
_SETS |= {op.CATEGORY_NOT_DIGIT: rb"\D", op.CATEGORY_NOT_SPACE: rb"\S", op.CATEGORY_NOT_WORD: rb"\W"}
_IN_SET = {name: {byte[0] for byte in re.findall(of, bytes(range(256)))} for name, of in _SETS.items()}


class Steps:
    """One match of a pattern of bytes, from the beginning of a text.

    Attributes:
        taken: how many attempts it took.
        end: where the match ends, None if there is none.
    """

    def __init__(self, pattern: re.Pattern[bytes], text: bytes) -> None:
        self.taken = 0
        self._text = text
        tree = list(_parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG))
        self._newline = bool(pattern.flags & re.DOTALL)
        self.end = next(self._all(tree, 0, 0), None)

    def _all(self, parts: list[Any], number: int, at: int) -> Iterator[int]:
        """Where the parts from this one on may end."""
        if number == len(parts):
            yield at
            return
        for end in self._one(parts[number], at):
            yield from self._all(parts, number + 1, end)

    def _one(self, part: Any, at: int) -> Iterator[int]:
        self.taken += 1
        what, of = part
        if what in (op.MAX_REPEAT, op.MIN_REPEAT):
            yield from self._repeat(of[0], of[1], list(of[2]), at, greedy=what is op.MAX_REPEAT)
        elif what is op.POSSESSIVE_REPEAT:
            yield from self._first(self._repeat(of[0], of[1], list(of[2]), at, greedy=True))
        elif what is op.ATOMIC_GROUP:
            yield from self._first(self._all(list(of), 0, at))
        elif what is op.SUBPATTERN:
            yield from self._all(list(of[3]), 0, at)
        elif what is op.BRANCH:
            for branch in of[1]:
                yield from self._all(list(branch), 0, at)
        elif what in (op.ASSERT, op.ASSERT_NOT):
            start = at if of[0] > 0 else at - of[1].getwidth()[0]
            found = start >= 0 and next(self._all(list(of[1]), 0, start), None) is not None
            if found == (what is op.ASSERT):
                yield at
        elif what is op.AT:
            if {op.AT_END_STRING: at == len(self._text), op.AT_BEGINNING: at == 0}[of]:
                yield at
        elif at < len(self._text) and self._is(what, of, self._text[at]):
            yield at + 1

    def _is(self, what: Any, of: Any, byte: int) -> bool:
        """Whether a character is what a part of one character says."""
        if what is op.ANY:
            return self._newline or byte != ord("\n")
        if what in (op.LITERAL, op.NOT_LITERAL):
            return (byte == of) == (what is op.LITERAL)
        assert what is op.IN, what
        negated = of[0][0] is op.NEGATE
        for kind, value in of[negated:]:
            if (
                (kind is op.LITERAL and byte == value)
                or (kind is op.RANGE and value[0] <= byte <= value[1])
                or (kind is op.CATEGORY and byte in _IN_SET[value])
            ):
                return not negated
        return negated

    def _repeat(self, least: int, most: int, parts: list[Any], at: int, *, greedy: bool) -> Iterator[int]:
        """As often as may be, each time from where the time before ended; the ends in the order of trial."""
        ways: list[Iterator[int]] = []
        ends = [at]
        if not greedy and least == 0:
            yield at
        ways.append(self._all(parts, 0, at) if most else iter(()))
        while ways:
            end = next(ways[-1], None)
            if end is None:
                ways.pop()
                done = ends.pop()
                if greedy and len(ends) >= least:
                    yield done
                continue
            if end == ends[-1]:
                continue  # nothing, which no repetition makes more
            ends.append(end)
            count = len(ends) - 1
            if not greedy and count >= least:
                yield end
            ways.append(self._all(parts, 0, end) if count < most else iter(()))

    @staticmethod
    def _first(ends: Iterator[int]) -> Iterator[int]:
        end = next(ends, None)
        if end is not None:
            yield end
