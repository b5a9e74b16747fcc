# SPDX-License-Identifier: GPL-2.0-or-later
"""What a CPU delivers through its IDT: interrupts and exceptions, and the faults of delivering them.

Follows SDM vol. 3A "Interrupt 8, Double Fault Exception (#DF)" (which second fault makes a double fault).
Unicorn reports an exception and delivers none; `gates.py` computes the registers a delivery leaves.
"""

from __future__ import annotations

from typing import NamedTuple

DE, DB, NMI, BP, OF, BR, UD, NM, DF = range(9)
TS, NP, SS, GP, PF = 10, 11, 12, 13, 14
AC = 17

NAMES = {
    **dict(zip(range(9), ("#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF"), strict=True)),
    10: "#TS",
    11: "#NP",
    12: "#SS",
    13: "#GP",
    14: "#PF",
    16: "#MF",
    17: "#AC",
    18: "#MC",
    19: "#XM",
}
#: Exceptions that push an error code.
WITH_ERROR_CODE = frozenset({DF, TS, NP, SS, GP, PF, AC})

FLAG_TF = 1 << 8
FLAG_IF = 1 << 9
FLAG_NT = 1 << 14
FLAG_RF = 1 << 16
FLAG_VM = 1 << 17
FLAG_AC = 1 << 18

#: Error-code bits: the event was not the program's own doing; the selector field is a vector.
EXT, IDT = 1, 2


class Event(NamedTuple):
    """Something to deliver.

    Attributes:
        software: length of the INT n, INT3 or INTO instruction behind RIP, 0 for anything else: the
            gate's privilege is checked, and a fault in the delivery goes back to the instruction.
        external: an interrupt from outside, an NMI too.
        cr2: of a page fault.
    """

    vector: int
    error_code: int | None = None
    software: int = 0
    external: bool = False
    cr2: int | None = None


class TripleFault(Exception):
    """The CPU shuts down; the message tells the faults, first to last, or what it cannot do."""


class DeliveryFault(Exception):
    """A fault while an event was being delivered."""

    def __init__(self, vector: int, error_code: int, cr2: int | None = None) -> None:
        super().__init__(vector)
        self.event = Event(vector, error_code, cr2=cr2)


def describe(event: Event, rip: int) -> str:
    """An event in words: "#PF at rip 0x100000, cr2=0x8"."""
    if event.external:
        return f"{'NMI' if event.vector == NMI else f'interrupt {event.vector:#x}'} at rip {rip:#x}"
    if event.software:
        return f"INT {event.vector:#x} before rip {rip:#x}"
    text = f"{NAMES.get(event.vector, f'exception {event.vector}')} at rip {rip:#x}"
    if event.cr2 is not None:
        return f"{text}, cr2={event.cr2:#x}"
    return text if event.error_code is None else f"{text}, error code {event.error_code:#x}"


def explain(fault: Event, gates: int) -> str:
    """A fault of a delivery in words.

    Args:
        gates: how many gates the IDT has.
    """
    if fault.vector == GP and (fault.error_code or 0) & IDT:
        gate = (fault.error_code or 0) >> 3
        return "no handler" if gate >= gates else f"no usable gate {gate:#x}"
    where = f", cr2={fault.cr2:#x}" if fault.cr2 is not None else ""
    return f"{NAMES[fault.vector]}{where}"


def _is_contributory(vector: int) -> bool:
    return vector in (DE, TS, NP, SS, GP)


def makes_double_fault(first: Event, second: int) -> bool:
    """Whether a fault while `first` is being delivered makes a double fault, or takes its place."""
    if first.external or first.software:
        return False
    if first.vector == PF:
        return second == PF or _is_contributory(second)
    return _is_contributory(first.vector) and _is_contributory(second)
