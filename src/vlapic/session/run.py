"""Run one guest on one host and say how its timer interrupts came: the library call behind `vlapic run`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

from vlapic.analysis.regime import TuningLimits
from vlapic.analysis.spans import Spans, Worst
from vlapic.analysis.statistics import VcpuStatistics
from vlapic.errors import GuestFailure, UsageError
from vlapic.kernels.profiles import Profile
from vlapic.machine.engines.contract import CpuMode
from vlapic.machine.engines.unicorn.engine import UnicornEngine
from vlapic.machine.flight_recorder import last_events
from vlapic.machine.guests.images.modules import ModuleFile
from vlapic.machine.guests.loader import DEFAULT_MEMORY, MAX_MEMORY, MIN_MEMORY, LoadedGuest, load
from vlapic.machine.guests.programs import PROGRAMS, Program, find_program
from vlapic.machine.host import Host, ModuleParameters, Vm, check_preemption_timer
from vlapic.machine.hostmodel.model import DEFAULT, HostModel
from vlapic.machine.hostmodel.named import find_model
from vlapic.machine.limits import Limits, run_to_end
from vlapic.machine.vcpu import Vcpu
from vlapic.session.budgets import Budget, parse_all
from vlapic.session.budgets import check as check_budgets
from vlapic.session.collector import Collector
from vlapic.session.observers import Observer, TraceFile, all_of
from vlapic.session.results import RunResult, VcpuResult
from vlapic.session.settings import check_range, distance_cycles, kernel_settings, same_file, tsc_frequencies
from vlapic.signature import check as check_kinds
from vlapic.signature import checked
from vlapic.trace.write.ftrace import FtraceTextWriter
from vlapic.tsc import U32, U64, GuestTsc, cycles_as_ns

DEFAULT_EVENTS = 10_000
DEFAULT_MEMORY_MIB = DEFAULT_MEMORY >> 20
MAX_VCPUS = 8
MAX_VMS = 16
MAX_SECONDS = 10**9
MAX_WORST = 10_000
#: Of images that are not built in.
DEFAULT_DELTA_CYCLES = 200_000
_PROGRESS_SECONDS = 0.2


class SoFar(NamedTuple):
    """How far a run is.

    Attributes:
        interrupts: timer interrupts of the first vCPU.
        asked_for: how many it is to take.
        virtual_ns: how long the guest has run.
        result: what the run has come to; computed when it is called.
    """

    interrupts: int
    asked_for: int
    virtual_ns: int
    result: Callable[[], RunResult]


Progress = Callable[[SoFar], None]


@checked
def run(
    guest: str | os.PathLike[str] = "deadline",
    *,
    profile: str = "series",
    without: Sequence[int] = (),
    timer: str = "auto",
    apicv: bool = False,
    pi_inject: bool = False,
    mwait_in_guest: bool = False,
    advance: str | int = "auto",
    events: int = DEFAULT_EVENTS,
    seconds: float | None = None,
    instructions: int | None = None,
    vcpus: int | None = None,
    tsc_khz: int | Sequence[int] | None = None,
    vms: int = 1,
    pcpus: int | None = None,
    host_tsc_khz: int | None = None,
    memory_mib: int = DEFAULT_MEMORY_MIB,
    append: str = "",
    modules: Sequence[str | os.PathLike[str]] = (),
    seed: int = 0,
    trace: str | os.PathLike[str] | None = None,
    worst: int = 0,
    budgets: Sequence[str] = (),
    delta: str | None = None,
    delta_cycles: int | None = None,
    host: HostModel | str | os.PathLike[str] = DEFAULT,
    progress: Progress | None = None,
) -> RunResult:
    """Run a guest on the emulated machine and measure every timer interrupt it takes.

    Args:
        guest: a built-in guest's name, or the path of an image: multiboot, ELF or flat.
        profile: the name of the rules in force, of `vlapic.kernels.profiles`.
        without: fixes to take out of the profile `series`, 1 to 7.
        timer: the host timer under the guest's: "preemption", "hrtimer", or "auto", which takes the first.
        apicv: whether the CPU virtualises the APIC.
        pi_inject: whether timer interrupts are posted into the running guest (`pi_inject_timer`); it takes
            `apicv`, and a profile whose kernel can.
        mwait_in_guest: whether the guest's MWAIT does not exit; KVM uses no preemption timer then, and some
            kernels post timer interrupts only then.
        advance: "auto" tunes the advancement from 1000 ns; a number of ns is used as it is, 0 is off. A
            profile's kernel may mean something else by a number, or take none but 0.
        events: timer interrupts of the first vCPU to measure, in each VM as all limits are. A built-in guest
            ends by itself after them, another one is stopped.
        seconds: virtual seconds after which the guest is stopped, None for no limit.
        instructions: guest instructions, of all vCPUs, after which it is stopped, None for no limit.
        vcpus: 1 to 8; None is what a built-in guest is made for, 1 for others.
        tsc_khz: frequency of the guest's TSC, one for all or one a vCPU; None for the host's.
        vms: 1 to 16 virtual machines on the host, each of which runs the same guest on as many vCPUs.
        pcpus: physical CPUs, which the vCPUs of all VMs are placed on in turns; None is one for each vCPU.
        host_tsc_khz: frequency of the host's TSC; None for the host model's.
        memory_mib: guest memory, 2 to 3072 MiB.
        append: the guest's command line.
        modules: boot modules of the guest: each a path or, as text, a path and behind a space what the guest
            is told with it.
        seed: of the host model's draws, 0 to 2^64-1. The same seed gives the same result, byte for byte.
        trace: file to write the run's events to, as ftrace text.
        worst: how many of the latest interrupts to give step by step, 0 to 10000. Events are made for them,
            which takes time.
        budgets: limits for the figures of each vCPU, as `vlapic.session.budgets` reads them: "p99=3us".
        delta: distance of the guest's deadlines as a time with its unit, "50us" or "125000cycles", for guests
            that have deadlines; converted by the first vCPU's TSC. None for the guest's own.
        delta_cycles: the same as a number of guest TSC cycles.
        host: what the host's work costs: a model, the name of one, or a model file.
        progress: called a few times a second of wall time.

    Returns:
        The result so far also when the guest failed (`failure`), Ctrl-C ended the run (`interrupted`), or the
        trace could not be written to its end (`trace_failure`).

    Raises:
        UsageError: an argument is wrong by itself.
        ImageError: the guest's image cannot be run, or a module not be read.
        WorldError: the file of the host model cannot be read.
        OutputError: `trace` cannot be begun.
    """
    plan = _plan(
        guest,
        profile=profile,
        without=without,
        timer=timer,
        apicv=apicv,
        pi_inject=pi_inject,
        mwait_in_guest=mwait_in_guest,
        advance=advance,
        events=events,
        seconds=seconds,
        instructions=instructions,
        vcpus=vcpus,
        tsc_khz=tsc_khz,
        vms=vms,
        pcpus=pcpus,
        host_tsc_khz=host_tsc_khz,
        memory_mib=memory_mib,
        seed=seed,
        worst=worst,
        budgets=budgets,
        delta=delta,
        delta_cycles=delta_cycles,
        host=host,
    )
    rules, parameters, model, host_tsc_khz = plan.rules, plan.parameters, plan.model, plan.host_tsc_khz
    program, vcpus, frequencies = plan.program, len(plan.frequencies), plan.frequencies
    built_in = program if isinstance(program, Program) else None
    if trace is not None and isinstance(program, Path) and same_file(program, trace):
        raise UsageError(f"the trace {os.fspath(trace)!r} is the guest's image; choose another file")
    if trace is not None and any(same_file(ModuleFile.of(module).path, trace) for module in modules):
        raise UsageError(f"the trace {os.fspath(trace)!r} is a boot module; choose another file")

    guests = [
        load(
            program.image() if isinstance(program, Program) else program,
            memory_bytes=memory_mib << 20,
            interrupts=events,
            delta_cycles=plan.delta_cycles,
            append=append,
            modules=modules,
            cpus=vcpus,
        )
        for _ in range(vms)
    ]
    if plan.delta_given and guests[0].first.mode is CpuMode.PROTECTED:
        raise UsageError(
            f"{os.fspath(guest)!r} starts in protected mode, where it is told no distance of deadlines;"
            " leave delta out"
        )
    with ExitStack() as stack:
        observers: list[Observer] = []
        written = None
        if trace is not None:
            # Before anything runs, so that a place that cannot be written is found at once.
            cpus = pcpus or vms * vcpus
            writer = FtraceTextWriter.open(
                trace,
                rules.trace_kernel,
                host_khz=host_tsc_khz,
                cpus=cpus,
                cpu_of=lambda vm, vcpu: (vm * vcpus + vcpu) % cpus,
            )
            written = stack.enter_context(TraceFile(writer))
            observers.append(written.write)
        latest = Worst(Spans(host_tsc_khz), worst) if worst else None
        if latest is not None:
            observers.append(latest)
        collector = Collector(vcpus)
        machine = Host(
            host_tsc_khz,
            model,
            rules,
            parameters,
            seed,
            on_interrupt=collector,
            on_event=all_of(observers),
            pcpus=pcpus,
        )
        start = machine.module.start()
        for loaded in guests:
            _switch_on(machine, stack, loaded, frequencies, mwait_in_guest)
            for khz in frequencies:
                collector.add_vcpu(
                    VcpuStatistics(
                        tsc_khz=khz,
                        host_khz=host_tsc_khz,
                        auto=not start.done,
                        advance_ns=start.advance_ns,
                        limits=TuningLimits.of(rules),
                    )
                )
        for vm in machine.vms:
            vm.board.describe(cpus=vcpus, memory_bytes=memory_mib << 20, command_line=os.fsencode(append))
        every_vcpu = [vcpu for vm in machine.vms for vcpu in vm.vcpus]

        def virtual_ns() -> int:
            furthest = max(vcpu.clock.now for vcpu in every_vcpu)
            return cycles_as_ns(furthest - machine.start_tsc, host_tsc_khz)

        def so_far() -> RunResult:
            collector.flush()
            for vcpu, statistics in zip(every_vcpu, collector.statistics, strict=True):
                statistics.advanced = vcpu.timer.advanced > 0
            return RunResult(
                engine="emulated",
                profile=machine.profile.name,
                apicv=("posted" if pi_inject else "on") if apicv else "",
                host=machine.model.name,
                seed=seed,
                delta_cycles=plan.delta_cycles if plan.delta_given else None,
                guest=os.fspath(guest),
                exit_code=_exit_code([vm.ports.exit_value for vm in machine.vms]),
                consoles=tuple(vm.ports.console.decode(errors="replace") for vm in machine.vms),
                virtual_ns=virtual_ns(),
                instructions=sum(vcpu.engine.instructions for vcpu in every_vcpu),
                vcpus=tuple(
                    VcpuResult.of(
                        statistics,
                        vm=vcpu.vm.index,
                        id=vcpu.index,
                        tsc_ratio=vcpu.tsc.ratio,
                        timer="preemption" if vcpu.timer.has_hv_timer else "hrtimer",
                    )
                    for vcpu, statistics in zip(every_vcpu, collector.statistics, strict=True)
                ),
                notes=guests[0].notes,
                failure=_failure(every_vcpu),
                last_events=last_events(every_vcpu),
                end=_end(machine.vms),
            )

        told = time.monotonic()

        def tell() -> None:
            nonlocal told
            if progress is not None and (now := time.monotonic()) - told >= _PROGRESS_SECONDS:
                told = now
                progress(SoFar(collector.interrupts(0), events, virtual_ns(), so_far))

        limits = Limits(
            None if built_in else events,
            None if seconds is None else machine.start_tsc + round(seconds * host_tsc_khz * 1000),
            instructions,
        )
        interrupted = False
        try:
            run_to_end(machine.vms, limits, lambda vm: collector.interrupts(vm.index), tell)
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


class _Plan(NamedTuple):
    """What the arguments of a run come to.

    Attributes:
        program: a built-in guest, or an image's path.
        frequencies: of each vCPU's TSC in a VM, kHz.
        delta_cycles: distance of the deadlines; `delta_given` if it was asked for.
    """

    rules: Profile
    parameters: ModuleParameters
    budgets: tuple[Budget, ...]
    model: HostModel
    host_tsc_khz: int
    program: Program | Path
    frequencies: list[int]
    delta_cycles: int
    delta_given: bool


def check(guest: str | os.PathLike[str] = "deadline", **options: Any) -> None:
    """Find out whether `run` would refuse these arguments, and run nothing.

    Raises:
        UsageError, ImageError, WorldError: as `run` does.
    """
    check_kinds(run, guest, **options)
    arguments = {name: of.default for name, of in signature(run).parameters.items()} | options
    planned = signature(_plan).parameters.keys() - {"guest"}
    plan = _plan(guest, **{name: arguments[name] for name in planned})
    if isinstance(plan.program, Path):
        load(plan.program, memory_bytes=arguments["memory_mib"] << 20)


def _plan(
    guest: str | os.PathLike[str],
    *,
    profile: str,
    without: Sequence[int],
    timer: str,
    apicv: bool,
    pi_inject: bool,
    mwait_in_guest: bool,
    advance: str | int,
    events: int,
    seconds: float | None,
    instructions: int | None,
    vcpus: int | None,
    tsc_khz: int | Sequence[int] | None,
    vms: int,
    pcpus: int | None,
    host_tsc_khz: int | None,
    memory_mib: int,
    seed: int,
    worst: int,
    budgets: Sequence[str],
    delta: str | None,
    delta_cycles: int | None,
    host: HostModel | str | os.PathLike[str],
) -> _Plan:
    """What these arguments of `run` come to; refused as it refuses them."""
    rules, parameters = kernel_settings(profile, without, timer, apicv, pi_inject, mwait_in_guest, advance)
    limits_of_figures = parse_all(budgets)
    check_range("worst", worst, 0, MAX_WORST)
    check_range("events", events, 1, U64)
    check_range("seed", seed, 0, U64)
    check_range("memory", memory_mib, MIN_MEMORY >> 20, MAX_MEMORY >> 20, "MiB")
    if seconds is not None and not 0 < seconds <= MAX_SECONDS:
        raise UsageError(
            f"seconds {seconds:g} is out of range; it takes more than 0 and at most {MAX_SECONDS}"
        )
    if instructions is not None:
        check_range("instructions", instructions, 1, U64)
    if host_tsc_khz is not None:
        check_range("host TSC frequency", host_tsc_khz, 1, U32, "kHz")
    model = find_model(host, host_tsc_khz)
    if host_tsc_khz is None:
        host_tsc_khz = model.tsc_khz
    if timer == "preemption":
        check_preemption_timer(rules, model, host_tsc_khz)
    program = find_program(os.fspath(guest))
    built_in = program if isinstance(program, Program) else None
    if vcpus is None:
        vcpus = built_in.vcpus if built_in else 1
    if tsc_khz is None and built_in and built_in.tsc_khz and vcpus == built_in.vcpus:
        tsc_khz = built_in.tsc_khz
    check_range("vcpus", vcpus, 1, MAX_VCPUS)
    check_range("vms", vms, 1, MAX_VMS)
    if pcpus is not None:
        check_range("pcpus", pcpus, 1, vms * vcpus, why=", as many as there are vCPUs")
    frequencies = tsc_frequencies(tsc_khz, vcpus, host_tsc_khz)
    given = delta is not None or delta_cycles is not None
    if given and delta is not None and delta_cycles is not None:
        raise UsageError("delta and delta_cycles are one setting; give one of them")
    if delta is not None:
        delta_cycles = distance_cycles(delta, frequencies[0])
    if delta is not None and built_in and not built_in.deadlines:
        those = ", ".join(each.name for each in PROGRAMS.values() if each.deadlines)
        raise UsageError(
            f"guest {built_in.name!r} has no deadlines to set a distance of; delta goes with {those}"
        )
    if delta_cycles is None:
        delta_cycles = built_in.delta_cycles if built_in else DEFAULT_DELTA_CYCLES
    check_range("distance of deadlines", delta_cycles, 0, U64, "cycles")
    return _Plan(
        rules,
        parameters,
        limits_of_figures,
        model,
        host_tsc_khz,
        program,
        frequencies,
        delta_cycles,
        given,
    )


def _switch_on(
    host: Host, stack: ExitStack, loaded: LoadedGuest, frequencies: Sequence[int], mwait_in_guest: bool
) -> None:
    """A VM with a guest in its memory, a vCPU a frequency; its engines are closed with `stack`."""

    def engine(tsc: GuestTsc) -> UnicornEngine:
        made = UnicornEngine(loaded.memory, tsc, host.model.cycles_per_insn, first=loaded.first)
        return stack.enter_context(made)

    vm = host.create_vm(mwait_in_guest)
    for index, khz in enumerate(frequencies):
        vm.create_vcpu(engine, khz, wait_for_sipi=index > 0)
    if loaded.first.mode is CpuMode.PROTECTED:
        vm.leave_as_firmware_does()


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
            if len(vcpu.vm.host.vms) == 1:
                return vcpu.failure
            return replace(vcpu.failure, reason=f"of VM {vcpu.vm.index} {vcpu.failure.reason}")
    return None
