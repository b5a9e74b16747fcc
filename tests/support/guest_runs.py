# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests of our own on the emulated machine: the sources, and a run of one to its end."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from vlapic.kernels.profiles import SERIES
from vlapic.machine import scheduler
from vlapic.machine.guests.loader import MIB, RESULTS, Results
from vlapic.machine.host import ModuleParameters
from vlapic.machine.hostmodel.model import constant_model
from vlapic.session.boot import boot
from vlapic.session.spec import MachineSpec, VmSpec

GUESTS = Path(str(files("vlapic.machine").joinpath("guests")))
#: Where common.S keeps a second CPU's results, from the first's.
SECOND_RESULTS = 6 * 8
#: Everything that has an image.
SOURCES = sorted(str(path.relative_to(GUESTS).with_suffix("")) for path in GUESTS.rglob("*.bin"))


class GuestRun:
    """A guest, by its name or its image, run on a host without jitter to its report, failure or last round.

    Attributes:
        value: what it reported; None if it did not.
        console: what it printed.
        failure: the failure of the vCPU that failed, None if none did.
        results: what it measured.
        interrupts: timer interrupts as the machine measured them.
        events: all events, if they were asked for.
    """

    def __init__(
        self,
        name,
        interrupts=20,
        delta=200_000,
        *,
        vcpus=1,
        tsc_khz=(2_500_000,),
        advance=0,
        preemption=True,
        memory=16 * MIB,
        append="",
        modules=(),
        model=None,
        events=False,
        rounds=200_000,
        profile=SERIES,
        apicv=False,
        pi_inject=False,
        mwait_in_guest=False,
        may_go_on=False,
    ):
        self.interrupts, self.events = [], []
        image = name if isinstance(name, bytes) else (GUESTS / f"{name}.bin").read_bytes()
        asked = VmSpec(
            image,
            [tsc_khz[min(index, len(tsc_khz) - 1)] for index in range(vcpus)],
            memory,
            interrupts,
            delta,
            append,
            modules,
            mwait_in_guest,
        )
        machine = MachineSpec(
            [asked],
            2_500_000,
            model or constant_model(),
            profile,
            ModuleParameters(advance, preemption, apicv, pi_inject),
        )
        self.loaded: Any
        (self.loaded,) = machine.load()
        with boot(
            machine,
            [self.loaded],
            on_interrupt=self.interrupts.append,
            on_event=self.events.append if events else None,
        ) as host:
            (vm,) = host.vms
            unfinished = scheduler.run(vm.vcpus, lambda: vm.ended, rounds)
        assert may_go_on or not unfinished, (
            f"{name} did not end within {rounds} rounds: {bytes(vm.ports.console)!r}"
        )
        self.vcpus = vm.vcpus
        self.value = vm.ports.exit_value
        self.console = vm.ports.console.decode()
        self.failure = next((vcpu.failure for vcpu in vm.vcpus if vcpu.failure is not None), None)
        self.results = self.loaded.results()

    @property
    def second_results(self):
        """What a second vCPU measured."""
        return Results(*RESULTS.unpack_from(self.loaded.memory, self.loaded.results_address + SECOND_RESULTS))
