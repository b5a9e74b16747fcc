# SPDX-License-Identifier: GPL-2.0-or-later
"""The start of a machine: the one place where guests get into memory and vCPUs get their CPUs.

A run, the scenarios of the fixes and a program of one's own all start here. What is started is a
`MachineSpec`, or the one that a `RunSpec` comes to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

from vlapic.events import Event, TimerInterrupt
from vlapic.machine.engines import Engine, find_engine
from vlapic.machine.engines.contract import CpuMode
from vlapic.machine.engines.scripted import ScriptedGuest
from vlapic.machine.guests.loader import LoadedGuest
from vlapic.machine.host import Host, Vm, measure_nothing
from vlapic.session.spec import MachineSpec, RunSpec, VmSpec


def boot(
    spec: RunSpec | MachineSpec,
    guests: Sequence[LoadedGuest | ScriptedGuest] | None = None,
    *,
    on_interrupt: Callable[[TimerInterrupt], None] = measure_nothing,
    on_event: Callable[[Event], None] | None = None,
) -> Host:
    """Start a host and its VMs; every vCPU stands at its guest's first instruction.

    The host is a context manager that frees the CPUs; `Host.close` does it, too.

    Args:
        spec: what is started; of a `RunSpec` the host and the guests, without limits, trace and observers.
        guests: each VM's, where they are loaded already (`MachineSpec.load`).
        on_interrupt: called for every timer interrupt that reached its handler.
        on_event: called for every event, the interrupts among them; None makes none.

    Raises:
        UsageError: a field is wrong, or does not go with the others.
        ImageError: a guest's image cannot be run, or a module not be read.
        EngineError: an engine cannot be had here.
    """
    if isinstance(spec, RunSpec):
        plan = spec.plan()
        machine, guests = plan.machine, plan.load() if guests is None else guests
    else:
        machine, guests = spec, spec.load() if guests is None else guests
    host = Host(
        machine.tsc_khz,
        machine.model,
        machine.profile,
        machine.parameters,
        machine.seed,
        on_interrupt=on_interrupt,
        on_event=on_event,
        pcpus=machine.pcpus,
    )
    try:
        for vm, guest in zip(machine.vms, guests, strict=True):
            switch_on(host, vm, guest, machine.engine)
    except BaseException:
        host.close()
        raise
    return host


def switch_on(
    host: Host, spec: VmSpec, guest: LoadedGuest | ScriptedGuest, engine: str | Engine = "emulated"
) -> Vm:
    """Start one VM more on a host, which may have run others already.

    Args:
        guest: the spec's, as its `load` gives it.
        engine: a name of `vlapic.machine.engines.ENGINES`, or an engine itself.

    Raises:
        UsageError: there is no engine of that name, or it is for another kind of guests.
        EngineError: the engine cannot be had here.
        ValueError: the host cannot scale its TSC to a vCPU's.
    """
    if isinstance(engine, str):
        engine = find_engine(engine, images=not isinstance(guest, ScriptedGuest))
    make_cpu = engine(guest, host.model.cycles_per_insn)
    vm = host.create_vm(spec.mwait_in_guest)
    for index, khz in enumerate(spec.tsc_khz):
        vm.create_vcpu(partial(make_cpu, index), khz, wait_for_sipi=spec.wait_for_sipi and index > 0)
    if isinstance(guest, LoadedGuest):
        if guest.first.mode is CpuMode.PROTECTED:
            vm.leave_as_firmware_does()
        vm.board.describe(
            cpus=len(spec.tsc_khz), memory_bytes=spec.memory_bytes, command_line=os.fsencode(spec.append)
        )
    return vm
