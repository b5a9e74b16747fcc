# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are taken for traces and are none: what each is, and what to give instead."""

from __future__ import annotations

import re
from typing import NamedTuple


class Mistaken(NamedTuple):
    """A kind of file.

    Attributes:
        beginning: what such a file begins with; a pattern.
        is_a: what it is.
        give: what to do.
    """

    beginning: re.Pattern[bytes]
    is_a: str
    give: str


_ITS_TRACE = "give the trace that it was made of"
_RUN_TRACE = "give the trace of such a run: `vlapic run --trace FILE`"

KINDS = (
    Mistaken(
        re.compile(rb"timestamp,event,cpu,tid,vm,vcpu,"),
        "a table of events, as `vlapic convert` writes it",
        _ITS_TRACE,
    ),
    Mistaken(
        re.compile(rb"vm,vcpu,index,timestamp,delta_cycles,"),
        "a trajectory, as `vlapic replay --trajectory` writes it",
        _ITS_TRACE,
    ),
    Mistaken(re.compile(rb"PAR1"), "a Parquet file, as `vlapic convert` writes it", _ITS_TRACE),
    Mistaken(re.compile(rb'\s*\{\s*"schema":\s*"vlapic\.'), "a result, as `--json` prints it", _RUN_TRACE),
    Mistaken(
        re.compile(rb"PERFILE2|2ELIFREP"),
        "the file of `perf record`",
        "give its text: `perf script -i FILE --ns > FILE.txt`",
    ),
)


_COLUMNS = "print it with `perf script -F comm,tid,cpu,time,event,trace`"
#: What perf prints of events where columns are missing; each is searched in lines that are no events.
LACKING = (
    Mistaken(
        re.compile(rb"^ *\d+\.\d{3} .*\b[a-z]+:[a-z_]+\(", re.MULTILINE),
        "what `perf trace` prints, which has other names for the fields",
        f"record with `perf record -a -e 'kvm:*'` and {_COLUMNS}",
    ),
    Mistaken(
        re.compile(rb"^(?:.*\D|) ?\d+\.(?:\d{6}|\d{9}): +[\w-]+:[\w-]+:(?: |$)", re.MULTILINE),
        "text of perf script without the thread's number (tid)",
        _COLUMNS,
    ),
    Mistaken(
        re.compile(rb"^ *\S.* \d+ +(?:\[\d+\] +)?[\w-]+:[\w-]+:(?: |$)", re.MULTILINE),
        "text of perf script without the time",
        _COLUMNS,
    ),
)


def lacking(head: bytes) -> Mistaken | None:
    """What is missing of a text of events that has none that can be read; None if it is no such text."""
    return next((kind for kind in LACKING if kind.beginning.search(head)), None)


def mistaken(head: bytes) -> Mistaken | None:
    """The kind of file that begins with these bytes (64 are enough), None if it is none of these."""
    return next((kind for kind in KINDS if kind.beginning.match(head)), None)
