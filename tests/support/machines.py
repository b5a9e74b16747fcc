"""Machines for tests: one VM on a host without jitter, whose guest is a Python generator."""

from vlapic.kernels.profiles import SERIES
from vlapic.machine import scheduler
from vlapic.machine.engines.scripted import ScriptedEngine
from vlapic.machine.host import Host, ModuleParameters
from vlapic.machine.hostmodel.model import constant_model

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
        self.host = Host(
            tsc_khz,
            model or constant_model(),
            profile,
            parameters=ModuleParameters(advance, preemption, apicv, pi_inject),
            seed=seed,
            on_interrupt=self.interrupts.append,
            on_event=self.events.append,
        )
        self.vm = self.host.create_vm(mwait_in_guest)
        self.vcpu = self.vm.create_vcpu(lambda tsc: ScriptedEngine(tsc, guest, handler), guest_khz)
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
