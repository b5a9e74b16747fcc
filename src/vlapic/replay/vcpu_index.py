# SPDX-License-Identifier: GPL-2.0-or-later
"""Which number a vCPU has, for a whole column of events at once, and the events of each in a batch."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from vlapic.events import Table
from vlapic.trace.reader import Batch

Array = npt.NDArray[Any]

#: VMs and vCPUs with numbers below this are found by a table that fits into a CPU's cache.
_NEAR = 256
#: No number yet.
NONE = -1
#: So many vCPUs' rows are sooner looked for one by one than sorted.
_FEW = 8


class VcpuNumbers:
    """A number for each vCPU that was given one."""

    def __init__(self) -> None:
        self._near = np.full(_NEAR * _NEAR, NONE, np.int32)
        self._far: dict[int, int] = {}
        self._given: list[tuple[int, int, int]] = []

    def give(self, vm: int, vcpu: int, number: int) -> None:
        """Give a vCPU its number, 0 or above."""
        self._given.append((vm, vcpu, number))
        if vm < _NEAR and vcpu < _NEAR:
            self._near[vm * _NEAR + vcpu] = number
        else:
            self._far[vm << 32 | vcpu] = number

    def of(self, rows: Array) -> Array:
        """The number of each row's vCPU (its fields `vm` and `vcpu`), or `NONE`; i4 of shape (n,)."""
        vms, vcpus = rows["vm"], rows["vcpu"]
        if len(self._given) == 1:
            vm, vcpu, number = self._given[0]
            if (vcpus == vcpu).all() and (vms == vm).all():
                return np.full(len(rows), number, np.int32)
        if not len(rows) or (vms.max() < _NEAR and vcpus.max() < _NEAR):
            numbers: Array = self._near[vms * _NEAR + vcpus]
            return numbers
        keys, inverse = np.unique(vms.astype(np.uint64) << np.uint64(32) | vcpus, return_inverse=True)
        return np.array([self._of_key(key) for key in keys.tolist()], np.int32)[inverse]

    def _of_key(self, key: int) -> int:
        vm, vcpu = key >> 32, key & 0xFFFF_FFFF
        if vm < _NEAR and vcpu < _NEAR:
            return int(self._near[vm * _NEAR + vcpu])
        return self._far.get(key, NONE)


class Groups:
    """Rows put together by the number of their vCPU, each one's in order.

    Attributes:
        order: the places of the rows, those of number 0 first; None if all are of one vCPU.
    """

    def __init__(self, numbers: Array, vcpus: int) -> None:
        """Group rows.

        Args:
            numbers: of each row's vCPU; shape (n,).
            vcpus: how many vCPUs there are; every number is below that.
        """
        self.order: Array | None = None
        self._ends: list[int] = [len(numbers)]
        if vcpus == 1:
            return
        if vcpus <= _FEW:
            each = [np.flatnonzero(numbers == number) for number in range(vcpus)]
            self.order = np.concatenate([np.zeros(0, np.intp), *each])
            self._ends = list(accumulate(map(len, each)))
        else:
            # Sorted by digits where two bytes hold every number.
            narrow = numbers.astype(np.uint16) if vcpus <= 1 << 16 else numbers
            self.order = np.argsort(narrow, kind="stable")
            self._ends = np.cumsum(np.bincount(numbers, minlength=vcpus)).tolist()

    @property
    def there(self) -> list[int]:
        """The numbers that have a row, in order."""
        return [number for number, count in enumerate(np.diff(self._ends, prepend=0).tolist()) if count]

    def sorted(self, column: Array) -> Array:
        """A column in the order of the groups."""
        return column if self.order is None else column[self.order]

    def slice_of(self, number: int) -> slice:
        """Where in a sorted column the rows of one number are."""
        return slice(self._ends[number - 1] if number else 0, self._ends[number])

    def places_of(self, number: int) -> Array | slice:
        """Where in an unsorted column they are."""
        return slice(None) if self.order is None else self.order[self.slice_of(number)]


class VcpuEvents:
    """The events of each vCPU in a batch: those of a class are put together once, when they are asked for.

    So that the work grows with the events, and not with the events times the vCPUs.

    Attributes:
        batch: the whole batch.
    """

    def __init__(self, batch: Batch, numbers: VcpuNumbers, vcpus: int) -> None:
        """Take a batch.

        Args:
            numbers: of the vCPUs; every one is below `vcpus`. Events of others are left out.
        """
        self.batch = batch
        self._numbers = numbers
        self._vcpus = vcpus
        self._found: dict[type[Any], Array] = {}
        self._grouped: dict[type[Any], tuple[Groups, Array, Array]] = {}

    def has(self, *event_types: type[Any]) -> bool:
        """Whether there is an event of one of these classes, whosever it is."""
        return any(event_type in self.batch.tables for event_type in event_types)

    def of(self, event_type: type[Any], number: int) -> tuple[Array, Array]:
        """Places in the batch and rows of one vCPU's events of a class, in order."""
        if event_type not in self.batch.tables:
            return np.zeros(0, np.intp), Table.of(event_type, ()).rows
        if event_type not in self._grouped:
            self._grouped[event_type] = self._group(event_type)
        groups, places, rows = self._grouped[event_type]
        mine = groups.slice_of(number)
        return places[mine], rows[mine]

    def numbers_of(self, event_types: Iterable[type[Any]]) -> list[int]:
        """Which vCPUs have an event of one of these classes, in order."""
        there = np.zeros(self._vcpus + 1, np.bool_)
        for event_type in event_types:
            if event_type in self.batch.tables:
                # What is of none is the last.
                there[self._whose(event_type)] = True
        return np.flatnonzero(there[:-1]).tolist()

    def _whose(self, event_type: type[Any]) -> Array:
        """The number of each event of a class."""
        if event_type not in self._found:
            self._found[event_type] = self._numbers.of(self.batch.tables[event_type].rows)
        return self._found[event_type]

    def _group(self, event_type: type[Any]) -> tuple[Groups, Array, Array]:
        rows = self.batch.tables[event_type].rows
        places = np.arange(len(rows)) if len(rows) == len(self.batch) else self.batch.rows_of(event_type)
        numbers = self._whose(event_type)
        known = numbers != NONE
        if not known.all():
            numbers, places, rows = numbers[known], places[known], rows[known]
        groups = Groups(numbers, self._vcpus)
        return groups, groups.sorted(places), groups.sorted(rows)
