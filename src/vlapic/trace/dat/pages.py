# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages of the kernel's ring buffer: where each record lies, and its time.

Follows `include/linux/ring_buffer.h`, `kernel/trace/ring_buffer.c` (v6.19) and libtraceevent's
`kbuffer-parse.c`. A page has a time stamp, a word that says how much of it is filled (`commit`), and records
one behind the other. A record's first word has 5 bits of type and 27 bits of time since the record before it.

    type      what follows
    1..28     that many words of payload
    0         a word with the length of payload and itself in bytes, then the payload
    29        padding: a word with its length without the first word
    30        a word with 32 more bits of time, above the 27
    31        the same, but together they are the time itself (59 bits; above them those of the page)

Records are found in many pages at once: a step takes the next record of each page, so that numpy works on
thousands of records a step. Time is summed on the way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

PADDING = 29
TIME_EXTEND = 30
TIME_STAMP = 31

_COMMIT = (1 << 27) - 1
_MISSED = 1 << 31
_MISSED_STORED = 1 << 30
#: Bits of commit that no kernel sets; those above the lower word are the sign of `_MISSED`.
_NEVER = 7 << 27
#: A length that no page has.
_NOWHERE = 1 << 29
_STAMP_ABOVE = np.uint64(0xF8 << 56)


@dataclass(frozen=True)
class PageLayout:
    """What the text of header_page says of a page.

    Attributes:
        order: `<` or `>`, the byte order of the machine that recorded it.
        commit_offset, commit_size: of the word that says how much is filled, bytes; its size is the kernel's
            `long`.
        data_offset: of the first record.
        page_size: of a page of the top buffer, bytes.
    """

    order: str
    commit_offset: int = 8
    commit_size: int = 8
    data_offset: int = 16
    page_size: int = 4096

    @classmethod
    def of(cls, header_page: str, order: str) -> PageLayout | None:
        """From the text; None if that makes no sense."""
        fields = {
            name: (int(offset), int(size))
            for name, offset, size in re.findall(
                r"(\w+);\s*offset:(\d{1,9});\s*size:(\d{1,9});", header_page, re.ASCII
            )
        }
        stamp, commit, data = (fields.get(name) for name in ("timestamp", "commit", "data"))
        if stamp != (0, 8) or commit is None or data is None:
            return None
        layout = cls(order, *commit, data[0], sum(data))
        sound = layout.commit_size in (4, 8) and layout.commit_offset == 8
        # `struct buffer_data_page`: nothing between the words and the data.
        return layout if sound and layout.data_offset == 8 + layout.commit_size else None


@dataclass(frozen=True)
class Records:
    """The records of some pages, in their order.

    Attributes:
        words: where each payload begins, counted in words of 4 bytes from the first page's begin; i4.
        lengths: of each payload, words.
        times: by the trace's clock; u8.
        pages: the page of each; i4.
        missed: for each page, how many events were lost before it; -1 if that is not known.
        damaged: for each page, the word at which it makes no sense any more; -1 if it all does.
        unused: for each page, how many bytes from that word on no record was read of.
        first_times, last_times: each page's stamp, and the time of its last record; without one, the stamp.
    """

    words: Array
    lengths: Array
    times: Array
    pages: Array
    missed: Array
    damaged: Array
    unused: Array
    first_times: Array
    last_times: Array


def find_records(pages: Array, layout: PageLayout) -> Records:
    """Walk through pages.

    Args:
        pages: u1 of shape (number, size), contiguous, less than 1 GiB; the size is a multiple of 4.
        layout: how a page begins.
    """
    number, size = pages.shape
    words = pages.reshape(-1).view(f"{layout.order}u4")
    stamps, commit, filled, missed = _headers(pages, layout)
    room = size - layout.data_offset
    begin = np.arange(number, dtype="i4") * (size // 4)
    first = begin + layout.data_offset // 4
    # One that says it is filled further than it is long may be so up to its end.
    end = first + (np.minimum(filled, room) >> 2).astype("i4")
    damaged = np.full(number, -1, "i4")
    steps = _walk(words, first, end, stamps, layout.order, damaged)

    # A step has one record a page; a record's rank in its page says where it belongs.
    whose, ranks, *columns = (np.concatenate(parts) for parts in zip(*steps, strict=True))
    counts = np.bincount(whose, minlength=number).astype("i4")
    after = np.cumsum(counts, dtype="i4")
    places = (after - counts).take(whose) + ranks
    payloads, lengths, times = (_put(column, places) for column in columns)
    whose = np.repeat(np.arange(number, dtype="i4"), counts)
    last_times = stamps.copy()
    last_times[counts > 0] = times[after[counts > 0] - 1]

    unused = np.where(damaged >= 0, (end - damaged) * 4, 0)
    for page, word in _falling(times, whose, payloads):
        if damaged[page] < 0:
            damaged[page] = word
    counted = commit & np.uint64(_MISSED_STORED) != 0
    behind = _behind(pages, layout.data_offset + filled + np.where(counted, layout.commit_size, 0))
    sound = (filled > 0) & (filled <= room) & (filled & 3 == 0) & _of_a_kernel(commit, layout.commit_size)
    for page in np.flatnonzero(~sound | (behind > 0)).tolist():
        if damaged[page] < 0:
            at = filled[page] if behind[page] and filled[page] else -layout.commit_size
            damaged[page] = first[page] + (at >> 2)
        unused[page] += behind[page] or (size if not filled[page] else 0)
    return Records(payloads, lengths, times, whose, missed, damaged, unused, stamps, last_times)


def _falling(times: Array, whose: Array, payloads: Array) -> list[tuple[int, int]]:
    """Records that are earlier than the one before them in their page: the page, and the word of each."""
    falls = np.flatnonzero((times[1:] < times[:-1]) & (whose[1:] == whose[:-1])) + 1
    return [(int(whose[at]), int(payloads[at]) - 1) for at in falls[:1000].tolist()]


def _of_a_kernel(commit: Array, size: int) -> Array:
    """Whether the bits above those that say how much is filled are such as a kernel sets."""
    sound: Array
    missed = commit & np.uint64(_MISSED) != 0
    sound = (commit & np.uint64(_NEVER) == 0) & (missed | (commit & np.uint64(_MISSED_STORED) == 0))
    if size == 4:
        return sound
    above = commit >> np.uint64(32)
    # The flag is a negative int in `ring_buffer_read_page`, so that above it are ones.
    sound &= (above == 0) | (missed & (above == 0xFFFF_FFFF))
    return sound


#: So much at the end of each page is looked at together; few pages leave more.
_TAIL = 128


def _behind(pages: Array, at: Array) -> Array:
    """For each page, how many bytes from `at` on there are up to the last that is not zero.

    The kernel clears what is behind the records of a page that it gives out (`ring_buffer_read_page`).
    """
    number, size = pages.shape
    found = np.zeros(number, "i8")
    tail = min(_TAIL, size)
    ends = pages[:, size - tail :]
    used = at - (size - tail)
    some = ((ends != 0) & (np.arange(tail) >= used[:, None])).any(axis=1)
    for page in np.flatnonzero(some | (used < 0)).tolist():
        there = np.flatnonzero(pages[page, at[page] :])
        if len(there):
            found[page] = int(there[-1]) + 1
    return found


def _put(column: Array, places: Array) -> Array:
    """A column whose values belong at these places."""
    out = np.empty_like(column)
    out[places] = column
    return out


def _headers(pages: Array, layout: PageLayout) -> tuple[Array, Array, Array, Array]:
    """Each page's time stamp, commit, filled bytes and missed events."""
    number, size = pages.shape

    def column(offset: int, width: int) -> Array:
        view = np.ndarray(number, f"{layout.order}u{width}", pages, offset, (size,))
        return view.astype(f"u{width}")

    stamps = column(0, 8)
    commit = column(layout.commit_offset, layout.commit_size).astype("u8")
    filled = (commit & np.uint64(_COMMIT)).astype("i8")
    missed = np.where(commit & np.uint64(_MISSED), -1, 0).astype("i8")
    for page in np.flatnonzero(commit & np.uint64(_MISSED_STORED)).tolist():
        at = layout.data_offset + int(filled[page])
        count = pages[page, at : at + layout.commit_size].tobytes()
        if missed[page] and len(count) == layout.commit_size:
            missed[page] = int.from_bytes(count, "big" if layout.order == ">" else "little") & (1 << 62) - 1
    return stamps, commit, filled.astype("i4"), missed


def _walk(
    words: Array, at: Array, end: Array, now: Array, order: str, damaged: Array
) -> list[tuple[Array, Array, Array, Array, Array]]:
    """For each step the pages, and of the record of each its rank in the page, payload, length and time."""
    page = np.flatnonzero(at < end).astype("i4")
    at, end, now = at[page], end[page], now[page]
    rank = np.zeros(len(page), "i4")
    steps = [(page[:0], rank[:0], at[:0], at[:0], now[:0])]
    while len(page):
        head = words.take(at).astype("u4", copy=False)
        if order == "<":
            kind, delta = head & 31, head >> 5
        else:
            kind, delta = head >> 27, head & ((1 << 27) - 1)
        # What stands in `steps` is never changed: these are new arrays.
        now = now + delta
        begin, at = at, at + 1
        length = kind.view("i4")
        holds = None
        # Unsigned: 0 wraps to above all others.
        unusual = kind - 1 > 27
        if unusual.any():
            holds = _rare(words, at, now, length, delta, np.flatnonzero(unusual), end)
        following = at + length
        room = end - following
        if room.min() > 0:
            if holds is None:
                steps.append((page, rank, at, length, now))
                rank = rank + 1
            else:
                steps.append((page[holds], rank[holds], at[holds], length[holds], now[holds]))
                rank = rank + holds
            at = following
            continue
        too_far = room < 0
        damaged[page[too_far]] = begin[too_far]
        holds = ~too_far if holds is None else holds & ~too_far
        steps.append((page[holds], rank[holds], at[holds], length[holds], now[holds]))
        left = room > 0
        page, at, end, now, rank = page[left], following[left], end[left], now[left], (rank + holds)[left]
    return steps


def _rare(words: Array, at: Array, now: Array, length: Array, delta: Array, rare: Array, end: Array) -> Array:
    """Move over what follows the first word of records that are not 1 to 28 words; which hold an event.

    `at`, `now` and `length` are changed for those. A length beyond the page's end stands for damage.
    """
    kind, passed = length[rare], delta[rare].astype("u8")
    there = at[rare] < end[rare]
    word = words[np.where(there, at[rare], 0)].astype("u8")
    holds = np.ones(len(at), bool)
    holds[rare[kind != 0]] = False

    # A long record counts its own length word in; padding does not count its first word. Padding without a
    # time fills a page's end where a record has no room (`rb_reset_tail`): two words at most.
    size = np.minimum(word, _NOWHERE).astype("i4")
    following = np.where(kind == 0, (size - 1) >> 2, np.where(kind == PADDING, (size + 3) >> 2, 1))
    following[~there | ((kind == 0) & (size < 4))] = _NOWHERE
    unused = (kind == PADDING) & (passed == 0)
    left = (end[rare] - at[rare])[unused]
    following[unused] = np.where(left > 1, _NOWHERE, left)
    length[rare] = following
    at[rare[kind == 0]] += 1

    # `now` has the 27 bits already.
    above = word << np.uint64(27)
    extended = kind == TIME_EXTEND
    now[rare[extended]] += above[extended]
    stamped = kind == TIME_STAMP
    was = now[rare[stamped]] - passed[stamped]
    stamp = (was & _STAMP_ABOVE) | above[stamped] | passed[stamped]
    # As `rb_fix_abs_ts` has it (v6.19): the bits above the 59 may have counted on since.
    wrapped = (was & _STAMP_ABOVE != 0) & (stamp < was)
    now[rare[stamped]] = np.where(wrapped, stamp + np.uint64(1 << 59), stamp)
    return holds
