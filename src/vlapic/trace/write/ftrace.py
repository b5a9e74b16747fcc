# SPDX-License-Identifier: GPL-2.0-or-later
"""Events as the text that tracefs prints, in the format of one kernel; time is the x86-tsc clock, or ns.

Follows `kernel/trace/trace_output.c: trace_print_context`, `trace.c: print_func_help_header_irq` and
`arch/x86/kvm/trace.h`. A line is a task, a CPU, latency flags, a time stamp and an event:

              vlapic-1000  [000] d..1      1234567: kvm_entry: vcpu 0

A task is a vCPU (its pid is 1000 + 100 * vm + vcpu), and the CPU has the vCPU's number unless somebody says
where it runs. What the kernel has no tracepoint for is a marker, as if somebody had written it into
trace_marker. This file writes; it does not read.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, BinaryIO

from vlapic.errors import OutputError
from vlapic.events import NO_VCPU, DebugfsSample, Event, Lost, Sample, TimerInterrupt
from vlapic.interrupts import ends_well
from vlapic.output_file import OutputFile
from vlapic.trace.markers import DEBUGFS, OWN_MARKERS, SAMPLE, handler_marker
from vlapic.trace.templates import Form
from vlapic.trace.tracefs import trace_kernel

TASK = "vlapic"
FIRST_PID = 1000
PIDS_A_VM = 100

#: The line tracefs has above the rest; how many events there are is filled in at the end, so there is room
#: left.
_COUNTS = "# entries-in-buffer/entries-written: {0}/{0}   #P:{1}"
_COUNTS_ROOM = 80
#: Lines that are written together.
_LINES_AT_ONCE = 256


#: Gives an event's values for a pattern, its time first.
_Values = Callable[[Any], tuple[Any, ...]]
#: The lines of an event are `pattern % values(event)`; the last is how many events a reader will see in them.
_Lines = tuple[str, _Values, int]


class FtraceTextWriter:
    """Writes events as they come; a context manager that completes the file, or drops it where it fails.

    Raises:
        OutputError: the file cannot be written, now or at any later call.
    """

    def __init__(
        self,
        file: BinaryIO | OutputFile,
        kernel: str,
        *,
        host_khz: int,
        cpus: int = 1,
        cpu_of: Callable[[int, int], int] | None = None,
        in_ns: bool = False,
        comments: Iterable[str] = (),
    ) -> None:
        """Begin a trace.

        Args:
            file: where it goes; how many events there are is said in the header only if it can be sought.
            kernel: its name, as profiles give it: `v5.2`.
            host_khz: frequency of the host's TSC, for what markers say in ns.
            cpus: how many CPUs the host has.
            cpu_of: tells the CPU on which a vCPU runs, from the VM's number and its own; None is its own.
            in_ns: times are ns, and written as seconds with nine decimals.
            comments: lines to stand above the rest, without their `#`.
        """
        self._file = file
        self._path = file.path if isinstance(file, OutputFile) else getattr(file, "name", "trace")
        self._cpus = cpus
        self._cpu_of = cpu_of or (lambda vm, vcpu: vcpu)
        self._written = 0  # events so far
        self._kept: list[str] = []
        text = trace_kernel(kernel)
        fifth = "." if text.layout.migrate_disable else ""
        #: What stands before the text of each event, and its forms: in the first VM, in others.
        self._forms = {
            event_type: (
                f"{point.flags_of(text.version)}{fifth}",
                point.name,
                (form := point.form_of(text.version), form),
            )
            for event_type, point in text.tracepoints.items()
        } | {
            event_type: (f"....{fifth}", "tracing_mark_write", forms)
            for event_type, forms in OWN_MARKERS.items()
        }
        self._forms[Sample] = (f"....{fifth}", "tracing_mark_write", (SAMPLE, SAMPLE))
        self._forms[DebugfsSample] = (f"....{fifth}", "tracing_mark_write", (DEBUGFS, DEBUGFS))
        #: The line that follows a timer interrupt's own.
        self._handler = handler_marker(host_khz)
        #: By class of event, VM and vCPU.
        self._lines: dict[tuple[type[Any], int, int], _Lines] = {}
        self._pid_width = text.layout.pid_width
        self._in_ns = in_ns
        self._put("".join(f"# {comment}\n" for comment in comments))
        self._put("# tracer: nop\n#\n")
        self._write_kept()
        self._counts_at = file.tell() if file.seekable() else None
        if self._counts_at is not None:
            self._put(" " * _COUNTS_ROOM + "\n#\n")
        self._put(text.layout.header)
        self._write_kept()

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        kernel: str,
        *,
        host_khz: int,
        cpus: int = 1,
        cpu_of: Callable[[int, int], int] | None = None,
        in_ns: bool = False,
        comments: Iterable[str] = (),
    ) -> FtraceTextWriter:
        """Begin a trace in a new file, or in place of the one that is there."""
        file = OutputFile(path, "the trace")
        try:
            return cls(
                file,
                kernel,
                host_khz=host_khz,
                cpus=cpus,
                cpu_of=cpu_of,
                in_ns=in_ns,
                comments=comments,
            )
        except BaseException:
            file.drop()
            raise

    def writes(self, event_type: type[Any]) -> bool:
        """Whether there are words for a class of event."""
        return event_type is Lost or event_type in self._forms

    def write(
        self, event: Event, *, task: str = TASK, tid: int | None = None, cpu: int | None = None
    ) -> None:
        """Append one event; who made it is the event's vCPU, unless it is said."""
        pattern, values_of, count = self._lines_of(event, task, tid, cpu)
        self._kept.append(pattern % values_of(event))
        self._written += count
        if len(self._kept) >= _LINES_AT_ONCE:
            self._write_kept()

    def write_all(self, events: Iterable[Event]) -> None:
        """Append events of vCPUs in their order.

        All their lines are made by one pattern, and go to the file together: give it some hundreds at a time.
        """
        self._write_kept()
        lines, written = self._lines, 0
        patterns: list[str] = []
        values: list[Any] = []
        for event in events:
            try:
                pattern, values_of, count = lines[type(event), event.vm, event.vcpu]
            except KeyError:
                pattern, values_of, count = self._lines_of(event)
                lines[type(event), event.vm, event.vcpu] = pattern, values_of, count
            patterns.append(pattern)
            values += values_of(event)
            written += count
        text = "".join(patterns) % tuple(values)
        self._write_text(text)
        self._written += written

    def _lines_of(
        self, event: Event, task: str = TASK, tid: int | None = None, cpu: int | None = None
    ) -> _Lines:
        """The lines of all events like this one; who made it is its vCPU, unless it is said."""
        if type(event) is Lost:
            return "%s", lambda event: (_lost(event),), 0
        flags, name, forms = self._forms[type(event)]
        if tid is None:
            tid = FIRST_PID + PIDS_A_VM * event.vm + event.vcpu
        if cpu is None:
            cpu = self._cpu_of(event.vm, event.vcpu)
        vm = event.vm > 0
        before = f"{task:>16}-{tid:<{self._pid_width}d} [{cpu:03d}] {flags} ".replace("%", "%%")
        time = "%5d.%09d" if self._in_ns else "%12d"

        def line(form: Form) -> tuple[str, _Values]:
            values = _in_seconds(form.values) if self._in_ns else form.values
            return f"{before}{time}: {name}: {form.pattern}\n", values

        pattern, values = line(forms[vm])
        if type(event) is not TimerInterrupt:
            return pattern, values, 1
        handler_pattern, handler_values = line(self._handler[vm])
        return pattern + handler_pattern, lambda event: values(event) + handler_values(event), 2

    def close(self) -> None:
        """Say in the header how many events there are, and close the file."""
        counts = _COUNTS.format(self._written, self._cpus).encode()
        try:
            with self._file:
                self._write_kept()
                if self._counts_at is None:
                    return
                if isinstance(self._file, OutputFile):
                    self._file.write_at(self._counts_at, counts)
                else:
                    self._file.seek(self._counts_at)
                    self._file.write(counts)
                    self._file.seek(0, io.SEEK_END)
        except OSError as error:
            raise _cannot_write(self._path, error) from None

    def drop(self) -> None:
        """Give the file up; what stood in its place stays."""
        if isinstance(self._file, OutputFile):
            self._file.drop()
        else:
            self._file.close()

    def __enter__(self) -> FtraceTextWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if ends_well(kind):
            self.close()
        else:
            self.drop()

    def _put(self, text: str) -> None:
        self._kept.append(text)

    def _write_kept(self) -> None:
        """Write the lines that were put together so far."""
        text = "".join(self._kept)
        self._kept.clear()
        self._write_text(text)

    def _write_text(self, text: str) -> None:
        try:
            self._file.write(text.encode())
        except OSError as error:
            raise _cannot_write(self._path, error) from None


def _in_seconds(values: _Values) -> _Values:
    """Values that begin with seconds and ns, of values that begin with ns."""

    def in_seconds(event: Any) -> tuple[Any, ...]:
        time_ns, *rest = values(event)
        return *divmod(time_ns, 1_000_000_000), *rest

    return in_seconds


def _lost(event: Lost) -> str:
    """`print_trace_line`'s line for what a CPU's buffer had no room for; a comment for other losses."""
    if event.cause != "overrun" or event.cpu == NO_VCPU:
        return f"# lost {event.events} {event.cause}\n"
    events = f"{event.events} " if event.events else ""
    return f"CPU:{event.cpu} [LOST {events}EVENTS]\n"


def _cannot_write(path: object, error: OSError) -> OutputError:
    return OutputError(f"cannot write the trace {str(path)!r}: {error.strerror}; try another place")
