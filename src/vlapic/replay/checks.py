# SPDX-License-Identifier: GPL-2.0-or-later
"""The model's advancement at a sample's place, and what a vCPU's samples come to: what it holds of them.

Nothing here is known to the model. A sample says what the advancement was at its place in the trace; the
first that differs bounds where model and kernel part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vlapic.replay.vcpu_index import Groups

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Parting:
    """Where model and samples part.

    Attributes:
        after_index: how many deltas of the vCPU the last sample that agreed had before it (0 if none agreed).
        index: how many the first that did not agree had: the parting is at a delta from `after_index` up to,
            not including, `index`, or at a moment between them.
        sample_time: `host_tsc` of that sample.
        model_ns, sample_ns: what the one and the other say.
    """

    after_index: int
    index: int
    sample_time: int
    model_ns: int
    sample_ns: int


class Course(NamedTuple):
    """A vCPU's advancement over a batch; arrays of a shape each.

    Attributes:
        events: how many deltas it had before the batch.
        own_places, own_times: of its deltas in the batch.
        places, times, after_ns: of the deltas that tune its value (all vCPUs' where one value is shared), and
            the advancement after each.
    """

    events: int
    own_places: Array
    own_times: Array
    places: Array
    times: Array
    after_ns: Array

    @classmethod
    def over(cls, events: int) -> Course:
        """That of a batch without a delta."""
        none = np.zeros(0, np.int64)
        return cls(events, none, none, none, none, none)

    def at_places(self, places: Array, carried_ns: int) -> tuple[Array, Array]:
        """Deltas before some places, and the advancement there; `carried_ns` is that before the batch."""
        values = np.concatenate([np.array([carried_ns], np.int64), self.after_ns])
        return (
            self.events + np.searchsorted(self.own_places, places),
            values[np.searchsorted(self.places, places)],
        )

    def between(self, first: int, last: int, carried_ns: int) -> Array:
        """Every advancement there was from one place to another, that at the first one among them."""
        values = np.concatenate([np.array([carried_ns], np.int64), self.after_ns])
        at = np.searchsorted(self.places, [first, last])
        return values[at[0] : at[1] + 1]

    def reaches(self, index: int | None, time: int | None) -> bool:
        """Whether a sample at a number of deltas or at a time stands before the last of this batch."""
        if index is not None:
            return index < self.events + len(self.own_places)
        return bool(len(self.times)) and time is not None and time < int(self.times[-1])

    def at(self, index: int | None, time: int | None, carried_ns: int) -> tuple[int, int]:
        """Deltas before a sample, and the advancement there."""
        if index is None:
            before = int(np.searchsorted(self.times, np.uint64(time or 0), "right"))
            index = self.events + int(np.searchsorted(self.own_times, np.uint64(time or 0), "right"))
        elif index - self.events in range(1, len(self.own_places) + 1):
            before = int(np.searchsorted(self.places, self.own_places[index - self.events - 1])) + 1
        else:
            before = 0
        return index, int(self.after_ns[before - 1]) if before else carried_ns


class Courses:
    """The courses of all vCPUs over a batch, each made when it is asked for: by key."""

    def __init__(
        self,
        numbers: Array,
        places: Array,
        times: Array,
        after_ns: Array,
        vcpus: Mapping[int, tuple[int, int]],
        *,
        shared: bool,
    ) -> None:
        """Keep what they are made of.

        Args:
            numbers, places, times, after_ns: of each of the batch's deltas, whose it is, where and when it
                stands, and the advancement after it; of a shape each.
            vcpus: each one's number, and how many deltas it had before the batch, by key.
            shared: one value is tuned by all of them.
        """
        self._columns = places, times, after_ns
        self._groups = Groups(numbers, len(vcpus))
        self._vcpus = vcpus
        self._shared = shared
        self._made: dict[int, Course] = {}

    def __getitem__(self, key: int) -> Course:
        if key not in self._made:
            number, before = self._vcpus[key]
            mine = self._groups.places_of(number)
            seen = slice(None) if self._shared else mine
            places, times, after_ns = self._columns
            self._made[key] = Course(
                before, places[mine], times[mine], places[seen], times[seen], after_ns[seen]
            )
        return self._made[key]


@dataclass
class Check:
    """One vCPU's samples, as far as they were compared.

    Attributes:
        checked: how many samples.
        mismatches: how many of them the model does not agree with.
        parting: where they part for the first time, None if they do not.
    """

    checked: int = 0
    mismatches: int = 0
    parting: Parting | None = None
    _agreed: int = 0

    def add_one(self, index: int, time: int, model_ns: Array, sample_ns: int) -> None:
        """Compare a sample that may be of any of some advancements, the last of which is the newest."""
        agrees = bool((model_ns == sample_ns).any())
        value = sample_ns if agrees else int(model_ns[-1])
        self.add(*(np.array([each]) for each in (index, time, value, sample_ns)))

    def add(self, indices: Array, times: Array, model_ns: Array, sample_ns: Array) -> None:
        """Compare samples, in order.

        Args:
            indices: how many deltas of the vCPU each has before it.
            times: their `host_tsc`.
            model_ns, sample_ns: the advancement there.
        """
        wrong = model_ns != sample_ns
        self.checked += len(wrong)
        self.mismatches += int(np.count_nonzero(wrong))
        if self.parting is not None or not len(wrong):
            return
        first = int(np.argmax(wrong)) if wrong.any() else len(wrong)
        if first:
            self._agreed = int(indices[first - 1])
        if first < len(wrong):
            self.parting = Parting(
                self._agreed,
                int(indices[first]),
                int(times[first]),
                int(model_ns[first]),
                int(sample_ns[first]),
            )
