# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines that a mail program or a terminal wrapped, put together again where that is sure.

    CPU 0/KVM-5001    [003] d..1.   8296364487: kvm_inj_virq: IRQ 0xec
    [reinjected]

A line that is neither an event nor a remark of the trace may be the rest of the line before it. A mail
program breaks at a blank, which is gone, so that lines differ in length; a terminal, or `fold`, breaks at one
width, in the middle of a number too, and nothing is gone. Which of the two a file had is told by the events
that only one of them gives.

A terminal's pieces are as many as their lengths say. A mail program's are taken for one line if both
together are an event whose whole text has one of its forms, and the first one alone either is no such event,
or one that the rest belongs to by its form. Of events that are passed over, no form is known: the rest of
such a line is taken for that once the file is known to be wrapped.

An event before a piece that fits nowhere may be the head of a longer one, with the head of a number in it: it
is not sure, and not read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from vlapic.trace.text.comments import is_aside, is_of_its_own
from vlapic.trace.text.lines import CONTROL, Lines, read_head
from vlapic.trace.text.words import Text

#: How many lines an event may have become.
MOST_PIECES = 6
#: Longer than an event's line is, pieces are not those of one.
_LONGEST = 512
#: Longer than a comment is: one has all that a CPU can do.
_LONGEST_COMMENT = 8192
#: Lines of which it is tried how they were wrapped.
_TRIED = 1000
#: Narrower than this, lines are not wrapped at one width: a task and its CPU would not stand in one piece.
_NARROWEST = 32
#: How much of what it begins with shows that a line has the task of the one before it.
_SAME_TASK = 4

_QUOTED = re.compile(rb"(?:> ?)+")
#: A task, its thread and its CPU or, where perf prints none, its time: a line begins there, so that it is the
#: rest of no other one.
_BEGINS = re.compile(
    rb".{0,80}?(?:-\d{1,10} +(?:\([ \d-]{1,9}\) +)?(?:\[\d|\d+[^\s:\d]{4})"
    rb"| \d{1,10}(?:/\d{1,10})? +(?:\[\d+\] |\d+\.\d{6}|\d+ \d+ [0-9a-f]{8} ))"
)
#: What has an event's name, or the blanks before a task, was no piece of another line.
_OF_ITS_OWN = re.compile(rb"   |.{0,120}?: (?:\w+:)?\w+: ")


class Fit(NamedTuple):
    """How an event's text fits the forms that it can have.

    Attributes:
        known: it has forms.
        whole: it has one of them.
        closed: that one cannot swallow anything that follows.
        ends: it ends in a literal, so that nothing of it can be missing.
    """

    known: bool
    whole: bool
    closed: bool
    ends: bool = False


#: Judges an event by its name and its text.
Judge = Callable[[bytes, bytes], Fit]


@dataclass
class Wrapping:
    """How a file's lines were wrapped.

    Attributes:
        width: how long a terminal's lines were, in characters; 0 if they were broken at blanks; None if that
            is not known, or they were not wrapped.
    """

    width: int | None = None


def unwrapped(
    text: Text, lines: Lines, judge: Judge, wrapping: Wrapping, *, known_to_be: bool
) -> list[tuple[int, int]]:
    """Which lines belong together.

    Args:
        text, lines: as they were read.
        judge: knows the events' forms.
        wrapping: how the file was wrapped, as far as that is known; learns it.
        known_to_be: this file has had wrapped lines before.

    Returns:
        Each group's first line and the line behind its last, in order.
    """
    strange = _strange(text, lines)
    if not strange:
        return []
    if wrapping.width is None:
        wrapping.width = _width(text, lines, strange, judge)
    if wrapping.width:
        return _unfolded(text, lines, judge, wrapping.width)
    groups: list[tuple[int, int]] = []
    wrapped = known_to_be
    for may_go_on in (False, True):
        if may_go_on and not wrapped:
            break
        taken = {row for first, end in groups for row in range(first, end)}
        for first in sorted({row - 1 for row in strange if row} | strange):
            if first in taken or not (lines.read[first] or (first in strange and not may_go_on)):
                continue
            pieces = _pieces(text, lines, strange - taken, first)
            if len(pieces) < 2:
                continue
            count = _passed_over(pieces, judge) if may_go_on else _joined(pieces, judge)
            if count > 1 and wrapping.width is None and _folds(text, lines, first, first + count, judge):
                # Either way gives an event, and nothing says which it was.
                continue
            if count > 1:
                groups.append((first, first + count))
                taken.update(range(first, first + count))
                wrapped = True
    return sorted(groups)


def joined(pieces: list[bytes], width: int | None = None) -> bytes:
    """The line that pieces were wrapped from.

    Args:
        pieces: as they stand; of a terminal's, with the blanks that they end in.
        width: a terminal's; None or 0 if a blank stood where each ends.
    """
    if width:
        quoted = _QUOTED.match(pieces[0])
        return b"".join(
            [pieces[0], *(_QUOTED.sub(b"", piece, 1) if quoted else piece for piece in pieces[1:])]
        )
    rest = (piece.lstrip(b"> ").rstrip(b" \r") for piece in pieces[1:])
    return b" ".join([pieces[0].rstrip(b" \r"), *rest])


def whole_lines(text: Text, lines: Lines, first: int, end: int) -> list[bytes]:
    """Lines with the blanks that they end in."""
    return [text.cut(int(lines.starts[row]), _end(text, lines, row)) for row in range(first, end)]


def unsure(text: Text, lines: Lines, judge: Judge) -> list[int]:
    """Events that may be the heads of longer ones: those right before a piece that fits nowhere."""
    found = []
    for row in sorted(_strange(text, lines)):
        if not row or not lines.read[row - 1]:
            continue
        piece = text.cut(int(lines.starts[row]), int(lines.ends[row]))
        before = text.cut(int(lines.starts[row - 1]), int(lines.ends[row - 1]))
        if _BEGINS.match(piece) or _OF_ITS_OWN.match(piece) or piece[:_SAME_TASK] == before[:_SAME_TASK]:
            continue
        fit = _fit(before, judge)
        if fit is not None and fit.known and not (fit.whole and fit.ends):
            found.append(row - 1)
    return found


def last_beginning(text: bytes) -> int:
    """Where text that goes on can be cut without parting a line's pieces: before the last beginning.

    Returns:
        The place behind a newline, 0 if there is none like that among the last lines.
    """
    at = text.rfind(b"\n") + 1
    for _ in range(MOST_PIECES + 1):
        end, at = at, text.rfind(b"\n", 0, max(at - 1, 0)) + 1
        if end - at < _LONGEST and _BEGINS.match(text[at:end]):
            return at
    return 0


def _strange(text: Text, lines: Lines) -> set[int]:
    """Lines that are neither events nor remarks nor empty, and may be pieces of others."""
    found = set()
    for row in (~lines.read & (lines.starts < lines.ends)).nonzero()[0].tolist():
        if lines.ends[row] - lines.starts[row] < _LONGEST:
            line = text.cut(int(lines.starts[row]), int(lines.ends[row]))
            if not (is_aside(line) or CONTROL.search(line)):
                found.add(row)
    return found


def _pieces(text: Text, lines: Lines, strange: set[int], first: int) -> list[bytes]:
    """A line and those behind it that may be its rest."""
    pieces = [text.cut(int(lines.starts[first]), int(lines.ends[first]))]
    length = len(pieces[0])
    while (row := first + len(pieces)) in strange and len(pieces) < MOST_PIECES:
        piece = text.cut(int(lines.starts[row]), int(lines.ends[row]))
        length += len(piece)
        if length > _LONGEST or _BEGINS.match(piece):
            break
        pieces.append(piece)
    return pieces


def _end(text: Text, lines: Lines, row: int) -> int:
    """Where a line ends with its blanks, before its newline."""
    end = int(lines.starts[row + 1]) - 1 if row + 1 < len(lines.starts) else text.end
    while end > lines.starts[row] and text.raw[end - 1] in b"\r\n":
        end -= 1
    return end


def _columns(text: Text, lines: Lines) -> list[int]:
    """How many columns each line takes, as a terminal and `fold` have them, TABs of eight."""
    columns = []
    for row in range(len(lines.starts)):
        end = _end(text, lines, row)
        start = int(lines.starts[row])
        tab = text.raw.find(b"\t", start, end)
        columns.append(end - start if tab < 0 else len(text.cut(start, end).expandtabs(8)))
    return columns


def _width(text: Text, lines: Lines, strange: set[int], judge: Judge) -> int | None:
    """At how many columns a terminal wrapped these lines, 0 if a mail program did, None if unknown."""
    columns = _columns(text, lines)
    longest = max(columns)
    folds = breaks = tried = 0
    for first in sorted({row - 1 for row in strange if row} | strange):
        if tried == _TRIED:
            break
        pieces = _pieces(text, lines, strange, first)
        if len(pieces) < 2:
            continue
        tried += 1
        count = _count(text, lines, columns, first, longest)
        fold = longest >= _NARROWEST and _folds(text, lines, first, first + count, judge, surely=True)
        broken = _joined(pieces, judge) > 1
        folds += fold and not broken
        breaks += broken and not fold
    if folds > breaks:
        return longest
    return 0 if breaks > folds else None


def _count(text: Text, lines: Lines, columns: list[int], first: int, width: int) -> int:
    """How many lines are one that a terminal wrapped at this width, by their lengths."""
    row = first
    while (
        row + 1 < len(lines.starts)
        and columns[row] == width
        and not lines.read[row + 1]
        and lines.starts[row + 1] < lines.ends[row + 1]
        and not _is_no_piece(text.cut(int(lines.starts[row + 1]), int(lines.ends[row + 1])))
        and (row + 1 - first) * width < _LONGEST_COMMENT
    ):
        row += 1
    return row + 1 - first


def _is_no_piece(line: bytes) -> bool:
    return _BEGINS.match(line) is not None or CONTROL.search(line) is not None or is_of_its_own(line)


def _folds(text: Text, lines: Lines, first: int, end: int, judge: Judge, *, surely: bool = False) -> bool:
    """Whether these lines, put together as they stand, are an event or a comment.

    Surely is an event only whose form ends in no text, which may be anything.
    """
    if end - first < 2:
        return False
    pieces = whole_lines(text, lines, first, end)
    lengths = [len(piece.expandtabs(8)) for piece in pieces]
    if len(set(lengths[:-1])) > 1 or lengths[-1] > lengths[0]:
        return False
    line = joined(pieces, lengths[0])
    fit = _fit(line, judge)
    if surely:
        return fit is not None and fit.whole and fit.closed
    return line.lstrip(b"> ").startswith(b"#") if fit is None else fit.whole or not fit.known


def _unfolded(text: Text, lines: Lines, judge: Judge, width: int) -> list[tuple[int, int]]:
    """Which lines a terminal made of one."""
    groups = []
    end = 0
    columns = _columns(text, lines)
    for row in (row for row, length in enumerate(columns) if length == width):
        if row < end:
            continue
        count = _count(text, lines, columns, row, width)
        if _folds(text, lines, row, row + count, judge):
            end = row + count
            groups.append((row, end))
    return groups


def _joined(pieces: list[bytes], judge: Judge) -> int:
    """How many of these lines are one event, the most that can be; 1 if none but the first is.

    Where its form ends in text, which may be anything, the fewest.
    """
    alone = _fit(pieces[0], judge)
    if alone is not None and not alone.known:
        return 1
    fewest = 1
    for count in range(len(pieces), 1, -1):
        fit = _fit(joined(pieces[:count]), judge)
        if fit is None:
            continue
        if not fit.known and alone is None and count == 2:
            # The head of an event that is passed over, and its name.
            return count
        if fit.whole and fit.closed:
            return count
        if fit.whole and (alone is None or not alone.whole):
            fewest = count
    return fewest


def _passed_over(pieces: list[bytes], judge: Judge) -> int:
    fit = _fit(pieces[0], judge)
    return len(pieces) if fit is not None and not fit.known else 1


def _fit(line: bytes, judge: Judge) -> Fit | None:
    head = read_head(line)
    return None if head is None else judge(line[head.name_start : head.name_end], line[head.text_start :])
