# SPDX-License-Identifier: GPL-2.0-or-later
"""What is asked for: a run as a user says it, and the machine that this comes to.

`RunSpec` has a field for each argument of :func:`vlapic.run`, with its default; `RunSpec.plan` holds all of
them against each other, in this one place. What they come to is a `MachineSpec`, the host and each of its
VMs, which `session/boot.py` starts. A caller that wants different guests on one host writes a `MachineSpec`
itself, as the scenarios of the fixes do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vlapic.errors import UsageError
from vlapic.kernels.profiles import SERIES, Profile
from vlapic.machine.engines import EMULATED, Engine, check_engine
from vlapic.machine.engines.contract import CpuMode
from vlapic.machine.engines.scripted import ScriptedGuest
from vlapic.machine.guests.images.modules import ModuleFile
from vlapic.machine.guests.loader import DEFAULT_MEMORY, MAX_MEMORY, MIN_MEMORY, LoadedGuest, load
from vlapic.machine.guests.programs import PROGRAMS, Program, find_program
from vlapic.machine.host import ModuleParameters, check_preemption_timer
from vlapic.machine.hostmodel.model import DEFAULT, HostModel
from vlapic.machine.hostmodel.named import find_model
from vlapic.machine.limits import Limits
from vlapic.session.budgets import Budget, parse_all
from vlapic.session.observers import Observer
from vlapic.session.settings import check_range, distance_cycles, kernel_settings, same_file, tsc_frequencies
from vlapic.signature import check as check_kinds
from vlapic.tsc import U32, U64

if TYPE_CHECKING:
    from vlapic.session.results import RunResult

DEFAULT_EVENTS = 10_000
DEFAULT_MEMORY_MIB = DEFAULT_MEMORY >> 20
MAX_VCPUS = 8
MAX_VMS = 16
MAX_SECONDS = 10**9
MAX_WORST = 10_000
#: Of images that are not built in.
DEFAULT_DELTA_CYCLES = 200_000


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


@dataclass(frozen=True)
class VmSpec:
    """One VM: its guest, its memory, its vCPUs.

    Attributes:
        guest: a built-in guest, an image's path or its bytes; a `ScriptedGuest` for the engine "scripted".
        tsc_khz: frequency of each vCPU's TSC in kHz, None for the host's; there is a vCPU for each.
        memory_bytes: guest RAM, whole pages, 2 MiB to 3 GiB.
        interrupts: timer interrupts that a 64-bit guest is told to take, 0 to 2^64-1.
        delta_cycles: distance of its deadlines that it is told, cycles of its TSC, 0 to 2^64-1.
        append: its command line.
        modules: its boot modules, each a path or, as text, a path and behind a space what is said with it.
        mwait_in_guest: its MWAIT does not exit.
        wait_for_sipi: all vCPUs but the first wait for another one to start them.
    """

    guest: Program | Path | bytes | ScriptedGuest
    tsc_khz: Sequence[int | None] = (None,)
    memory_bytes: int = DEFAULT_MEMORY
    interrupts: int = 0
    delta_cycles: int = 0
    append: str = ""
    modules: Sequence[str | os.PathLike[str]] = ()
    mwait_in_guest: bool = False
    wait_for_sipi: bool = True

    def load(self) -> LoadedGuest | ScriptedGuest:
        """The guest in new memory; a scripted one has none, and is itself.

        Raises:
            ImageError: the image cannot be run, or a module not be read.
            UsageError: not so much memory, or not such a command line.
        """
        if isinstance(self.guest, ScriptedGuest):
            return self.guest
        return load(
            self.guest.image() if isinstance(self.guest, Program) else self.guest,
            memory_bytes=self.memory_bytes,
            interrupts=self.interrupts,
            delta_cycles=self.delta_cycles,
            append=self.append,
            modules=self.modules,
            cpus=len(self.tsc_khz),
        )


@dataclass(frozen=True)
class MachineSpec:
    """One host and its VMs.

    Attributes:
        vms: in the order in which they are started.
        tsc_khz: frequency of the host's TSC in kHz; None for the model's.
        model: what the host's work costs.
        profile: the rules in force.
        parameters: of the kvm modules; None for the defaults.
        seed: of the model's draws, 0 to 2^64-1.
        pcpus: physical CPUs, which the vCPUs of all VMs are placed on in turns; None is one for each vCPU.
        engine: the CPU under each vCPU: a name of `vlapic.machine.engines.ENGINES`, or an engine itself.
    """

    vms: Sequence[VmSpec]
    tsc_khz: int | None = None
    model: HostModel = DEFAULT
    profile: Profile = SERIES
    parameters: ModuleParameters | None = None
    seed: int = 0
    pcpus: int | None = None
    engine: str | Engine = EMULATED

    def load(self) -> list[LoadedGuest | ScriptedGuest]:
        """Each VM's guest in its memory; errors as of `VmSpec.load`."""
        return [vm.load() for vm in self.vms]


@dataclass(frozen=True)
class Plan:
    """What a `RunSpec` comes to.

    Attributes:
        spec: what was asked for.
        machine: the host and its VMs, which are all alike.
        built_in: whether the guest is, and so ends by itself.
        budgets: for the figures of each vCPU.
        delta_cycles: distance of the deadlines; None if none was asked for.
    """

    spec: RunSpec
    machine: MachineSpec
    built_in: bool
    budgets: tuple[Budget, ...]
    delta_cycles: int | None

    def limits(self, start_tsc: int) -> Limits:
        """What ends each VM's run before its guest does, on a host that starts at that TSC value."""
        seconds = self.spec.seconds
        return Limits(
            events=None if self.built_in else self.spec.events,
            host_tsc=None if seconds is None else start_tsc + round(seconds * self.host_tsc_khz * 1000),
            instructions=self.spec.instructions,
        )

    @property
    def host_tsc_khz(self) -> int:
        """Frequency of the host's TSC."""
        khz = self.machine.tsc_khz
        assert khz is not None, "a plan has found out the frequency"
        return khz

    @property
    def tsc_khz(self) -> list[int]:
        """Frequency of each vCPU's TSC in a VM."""
        return [khz or self.host_tsc_khz for khz in self.machine.vms[0].tsc_khz]

    def load(self) -> list[LoadedGuest]:
        """Each VM's guest in its memory.

        Raises:
            ImageError: the image cannot be run, or a module not be read.
            UsageError: the guest is told no distance of deadlines, but one was asked for; or it cannot be
                told its command line.
        """
        guests = [guest for guest in self.machine.load() if isinstance(guest, LoadedGuest)]
        if self.delta_cycles is not None and guests[0].first.mode is CpuMode.PROTECTED:
            name = os.fspath(self.spec.guest)
            raise UsageError(
                f"{name!r} starts in protected mode, where it is told no distance of deadlines;"
                " leave delta out"
            )
        return guests


@dataclass(frozen=True)
class RunSpec:
    """A run, as it is asked for. Fields of another kind are refused at once, the rest by `plan`.

    Attributes:
        guest: a built-in guest's name, or the path of an image: multiboot, ELF or flat.
        profile: the rules in force: a profile, or the name of one of `vlapic.kernels.profiles`.
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
        engine: the CPU under each vCPU, a name of `vlapic.machine.engines.ENGINES` that runs images.
        observers: functions that are told every event, one by one; one that raises an exception is dropped
            with a RuntimeWarning. Events are made for them, which takes time.
        progress: called a few times a second of wall time.
    """

    guest: str | os.PathLike[str] = "deadline"
    _: KW_ONLY
    profile: str | Profile = "series"
    without: Sequence[int] = ()
    timer: str = "auto"
    apicv: bool = False
    pi_inject: bool = False
    mwait_in_guest: bool = False
    advance: str | int = "auto"
    events: int = DEFAULT_EVENTS
    seconds: float | None = None
    instructions: int | None = None
    vcpus: int | None = None
    tsc_khz: int | Sequence[int] | None = None
    vms: int = 1
    pcpus: int | None = None
    host_tsc_khz: int | None = None
    memory_mib: int = DEFAULT_MEMORY_MIB
    append: str = ""
    modules: Sequence[str | os.PathLike[str]] = ()
    seed: int = 0
    trace: str | os.PathLike[str] | None = None
    worst: int = 0
    budgets: Sequence[str] = ()
    delta: str | None = None
    delta_cycles: int | None = None
    host: HostModel | str | os.PathLike[str] = DEFAULT
    engine: str = EMULATED
    observers: Sequence[Observer] = ()
    progress: Progress | None = None

    def __post_init__(self) -> None:
        """Refuse a field of another kind with a UsageError that names what is expected."""
        check_kinds(RunSpec, **{field.name: getattr(self, field.name) for field in fields(self)})

    def check(self) -> None:
        """Find out whether the run would be refused, and run nothing.

        Raises:
            UsageError: a field is wrong by itself, or does not go with the others.
            ImageError: the guest's image cannot be run, or a module not be read.
            WorldError: the file of the host model cannot be read.
        """
        self.plan().load()

    def plan(self) -> Plan:
        """What the fields come to; nothing is loaded yet.

        Raises:
            UsageError: a field is wrong by itself, or does not go with the others.
            WorldError: the file of the host model cannot be read.
        """
        profile, parameters = kernel_settings(
            self.profile,
            self.without,
            self.timer,
            self.apicv,
            self.pi_inject,
            self.mwait_in_guest,
            self.advance,
        )
        budgets = parse_all(self.budgets)
        check_range("worst", self.worst, 0, MAX_WORST)
        check_range("events", self.events, 1, U64)
        check_range("seed", self.seed, 0, U64)
        check_range("memory", self.memory_mib, MIN_MEMORY >> 20, MAX_MEMORY >> 20, "MiB")
        if self.seconds is not None and not 0 < self.seconds <= MAX_SECONDS:
            raise UsageError(
                f"seconds {self.seconds:g} is out of range; it takes more than 0 and at most {MAX_SECONDS}"
            )
        if self.instructions is not None:
            check_range("instructions", self.instructions, 1, U64)
        if self.host_tsc_khz is not None:
            check_range("host TSC frequency", self.host_tsc_khz, 1, U32, "kHz")
        check_engine(self.engine)
        model = find_model(self.host, self.host_tsc_khz)
        host_tsc_khz = model.tsc_khz if self.host_tsc_khz is None else self.host_tsc_khz
        if self.timer == "preemption":
            check_preemption_timer(profile, model, host_tsc_khz)
        program = find_program(os.fspath(self.guest))
        frequencies = self._frequencies(program, host_tsc_khz)
        delta_cycles = self._delta_cycles(program, frequencies[0])
        self._check_trace(program)
        vm = VmSpec(
            guest=program,
            tsc_khz=frequencies,
            memory_bytes=self.memory_mib << 20,
            interrupts=self.events,
            delta_cycles=delta_cycles,
            append=self.append,
            modules=self.modules,
            mwait_in_guest=self.mwait_in_guest,
        )
        return Plan(
            spec=self,
            machine=MachineSpec(
                vms=(vm,) * self.vms,
                tsc_khz=host_tsc_khz,
                model=model,
                profile=profile,
                parameters=parameters,
                seed=self.seed,
                pcpus=self.pcpus,
                engine=self.engine,
            ),
            built_in=isinstance(program, Program),
            budgets=budgets,
            delta_cycles=None if self.delta is None and self.delta_cycles is None else delta_cycles,
        )

    def _frequencies(self, program: Program | Path, host_tsc_khz: int) -> list[int]:
        """Of each vCPU's TSC in a VM, kHz: there are as many vCPUs."""
        vcpus, tsc_khz = self.vcpus, self.tsc_khz
        built_in = program if isinstance(program, Program) else None
        if vcpus is None:
            vcpus = built_in.vcpus if built_in else 1
        if tsc_khz is None and built_in and built_in.tsc_khz and vcpus == built_in.vcpus:
            tsc_khz = built_in.tsc_khz
        check_range("vcpus", vcpus, 1, MAX_VCPUS)
        check_range("vms", self.vms, 1, MAX_VMS)
        if self.pcpus is not None:
            check_range("pcpus", self.pcpus, 1, self.vms * vcpus, why=", as many as there are vCPUs")
        return tsc_frequencies(tsc_khz, vcpus, host_tsc_khz)

    def _delta_cycles(self, program: Program | Path, tsc_khz: int) -> int:
        """Distance of the deadlines, cycles of the first vCPU's TSC."""
        delta_cycles = self.delta_cycles
        built_in = program if isinstance(program, Program) else None
        if self.delta is not None:
            if delta_cycles is not None:
                raise UsageError("delta and delta_cycles are one setting; give one of them")
            delta_cycles = distance_cycles(self.delta, tsc_khz)
            if built_in and not built_in.deadlines:
                those = ", ".join(each.name for each in PROGRAMS.values() if each.deadlines)
                raise UsageError(
                    f"guest {built_in.name!r} has no deadlines to set a distance of; delta goes with {those}"
                )
        if delta_cycles is None:
            delta_cycles = built_in.delta_cycles if built_in else DEFAULT_DELTA_CYCLES
        check_range("distance of deadlines", delta_cycles, 0, U64, "cycles")
        return delta_cycles

    def _check_trace(self, program: Program | Path) -> None:
        """Raise UsageError where the trace would be written over what the run reads."""
        if self.trace is None:
            return
        if isinstance(program, Path) and same_file(program, self.trace):
            raise UsageError(f"the trace {os.fspath(self.trace)!r} is the guest's image; choose another file")
        if any(same_file(ModuleFile.of(module).path, self.trace) for module in self.modules):
            raise UsageError(f"the trace {os.fspath(self.trace)!r} is a boot module; choose another file")
