"""Run one guest on one host and say how its timer interrupts came: the library call behind `vlapic run`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from vlapic.apic.advance import Advancement
from vlapic.errors import UsageError, nearest
from vlapic.events import Table, TimerInterrupt
from vlapic.machine import scheduler
from vlapic.machine.host import Host, ModuleParameters
from vlapic.machine.hostmodel import DEFAULT, HostModel
from vlapic.machine.loader import load
from vlapic.machine.programs import Program, find_program
from vlapic.machine.unicorn.engine import UnicornEngine
from vlapic.machine.vcpu import Vcpu
from vlapic.profiles import ADVANCE_CAP_NS, SERIES
from vlapic.results import RunResult, VcpuResult
from vlapic.statistics import VcpuStatistics
from vlapic.trace.ftrace_text import FtraceTextWriter
from vlapic.tsc import U32, U64, cycles_as_ns, scaling_ratio

TIMERS = ("auto", "hrtimer", "preemption")
DEFAULT_EVENTS = 10_000
#: Of images that are not built in.
DEFAULT_DELTA_CYCLES = 200_000
DEFAULT_HOST_TSC_KHZ = 2_500_000
#: Interrupts that are counted at a time.
_CHUNK = 4096
#: Rounds of a vCPU between two looks at the wall clock, which only progress is told.
_ROUNDS = 512
_PROGRESS_SECONDS = 0.2

Progress = Callable[[int, int, int], None]


class _Collector:
    """Takes timer interrupts one by one and folds them into statistics by the chunk."""

    def __init__(self) -> None:
        self.interrupts = 0
        self.statistics: VcpuStatistics | None = None
        self._chunk: list[TimerInterrupt] = []

    def __call__(self, interrupt: TimerInterrupt) -> None:
        self.interrupts += 1
        self._chunk.append(interrupt)
        if len(self._chunk) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Fold what has come since the last chunk."""
        assert self.statistics is not None
        chunk, self._chunk = self._chunk, []
        self.statistics.add(Table.of(TimerInterrupt, chunk))


def run(
    guest: str | os.PathLike[str] = "deadline",
    *,
    timer: str = "auto",
    advance: str | int = "auto",
    events: int = DEFAULT_EVENTS,
    tsc_khz: int | None = None,
    host_tsc_khz: int = DEFAULT_HOST_TSC_KHZ,
    seed: int = 0,
    trace: str | os.PathLike[str] | None = None,
    delta_cycles: int | None = None,
    host: HostModel = DEFAULT,
    progress: Progress | None = None,
) -> RunResult:
    """Run a guest on the emulated machine and measure every timer interrupt it takes.

    Args:
        guest: a built-in guest's name, or the path of a flat image.
        timer: the host timer under the guest's: "preemption", "hrtimer", or "auto", which takes the first.
        advance: "auto" tunes the advancement from 1000 ns; a number of ns is used as it is, 0 is off.
        events: timer interrupts to measure. A built-in guest ends by itself after them, another one is
            stopped.
        tsc_khz: frequency of the guest's TSC, None for the host's.
        host_tsc_khz: frequency of the host's TSC.
        seed: of the host model's draws, 0 to 2^64-1. The same seed gives the same result, byte for byte.
        trace: file to write the run's events to, as ftrace text.
        delta_cycles: distance of the guest's deadlines in guest TSC cycles, None for the guest's own.
        host: what the host's work costs.
        progress: called a few times a second with interrupts so far, interrupts to come in all, and virtual
            ns.

    Returns:
        The result so far also when the guest failed (`failure`) or Ctrl-C ended the run (`interrupted`).

    Raises:
        UsageError: an argument is wrong by itself.
        ImageError: the guest's image cannot be run.
        OutputError: `trace` cannot be written.
    """
    parameters = ModuleParameters(_advance_parameter(advance), _on_preemption_timer(timer))
    _check("events", events, 1, U64)
    _check("seed", seed, 0, U64)
    _check("host TSC frequency", host_tsc_khz, 1, U32, "kHz")
    tsc_khz = host_tsc_khz if tsc_khz is None else tsc_khz
    _check("guest TSC frequency", tsc_khz, 1, U32, "kHz")
    try:
        scaling_ratio(tsc_khz, host_tsc_khz)
    except ValueError as error:
        raise UsageError(str(error)) from None
    program = find_program(os.fspath(guest))
    built_in = isinstance(program, Program)
    if delta_cycles is None:
        delta_cycles = program.delta_cycles if isinstance(program, Program) else DEFAULT_DELTA_CYCLES
    _check("distance of deadlines", delta_cycles, 0, U64, "cycles")
    if trace is not None and isinstance(program, Path) and _same_file(program, trace):
        raise UsageError(f"the trace {os.fspath(trace)!r} is the guest's image; choose another file")
    loaded = load(
        program.image() if isinstance(program, Program) else program,
        interrupts=events,
        delta_cycles=delta_cycles,
    )

    collector = _Collector()
    with ExitStack() as stack:
        writer = None
        if trace is not None:
            # Before anything runs, so that a place that cannot be written is found at once.
            writer = stack.enter_context(
                FtraceTextWriter.open(trace, SERIES.trace_kernel, host_khz=host_tsc_khz)
            )
        machine = Host(
            host_tsc_khz,
            host,
            SERIES,
            parameters,
            seed,
            on_interrupt=collector,
            on_event=None if writer is None else writer.write,
        )
        vm = machine.create_vm()
        vcpu = vm.create_vcpu(
            lambda tsc: stack.enter_context(
                UnicornEngine(loaded.memory, tsc, host.cycles_per_insn, first=loaded.first)
            ),
            tsc_khz,
        )
        start = Advancement(parameters.lapic_timer_advance_ns)
        collector.statistics = statistics = VcpuStatistics(
            tsc_khz=tsc_khz,
            host_khz=host_tsc_khz,
            auto=not start.done,
            advance_ns=start.advance_ns,
            cap_ns=ADVANCE_CAP_NS,
        )
        limit = None if built_in else events
        interrupted = False
        try:
            _run_to_end(vcpu, collector, limit, events, progress)
        except KeyboardInterrupt:
            interrupted = True
        collector.flush()
        return RunResult(
            engine="emulated",
            profile=machine.profile.name,
            seed=seed,
            guest=os.fspath(guest),
            exit_code=vm.ports.exit_value,
            console=vm.ports.console.decode(errors="replace"),
            virtual_ns=cycles_as_ns(vcpu.clock.now - machine.start_tsc, host_tsc_khz),
            instructions=vcpu.engine.instructions,
            vcpus=(
                VcpuResult.of(
                    statistics,
                    vm=vm.index,
                    id=vcpu.index,
                    tsc_ratio=vcpu.tsc.ratio,
                    timer="preemption" if parameters.preemption_timer else "hrtimer",
                ),
            ),
            failure=vcpu.failure,
            interrupted=interrupted,
        )


def _run_to_end(
    vcpu: Vcpu, collector: _Collector, limit: int | None, events: int, progress: Progress | None
) -> None:
    """Run a vCPU until its guest reports, fails, or has taken `limit` timer interrupts."""
    ports, start, told = vcpu.vm.ports, vcpu.clock.now, time.monotonic()

    def finished() -> bool:
        return (
            ports.exit_value is not None
            or vcpu.failure is not None
            or (limit is not None and collector.interrupts >= limit)
        )

    while scheduler.run((vcpu,), finished, _ROUNDS):
        if progress is not None and (now := time.monotonic()) - told >= _PROGRESS_SECONDS:
            told = now
            khz = vcpu.vm.host.tsc_khz
            progress(collector.interrupts, events, cycles_as_ns(vcpu.clock.now - start, khz))


def _same_file(first: Path, second: str | os.PathLike[str]) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False


def _advance_parameter(advance: str | int) -> int | None:
    if advance == "auto":
        return None
    if isinstance(advance, str):
        raise UsageError(f"advance {advance!r} is neither 'auto' nor a number of ns; 0 is off")
    _check("advance", advance, 0, U32, "ns")
    return advance


def _on_preemption_timer(timer: str) -> bool:
    if timer not in TIMERS:
        raise UsageError(f"unknown timer {timer!r}; {nearest(timer, TIMERS)}")
    return timer != "hrtimer"


def _check(what: str, value: int, low: int, high: int, unit: str = "") -> None:
    if not low <= value <= high:
        unit = unit and f" {unit}"
        raise UsageError(f"{what} {value}{unit} is out of range; it takes {low} to {high}{unit}")
