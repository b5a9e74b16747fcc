# SPDX-License-Identifier: GPL-2.0-or-later
"""Run one guest on one host and say how its timer interrupts came: the library call behind `vlapic run`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial, wraps
from inspect import cleandoc, signature
from typing import ParamSpec

from vlapic.analysis.regime import TuningLimits
from vlapic.analysis.spans import Spans, Worst
from vlapic.analysis.statistics import VcpuStatistics
from vlapic.errors import GuestFailure
from vlapic.machine.flight_recorder import last_events
from vlapic.machine.host import Host, Vm
from vlapic.machine.limits import run_to_end
from vlapic.machine.vcpu import Vcpu
from vlapic.session.boot import boot
from vlapic.session.budgets import check as check_budgets
from vlapic.session.collector import Collector
from vlapic.session.observers import Observer, TraceFile, all_of
from vlapic.session.results import RunResult, VcpuResult
from vlapic.session.spec import Plan, RunSpec, SoFar
from vlapic.trace.write.ftrace import FtraceTextWriter
from vlapic.tsc import cycles_as_ns

_PROGRESS_SECONDS = 0.2

P = ParamSpec("P")


def _with_fields_of(
    spec: Callable[P, RunSpec],
) -> Callable[[Callable[[RunSpec], RunResult]], Callable[P, RunResult]]:
    """Make a function of a `RunSpec` one of its fields, with their names, defaults and explanations."""

    def decorate(function: Callable[[RunSpec], RunResult]) -> Callable[P, RunResult]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> RunResult:
            try:
                asked = spec(*args, **kwargs)
            except (
                TypeError
            ) as error:  # an argument that there is not: it was this function that was given it
                said = str(error).replace(f"{RunSpec.__name__}.__init__()", f"{function.__name__}()")
                raise TypeError(said) from None
            return function(asked)

        taken = signature(spec).replace(return_annotation="RunResult")
        call.__signature__ = taken  # type: ignore[attr-defined]
        explained = cleandoc(spec.__doc__ or "").partition("Attributes:\n")[2]
        call.__doc__ = cleandoc(function.__doc__ or "").replace("    {fields}", explained)
        del call.__wrapped__
        return call

    return decorate


@_with_fields_of(RunSpec)
def run(spec: RunSpec) -> RunResult:
    """Run a guest on the emulated machine and measure every timer interrupt it takes.

    Args:
        {fields}

    Returns:
        The result so far also when the guest failed (`failure`), Ctrl-C ended the run (`interrupted`), or the
        trace could not be written to its end (`trace_failure`).

    Raises:
        UsageError: an argument is wrong by itself.
        ImageError: the guest's image cannot be run, or a module not be read.
        WorldError: the file of the host model cannot be read.
        OutputError: `trace` cannot be begun.
    """
    return run_spec(spec)


def run_spec(spec: RunSpec) -> RunResult:
    """The run that a `RunSpec` asks for; results and errors are those of `run`."""
    plan = spec.plan()
    machine, host_khz = plan.machine, plan.host_tsc_khz
    guests = plan.load()
    with ExitStack() as stack:
        observers: list[Observer] = list(spec.observers)
        written = None
        if spec.trace is not None:
            # Before anything runs, so that a place that cannot be written is found at once.
            written = stack.enter_context(TraceFile(_open_trace(spec.trace, plan)))
            observers.insert(0, written.write)
        latest = Worst(Spans(host_khz), spec.worst) if spec.worst else None
        if latest is not None:
            observers.append(latest)
        collector = Collector(len(plan.tsc_khz))
        host = stack.enter_context(boot(machine, guests, on_interrupt=collector, on_event=all_of(observers)))
        start = host.module.start()
        for _ in host.vms:
            for khz in plan.tsc_khz:
                collector.add_vcpu(
                    VcpuStatistics(
                        tsc_khz=khz,
                        host_khz=host_khz,
                        auto=not start.done,
                        advance_ns=start.advance_ns,
                        limits=TuningLimits.of(machine.profile),
                    )
                )
        so_far = partial(_so_far, plan, host, collector, guests[0].notes)

        told = time.monotonic()

        def tell() -> None:
            nonlocal told
            if spec.progress is not None and (now := time.monotonic()) - told >= _PROGRESS_SECONDS:
                told = now
                spec.progress(SoFar(collector.interrupts(0), spec.events, _virtual_ns(host), so_far))

        interrupted = False
        try:
            run_to_end(host.vms, plan.limits(host.start_tsc), lambda vm: collector.interrupts(vm.index), tell)
        except KeyboardInterrupt:
            interrupted = True
        if written is not None:
            written.close()
        result = so_far()
        return replace(
            result,
            interrupted=interrupted,
            trace_failure=None if written is None else written.failure,
            budgets=check_budgets(plan.budgets, result),
            worst=None if latest is None else latest.spans(),
        )


def _open_trace(trace: str | os.PathLike[str], plan: Plan) -> FtraceTextWriter:
    """A writer of the run's trace; a vCPU's events are on the physical CPU that it is placed on."""
    vcpus = len(plan.tsc_khz)
    cpus = plan.machine.pcpus or len(plan.machine.vms) * vcpus
    return FtraceTextWriter.open(
        trace,
        plan.machine.profile.trace_kernel,
        host_khz=plan.host_tsc_khz,
        cpus=cpus,
        cpu_of=lambda vm, vcpu: (vm * vcpus + vcpu) % cpus,
    )


def _so_far(plan: Plan, host: Host, collector: Collector, notes: tuple[str, ...]) -> RunResult:
    """What a run has come to."""
    spec = plan.spec
    every_vcpu = _vcpus(host)
    collector.flush()
    for vcpu, statistics in zip(every_vcpu, collector.statistics, strict=True):
        statistics.advanced = vcpu.timer.advanced > 0
    return RunResult(
        engine=spec.engine,
        profile=host.profile.name,
        apicv=("posted" if spec.pi_inject else "on") if spec.apicv else "",
        host=host.model.name,
        seed=spec.seed,
        delta_cycles=plan.delta_cycles,
        guest=os.fspath(spec.guest),
        exit_code=_exit_code([vm.ports.exit_value for vm in host.vms]),
        consoles=tuple(vm.ports.console.decode(errors="replace") for vm in host.vms),
        virtual_ns=_virtual_ns(host),
        instructions=sum(vcpu.engine.instructions for vcpu in every_vcpu),
        vcpus=tuple(
            VcpuResult.of(
                statistics,
                vm=vcpu.vm.index,
                id=vcpu.index,
                tsc_ratio=vcpu.tsc.ratio,
                timer="preemption" if vcpu.timer.host_timers.has_hv_timer else "hrtimer",
            )
            for vcpu, statistics in zip(every_vcpu, collector.statistics, strict=True)
        ),
        notes=notes,
        failure=_failure(every_vcpu),
        last_events=last_events([vcpu.last for vcpu in every_vcpu if vcpu.failure is not None]),
        end=_end(host.vms),
    )


def _vcpus(host: Host) -> list[Vcpu]:
    return [vcpu for vm in host.vms for vcpu in vm.vcpus]


def _virtual_ns(host: Host) -> int:
    furthest = max(vcpu.clock.now for vcpu in _vcpus(host))
    return cycles_as_ns(furthest - host.start_tsc, host.tsc_khz)


def _exit_code(reported: Sequence[int | None]) -> int | None:
    """What all guests together have reported: the first value that is not 0, None if one reported nothing."""
    return next((value for value in reported if value), None if None in reported else 0)


def _end(vms: Sequence[Vm]) -> str | None:
    """How the first guest that ended its machine did so; of several VMs it says which."""
    for vm in vms:
        if (end := vm.board.power.end) is not None:
            return end.value if len(vms) == 1 else f"of VM {vm.index} {end.value}"
    return None


def _failure(vcpus: Sequence[Vcpu]) -> GuestFailure | None:
    """The first vCPU's failure; of several VMs it says which."""
    for vcpu in vcpus:
        if vcpu.failure is not None:
            if len({each.vm.index for each in vcpus}) == 1:
                return vcpu.failure
            return replace(vcpu.failure, reason=f"of VM {vcpu.vm.index} {vcpu.failure.reason}")
    return None
