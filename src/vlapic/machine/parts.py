"""What a vCPU is made of, and what is done for its device: time spent, messages brought, events told.

The parts are put together here, with what the host model says its host's work costs. The order of that work
is `vcpu.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vlapic import events
from vlapic.apic.advance_state import Advancement
from vlapic.apic.backends import Hrtimer, PreemptionTimer
from vlapic.apic.ipi import Message, icr_of_message
from vlapic.apic.lapic import LocalApic
from vlapic.apic.timer import Timer
from vlapic.kernels.rules import ZeroDelta
from vlapic.machine.engines.contract import CpuEngine
from vlapic.machine.flight_recorder import ring
from vlapic.machine.hostmodel.model import Draws
from vlapic.machine.measure import Measure
from vlapic.machine.msrs import Msrs
from vlapic.machine.wait_trace import WaitTracer
from vlapic.tsc import U64, GuestTsc, ktime_ns

if TYPE_CHECKING:
    from vlapic.machine.host import Vm
    from vlapic.machine.pcpu import PhysicalCpu


class Parts:
    """The parts of one vCPU, and the surroundings of its APIC and timer (`ApicClient`).

    Attributes:
        cpu: its physical CPU.
        clock: of that one.
        tsc, advancement, timer, lapic, msrs, engine: what it is made of.
        measure: what is known of its next timer interrupt.
        trace: takes every event; None makes none.
        last: the last things it did, see `flight_recorder.py`.
    """

    def __init__(
        self,
        vm: Vm,
        index: int,
        cpu: PhysicalCpu,
        tsc_khz: int,
        make_engine: Callable[[GuestTsc], CpuEngine],
    ) -> None:
        host = vm.host
        self.vm = vm
        self.index = index
        self.trace = host.on_event
        self._waits = None if self.trace is None else WaitTracer(host.profile, self.trace)
        self._wait_step_cycles = host.model.wait_step(host.tsc_khz)
        draws = Draws(host.seed, vm.index << 16 | index)
        self._hrtimer_cycles = draws.of("hrtimer", host.model.hrtimer)
        self._wake_up_cycles = draws.of("wake_up", host.model.wake_up)
        self._injection_cycles = draws.of("injection", host.model.injection)
        self._entry_cycles = draws.of("entry", host.model.entry)
        self._posting_cycles = draws.of("posting", host.model.posting)
        self._exit_cycles = {reason: draws.of(reason, cost) for reason, cost in host.model.exits.items()}
        self.cpu = cpu
        self.clock = cpu.clock
        self.tsc = GuestTsc(tsc_khz, host.tsc_khz, host.tsc_frac_bits)
        # A new guest's TSC starts at 0, whatever the host's has reached (`kvm_synchronize_tsc`).
        self.tsc.offset = -self.tsc.at(host.start_tsc) & U64
        self.advancement = Advancement(host.module)
        hrtimer = Hrtimer(self.clock, host.tsc_khz, self._hrtimer_fired)
        preemption = (
            PreemptionTimer(
                self.clock,
                self.tsc,
                host.model.preemption_timer_rate,
                divides_zero=host.profile.zero_delta is ZeroDelta.DIVIDE,
            )
            if host.has_hv_timer
            else None
        )
        self.timer = Timer(
            self.clock, self.tsc, hrtimer, preemption, self.advancement, host.profile, client=self
        )
        self.lapic = LocalApic(index, self.timer, client=self)
        self.msrs = Msrs()
        self.engine = make_engine(self.tsc)
        self.measure = Measure(self.timer, self.tsc)
        self.last = ring()
        if self.trace:
            self.trace(events.TscOffset(*self.stamp(), 0, self.tsc.offset))
            self.trace(
                events.VcpuStart(
                    *self.stamp(),
                    tsc_khz,
                    self.tsc.ratio,
                    self.tsc.frac_bits,
                    self.tsc.offset,
                    host.profile.name,
                    self.advancement.advance_ns,
                    host.module.setting(),
                )
            )

    # -- the host's work --

    def _hrtimer_fired(self) -> None:
        """The hrtimer's interrupt, with interrupts off until its callback has run."""
        if self.trace:
            number = self.vm.index << 16 | self.index
            now_ns = ktime_ns(self.clock.now, self.vm.host.tsc_khz)
            self.trace(events.HrtimerExpire(*self.stamp(), number, "apic_timer_fn", now_ns))
        self.clock.elapse(next(self._hrtimer_cycles))
        self.timer.hrtimer_fired()

    def spend_exit(self, reason: str, retired_bytes: int = 0) -> None:
        """Keep and trace an exit by its VMX name, and do the host's work on it.

        Args:
            retired_bytes: length of the instruction that exited, if the guest stands behind it already.
        """
        rip = self.engine.rip - retired_bytes
        self.last.append((self.clock.now, reason, rip))
        if self._waits:
            self._waits.exit(events.Exit(*self.stamp(), reason, rip, 0, 0))
        self.clock.work(next(self._exit_cycles[reason]))

    def stamp(self) -> tuple[int, int, int]:
        """What leads every event: host TSC, VM, vCPU."""
        return self.clock.now, self.vm.index, self.index

    def move_tsc(self, cycles: int) -> None:
        """The guest sets its TSC: by so many cycles from where it is; a deadline on it is timed anew."""
        before = self.tsc.offset
        self.tsc.move(cycles)
        if self.trace:
            self.trace(events.TscOffset(*self.stamp(), before, self.tsc.offset))
        self.timer.tsc_moved(cycles)
        self.measure.tsc_moved(cycles)

    # -- what the device asks for (TimerClient, ApicClient) --

    def inject_timer(self) -> None:
        raise AssertionError("an expiry was to bypass the loop of a vCPU without APICv")

    def post_timer(self) -> bool:
        raise AssertionError("a timer interrupt was to be posted into a vCPU without APICv")

    def send_ipi(self, message: Message) -> None:
        if self.trace:
            self.trace(events.ApicIpi(*self.stamp(), icr_of_message(message), message.destination))
        self.vm.deliver(message, self.vm.apic_map[message, self.lapic], self)

    def address_changed(self) -> None:
        self.vm.apic_map.forget()

    def remote_eoi(self, vector: int) -> None:
        if self.trace:
            self.trace(events.RemoteEoi(*self.stamp(), vector))
        self.vm.board.remote_eoi(vector)

    def trace_smi_ignored(self) -> None:
        if self.trace:
            self.trace(events.SmiIgnored(*self.stamp()))

    def trace_hv_timer_state(self, in_use: bool) -> None:
        if self.trace:
            self.trace(events.HvTimerState(*self.stamp(), in_use))

    def trace_accept_irq(self, vector: int, mode: int, level: bool) -> None:
        if self.trace:
            self.trace(events.AcceptIrq(*self.stamp(), self.lapic.apic_id, vector, mode, level))

    def trace_eoi(self, vector: int) -> None:
        if self.trace:
            self.trace(events.Eoi(*self.stamp(), vector))
