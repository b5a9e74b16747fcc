"""One vCPU: the loop around its guest, in the order of docs/timing.md.

Follows `kvm/x86.c` (`vcpu_run`, `vcpu_enter_guest`, `vcpu_block`) as of v5.2, whose order of an entry the
series
has: inject, trace, wait, tune, then load the preemption timer. The loop carries out what the device asks for,
spends
what the host model says, and tells observers what happened. The device is touched by this loop and its exits
only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vlapic import events
from vlapic.apic.advance import Advancement
from vlapic.apic.backends import Hrtimer, PreemptionTimer
from vlapic.apic.lapic import LocalApic
from vlapic.apic.timer import Timer, Waited
from vlapic.clock import SimClock
from vlapic.errors import GuestFailure
from vlapic.machine.engine import CpuEngine
from vlapic.machine.exits import HANDLERS
from vlapic.machine.hostmodel import Cost, Draws
from vlapic.machine.measure import Measure
from vlapic.tsc import U64, GuestTsc

if TYPE_CHECKING:
    from vlapic.machine.host import Vm


class Vcpu:
    """One virtual CPU of a VM, on a physical CPU of its own.

    Attributes:
        clock: of its physical CPU.
        tsc, advancement, timer, lapic, engine: its parts.
        measure: what is known of its next timer interrupt.
        trace: takes every event; None makes none.
        halted: True from HLT until the guest can take an interrupt.
        failure: why this vCPU will never run again, None while it can.
    """

    def __init__(
        self, vm: Vm, index: int, tsc_khz: int, make_engine: Callable[[GuestTsc], CpuEngine]
    ) -> None:
        host = vm.host
        self.vm = vm
        self.index = index
        self.trace = host.on_event
        self._on_interrupt = host.on_interrupt
        self._model = host.model
        self._wait_step_cycles = host.model.wait_step(host.tsc_khz)
        self._draws = Draws(host.seed, vm.index << 16 | index)
        self.clock = SimClock(host.start_tsc)
        self.tsc = GuestTsc(tsc_khz, host.tsc_khz)
        # A new guest's TSC starts at 0, whatever the host's has reached (`kvm_synchronize_tsc`).
        self.tsc.offset = -self.tsc.at(host.start_tsc) & U64
        self.advancement = Advancement(host.parameters.lapic_timer_advance_ns)
        hrtimer = Hrtimer(self.clock, host.tsc_khz, self._hrtimer_fired)
        preemption = (
            PreemptionTimer(self.clock, self.tsc, host.model.preemption_timer_rate)
            if host.parameters.preemption_timer
            else None
        )
        self.timer = Timer(
            self.clock, self.tsc, hrtimer, preemption, self.advancement, host.profile, client=self
        )
        self.lapic = LocalApic(index, self.timer, client=self)
        self.engine = make_engine(self.tsc)
        self.measure = Measure(self.timer, self.tsc)
        self.halted = False
        self.failure: GuestFailure | None = None
        self._injected: int | None = None
        if self.trace:
            self.trace(
                events.VcpuStart(
                    *self.stamp(),
                    tsc_khz,
                    self.tsc.ratio,
                    self.tsc.frac_bits,
                    self.tsc.offset,
                    host.profile.name,
                    self.advancement.advance_ns,
                )
            )

    # -- the loop --

    def run_once(self) -> None:
        """One round of `vcpu_run`: sleep, or enter the guest and handle its exit; then deliver an expiry."""
        if self.halted and not self._runnable():
            self._block()
        else:
            self.halted = False
            self._enter_guest()
        if self.timer.pending and self.lapic.deliver_timer():
            self.measure.accepted(self.lapic.timer_vector)

    def _runnable(self) -> bool:
        """Whether a halted guest would take an interrupt (`kvm_arch_vcpu_runnable`)."""
        return self.lapic.deliverable() is not None and self.engine.interruptible

    def _timer_requested(self) -> bool:
        """Whether an expiry waits to be delivered (`kvm_cpu_has_pending_timer`)."""
        return self.timer.pending and self.lapic.enabled and not self.lapic.timer_masked

    def _block(self) -> None:
        """Sleep in HLT until something wakes the vCPU (`vcpu_block`), the timer on the hrtimer."""
        if not self.engine.interrupts_enabled:
            self.failure = GuestFailure("halted with interrupts off (IF=0)", self.engine.rip)
            return
        hv_timer_was_in_use = self.timer.before_block()
        slept = False
        while not (self._timer_requested() or self._runnable()):
            if not self.clock.sleep():
                self.failure = GuestFailure(
                    "halted for ever: no timer is armed, no interrupt can come", self.engine.rip
                )
                return
            slept = True
        if slept:
            self._spend("wake_up", self._model.wake_up)
        self.timer.after_block(hv_timer_was_in_use)

    def _enter_guest(self) -> None:
        """One `vcpu_enter_guest`: inject, wait, run, handle the exit."""
        window = not self._inject()
        # Interrupts are off from here to the guest; an expiry that came in before cancels the entry.
        if self._timer_requested():
            return
        if self.trace:
            self.trace(events.Entry(*self.stamp(), self.engine.rip))
        waited, wait_cycles = self._wait()
        preemption = self._load_preemption_timer()
        clock = self.clock
        clock.elapse(self._draws.cycles("entry", self._model.entry))
        if self._injected is not None:
            self._reach_handler(self._injected, waited, wait_cycles)
            self._injected = None
        left = self.engine.run(clock.now, clock.next_alarm(), preemption, window)
        clock.now = left.host_tsc
        HANDLERS[type(left)](self, left)

    def _inject(self) -> bool:
        """Put the deliverable vector into the entry (`inject_pending_event`); False if the guest must open a
        window first.

        An injection whose entry was cancelled is made again at the next one.
        """
        if self._injected is None:
            if self.lapic.deliverable() is None:
                self.measure.blocked(self.clock.now)
                return True
            if not self.engine.interruptible:
                self.measure.blocked(self.clock.now)
                return False
            self.measure.injected(self.clock.now)
            self._injected = self.lapic.acknowledge()
            if self.trace:
                self.trace(events.InjectVirq(*self.stamp(), self._injected))
        self._spend("injection", self._model.injection)
        return True

    def _wait(self) -> tuple[Waited | None, int]:
        """The busy wait for an expired deadline, and its tuning: what it found, and host cycles waited."""
        waited = self.timer.wait(self.lapic.timer_vector_in_service, self._wait_step_cycles)
        if waited is None:
            return None, 0
        if self.trace:
            self.trace(events.WaitLapicExpire(*self.stamp(), waited.delta_cycles))
        cycles = waited.steps * self._wait_step_cycles
        self.clock.elapse(cycles)
        if self.trace:
            self.trace(events.AdvanceSample(*self.stamp(), self.advancement.advance_ns))
        return waited, cycles

    def _load_preemption_timer(self) -> int | None:
        """When the counter that this entry loads runs out, in host TSC; None if it is off."""
        preemption = self.timer.preemption
        if preemption is None:
            return None
        value = preemption.entry_value()
        return None if value is None else preemption.runs_out_at(value)

    def _reach_handler(self, vector: int, waited: Waited | None, wait_cycles: int) -> None:
        """The entry delivers `vector`: its handler's first instruction is the guest's next."""
        engine = self.engine
        engine.inject_interrupt(vector)
        interrupt = self.measure.handled(*self.stamp(), vector, engine.instructions, waited, wait_cycles)
        if interrupt is not None:
            self._on_interrupt(interrupt)
            if self.trace:
                self.trace(interrupt)

    # -- the host's work --

    def _hrtimer_fired(self) -> None:
        """The hrtimer's interrupt, with interrupts off until its callback has run."""
        self.clock.elapse(self._draws.cycles("hrtimer", self._model.hrtimer))
        self.timer.hrtimer_fired()

    def _spend(self, name: str, cost: Cost) -> None:
        """Host work with interrupts on."""
        self.clock.work(self._draws.cycles(name, cost))

    def spend_exit(self, reason: str) -> None:
        """Trace an exit by its VMX name, and do the host's work on it."""
        if self.trace:
            self.trace(events.Exit(*self.stamp(), reason, self.engine.rip, 0, 0))
        self._spend(reason, self._model.exits[reason])

    def stamp(self) -> tuple[int, int, int]:
        """What leads every event: host TSC, VM, vCPU."""
        return self.clock.now, self.vm.index, self.index

    # -- the device's tracepoints (TimerClient, ApicClient) --

    def trace_hv_timer_state(self, in_use: bool) -> None:
        if self.trace:
            self.trace(events.HvTimerState(*self.stamp(), in_use))

    def trace_accept_irq(self, vector: int) -> None:
        if self.trace:
            self.trace(events.AcceptIrq(*self.stamp(), self.lapic.apic_id, vector, 0, False))

    def trace_eoi(self, vector: int) -> None:
        if self.trace:
            self.trace(events.Eoi(*self.stamp(), vector))
