# SPDX-License-Identifier: GPL-2.0-or-later
"""The exceptions of vlapic; each knows the exit status of the command line.

    VlapicError                 something a person can act on                       1
    ├── UsageError              the arguments alone are wrong                       2
    └── WorldError              a file, a device or a host would not do its part    1
        ├── ImageError          a guest image that cannot be run
        ├── OutputError         a file that cannot be written
        ├── EngineError         the CPU under the machine broke its promise
        ├── TraceError          a trace that cannot be read
        └── StateError          saved state that cannot be restored, or not in this order

What a *guest* does wrong is no exception of this tree: the architecture answers it (a #GP, an ignored
write), or the run ends with a :class:`GuestFailure`, whose status is 4, and every result up to there.

A message is one line that says what was seen, what was expected and what to try.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from vlapic.numerals import shown

STATUS_OK = 0
STATUS_WORLD = 1
STATUS_USAGE = 2
STATUS_BUDGET = 3
STATUS_GUEST = 4
STATUS_INTERRUPTED = 130


class VlapicError(Exception):
    """A failure with a one-line explanation and the exit status a command ends with."""

    exit_status = STATUS_WORLD


class UsageError(VlapicError):
    """The arguments are wrong, whatever the world is like."""

    exit_status = STATUS_USAGE


class WorldError(VlapicError):
    """A file, a device or a host failed."""


class ImageError(WorldError):
    """A guest image that is missing, unreadable or not of a known form."""


class OutputError(WorldError):
    """A file that was to be written cannot be."""


class EngineError(WorldError):
    """The CPU engine failed or does not have what was asked of it."""


class StateError(WorldError):
    """Saved state that does not fit, or whose restoring in this order would lose a timer."""


class TraceError(WorldError):
    """A trace that is missing, unreadable or of no known form; what is damaged inside is an event instead."""


@dataclass(frozen=True)
class GuestFailure:
    """How a guest came to its end before its time.

    Attributes:
        reason: what it did, in words that follow "the guest".
        rip: where it stood; None if that is not known, or the reason tells it.
    """

    reason: str
    rip: int | None = None

    def __str__(self) -> str:
        at = "" if self.rip is None else f" at rip {self.rip:#x}"
        return f"the guest {self.reason}{at}"


#: How like a name must be to one that is known to be a slip of the pen.
_NEAR = 0.5


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not in a list: the nearest one that is, else all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=_NEAR)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"


def unknown_name(what: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not in a list, with the nearest one that is."""
    return UsageError(f"unknown {what} {shown(name)}; {nearest(name, known)}")
