# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the module's flag flipped unseen, as samples have it (v5.4 to v6.10; `--infer-flag`).

A vCPU that the trace does not show may have been created under another parameter, and then tuning is on or
off for everybody from there on. Where model and samples part, each delta since the last sample that agreed is
tried as the place of such a flip: the first one with which the model comes to the sample is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vlapic.apic.advance import tuning_of
from vlapic.kernels.profiles import Profile

Array = npt.NDArray[Any]

#: Deltas before a sample that are tried at most.
MOST_TRIED = 1024


class Flip(NamedTuple):
    """The module's flag changed: from here on every vCPU's deltas tune, or none's.

    Attributes:
        time: `host_tsc` of what showed it; of an inferred one, of the first delta after it.
        wait: how many deltas of all vCPUs came before.
        on: whether deltas tune now.
        inferred: it is what samples make likely; else the trace shows the creation of a vCPU that did it.
    """

    time: int
    wait: int
    on: bool
    inferred: bool


class Tail(NamedTuple):
    """Deltas of one vCPU, the last ones, in order; arrays of shape (n,).

    Attributes:
        waits: the number of each among those of all vCPUs.
        times, delta_cycles, before_ns, tuned: its time, itself, the advancement before it, and whether it
            tuned.
    """

    waits: Array
    times: Array
    delta_cycles: Array
    before_ns: Array
    tuned: Array


@dataclass
class Suspicion:
    """The last deltas of a vCPU, as long as model and samples agree.

    Attributes:
        found: the first flip that would explain where they part; None if none would, or they do not part.
    """

    found: Flip | None = None
    _kept: Tail | None = field(default=None, repr=False)

    def look(
        self, profile: Profile, tsc_khz: int, tail: Tail, since: int, until: int, sample_ns: int
    ) -> None:
        """Model and samples part for the first time.

        Args:
            tail: the batch's deltas of this vCPU.
            since, until: the place in it of the first delta after the last sample that agreed (negative: in
                an earlier batch), and of the first one after the sample that does not.
            sample_ns: what that sample says.
        """
        whole = tail if self._kept is None else Tail(*map(np.concatenate, zip(self._kept, tail, strict=True)))
        ahead = len(whole.waits) - len(tail.waits)
        first = max(0, since + ahead, until + ahead - MOST_TRIED)
        window = Tail(*(column[first : until + ahead] for column in whole))
        at = place_of_flip(profile, tsc_khz, window, sample_ns)
        if at is not None:
            on = not bool(window.tuned[0])
            self.found = Flip(int(window.times[at]), int(window.waits[at]), on, inferred=True)

    def keep(self, tail: Tail) -> None:
        """Keep the last deltas for a sample in a later batch."""
        whole = tail if self._kept is None else Tail(*map(np.concatenate, zip(self._kept, tail, strict=True)))
        self._kept = Tail(*(column[-MOST_TRIED:] for column in whole))


def place_of_flip(profile: Profile, tsc_khz: int, window: Tail, sample_ns: int) -> int | None:
    """The first delta at which a flip makes the advancement come to `sample_ns`; None if there is none."""
    if not len(window.waits):
        return None
    before = window.before_ns.tolist()
    if window.tuned[0]:
        return before.index(sample_ns) if sample_ns in before else None
    tune = tuning_of(profile.tuning, profile.ending, profile.overflow)
    deltas = window.delta_cycles.tolist()
    for at in range(len(deltas)):
        advance_ns = before[at]
        for delta in deltas[at:]:
            if advance_ns:
                advance_ns, _ = tune(advance_ns, False, delta < 0, abs(delta), tsc_khz)
        if advance_ns == sample_ns:
            return at
    return None
