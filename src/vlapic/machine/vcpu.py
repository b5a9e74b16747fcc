# SPDX-License-Identifier: GPL-2.0-or-later
"""One vCPU: the loop around its guest, in the order of docs/timing.md.

Follows `kvm/x86.c` (`vcpu_run`, `vcpu_enter_guest`, `vcpu_block`). Up to v5.2, and in the series, an entry
goes: inject, trace, wait, tune, then load the preemption timer; the profile says where a kernel does it in
another order. The device is touched by this loop and by the handlers of exits only, which are given to it.
What the device asks of its surroundings (`ApicClient`) stands at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from vlapic import events
from vlapic.apic.advance_state import Advancement, Waited
from vlapic.apic.backends import Hrtimer, PreemptionTimer
from vlapic.apic.ipi import Message
from vlapic.apic.lapic import LocalApic
from vlapic.apic.timer import Timer
from vlapic.clock import SimClock
from vlapic.errors import GuestFailure
from vlapic.kernels.rules import Place, ZeroDelta
from vlapic.machine.devices import Board
from vlapic.machine.engines.contract import CpuEngine, Exit, ExternalInterrupt, Handled, Reentry
from vlapic.machine.facts import HostFacts
from vlapic.machine.flight_recorder import INTERRUPT, Ring
from vlapic.machine.host_work import HostWork
from vlapic.machine.measure import Measure
from vlapic.machine.msrs import Msrs
from vlapic.machine.pcpu import PhysicalCpu
from vlapic.machine.tracer import Tracer
from vlapic.tsc import U64, GuestTsc

#: Whether the busy wait comes after the preemption timer's counter is computed.
WAITS_LAST = {Place.BEFORE_COUNTER: False, Place.LAST: True}
#: What an entry without a busy wait found, and waited.
NOT_WAITED: tuple[Waited | None, int] = None, 0

#: What to do with an exit, by its class. True: nobody but the vCPU can have something to do now, and the
#: guest may go on at once.
Handlers = Mapping[type[Any], Callable[[Any, Any], bool | None]]


class VcpuClient(Protocol):
    """What a vCPU asks of its VM.

    Attributes:
        mwait_in_guest: its guests' MWAIT does not exit.
        board: its devices.
    """

    mwait_in_guest: bool
    board: Board

    @property
    def index(self) -> int:
        """Its number on its host, from 0."""

    @property
    def vcpus(self) -> Sequence[Vcpu]:
        """All its vCPUs, by their numbers."""

    def send(self, message: Message, sender: Vcpu) -> None:
        """Bring a message to the vCPUs that it is for."""

    def deliver(self, message: Message, vcpus: Iterable[Vcpu], sender: Vcpu | None = None) -> None:
        """Bring a message to these vCPUs; `sender` takes its own at once."""

    def address_changed(self) -> None:
        """Messages find an APIC by something else from now on."""

    def make_active(self, vcpu: Vcpu) -> None:
        """This vCPU goes on now."""


class Vcpu:
    """One virtual CPU of a VM, and the surroundings of its APIC and timer (`ApicClient`).

    Attributes:
        vm: its VM.
        index: its number there, from 0; its initial APIC ID too.
        facts: what is so on its host.
        cpu: its physical CPU.
        clock: of that one.
        tsc, advancement, timer, lapic, msrs, engine: what it is made of.
        work: what its host's work costs.
        trace: tells an event of a kind, by :meth:`Tracer.tell`; `tracer` the others.
        measure: what is known of its next timer interrupt.
        last: the last things it did, see `flight_recorder.py`.
        inbox: messages of other local APICs that this one's loop has not accepted yet.
        halted: True from HLT until the guest can take an interrupt.
        sleeping: True while it waits, halted, for an event of its physical CPU.
        failure: why this vCPU will never run again, None while it can.
    """

    #: Whether exits are handled in the middle of the engine's run. It changes nothing but the speed.
    FASTPATH: ClassVar[bool] = True

    def __init__(
        self,
        vm: VcpuClient,
        index: int,
        facts: HostFacts,
        cpu: PhysicalCpu,
        handlers: Handlers,
        make_engine: Callable[[GuestTsc], CpuEngine],
        tsc_khz: int,
        wait_for_sipi: bool = False,
    ) -> None:
        """A vCPU that has not run yet.

        Args:
            cpu: the physical CPU whose time is its time; whoever makes it places it there.
            handlers: what to do with each exit of its engine.
            make_engine: makes the CPU under it, given the TSC that its guest reads.
            tsc_khz: frequency of that one.
            wait_for_sipi: it waits for another one to start it.

        Raises:
            ValueError: the host cannot scale its TSC that far.
        """
        self.vm = vm
        self.index = index
        self.facts = facts
        self.cpu = cpu
        self.clock = clock = cpu.clock
        self.tsc = tsc = GuestTsc(tsc_khz, facts.tsc_khz, facts.tsc_frac_bits)
        # A new guest's TSC starts at 0, whatever the host's has reached (`kvm_synchronize_tsc`).
        tsc.offset = -tsc.at(facts.start_tsc) & U64
        self.work = HostWork(facts.model, facts.seed, facts.tsc_khz, vm.index, index)
        self.tracer = Tracer(clock, vm.index, index, facts.profile, facts.on_event)
        self.trace = self.tracer.tell
        self.advancement = Advancement(facts.module)
        self.timer = Timer(
            clock,
            tsc,
            Hrtimer(clock, facts.tsc_khz, self._hrtimer_fired),
            _preemption_timer(clock, tsc, facts) if facts.has_hv_timer else None,
            self.advancement,
            facts.profile,
            client=self,
        )
        self.lapic = LocalApic(index, self.timer, client=self)
        self.lapic.controller.wait_for_sipi = wait_for_sipi
        self.msrs = Msrs()
        self.engine = make_engine(tsc)
        self.engine.fastpath = self._fastpath if self.FASTPATH else None
        if wait_for_sipi:
            self.engine.reset()
        self.measure = Measure(self.timer, tsc)
        self.last = Ring(vm.index, index)
        self.inbox: deque[Message] = deque()
        self.halted = False
        self.sleeping = False
        self.failure: GuestFailure | None = None
        self._handlers = handlers
        self._waits_last = WAITS_LAST[facts.profile.place]
        self._injected: int | None = None
        self._injects_nmi = False
        # What the guest was entered with, while it is only stopped for others: counter, windows.
        self._entered: tuple[int | None, bool, bool] | None = None
        self._entry: tuple[int | None, bool, bool] = None, False, False  # the same, of the last entry
        self._horizon: int | None = None
        self._hv_timer_was_in_use = False
        self._tell_of_start()

    def _tell_of_start(self) -> None:
        tsc, facts = self.tsc, self.facts
        self.trace(events.TscOffset, 0, tsc.offset)
        self.trace(
            events.VcpuStart,
            tsc.khz,
            tsc.ratio,
            tsc.frac_bits,
            tsc.offset,
            facts.profile.name,
            self.advancement.advance_ns,
            facts.module.setting(),
        )

    # -- the loop --

    @property
    def in_guest(self) -> bool:
        """Whether the guest is only stopped for others, and goes on without an entry."""
        return self._entered is not None

    def make_active(self) -> None:
        """It goes on now: devices read its time, limits are looked at for its VM."""
        self.vm.make_active(self)

    def ready_at(self) -> int | None:
        """The host TSC at which this vCPU, alone on its CPU, has something to do.

        None if only others can give it something.
        """
        if self.failure is not None:
            return None
        if not self.sleeping or self._woken():
            return self.clock.now
        due = self.clock.next_due
        return None if due is None else max(due, self.clock.now)

    def wants_cpu(self, awake: bool = False) -> bool:
        """Whether it would run if it had its physical CPU: it is awake, or (not if `awake`) woken up."""
        if self.failure is not None:
            return False
        return not self.sleeping or (not awake and self._woken())

    def step(self, horizon: int | None = None) -> None:
        """One round of `vcpu_run`: sleep, or enter the guest and handle its exit; then deliver an expiry.

        Args:
            horizon: host TSC up to which the guest may run, because others of its VM are further behind; a
                guest stopped there goes on at the next step, as if nothing had been. None: no matter.
        """
        if self._entered is not None:
            self._run_guest(*self._entered, horizon)
        else:
            controller = self.lapic.controller
            if self.inbox and not (self.sleeping and self.halted):
                self._take_messages()
            if controller.init_pending or controller.startup_page is not None:
                self._start_up()
            if self.failure is not None:
                return
            if controller.wait_for_sipi:
                self._sleep()
            elif self.halted and (self.sleeping or not self._runnable()):
                self._block()
            else:
                self.halted = False
                self._enter_guest(horizon)
        if self.timer.pending and self.lapic.controller.deliver_timer():
            self.measure.accepted(self.lapic.controller.timer_vector)

    def _take_messages(self) -> None:
        """Accept what other APICs have sent since the last round."""
        controller, inbox = self.lapic.controller, self.inbox
        while inbox:
            message = inbox.popleft()
            controller.accept(message.mode, message.vector, message.level, message.asserted)

    def _start_up(self) -> None:
        """INIT puts the CPU into its reset state; a start-up message it waits for starts it in real mode."""
        init, page = self.lapic.accept_events()
        if init:
            self.last.append((self.clock.now, "INIT", self.engine.rip))
            self.engine.reset()
            self.halted = False
            self._injected = None
            self._injects_nmi = False
            # Its SIPI may have come with it, while others had the physical CPU.
            if page is None and not self.lapic.controller.wait_for_sipi:
                self.failure = GuestFailure("sent INIT to its first CPU, and there is no firmware to start")
        if page is not None:
            self.last.append((self.clock.now, f"SIPI {page}", self.engine.rip))
            self.engine.startup(page)
            self.sleeping = False

    def _runnable(self) -> bool:
        """Whether a halted guest would take an interrupt or an NMI (`kvm_arch_vcpu_runnable`)."""
        controller = self.lapic.controller
        if controller.nmi_pending and not self._nmis_wait():
            return True
        return (
            controller.extint_pending or controller.deliverable() is not None
        ) and self.engine.interruptible

    def _may_get_nmi(self) -> bool:
        """Whether an NMI is there, or may come from a device or a pin of the APIC."""
        controller = self.lapic.controller
        return controller.nmi_pending > 0 or controller.lint0_sends_nmi() or self.vm.board.may_send_nmi()

    def _nmis_wait(self) -> bool:
        """Whether latched NMIs wait; behind one that is injected or handled, one can (`process_nmi`)."""
        if not self._injects_nmi and not self.engine.nmi_blocked:
            return False
        self.lapic.controller.nmi_pending = 1
        return True

    def _timer_requested(self) -> bool:
        """Whether an expiry waits to be delivered (`kvm_cpu_has_pending_timer`)."""
        return self.lapic.controller.timer_requested

    def _woken(self) -> bool:
        """Whether something ends a sleep (`kvm_vcpu_check_block`)."""
        if self.inbox:
            return True
        return not self.lapic.controller.wait_for_sipi and (self._timer_requested() or self._runnable())

    @property
    def is_asleep(self) -> bool:
        """Whether it sleeps, and nothing that has come so far wakes it."""
        return self.sleeping and not self._woken()

    def _block(self) -> None:
        """Sleep in HLT until something wakes the vCPU (`vcpu_block`), the timer on the hrtimer.

        One step goes to the next event of its physical CPU, which may or may not wake it.
        """
        if not self.sleeping:
            alone = len(self.vm.vcpus) == 1
            if alone and not self.engine.interrupts_enabled and not self._may_get_nmi():
                self.failure = GuestFailure("halted with interrupts off (IF=0)", self.engine.rip)
                return
            self._hv_timer_was_in_use = self.timer.before_block()
            if self._woken():
                self.timer.after_block(self._hv_timer_was_in_use)
                return
        if not (self.sleeping and self._woken()):
            self._sleep()
            if not self._woken():
                return
        self.sleeping = False
        self.clock.work(next(self.work.wake_up))
        self.timer.after_block(self._hv_timer_was_in_use)

    def _sleep(self) -> None:
        """Let time pass up to the next event of its physical CPU, if no other CPU has something to do before.

        One that has may send something that comes earlier, and goes on first. On a shared CPU the other
        vCPUs may run meanwhile, and `pcpu.py` says when time passes.
        """
        self.sleeping = True
        if not self.cpu.shared:
            self.cpu.sleep()

    def _enter_guest(self, horizon: int | None) -> None:
        """One `vcpu_enter_guest`: inject, wait, run, handle the exit."""
        entry = self._deliver_and_enter()
        if entry is not None:
            self._run_guest(*entry, horizon)

    def _deliver_and_enter(self) -> tuple[int | None, bool, bool] | None:
        """The part of an entry before the guest runs.

        Returns:
            When the preemption timer runs out, and the windows that are wanted; None: it was cancelled.
        """
        window, nmi_window = self._inject()
        # Interrupts are off from here to the guest; what came in before cancels the entry.
        if self.inbox or (self.timer.pending and self._timer_requested()):
            return None
        if self.cpu.shared and self.cpu.turn_is_over():
            return None
        preemption, (waited, wait_cycles) = self._enter()
        if self._injects_nmi:
            self.last.append((self.clock.now, "NMI", self.engine.rip))
            self.engine.inject_nmi()
            self._injects_nmi = False
        elif self._injected is not None:
            self._reach_handler(self._injected, waited, wait_cycles)
            self._injected = None
        return preemption, window, nmi_window

    def _enter(self) -> tuple[int | None, tuple[Waited | None, int]]:
        """The entry itself, interrupts off: when the preemption timer runs out, and what `_wait` returns."""
        self.tracer.entry(self.engine)
        timer, waits_last = self.timer, self._waits_last
        host_timers = timer.host_timers
        hv_timer = host_timers.preemption if host_timers.hv_timer_in_use else None
        counter = None
        if hv_timer is not None and waits_last:
            counter = hv_timer.entry_value()
        waited = self._wait() if timer.expired_deadline_tsc else NOT_WAITED
        if hv_timer is not None and not waits_last:
            counter = hv_timer.entry_value()
        preemption = None if hv_timer is None or counter is None else hv_timer.runs_out_at(counter)
        self.clock.now += next(self.work.entry)  # interrupts are off: what falls due waits
        return preemption, waited

    def _run_guest(self, preemption: int | None, window: bool, nmi_window: bool, horizon: int | None) -> None:
        """Run the guest until it exits, or up to the horizon: then it stays entered."""
        clock = self.clock
        self._horizon = horizon
        self._entry = preemption, window, nmi_window
        try:
            left = self.engine.run(clock.now, self._until(), preemption, window, nmi_window)
        except KeyboardInterrupt:
            clock.now = max(clock.now, self.engine.host_tsc)  # what is asked now is asked there
            raise
        self._entered = None
        if type(left) is Handled:
            return
        clock.now = left.host_tsc
        if type(left) is ExternalInterrupt:
            due = clock.next_due
            if due is None or clock.now < due:
                self._entered = self._entry
                return
        self._handlers[type(left)](self, left)

    def _until(self) -> int | None:
        """How far the guest may run: to the next event of its physical CPU, or to the horizon."""
        due, horizon = self.clock.next_due, self._horizon
        return due if horizon is None or (due is not None and due <= horizon) else horizon

    def _fastpath(self, left: Exit) -> Reentry | None:
        """Handle an exit in the middle of the engine's run, and enter the guest again if that is all.

        The same steps as in the loop, in the same order.

        Returns:
            None: the loop is to go on with whatever comes next.
        """
        clock, cpu, controller = self.clock, self.cpu, self.lapic.controller
        clock.now = left.host_tsc
        goes_on = self._handlers[type(left)](self, left)
        if not goes_on or self.timer.pending or cpu.shared or clock.now >= cpu.alone_until:
            return None
        if self.inbox:
            self._take_messages()
        if controller.init_pending or controller.startup_page is not None:
            return None
        if (
            controller.interrupts.irr
            or controller.nmi_pending
            or controller.extint_pending
            or self.measure.in_flight
        ):
            # A limit of timer interrupts is looked at behind each of them.
            if self.measure.in_flight and self._runnable():
                return None
            entry = self._deliver_and_enter()
            if entry is None:
                return None
        else:
            entry = self._enter()[0], False, False
        self._entry = preemption, window, nmi_window = entry
        return clock.now, self._until(), preemption, window, nmi_window

    def _inject(self) -> tuple[bool, bool]:
        """Put an NMI or an interrupt into the entry (`inject_pending_event`).

        An injection whose entry was cancelled is made again at the next one.

        Returns:
            Which windows the guest has to open first for what it would not take: for interrupts, for NMIs.
        """
        controller = self.lapic.controller
        takes_nmi = controller.nmi_pending and not self._nmis_wait()
        if self._injected is None and not self._injects_nmi:
            if takes_nmi:
                self._injects_nmi = controller.take_nmi()
            elif not (controller.interrupts.irr or controller.extint_pending):
                self.measure.blocked(self.clock.now)
                return False, controller.nmi_pending > 0
            elif not self._inject_interrupt():
                return self._windows()
        elif self._injected is not None:
            self.trace(events.InjectVirq, self._injected, False, True)
        self.clock.work(next(self.work.injection))
        nmi_window = controller.nmi_pending > 0
        return self._injects_nmi and controller.deliverable() is not None, nmi_window

    def _windows(self) -> tuple[bool, bool]:
        """Which windows the guest has to open for what waits."""
        controller = self.lapic.controller
        return controller.extint_pending or controller.deliverable() is not None, controller.nmi_pending > 0

    def _inject_interrupt(self) -> bool:
        """Take the interrupt that comes first, if the guest takes one: the 8259As' before the APIC's own."""
        controller = self.lapic.controller
        vector = None if controller.extint_pending else controller.deliverable()
        if (vector is None and not controller.extint_pending) or not self.engine.interruptible:
            self.measure.blocked(self.clock.now)
            return False
        self.measure.injected(self.clock.now)
        if vector is None:
            self._injected = self.vm.board.acknowledge()
            controller.take_extint()
        else:
            self._injected = controller.acknowledge(vector)
        self.trace(events.InjectVirq, self._injected)
        return True

    def _wait(self) -> tuple[Waited | None, int]:
        """The busy wait for an expired deadline, and its tuning: what it found, and host cycles waited."""
        waited = self.timer.wait(self._timer_injected(), self.work.wait_step)
        if waited is None:
            return NOT_WAITED
        self.tracer.waited(waited.delta_cycles)
        self.clock.elapse(waited.cycles)
        self.tracer.tuned(self.advancement.advance_ns)
        return waited, waited.cycles

    def _timer_injected(self) -> bool:
        """Whether this entry delivers the timer's vector (`lapic_timer_int_injected`)."""
        return self.lapic.controller.timer_vector_in_service

    def _reach_handler(self, vector: int, waited: Waited | None, wait_cycles: int) -> None:
        """The entry delivers `vector`: its handler's first instruction is the guest's next."""
        engine = self.engine
        self.last.append((self.clock.now, INTERRUPT[vector], engine.rip))
        engine.inject_interrupt(vector)
        interrupt = self.measure.handled(
            self.clock.now, self.vm.index, self.index, vector, engine.instructions, waited, wait_cycles
        )
        if interrupt is not None:
            self.facts.on_interrupt(interrupt)
            self.tracer.interrupt(interrupt)

    # -- the host's work, and what an exit's handler asks for --

    def _hrtimer_fired(self) -> None:
        """The hrtimer's interrupt, with interrupts off until its callback has run."""
        self.tracer.hrtimer_expire(self.facts.tsc_khz)
        self.clock.elapse(next(self.work.hrtimer))
        self.timer.hrtimer_fired()

    def spend_exit(self, reason: str, retired_bytes: int = 0) -> None:
        """Keep and trace an exit by its VMX name, and do the host's work on it.

        Args:
            retired_bytes: length of the instruction that exited, if the guest stands behind it already.
        """
        rip = self.engine.rip - retired_bytes
        self.last.append((self.clock.now, reason, rip))
        self.tracer.exit(reason, rip)
        self.clock.work(next(self.work.exits[reason]))

    def move_tsc(self, cycles: int) -> None:
        """The guest sets its TSC: by so many cycles from where it is; a deadline on it is timed anew."""
        before = self.tsc.offset
        self.tsc.move(cycles)
        self.trace(events.TscOffset, before, self.tsc.offset)
        self.timer.tsc_moved(cycles)
        self.measure.tsc_moved(cycles)

    # -- what the device asks for (TimerClient, ApicClient) --

    def inject_timer(self) -> None:
        raise AssertionError("an expiry was to bypass the loop of a vCPU without APICv")

    def post_timer(self) -> bool:
        raise AssertionError("a timer interrupt was to be posted into a vCPU without APICv")

    def send_ipi(self, message: Message) -> None:
        self.tracer.ipi(message)
        self.vm.send(message, self)

    def address_changed(self) -> None:
        self.vm.address_changed()

    def remote_eoi(self, vector: int) -> None:
        self.trace(events.RemoteEoi, vector)
        self.vm.board.remote_eoi(vector)

    def trace_smi_ignored(self) -> None:
        self.trace(events.SmiIgnored)

    def trace_hv_timer_state(self, in_use: bool) -> None:
        self.trace(events.HvTimerState, in_use)

    def trace_accept_irq(self, vector: int, mode: int, level: bool) -> None:
        self.trace(events.AcceptIrq, self.lapic.apic_id, vector, mode, level)

    def trace_eoi(self, vector: int) -> None:
        self.trace(events.Eoi, vector)


def _preemption_timer(clock: SimClock, tsc: GuestTsc, facts: HostFacts) -> PreemptionTimer:
    divides_zero = facts.profile.zero_delta is ZeroDelta.DIVIDE
    return PreemptionTimer(clock, tsc, facts.model.preemption_timer_rate, divides_zero=divides_zero)
