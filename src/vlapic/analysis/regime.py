# SPDX-License-Identifier: GPL-2.0-or-later
"""Regimes: what the timer advancement of one vCPU did, in one word, and the history that word is read from.

:class:`AdvanceHistory` is a fold over events, in bounded memory; :func:`classify` reads the first regime of
:data:`RULES` that holds. The machine, replay and live observation all judge by these rules. Nothing here
knows a kernel: what differs between them (the cap, deltas that were filtered, values that were reset) is
given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vlapic.kernels.profiles import ADJUST_MAX_CYCLES, ADVANCE_CAP_NS, ADVANCE_START_NS, Profile
from vlapic.kernels.rules import Ending, Overflow, Scope, Tuning

#: Events kept one by one; from there on pairs of neighbours are merged.
HISTORY_CELLS = 65_536
#: How many there is room for at first.
_FIRST_CELLS = 32
#: The least number of events in the last quarter that can show a vCPU settled.
SETTLED_EVENTS = 32
#: Settled means within this many ns of the last quarter's median, or within an eighth of it if that is more.
SETTLED_BAND_NS = 25
SETTLED_BAND_SHARE = 8
#: Tuning is done at the first |delta| below this many guest cycles; a frozen vCPU's median |delta| is above
#: it.
DONE_CYCLES = 100

_NO_DELTA = -1
_U32_MAX = (1 << 32) - 1
_S64_MAX = (1 << 63) - 1
#: What a cell without an event holds, column by column.
_EMPTY_CELL = {
    "_first": 0,
    "_low": _U32_MAX,
    "_high": 0,
    "_last": 0,
    "_delta": _NO_DELTA,
    "_resets": 0,
}


class Regime(StrEnum):
    """What an advancement did. The order is that of :data:`RULES`."""

    OFF = "off"
    NOT_ADVANCED = "not advanced"
    KILLED = "killed"
    FIXED = "fixed"
    STUCK = "stuck"
    SAWTOOTH = "sawtooth"
    CAPPED = "capped"
    FROZEN = "frozen"
    UNTUNED = "untuned"
    SETTLED = "settled"
    TUNING = "tuning"


class Quarter(NamedTuple):
    """The last quarter of a history; advancements in ns, |delta| in guest cycles (None: no event had one)."""

    events: int
    low_ns: int
    high_ns: int
    median_ns: int
    median_delta_cycles: int | None


class TuningLimits(NamedTuple):
    """What of a profile's tuning its regime is judged by.

    Attributes:
        cap_ns: where it holds an advancement, None if nowhere.
        filter_cycles: the greatest |delta| that it tunes with, None if it takes any.
        restart_ns: what it sets an advancement back to that has left its range, None if it does not.
        ends: whether a |delta| below `DONE_CYCLES` ends it.
        shared: whether all vCPUs have one value, whose tuning ends for all.
    """

    cap_ns: int | None = None
    filter_cycles: int | None = None
    restart_ns: int | None = None
    ends: bool = True
    shared: bool = False

    @classmethod
    def of(cls, profile: Profile) -> TuningLimits:
        """Those of a profile."""
        return cls(
            cap_ns=ADVANCE_CAP_NS if profile.overflow is Overflow.HOLD else None,
            filter_cycles=ADJUST_MAX_CYCLES if profile.tuning is Tuning.EIGHTH_OF_DELTA else None,
            restart_ns=ADVANCE_START_NS if profile.overflow is Overflow.RESTART else None,
            ends=profile.ending is Ending.DONE,
            shared=profile.scope is Scope.GLOBAL,
        )


#: Those of v5.0.
UNLIMITED = TuningLimits()


class AdvanceHistory:
    """The advancement after each event of one vCPU, and the events' |delta|.

    Exact up to `HISTORY_CELLS` events. Then pairs of neighbours become one cell, which keeps the least and
    the greatest advancement, the last one, and the last |delta|, and so on whenever the cells are full: where
    a cell ends depends on the number of events alone. The first `HISTORY_CELLS` advancements stay, to say
    exactly when an early settling began.

    Attributes:
        start_ns: the advancement before the first event.
        limits: those of the profile.
        events: how many there were.
        deltas: how many of them came to the busy wait.
        filtered: how many of these were too large for the profile to tune with.
        done: whether a |delta| ended tuning.
    """

    __slots__ = (
        "_delta",
        "_first",
        "_high",
        "_last",
        "_low",
        "_resets",
        "_width",
        "deltas",
        "done",
        "events",
        "filtered",
        "limits",
        "start_ns",
    )

    def __init__(self, start_ns: int, limits: TuningLimits = UNLIMITED) -> None:
        self.start_ns = start_ns
        self.limits = limits
        self.events = 0
        self.deltas = 0
        self.filtered = 0
        self.done = False
        self._width = 1
        self._first, self._low, self._high, self._last, self._delta, self._resets = (
            np.full(min(_FIRST_CELLS, HISTORY_CELLS), empty, np.int64) for empty in _EMPTY_CELL.values()
        )

    def add(
        self,
        advance_ns: npt.NDArray[Any],
        delta_cycles: npt.NDArray[Any],
        waited: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Append events, in order.

        Args:
            advance_ns: the advancement after each, 0 to 2^32-1; shape (n,).
            delta_cycles: guest TSC minus deadline, int64; shape (n,). What did not wait may hold anything.
            waited: which of them came to the busy wait; shape (n,). None is all.
        """
        # The magnitude of -2^63 does not fit; nobody needs it exactly.
        magnitude = np.abs(np.maximum(delta_cycles, -_S64_MAX))
        resets = self._resets_among(advance_ns, delta_cycles)
        if waited is not None:
            resets = resets[waited[resets]]
        waits = magnitude if waited is None else magnitude[waited]
        self.deltas += len(waits)
        if self.limits.filter_cycles is not None:
            self.filtered += int(np.count_nonzero(waits > self.limits.filter_cycles))
        if self.limits.ends and not self.done:
            # A step that sets the advancement back goes on tuning, whatever its delta was.
            near = magnitude < DONE_CYCLES if waited is None else (magnitude < DONE_CYCLES) & waited
            near[resets] = False
            self.done = bool(near.any())
        at = 0
        while at < len(advance_ns):
            if self.events == HISTORY_CELLS * self._width:
                self._merge_pairs()
            end = min(len(advance_ns), at + HISTORY_CELLS * self._width - self.events)
            part = resets[slice(*np.searchsorted(resets, [at, end]))] - at
            self._append(
                advance_ns[at:end], magnitude[at:end], None if waited is None else waited[at:end], part
            )
            at = end

    def _resets_among(
        self, advance: npt.NDArray[Any], delta_cycles: npt.NDArray[Any]
    ) -> npt.NDArray[np.intp]:
        """Which events set the advancement back to its start: it came there, and against the delta."""
        if self.limits.restart_ns is None:
            return np.zeros(0, np.intp)
        there = np.flatnonzero(advance == self.limits.restart_ns)
        before = advance[there - 1].astype(np.int64)
        before[there == 0] = self.final_ns
        early = delta_cycles[there] < 0
        restart_ns = self.limits.restart_ns
        return there[np.where(early, restart_ns > before, restart_ns < before)]

    def _append(
        self,
        advance: npt.NDArray[Any],
        magnitude: npt.NDArray[np.int64],
        waited: npt.NDArray[np.bool_] | None,
        resets: npt.NDArray[np.intp],
    ) -> None:
        """Append events that are known to fit; a cell at a time."""
        count, width = len(advance), self._width
        self._make_room(-(-(self.events + count) // width))
        if width == 1:
            self._first[self.events : self.events + count] = advance
        cells = np.arange(self.events // width, (self.events + count - 1) // width + 1)
        ends = np.minimum((cells + 1) * width - self.events, count)
        starts = np.concatenate(([0], ends[:-1]))
        self._low[cells] = np.minimum(self._low[cells], np.minimum.reduceat(advance, starts))
        self._high[cells] = np.maximum(self._high[cells], np.maximum.reduceat(advance, starts))
        self._last[cells] = advance[ends - 1]
        if waited is None:
            self._delta[cells] = magnitude[ends - 1]
        else:
            waits = np.flatnonzero(waited)
            last = np.searchsorted(waits, ends) - 1
            there = (last >= 0) & (np.append(waits, -1)[last] >= starts)
            self._delta[cells[there]] = magnitude[waits[last[there]]]
        np.add.at(self._resets, (self.events + resets) // width, 1)
        self.events += count

    def _make_room(self, cells: int) -> None:
        """Have at least so many cells, `HISTORY_CELLS` at most: there may be thousands of vCPUs."""
        room = len(self._last)
        if cells <= room:
            return
        more = min(HISTORY_CELLS, max(cells, 2 * room)) - room
        for name, empty in _EMPTY_CELL.items():
            setattr(self, name, np.append(getattr(self, name), np.full(more, empty, np.int64)))

    def _merge_pairs(self) -> None:
        """Make every two cells one, so that half of them are free again."""
        half = HISTORY_CELLS // 2
        self._low[:half] = np.minimum(self._low[::2], self._low[1::2])
        self._high[:half] = np.maximum(self._high[::2], self._high[1::2])
        self._last[:half] = self._last[1::2]
        later = self._delta[1::2]
        self._delta[:half] = np.where(later == _NO_DELTA, self._delta[::2], later)
        self._resets[:half] = self._resets[::2] + self._resets[1::2]
        self._low[half:], self._high[half:], self._delta[half:] = _U32_MAX, 0, _NO_DELTA
        self._resets[half:] = 0
        self._width *= 2

    @property
    def _cells(self) -> int:
        return -(-self.events // self._width)

    @property
    def final_ns(self) -> int:
        """The advancement after the last event."""
        return int(self._last[self._cells - 1]) if self.events else self.start_ns

    @property
    def low_ns(self) -> int:
        """The least advancement there was, the start included."""
        return min(self.start_ns, int(self._low[: self._cells].min(initial=_U32_MAX)))

    @property
    def high_ns(self) -> int:
        """The greatest advancement there was, the start included."""
        return max(self.start_ns, int(self._high[: self._cells].max(initial=0)))

    @property
    def late_resets(self) -> int:
        """How often the last half of the events set the advancement back to its start."""
        return int(self._resets[self.events // 2 // self._width : self._cells].sum())

    def last_quarter(self) -> Quarter | None:
        """The last quarter of the events, rounded up; None without events."""
        if not self.events:
            return None
        begin = 3 * self.events // 4
        cells = slice(begin // self._width, self._cells)
        delta = self._delta[cells]
        delta = delta[delta != _NO_DELTA]
        return Quarter(
            events=self.events - begin,
            low_ns=int(self._low[cells].min()),
            high_ns=int(self._high[cells].max()),
            median_ns=_median(self._last[cells]),
            median_delta_cycles=_median(delta) if len(delta) else None,
        )

    def settled_after(self) -> int | None:
        """After how many events the advancement stayed near the last quarter's median; None if it did not.

        That says nothing of why it stayed: see the function of this name. 0 means that the start value was
        near enough. Later than `HISTORY_CELLS` events the answer is rounded up to a cell.
        """
        quarter = self.last_quarter()
        if quarter is None or quarter.events < SETTLED_EVENTS:
            return None
        # |advance - median| <= median / 8 is 8 * |advance - median| <= median, without a fraction.
        band = max(SETTLED_BAND_SHARE * SETTLED_BAND_NS, quarter.median_ns)

        def strays(value: Any) -> Any:
            return SETTLED_BAND_SHARE * abs(value - quarter.median_ns) > band

        if strays(quarter.low_ns) or strays(quarter.high_ns):
            return None
        astray = np.flatnonzero(strays(self._low[: self._cells]) | strays(self._high[: self._cells]))
        if not len(astray):
            return 1 if strays(self.start_ns) else 0
        end = (int(astray[-1]) + 1) * self._width
        if end > HISTORY_CELLS:
            return end + 1
        return int(np.flatnonzero(strays(self._first[:end]))[-1]) + 2


def share_ends(histories: Iterable[AdvanceHistory]) -> None:
    """Tell each history of a value that all vCPUs share that tuning is done, if one of them ended it.

    Without it a vCPU that another one froze would look settled: its value does not move any more.
    """
    shared = [history for history in histories if history.limits.shared]
    if any(history.done for history in shared):
        for history in shared:
            history.done = True


def _median(values: npt.NDArray[np.int64]) -> int:
    """The lower median, so that it is one of the values."""
    middle = (len(values) - 1) // 2
    return int(np.partition(values, middle)[middle])


@dataclass(frozen=True)
class Evidence:
    """All that a regime is judged by.

    Attributes:
        history: the advancement after each event, and the profile's limits.
        auto: whether the advancement tunes itself.
        advanced: whether any timer expired that was armed early by it.
    """

    history: AdvanceHistory
    auto: bool
    advanced: bool = True


def _capped(it: Evidence) -> bool:
    quarter = it.history.last_quarter()
    return quarter is not None and quarter.low_ns == quarter.high_ns == it.history.limits.cap_ns


def _frozen(it: Evidence) -> bool:
    quarter = it.history.last_quarter()
    if not it.history.done or quarter is None or quarter.median_delta_cycles is None:
        return False
    return quarter.median_delta_cycles > DONE_CYCLES


def _untuned(it: Evidence) -> bool:
    quarter = it.history.last_quarter()
    return quarter is not None and quarter.median_delta_cycles is None


#: Each regime and when it holds; the first that does is the one, so a rule may build on those above it having
#: failed.
RULES: tuple[tuple[Regime, Callable[[Evidence], bool]], ...] = (
    (Regime.OFF, lambda it: it.history.high_ns == 0),
    (Regime.NOT_ADVANCED, lambda it: not it.advanced),
    (Regime.KILLED, lambda it: it.auto and it.history.final_ns == 0),
    (Regime.FIXED, lambda it: not it.auto),
    (
        Regime.STUCK,
        lambda it: (
            it.history.final_ns == it.history.start_ns
            and it.history.deltas > 0
            and 10 * it.history.filtered >= 9 * it.history.deltas
        ),
    ),
    (Regime.SAWTOOTH, lambda it: it.history.late_resets >= 2),
    (Regime.CAPPED, _capped),
    (Regime.FROZEN, _frozen),
    (Regime.UNTUNED, _untuned),
    (Regime.SETTLED, lambda it: it.history.settled_after() is not None),
    (Regime.TUNING, lambda it: True),
)


def classify(evidence: Evidence) -> Regime:
    """The first regime that holds."""
    return next(regime for regime, holds in RULES if holds(evidence))


#: What keeps an advancement from having settled, by its regime, as a clause: "not settled: ...".
NOT_SETTLED = {
    Regime.OFF: "the advancement is off",
    Regime.NOT_ADVANCED: "no timer was armed early, so there is nothing to settle",
    Regime.KILLED: "the advancement fell to 0 and stays there",
    Regime.FIXED: "the advancement was not to be tuned",
    Regime.STUCK: "the advancement is stuck at its start value",
    Regime.SAWTOOTH: "the advancement is set back to its start value again and again",
    Regime.CAPPED: "the advancement is held at the cap",
    Regime.FROZEN: "the advancement is frozen away from what the interrupts need",
    Regime.UNTUNED: "no interrupt of the last quarter came to the busy wait, which alone tunes",
    Regime.TUNING: "the advancement did not stay near its median through a last quarter of"
    f" {SETTLED_EVENTS} interrupts or more",
}


def settled_after(evidence: Evidence) -> int | None:
    """After how many events the advancement settled; None in any other regime than `settled`.

    A value that stays where it is for another reason (frozen, capped, never tuned) has not settled.
    """
    return evidence.history.settled_after() if classify(evidence) is Regime.SETTLED else None
