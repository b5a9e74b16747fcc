"""One vCPU: the loop around its guest, in the order of docs/timing.md.

Follows `kvm/x86.c` (`vcpu_run`, `vcpu_enter_guest`, `vcpu_block`). Up to v5.2, and in the series, an entry
goes: inject, trace, wait, tune, then load the preemption timer; the profile says where a kernel does it in
another order. The device is touched by this loop and its exits only. What it asks for is `parts.py`'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from vlapic import events
from vlapic.apic.advance_state import Waited
from vlapic.apic.ipi import Message
from vlapic.errors import GuestFailure
from vlapic.kernels.rules import Place
from vlapic.machine.engines.contract import CpuEngine, Exit, ExternalInterrupt, Handled, Reentry
from vlapic.machine.exits import HANDLERS
from vlapic.machine.flight_recorder import INTERRUPT
from vlapic.machine.parts import Parts
from vlapic.tsc import GuestTsc

if TYPE_CHECKING:
    from vlapic.machine.host import Vm

#: Whether the busy wait comes after the preemption timer's counter is computed.
WAITS_LAST = {Place.BEFORE_COUNTER: False, Place.LAST: True}
#: What an entry without a busy wait found, and waited.
NOT_WAITED: tuple[Waited | None, int] = None, 0


class Vcpu(Parts):
    """One virtual CPU of a VM.

    Attributes:
        inbox: messages of other local APICs that this one's loop has not accepted yet.
        halted: True from HLT until the guest can take an interrupt.
        sleeping: True while it waits, halted, for an event of its physical CPU.
        failure: why this vCPU will never run again, None while it can.
    """

    #: What to do with an exit, by its class.
    handlers: ClassVar[dict[type[Any], Callable[[Any, Any], bool | None]]] = HANDLERS
    #: Whether exits are handled in the middle of the engine's run. It changes nothing but the speed.
    FASTPATH: ClassVar[bool] = True

    def __init__(
        self,
        vm: Vm,
        index: int,
        tsc_khz: int,
        make_engine: Callable[[GuestTsc], CpuEngine],
        wait_for_sipi: bool = False,
    ) -> None:
        super().__init__(vm, index, vm.host.place(self), tsc_khz, make_engine)
        self._on_interrupt = vm.host.on_interrupt
        self._waits_last = WAITS_LAST[vm.host.profile.place]
        self.lapic.controller.wait_for_sipi = wait_for_sipi
        self.engine.fastpath = self._fastpath if self.FASTPATH else None
        if wait_for_sipi:
            self.engine.reset()
        self.halted = False
        self.failure: GuestFailure | None = None
        self.inbox: deque[Message] = deque()
        self._injected: int | None = None
        self._injects_nmi = False
        # What the guest was entered with, while it is only stopped for others: counter, windows.
        self._entered: tuple[int | None, bool, bool] | None = None
        self._entry: tuple[int | None, bool, bool] = None, False, False  # the same, of the last entry
        self._horizon: int | None = None
        self.sleeping = False
        self._hv_timer_was_in_use = False

    # -- the loop --

    @property
    def in_guest(self) -> bool:
        """Whether the guest is only stopped for others, and goes on without an entry."""
        return self._entered is not None

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
        self.clock.work(next(self._wake_up_cycles))
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
        if self.trace:
            self.trace(events.Entry(*self.stamp(), self.engine.rip))
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
        self.clock.now += next(self._entry_cycles)  # interrupts are off: what falls due waits
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
        self.handlers[type(left)](self, left)

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
        goes_on = self.handlers[type(left)](self, left)
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
        elif self._injected is not None and self.trace:
            self.trace(events.InjectVirq(*self.stamp(), self._injected, reinjected=True))
        self.clock.work(next(self._injection_cycles))
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
        if self.trace:
            self.trace(events.InjectVirq(*self.stamp(), self._injected))
        return True

    def _wait(self) -> tuple[Waited | None, int]:
        """The busy wait for an expired deadline, and its tuning: what it found, and host cycles waited."""
        waited = self.timer.wait(self._timer_injected(), self._wait_step_cycles)
        if waited is None:
            return NOT_WAITED
        if self._waits:
            self._waits.waited(self.stamp(), waited.delta_cycles)
        self.clock.elapse(waited.cycles)
        if self._waits:
            self._waits.tuned(self.stamp(), self.advancement.advance_ns)
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
            self._on_interrupt(interrupt)
            if self.trace:
                self.trace(interrupt)
