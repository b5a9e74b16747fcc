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
from vlapic.trace.compressed import open_file
from vlapic.trace.reader import Batch, Clock, TraceFacts, TraceReader
from vlapic.trace.text.reader import TextReader
from vlapic.trace.threads import Thread, Threads

__all__ = ["Batch", "Clock", "Thread", "Threads", "TraceFacts", "TraceReader", "open_trace"]

#: What is said of a file that is nothing of all this.
KNOWN = "the text of tracefs, `trace-cmd report` or `perf script`, and trace.dat"

#: What a trace.dat begins with.
DAT_MAGIC = b"\x17\x08\x44tracing"

_SHOWN = 40


def open_trace(path: str | os.PathLike[str]) -> TraceReader:
    """Open a trace by what is in it, compressed with gzip, xz or zstd or not.

    Raises:
        TraceError: there is no such file, it cannot be read, or it is no trace.
    """
    name = os.fspath(path)
    with open_file(name) as file:
        head = file.read(64)
        damage = getattr(file, "damage", None)
    if not head and damage:
        raise TraceError(f"nothing can be read of the trace {name!r}: its packing is {damage}; copy it anew")
    if not head:
        raise TraceError(f"the trace {name!r} is empty; expected {KNOWN}")
    if head.startswith(DAT_MAGIC):
        from vlapic.trace.dat import open_dat

        return open_dat(name)
    reader = TextReader(name, partial(open_file, name))
    if not reader.probe():
        if reader.facts.header and head.startswith(b"#"):
            raise TraceError(f"the trace {name!r} has no events, only a header; record anew, or give another")
        seen = head[:_SHOWN].decode(errors="backslashreplace").splitlines() or [""]
        raise TraceError(f"{name!r} is no trace: it begins with {seen[0]!r}; expected {KNOWN}")
    return reader
