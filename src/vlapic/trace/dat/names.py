# SPDX-License-Identifier: GPL-2.0-or-later
"""Names for numbers, column by column: tables of a print format, bits of a state, symbols of the kernel."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Below this a table by number is shorter than sorting the numbers.
_DIRECT = 1 << 12


def named(numbers: Array, name: Callable[[int], str]) -> Array:
    """The name of each number, as bytes; `name` is asked once for each different one."""
    if not len(numbers):
        return np.zeros(0, "S1")
    if int(numbers.max()) < _DIRECT and int(numbers.min()) >= 0:
        there = np.flatnonzero(np.bincount(numbers))
        where: Array = numbers
    else:
        there, where = np.unique(numbers, return_inverse=True)
    texts = [name(number).encode("ascii", "replace") for number in there.tolist()]
    width = max(len(text) for text in texts) or 1
    if where is not numbers:
        return np.array(texts, f"S{width}")[where]
    table = np.zeros(int(there[-1]) + 1, f"S{width}")
    table[there] = texts
    return table[where]


def flag_names(names: Mapping[int, str]) -> Callable[[int], str]:
    """A task's state as sched_switch prints it: its bits' names, `R` without one.

    It ends in `+` if the task was preempted, which the bit above those that have names says.
    """
    known = max(names, default=0) * 2 - 1

    def name(state: int) -> str:
        bits = [text for bit, text in names.items() if state & bit]
        return ("|".join(bits) or "R") + ("+" if state & (known + 1) else "")

    return name


class KernelSymbols:
    """The kernel's symbols by address, from the text of /proc/kallsyms."""

    def __init__(self, kallsyms: bytes) -> None:
        self._text = kallsyms
        self._found: dict[int, str] = {}

    def name(self, address: int) -> str:
        """The symbol at exactly this address, else the address in hex."""
        if address not in self._found:
            match = re.search(rb"^0*%x \w (\S+)" % address, self._text, re.MULTILINE)
            self._found[address] = match[1].decode("ascii", "replace") if match else hex(address)
        return self._found[address]
