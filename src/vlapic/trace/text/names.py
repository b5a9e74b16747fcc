# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of events: a number for each, the same for all lines that have it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vlapic.trace.text.words import PAD_BEFORE, Text, hashes

Array = npt.NDArray[Any]

#: Longest name that is told of what is passed over.
_LONGEST = 80


class Names:
    """Numbers of names: those given first, from 0, and then of each new one as it is met."""

    def __init__(self, known: list[str]) -> None:
        self.names = list(known)
        joined = Text("".join(known).encode())
        lengths = np.array([len(name) for name in known])
        found = hashes(joined, PAD_BEFORE + np.cumsum(lengths) - lengths, lengths)
        self._set(found, np.arange(len(known)))

    def _set(self, found: Array, numbers: Array) -> None:
        order = np.argsort(found)
        self._hashes, self._numbers = found[order], numbers[order]

    def numbers_of(self, text: Text, starts: Array, ends: Array) -> Array:
        """The number of the name at each place."""
        wanted = hashes(text, starts, ends - starts)
        places = self._places(wanted)
        new = np.flatnonzero(self._hashes[places] != wanted)
        if len(new):
            fresh, first = np.unique(wanted[new], return_index=True)
            for row in new[first].tolist():
                name = text.cut(int(starts[row]), min(int(ends[row]), int(starts[row]) + _LONGEST))
                self.names.append(name.decode(errors="backslashreplace"))
            numbers = np.arange(len(self.names) - len(fresh), len(self.names))
            self._set(np.concatenate([self._hashes, fresh]), np.concatenate([self._numbers, numbers]))
            places = self._places(wanted)
        return self._numbers[places]

    def _places(self, wanted: Array) -> Array:
        return np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
