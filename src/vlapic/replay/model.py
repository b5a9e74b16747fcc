# SPDX-License-Identifier: GPL-2.0-or-later
"""The model of replay: columns of deltas through the rules of one profile, the advancement at each of them.

It is given deltas, and nothing that a kernel's own advancement could be read from. Whose value a delta tunes
follows from the profile (`Scope`: each vCPU's own, or one for all), and so does what says that nobody tunes
(`Ending`: a done flag that goes with the value, or the module's, which every creation of a vCPU sets). The
rules are those of `apic/advance.py`; they run compiled where numba is installed, with the same results.

A delta is there because a vCPU waited, and it waits only while its advancement is not 0: a 0 stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vlapic.apic.advance import Counts, Ends, Limit, Step, rules_of
from vlapic.kernels.parameter import PARAMETERS
from vlapic.kernels.profiles import ADJUST_MAX_CYCLES, Profile
from vlapic.kernels.rules import Ending, Overflow, Scope
from vlapic.memory import is_room_for

Array = npt.NDArray[Any]

#: What numba and LLVM take of addresses to compile these rules: 200 MiB on x86-64. As much again
#: is left to be sure: LLVM ends the process where it has none.
_COMPILER_BYTES = 400 << 20

#: What is noted of each delta: tuning was on; it was, and the delta too large for the profile to tune with;
#: tuning came out above the limit, and began anew; the advancement was 0, with which no kernel waits.
TUNED = 1
FILTERED = 2
RESET = 4
WHILE_OFF = 8


class Walked(NamedTuple):
    """What became of the advancement at each of a number of deltas; arrays of shape (n,).

    Attributes:
        before_ns, after_ns: the advancement before and after it; u4.
        notes: `TUNED` and the others; u1.
    """

    before_ns: Array
    after_ns: Array
    notes: Array

    def noted(self, what: int) -> Array:
        """Of which deltas this is noted."""
        noted: Array = self.notes & what != 0
        return noted


@dataclass(frozen=True)
class _Slot:
    """A vCPU: its TSC frequency, and where its advancement and its flag are kept."""

    tsc_khz: int
    value: int
    flag: int


class Model:
    """The advancements of vCPUs, by number in the order of their creation.

    Attributes:
        profile: the rules.
        compiled: whether they run as machine code.
    """

    def __init__(self, profile: Profile, *, compiled: bool | None = None) -> None:
        """Begin without a vCPU.

        Args:
            profile: the rules.
            compiled: whether to compile them; None does if numba is installed.
        """
        self.profile = profile
        self.compiled = numba_is_installed() if compiled is None else compiled
        self._slots: list[_Slot] = []
        self._advance_ns: list[int] = []
        self._done: list[bool] = []
        self._walk = _walk_of(profile, self.compiled)

    def create(
        self, setting: int | None, tsc_khz: int, *, seen: bool = True, start_ns: int | None = None
    ) -> int:
        """Create a vCPU under a module parameter: None is auto, a number is ns, 0 is off.

        Args:
            setting: the parameter.
            tsc_khz: the frequency of its TSC.
            seen: it is created now; else it was there before, and had its say in the module's flag long ago.
            start_ns: the advancement that it has by now, ns; None for that of a new one.

        Returns:
            Its number.

        Raises:
            UsageError: this kernel's parameter cannot say that.
        """
        advance_ns, done = self._start(setting)
        if start_ns is not None:
            advance_ns = start_ns
        common = self.profile.scope is Scope.GLOBAL and bool(self._slots)
        if not common:
            self._advance_ns.append(advance_ns)
            self._done.append(done)
        value = 0 if common else len(self._advance_ns) - 1
        self._slots.append(_Slot(tsc_khz, value, 0 if self._one_flag else value))
        if seen:
            self.parameter_at_creation(setting)
        return len(self._slots) - 1

    def parameter_at_creation(self, setting: int | None) -> None:
        """Some vCPU is created under this parameter, be it one that is not traced (v5.4 to v6.10)."""
        if self.profile.ending is Ending.MODULE_FLAG and self._done:
            self._done[0] = self._start(setting)[1]

    def flip(self) -> None:
        """Switch the module's flag, if there is one: tuning was on and is off, or the other way round."""
        if self.module_tunes is not None:
            self._done[0] = not self._done[0]

    @property
    def module_tunes(self) -> bool | None:
        """What the module's flag says to all vCPUs; None where there is none."""
        return not self._done[0] if self.profile.ending is Ending.MODULE_FLAG and self._done else None

    def advance_ns(self, number: int) -> int:
        """The advancement of a vCPU now."""
        return self._advance_ns[self._slots[number].value]

    def tunes(self, number: int) -> bool:
        """Whether a vCPU's deltas tune now."""
        return not self._done[self._slots[number].flag]

    def walk(self, numbers: Array, deltas: Array) -> Walked:
        """Go on with deltas in the order of time.

        Args:
            numbers: whose they are; shape (n,).
            deltas: guest TSC minus deadline in cycles, s64; shape (n,).
        """
        count = len(deltas)
        early, distance = deltas < 0, np.abs(deltas).view(np.uint64)
        columns = (np.asarray(numbers, np.int32), early, distance)
        tables = (
            np.array([slot.tsc_khz for slot in self._slots], np.uint64),
            np.array([slot.value for slot in self._slots], np.int64),
            np.array([slot.flag for slot in self._slots], np.int64),
            np.array(self._advance_ns, np.uint64),
            np.array(self._done, np.bool_),
        )
        if self.compiled:
            before, after = np.empty(count, np.uint32), np.empty(count, np.uint32)
            notes = np.empty(count, np.uint8)
            self._walk(*columns, *tables, before, after, notes)
            self._advance_ns, self._done = tables[3].tolist(), tables[4].tolist()
        else:
            advance_ns, done = self._advance_ns, self._done
            lists: Sequence[list[Any]] = [[0] * count for _ in range(3)]
            constants = [table.tolist() for table in tables[:3]]
            self._walk(*(column.tolist() for column in columns), *constants, advance_ns, done, *lists)
            before, after = np.array(lists[0], np.uint32), np.array(lists[1], np.uint32)
            notes = np.array(lists[2], np.uint8)
        return Walked(before, after, notes)

    @property
    def _one_flag(self) -> bool:
        return self.profile.ending is Ending.MODULE_FLAG or self.profile.scope is Scope.GLOBAL

    def _start(self, setting: int | None) -> tuple[int, bool]:
        rule = PARAMETERS[self.profile.parameter]
        return rule.start(rule.of_setting(self.profile, setting))


def numba_is_installed() -> bool:
    """Whether rules can be compiled: the extra `fast` is there, and memory to load and to run a compiler."""
    from importlib.util import find_spec

    return find_spec("numba") is not None and is_room_for(_COMPILER_BYTES)


def _walk_by(
    counts: Counts, step: Step, ends: Ends, limit: Limit, *, most_cycles: Any, limited: int
) -> Callable[..., None]:
    """The walk over columns by a profile's rules, for arrays and for lists alike.

    Args:
        counts, step, ends, limit: the rules.
        most_cycles: a delta that does not count is too large if it is above this.
        limited: what is noted where the limit changed what tuning came to.
    """

    def walk(
        numbers: Any,
        early: Any,
        distance: Any,
        tsc_khz: Any,
        value_of: Any,
        flag_of: Any,
        advance_ns: Any,
        done: Any,
        before: Any,
        after: Any,
        notes: Any,
    ) -> None:
        for at in range(len(numbers)):
            number = numbers[at]
            value, flag = value_of[number], flag_of[number]
            now = advance_ns[value]
            before[at] = now
            note = 0 if now != 0 else WHILE_OFF
            if now != 0 and not done[flag]:
                note = TUNED
                if counts(distance[at]):
                    stepped = step(now, early[at], distance[at], tsc_khz[number])
                    now, ended = limit(stepped, ends(False, distance[at]))
                    advance_ns[value] = now
                    done[flag] = ended
                    if now != stepped:
                        note = TUNED | limited
                elif distance[at] > most_cycles:
                    note = TUNED | FILTERED
            after[at] = now
            notes[at] = note

    return walk


@cache
def _walk_of(profile: Profile, compiled: bool) -> Callable[..., None]:
    rules = rules_of(profile.tuning, profile.ending, profile.overflow)
    limited = RESET if profile.overflow is Overflow.RESTART else 0
    if not compiled:
        return _walk_by(*rules, most_cycles=ADJUST_MAX_CYCLES, limited=limited)
    from vlapic.apic.compiled import compiled as compile_rule
    from vlapic.apic.compiled import njit

    counts, step, ends, limit = map(compile_rule, rules)
    most_cycles = np.uint64(ADJUST_MAX_CYCLES)
    return njit(_walk_by(counts, step, ends, limit, most_cycles=most_cycles, limited=limited))
