# SPDX-License-Identifier: GPL-2.0-or-later
"""The buffers of all CPUs as one sequence in the order of time, a stretch at a time.

A CPU's buffer is in the order of time by itself. What lies before the begin of every CPU's last page at hand
is complete, and goes out sorted; the rest waits. Equal times go in the order of buffers, CPUs and records, as
`trace-cmd report` prints them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vlapic.trace.dat.pages import PageLayout, Records, find_records
from vlapic.trace.dat.sources import CUT, Pages

Array = npt.NDArray[Any]

_FOREVER = np.uint64((1 << 64) - 1)

#: About as much is worked on at once: it fits a processor's cache, and has enough pages for numpy.
STRETCH_BYTES = 1 << 22
FEWEST_PAGES = 4


class Loss(NamedTuple):
    """Events that are missing, or a place that makes no sense.

    Attributes:
        time: of the last record of this CPU before it, 0 if there is none.
        events: how many are missing, 0 if that is not known.
        cause, place, size_bytes, event: as of the event `Lost`.
    """

    time: int
    cpu: int
    events: int
    cause: str
    place: int
    size_bytes: int = 0
    event: str = ""


class PagesOrigin(NamedTuple):
    """Where the pages of one CPU in a stretch are from.

    Attributes:
        first: the word in the stretch's data with which they begin.
        page_words: how long each is, words of 4 bytes.
        places, plain: as of their `Stream`.
    """

    first: int
    page_words: int
    places: Array
    plain: bool


class Stretch(NamedTuple):
    """Records in the order of time.

    Attributes:
        data: the pages they are in, u1, flat.
        words: where each record's payload begins in it, in words of 4 bytes; that of `losses[n]` is -1 - n.
        lengths: of each payload, words.
        times: u8.
        cpus: u2.
        losses: what was lost.
        origins: where in the file the pages are.
    """

    data: Array
    words: Array
    lengths: Array
    times: Array
    cpus: Array
    losses: list[Loss]
    origins: list[PagesOrigin]

    def place(self, word: int) -> int:
        """Where in the file a word of the data is; of compressed pages, where their chunk is."""
        first, page_words, places, plain = next(each for each in reversed(self.origins) if each[0] <= word)
        page, within = divmod(word - first, page_words)
        return int(places[page]) + (4 * within if plain else 0)


class Stream:
    """The pages of one CPU in one buffer, and how far they have been used."""

    def __init__(
        self,
        cpu: int,
        page_size: int,
        source: Iterator[Pages],
        *,
        plain: bool,
        buffer: str = "",
        begin: int = 0,
    ) -> None:
        """Begin.

        Args:
            plain: the pages stand in the file as they are.
            buffer: the name of the buffer.
            begin: where in the file its data are.
        """
        self.buffer = buffer
        self.begin = begin
        self.cpu = cpu
        self.page_size = page_size
        self.plain = plain
        self.source = source
        self._stamps = np.zeros(0, "u8")
        self.places = np.zeros(0, "i8")
        self._absent = np.zeros(0, "i8")
        self.pages = np.zeros((0, page_size), "u1")
        #: How many entries of the first page are used already.
        self.used = 0
        self.last_time = 0
        #: How many records have been taken.
        self.taken = 0
        #: The last time in the pages before those at hand.
        self._end_before = 0
        self.ended = False

    def refill(self, at_least: int, layout: PageLayout) -> None:
        """Have so many pages at hand, if there are so many left."""
        while not self.ended and len(self.pages) < at_least:
            more = next(self.source, None)
            if more is None:
                self.ended = True
                return
            stamps = np.ndarray(len(more.data), f"{layout.order}u8", more.data, 0, (self.page_size,))
            self.pages = np.concatenate([self.pages, more.data]) if len(self.pages) else more.data
            self._stamps = np.maximum.accumulate(np.concatenate([self._stamps, stamps.astype("u8")]))
            self.places = np.concatenate([self.places, more.places])
            self._absent = np.concatenate([self._absent, more.absent])

    @property
    def complete_before(self) -> np.uint64:
        """All that is earlier is at hand."""
        return _FOREVER if self.ended or not len(self.pages) else np.uint64(self._stamps[-1])

    def pages_before(self, time: np.uint64) -> int:
        """How many of the pages may have records that are earlier."""
        if time == _FOREVER:
            return len(self.pages)
        return int(np.searchsorted(self._stamps, time, "left"))

    def take(self, found: Records, first: int, number: int, before: np.uint64, data_at: int) -> _Entries:
        """The records that are earlier than this, of the pages `first` to `first + number` of those found.

        `data_at` is the word at which those pages begin in `found`.
        """
        begin, end = np.searchsorted(found.pages, (first, first + number), "left").tolist()
        entries = _Entries(
            found.words[begin:end],
            found.lengths[begin:end],
            found.times[begin:end],
            found.pages[begin:end] - first,
            [],
        )
        pages = slice(first, first + number)
        missed, absent = found.missed[pages], self._absent[:number]
        damaged = np.where(absent == CUT, -1, found.damaged[pages])
        there = np.flatnonzero(absent < 0)
        first_times, last_times = found.first_times[pages][there], found.last_times[pages][there]
        before_each = np.concatenate([[np.uint64(self._end_before)], last_times[:-1]])[: len(there)]
        early = there[first_times < before_each]
        if missed.any() or (damaged >= 0).any() or len(early):
            entries = self._with_losses(entries, missed, damaged, found.unused[pages], early, data_at)
        last = len(entries.times)
        if before != _FOREVER:
            late = entries.times >= before
            last = int(np.argmax(late)) if late.any() else last
        taken = entries.between(min(self.used, last), last)
        self.taken += int(np.count_nonzero(taken.words >= 0))
        drop = self._consume(entries, last, number)
        if gone := int(np.searchsorted(there, drop)):
            self._end_before = int(last_times[gone - 1])
        return taken

    def _consume(self, entries: _Entries, last: int, number: int) -> int:
        """Go on behind the first `last` entries; how many pages they fill."""
        if last == len(entries.times):
            drop, self.used = number, 0
        else:
            drop = int(entries.pages[last])
            self.used = last - int(np.searchsorted(entries.pages, drop, "left"))
        if last:
            self.last_time = int(entries.times[last - 1])
        self.pages, self._stamps = self.pages[drop:], self._stamps[drop:]
        self.places, self._absent = self.places[drop:], self._absent[drop:]
        return drop

    def _with_losses(
        self, entries: _Entries, missed: Array, damaged: Array, unused: Array, early: Array, data_at: int
    ) -> _Entries:
        """The entries with one for each loss, at its place and with the time of what is before it.

        `early` are pages that begin before the one ahead of them ends: the time of either is not right.
        """
        losses: list[Loss] = []
        at: list[int] = []
        pages: list[int] = []
        words_a_page = self.page_size // 4
        wrong = (missed != 0) | (damaged >= 0)
        wrong[early] = True
        for page in np.flatnonzero(wrong).tolist():
            begin, end = np.searchsorted(entries.pages, (page, page + 1), "left").tolist()
            if missed[page]:
                at.append(begin)
                pages.append(page)
                losses.append(
                    Loss(self._time(entries, begin), self.cpu, max(int(missed[page]), 0), "overrun", 0)
                )
            place, size = int(self.places[page]), int(unused[page])
            if damaged[page] < 0 and page in early:
                at.append(begin)
                pages.append(page)
                losses.append(Loss(self._time(entries, begin), self.cpu, 0, "damaged", place, 0))
            if damaged[page] >= 0:
                if self._absent[page] >= 0:
                    size = int(self._absent[page])
                elif self.plain:
                    place += (int(damaged[page]) - data_at - page * words_a_page) * 4
                at.append(end)
                pages.append(page)
                losses.append(Loss(self._time(entries, end), self.cpu, 0, "damaged", place, size))
        return _Entries(
            np.insert(entries.words, at, np.arange(-1, -1 - len(at), -1)),
            np.insert(entries.lengths, at, 0),
            np.insert(entries.times, at, [loss.time for loss in losses]),
            np.insert(entries.pages, at, pages),
            losses,
        )

    def _time(self, entries: _Entries, at: int) -> int:
        return int(entries.times[at - 1]) if at else self.last_time


@dataclass(frozen=True)
class _Entries:
    """Records and losses of one stream; `words` of the loss n is -1 - n."""

    words: Array
    lengths: Array
    times: Array
    pages: Array
    losses: list[Loss]

    def between(self, first: int, last: int) -> _Entries:
        return _Entries(
            self.words[first:last],
            self.lengths[first:last],
            self.times[first:last],
            self.pages[first:last],
            self.losses,
        )


def in_order(streams: list[Stream], layout: PageLayout) -> Iterator[Stretch]:
    """All records of all streams; times never fall, unless those of a stream itself do."""
    streams = list(streams)
    while streams:
        for stream in streams:
            share = STRETCH_BYTES // stream.page_size // len(streams)
            stream.refill(max(share, FEWEST_PAGES), layout)
        streams = [stream for stream in streams if len(stream.pages)]
        if not streams:
            return
        before = min(stream.complete_before for stream in streams)
        numbers = [stream.pages_before(before) for stream in streams]
        pages_had = sum(len(stream.pages) for stream in streams)
        stretch = _stretch(streams, numbers, before, layout) if any(numbers) else None
        if stretch is not None and len(stretch.words):
            yield stretch
        elif pages_had == sum(len(stream.pages) for stream in streams):
            # Nothing is earlier than the last page at hand: pages of one time, or of times that make no
            # sense. All that is at hand of the stream that the others wait for goes out.
            slow = min(range(len(streams)), key=lambda n: int(streams[n].complete_before))
            numbers = [len(stream.pages) if n == slow else 0 for n, stream in enumerate(streams)]
            yield _stretch(streams, numbers, _FOREVER, layout)


def _stretch(streams: list[Stream], numbers: list[int], before: np.uint64, layout: PageLayout) -> Stretch:
    parts = [stream.pages[:number] for stream, number in zip(streams, numbers, strict=True) if number]
    data = parts[0].reshape(-1) if len(parts) == 1 else np.concatenate([part.reshape(-1) for part in parts])
    entries: list[_Entries] = []
    cpus: list[int] = []
    losses: list[Loss] = []
    origins: list[PagesOrigin] = []
    at = 0
    found: Records | None = None
    found_at = first = 0
    page_size = 0
    for index, (stream, number) in enumerate(zip(streams, numbers, strict=True)):
        if not number:
            continue
        if found is None or stream.page_size != page_size:
            # All pages of one size, up to the next stream that has another.
            page_size, found_at, first = stream.page_size, at, 0
            together = 0
            for other, pages in zip(streams[index:], numbers[index:], strict=True):
                if other.page_size != page_size:
                    break
                together += pages
            found = find_records(data[at : at + together * page_size].reshape(-1, page_size), layout)
        origins.append(PagesOrigin(at // 4, page_size // 4, stream.places[:number], stream.plain))
        taken = stream.take(found, first, number, before, (at - found_at) // 4)
        words = taken.words
        if found_at or taken.losses:
            words = words + np.where(words < 0, -len(losses), found_at // 4).astype("i4")
        losses += taken.losses
        entries.append(_Entries(words, taken.lengths, taken.times, taken.pages, []))
        cpus.append(stream.cpu)
        first += number
        at += number * page_size
    return _sorted(data, entries, cpus, losses, origins)


def _sorted(
    data: Array, entries: list[_Entries], cpus: list[int], losses: list[Loss], origins: list[PagesOrigin]
) -> Stretch:
    if len(entries) == 1:
        words, lengths, times = entries[0].words, entries[0].lengths, entries[0].times
    else:
        words = np.concatenate([part.words for part in entries])
        lengths = np.concatenate([part.lengths for part in entries])
        times = np.concatenate([part.times for part in entries])
    whose = np.repeat(np.array(cpus, "u2"), [len(part.times) for part in entries])
    if np.any(times[1:] < times[:-1]):
        order = np.argsort(times, kind="stable")
        words, lengths, times, whose = words[order], lengths[order], times[order], whose[order]
    return Stretch(data, words, lengths, times, whose, losses, origins)


def only_losses(losses: list[Loss]) -> Stretch:
    """A stretch of losses alone."""
    number = len(losses)
    return Stretch(
        np.zeros(0, "u1"),
        np.arange(-1, -1 - number, -1).astype("i4"),
        np.zeros(number, "i4"),
        np.array([loss.time for loss in losses], "u8"),
        np.full(number, (1 << 16) - 1, "u2"),
        losses,
        [],
    )
