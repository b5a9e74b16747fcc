"""Which number a vCPU has, for a whole column of events at once."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

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

    def sorted(self, column: Array) -> Array:
        """A column in the order of the groups."""
        return column if self.order is None else column[self.order]

    def slice_of(self, number: int) -> slice:
        """Where in a sorted column the rows of one number are."""
        return slice(self._ends[number - 1] if number else 0, self._ends[number])

    def places_of(self, number: int) -> Array | slice:
        """Where in an unsorted column they are."""
        return slice(None) if self.order is None else self.order[self.slice_of(number)]
