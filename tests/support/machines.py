# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines for tests: one VM on a host without jitter, whose guest is a Python generator."""

from vlapic.kernels.profiles import SERIES
from vlapic.machine import scheduler
from vlapic.machine.engines import SCRIPTED
from vlapic.machine.engines.scripted import ScriptedGuest
from vlapic.machine.host import ModuleParameters
from vlapic.machine.hostmodel.model import constant_model
from vlapic.session.boot import boot, switch_on
from vlapic.session.spec import MachineSpec, VmSpec

VECTOR = 0xE0
TSC_DEADLINE, MASKED = 0x40000, 0x10000
SVR, LVTT, TMICT, TDCR, EOI, TPR = (
    0xFEE0_00F0,
    0xFEE0_0320,
    0xFEE0_0380,
    0xFEE0_03E0,
    0xFEE0_00B0,
    0xFEE0_0080,
)
DEADLINE_MSR = 0x6E0


def end_of_interrupt(cpu, vector):
    """A handler: a few instructions, EOI."""
    yield 5
    yield cpu.store(EOI, 0)


def set_up(cpu, lvtt=TSC_DEADLINE | VECTOR):
    """Enable the APIC and set LVTT; part of a guest."""
    yield cpu.store(SVR, 0x1FF)
    yield cpu.store(TDCR, 0xB)
    yield cpu.store(LVTT, lvtt)


def spinning(count, delta=200_000, **lvtt):
    """A guest that arms a deadline and computes until its handler ran, `count` times."""

    def guest(cpu):
        yield from set_up(cpu, **lvtt)
        for done in range(1, count + 1):
            yield cpu.wrmsr(DEADLINE_MSR, cpu.rdtsc() + delta)
            while len(cpu.handled) < done:
                yield 5000
        yield cpu.out(0xF4, 0)

    return guest


def halting(count, delta=200_000):
    """A guest that arms a deadline and halts, `count` times."""

    def guest(cpu):
        yield from set_up(cpu)
        for _ in range(count):
            cpu.interrupts_enabled = False
            yield cpu.wrmsr(DEADLINE_MSR, cpu.rdtsc() + delta)
            cpu.interrupts_enabled = True
            cpu.shadow = True
            yield cpu.hlt()
        yield cpu.out(0xF4, 0)

    return guest


def scripted(*guests, handler=end_of_interrupt, khz=None, mwait_in_guest=False, wait_for_sipi=False):
    """A VM with a vCPU for each guest; `khz` has the frequency of each one's TSC."""
    return VmSpec(
        ScriptedGuest(guests, handler),
        khz or (None,) * len(guests),
        mwait_in_guest=mwait_in_guest,
        wait_for_sipi=wait_for_sipi,
    )


def boot_scripted(*vms, on_interrupt=lambda interrupt: None, on_event=None, model=None, **machine):
    """A host without jitter with these VMs, each made by `scripted`."""
    spec = MachineSpec(vms, model=model or constant_model(), **{"engine": SCRIPTED, **machine})
    return boot(spec, on_interrupt=on_interrupt, on_event=on_event)


def add_scripted(host, *guests, **vm):
    """One VM more on a host."""
    spec = scripted(*guests, **vm)
    return switch_on(host, spec, spec.guest, SCRIPTED)


class Run:
    """A guest run to its end: the vCPU, its interrupts and its events."""

    def __init__(
        self,
        guest,
        handler=end_of_interrupt,
        *,
        advance=0,
        preemption=True,
        tsc_khz=2_500_000,
        guest_khz=None,
        model=None,
        seed=0,
        rounds=100_000,
        profile=SERIES,
        apicv=False,
        pi_inject=False,
        mwait_in_guest=False,
    ):
        self.interrupts, self.events = [], []
        self.host = boot_scripted(
            scripted(guest, handler=handler, khz=(guest_khz,), mwait_in_guest=mwait_in_guest),
            tsc_khz=tsc_khz,
            model=model,
            profile=profile,
            parameters=ModuleParameters(advance, preemption, apicv, pi_inject),
            seed=seed,
            on_interrupt=self.interrupts.append,
            on_event=self.events.append,
        )
        (self.vm,) = self.host.vms
        (self.vcpu,) = self.vm.vcpus
        self.engine = self.vcpu.engine
        if scheduler.run([self.vcpu], self.ended, rounds):
            raise AssertionError(f"the guest did not end within {rounds} rounds")

    def ended(self):
        return self.vm.ports.exit_value is not None or self.vcpu.failure is not None

    @property
    def lateness(self):
        """Guest cycles from deadline to handler, an interrupt each."""
        return [it.handler_tsc - it.deadline_tsc for it in self.interrupts]

    def of(self, *event_types):
        """The events of some types, in order."""
        return [event for event in self.events if isinstance(event, event_types)]
