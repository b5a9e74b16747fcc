"""Events as the text that tracefs prints, in the format of one kernel; time is the x86-tsc clock.

Follows `kernel/trace/trace_output.c: trace_print_context`, `trace.c: print_func_help_header_irq` and
`arch/x86/kvm/trace.h`. A line is a task, a CPU, latency flags, a time stamp and an event:

              vlapic-1000  [000] d..1      1234567: kvm_entry: vcpu 0

A task is a vCPU (its pid is 1000 + 100 * vm + vcpu), and the CPU has the vCPU's number unless somebody says
where it runs. What the kernel has
no tracepoint for is a marker, as if somebody had written it into trace_marker. This file writes; it does not
read.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import BinaryIO

from vlapic.errors import OutputError
from vlapic.events import AdvanceSample, Event, RemoteEoi, SmiIgnored, TimerInterrupt, VcpuStart
from vlapic.trace.tracepoints import KERNELS, Tracepoint
from vlapic.tsc import cycles_as_ns, to_s64

TASK = "vlapic"
FIRST_PID = 1000
PIDS_A_VM = 100

#: The line tracefs has above the rest; how many events there are is filled in at the end, so there is room
#: left.
_COUNTS = "# entries-in-buffer/entries-written: {0}/{0}   #P:{1}"
_COUNTS_ROOM = 80


class FtraceTextWriter:
    """Writes events as they come; a context manager that completes and closes the file.

    Raises:
        OutputError: the file cannot be written, now or at any later call.
    """

    def __init__(
        self,
        file: BinaryIO,
        trace_kernel: str,
        *,
        host_khz: int,
        cpus: int = 1,
        cpu_of: Callable[[int, int], int] | None = None,
    ) -> None:
        """Begin a trace.

        Args:
            file: where it goes; how many events there are is said in the header only if it can be sought.
            trace_kernel: a name in `KERNELS`, as profiles give it.
            host_khz: frequency of the host's TSC, for what markers say in ns.
            cpus: how many CPUs the host has.
            cpu_of: tells the CPU on which a vCPU runs, from the VM's number and its own; None is its own.
        """
        self._file = file
        self._path = getattr(file, "name", "trace")
        self._host_khz = host_khz
        self._cpus = cpus
        self._cpu_of = cpu_of or (lambda vm, vcpu: vcpu)
        self._written = 0
        kernel = KERNELS[trace_kernel]
        self._tracepoints = kernel.tracepoints | {
            VcpuStart: Tracepoint("tracing_mark_write", "....", _start_marker),
            TimerInterrupt: Tracepoint("tracing_mark_write", "....", self._handler_marker),
            AdvanceSample: Tracepoint("tracing_mark_write", "....", _advance_marker),
            RemoteEoi: Tracepoint("tracing_mark_write", "....", _remote_eoi_marker),
            SmiIgnored: Tracepoint("tracing_mark_write", "....", _smi_marker),
        }
        self._put("# tracer: nop\n#\n")
        self._counts_at = file.tell() if file.seekable() else None
        if self._counts_at is not None:
            self._put(" " * _COUNTS_ROOM + "\n#\n")
        self._put(kernel.header)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        trace_kernel: str,
        *,
        host_khz: int,
        cpus: int = 1,
        cpu_of: Callable[[int, int], int] | None = None,
    ) -> FtraceTextWriter:
        """Begin a trace in a new file, or in place of the one that is there."""
        try:
            file = open(path, "wb", buffering=1 << 20)  # noqa: SIM115
        except OSError as error:
            raise _cannot_write(path, error) from None
        try:
            return cls(file, trace_kernel, host_khz=host_khz, cpus=cpus, cpu_of=cpu_of)
        except OutputError:
            file.close()
            raise

    def write(self, event: Event) -> None:
        """Append one event."""
        tracepoint = self._tracepoints[type(event)]
        self._put(
            f"{TASK:>16}-{FIRST_PID + PIDS_A_VM * event.vm + event.vcpu:<5d} "
            f"[{self._cpu_of(event.vm, event.vcpu):03d}] "
            f"{tracepoint.flags} {event.host_tsc:12d}: {tracepoint.name}: {tracepoint.text(event)}\n"
        )
        self._written += 1

    def write_all(self, events: Iterable[Event]) -> None:
        """Append events in their order."""
        for event in events:
            self.write(event)

    def close(self) -> None:
        """Say in the header how many events there are, and close the file."""
        try:
            with self._file:
                if self._counts_at is not None:
                    self._file.seek(self._counts_at)
                    self._file.write(_COUNTS.format(self._written, self._cpus).encode())
                    self._file.seek(0, io.SEEK_END)
        except OSError as error:
            raise _cannot_write(self._path, error) from None

    def __enter__(self) -> FtraceTextWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def _put(self, text: str) -> None:
        try:
            self._file.write(text.encode())
        except OSError as error:
            raise _cannot_write(self._path, error) from None

    def _handler_marker(self, e: TimerInterrupt) -> str:
        return (
            f"{_marker(e)} handler tsc={e.handler_tsc} deadline={e.deadline_tsc} insns={e.instructions}"
            f" wait_ns={cycles_as_ns(e.wait_cycles, self._host_khz)}"
        )


def _start_marker(e: VcpuStart) -> str:
    # The offset is signed as debugfs prints it (tsc-offset).
    return (
        f"{_marker(e)} start khz={e.tsc_khz} ratio={e.tsc_ratio} frac={e.frac_bits}"
        f" offset={to_s64(e.tsc_offset)} profile={e.profile} advance={e.advance_ns}"
    )


def _advance_marker(e: AdvanceSample) -> str:
    return f"{_marker(e)} advance_ns={e.advance_ns}"


def _remote_eoi_marker(e: RemoteEoi) -> str:
    return f"{_marker(e)} remote_eoi vector={e.vector}"


def _smi_marker(e: SmiIgnored) -> str:
    return f"{_marker(e)} smi_ignored"


def _marker(event: Event) -> str:
    vm = f"vm={event.vm} " if event.vm else ""
    return f"vlapic: {vm}vcpu={event.vcpu}"


def _cannot_write(path: object, error: OSError) -> OutputError:
    return OutputError(f"cannot write the trace {str(path)!r}: {error.strerror}; try another place")
