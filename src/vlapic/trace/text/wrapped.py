"""Lines that a mail program or a terminal wrapped, put together again where that is sure.

    CPU 0/KVM-5001    [003] d..1.   8296364487: kvm_inj_virq: IRQ 0xec
    [reinjected]

A line that is neither an event nor a remark of the trace may be the rest of the line before it. It is taken
for that if both together are an event whose whole text has one of its forms, and the first one alone either
is no such event, or one that the rest belongs to by its form. Of events that are passed over, no form is
known: the rest of such a line is taken for that once the file is known to be wrapped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from vlapic.trace.text.comments import is_aside
from vlapic.trace.text.lines import Lines, read_head
from vlapic.trace.text.words import Text

#: How many lines an event may have become.
MOST_PIECES = 6
#: Longer than an event's line is, pieces are not those of one.
_LONGEST = 512


class Fit(NamedTuple):
    """How an event's text fits the forms that it can have.

    Attributes:
        known: it has forms.
        whole: it has one of them.
        closed: that one cannot swallow anything that follows.
    """

    known: bool
    whole: bool
    closed: bool


#: Judges an event by its name and its text.
Judge = Callable[[bytes, bytes], Fit]


def unwrapped(text: Text, lines: Lines, judge: Judge, *, known_to_be: bool) -> list[tuple[int, int]]:
    """Which lines belong together.

    Args:
        text, lines: as they were read.
        judge: knows the events' forms.
        known_to_be: this file has had wrapped lines before.

    Returns:
        Each group's first line and the line behind its last, in order.
    """
    strange = _strange(text, lines)
    groups: list[tuple[int, int]] = []
    wrapped = known_to_be
    for may_go_on in (False, True):
        if may_go_on and not wrapped:
            break
        taken = {row for first, end in groups for row in range(first, end)}
        for first in sorted({row - 1 for row in strange if row} | strange):
            if first in taken or not (lines.read[first] or (first in strange and not may_go_on)):
                continue
            end = first + 1
            length = int(lines.ends[first] - lines.starts[first])
            while end in strange and end not in taken and end - first < MOST_PIECES:
                length += int(lines.ends[end] - lines.starts[end])
                if length > _LONGEST:
                    break
                end += 1
            if end - first < 2:
                continue
            pieces = [text.cut(int(lines.starts[row]), int(lines.ends[row])) for row in range(first, end)]
            count = _passed_over(pieces, judge) if may_go_on else _joined(pieces, judge)
            if count > 1:
                groups.append((first, first + count))
                taken.update(range(first, first + count))
                wrapped = True
    return sorted(groups)


def joined(pieces: list[bytes]) -> bytes:
    """The line that pieces were wrapped from: a blank stood where each ends."""
    rest = (piece.lstrip(b"> ").rstrip(b" \r") for piece in pieces[1:])
    return b" ".join([pieces[0].rstrip(b" \r"), *rest])


def _strange(text: Text, lines: Lines) -> set[int]:
    """Lines that are neither events nor remarks nor empty."""
    return {
        row
        for row in (~lines.read & (lines.starts < lines.ends)).nonzero()[0].tolist()
        if lines.ends[row] - lines.starts[row] < _LONGEST
        and not is_aside(text.cut(int(lines.starts[row]), int(lines.ends[row])))
    }


def _joined(pieces: list[bytes], judge: Judge) -> int:
    """How many of these lines are one event, the most that can be; 1 if none but the first is."""
    alone = _fit(pieces[0], judge)
    if alone is not None and not alone.known:
        return 1
    for count in range(len(pieces), 1, -1):
        fit = _fit(joined(pieces[:count]), judge)
        if fit is None:
            continue
        if not fit.known and alone is None and count == 2:
            # The head of an event that is passed over, and its name.
            return count
        if fit.whole and (fit.closed or alone is None or not alone.whole):
            return count
    return 1


def _passed_over(pieces: list[bytes], judge: Judge) -> int:
    fit = _fit(pieces[0], judge)
    return len(pieces) if fit is not None and not fit.known else 1


def _fit(line: bytes, judge: Judge) -> Fit | None:
    head = read_head(line)
    return None if head is None else judge(line[head.name_start : head.name_end], line[head.text_start :])
