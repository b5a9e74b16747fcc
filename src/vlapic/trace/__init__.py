# SPDX-License-Identifier: GPL-2.0-or-later
"""Traces of KVM's timer, real ones and vlapic's own: one format, one file; events on the other side.

from vlapic.trace import open_trace

trace = open_trace("trace.txt")
for event in trace.events():
    print(event)
"""

from __future__ import annotations

import os
from functools import partial

from vlapic.errors import TraceError
from vlapic.signature import checked
from vlapic.trace.compression import open_file
from vlapic.trace.not_a_trace import lacking, mistaken
from vlapic.trace.reader import Batch, Clock, TraceFacts, TraceReader
from vlapic.trace.source import Origin
from vlapic.trace.text.reader import TextReader
from vlapic.trace.threads import Thread, Threads

__all__ = ["Batch", "Clock", "Thread", "Threads", "TraceFacts", "TraceReader", "open_trace"]

#: What is said of a file that is nothing of all this.
KNOWN = "the text of tracefs, `trace-cmd report` or `perf script`, and trace.dat"

#: What a trace.dat begins with.
DAT_MAGIC = b"\x17\x08\x44tracing"

#: What `trace-cmd report` prints first, also where there is nothing else.
TRACE_CMD_BEGINNING = b"cpus="

_SHOWN = 40
#: How much of a file tells what it is.
_LOOKED_AT = 4096


@checked
def open_trace(trace: str | os.PathLike[str] | Origin) -> TraceReader:
    """Open a trace by what is in it, compressed with gzip, xz or zstd or not.

    Args:
        trace: a file, or a pipe; `-` is standard input. What comes through a pipe is kept as long as the
            reader is.

    Raises:
        TraceError: there is no such file, it cannot be read, or it is no trace.
    """
    origin = Origin.of(trace)
    name = origin.name
    with open_file(origin) as file:
        head = file.read(_LOOKED_AT)
        damage = getattr(file, "damage", None)
    if not head and damage:
        raise TraceError(f"nothing can be read of the trace {name!r}: its packing is {damage}; copy it anew")
    if not head:
        raise TraceError(f"the trace {name!r} is empty; expected {KNOWN}")
    if head.startswith(DAT_MAGIC):
        from vlapic.trace.dat import open_dat

        return open_dat(origin)
    if (known := mistaken(head[:64])) is not None:
        raise TraceError(f"{name!r} is no trace but {known.is_a}; {known.give}")
    reader = TextReader(name, partial(open_file, origin))
    if not reader.probe():
        if reader.header_only or (head.startswith(TRACE_CMD_BEGINNING) and not reader.lost):
            raise TraceError(f"the trace {name!r} has no events, only a header; record anew, or give another")
        if (part := lacking(head)) is not None:
            raise TraceError(f"{name!r} is {part.is_a}; {part.give}")
        seen = head[:_SHOWN].decode(errors="backslashreplace").splitlines() or [""]
        raise TraceError(f"{name!r} is no trace: it begins with {seen[0]!r}; expected {KNOWN}")
    if reader.raw_event is not None:
        raise TraceError(
            f"{name!r} has {reader.raw_event} as the raw fields that `trace-cmd report -R` prints, whose"
            " numbers are hex or decimal by trace-cmd's version; print it without -R and -r, or give the"
            " trace.dat"
        )
    return reader
