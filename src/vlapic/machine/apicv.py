# SPDX-License-Identifier: GPL-2.0-or-later
"""A vCPU whose APIC the CPU virtualises (APICv), and timer interrupts posted into its guest.

Follows SDM vol. 3C "APIC Virtualization and Virtual Interrupts" and `kvm/lapic.c` (`apic_timer_expired`,
`kvm_can_post_timer_interrupt`, `lapic_timer_int_injected`). What differs from any other vCPU:

- An interrupt waits in the IRR until the guest takes it, by itself: nothing is injected (no kvm_inj_virq),
  no interrupt window is asked for. So the busy wait looks for the timer's vector in the IRR.
- EOI, TPR and CR8 are written, and most registers read, without an exit, and without kvm_apic and kvm_eoi.
- An expiry that comes from no hrtimer's callback is delivered at once, by the profile's rule; one that LVTT
  masks is lost (`apic_timer_expired`, `kvm_apic_local_deliver`).
- With `pi_inject_timer` the hrtimer runs on another physical CPU. Its callback posts into the running guest,
  which is not left; otherwise it is pending as ever.

Taking an interrupt costs nothing here. The notification of a posted one takes what the host model calls
`posting`, after the wait. Other vCPUs' and devices' messages are not posted: they make the guest exit, as
without APICv. An EOI that is for the I/O APIC exits too (`EOI_INDUCED`), at the cost of any access to the
APIC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from vlapic.apic import registers as r
from vlapic.apic.advance_state import Waited
from vlapic.apic.backends import Hrtimer
from vlapic.clock import Alarm, SimClock
from vlapic.errors import UsageError
from vlapic.kernels.profiles import Profile
from vlapic.kernels.rules import DirectInjection
from vlapic.machine import exits
from vlapic.machine.engines import contract as e
from vlapic.machine.facts import HostFacts, ModuleParameters
from vlapic.machine.pcpu import PhysicalCpu
from vlapic.machine.vcpu import Handlers, Vcpu, VcpuClient
from vlapic.tsc import GuestTsc

#: Whether timer interrupts may be posted: with `pi_inject_timer`, of whether MWAIT does not exit.
MAY_POST: dict[DirectInjection, Callable[[bool], bool]] = {
    DirectInjection.NONE: lambda mwait_in_guest: False,
    DirectInjection.POSTED: lambda mwait_in_guest: True,
    DirectInjection.APICV: lambda mwait_in_guest: True,
    DirectInjection.APICV_IDLE_IN_GUEST: lambda mwait_in_guest: mwait_in_guest,
    DirectInjection.APICV_IN_KVM_RUN: lambda mwait_in_guest: mwait_in_guest,
}

#: Registers of the page whose reads exit all the same (SDM vol. 3C "Virtualizing Reads from the APIC-Access
#: Page").
READS_THAT_EXIT = frozenset({r.APR, r.PPR, r.TMCCT})
#: Writes that do not exit: they only change which interrupt is next.
WRITES_WITHOUT_EXIT = frozenset({r.EOI, r.TPR})
TPR_MAX = 0xFF


def check_posting(profile: Profile, parameters: ModuleParameters, mwait_in_guest: bool, timer: str) -> None:
    """Whether a run can be what it is asked to be.

    Args:
        timer: "preemption" if nothing but the preemption timer will do.

    Raises:
        UsageError: timer interrupts are to be posted and cannot be, or the preemption timer is asked for
            where KVM refuses it.
    """
    may_post = MAY_POST[profile.direct_injection]
    if parameters.pi_inject_timer:
        if not may_post(True):
            raise UsageError(
                f"the kernel of profile {profile.name} posts no timer interrupts (--pi-inject);"
                " those of v5.3 and later do"
            )
        if not parameters.enable_apicv:
            raise UsageError("timer interrupts are posted (--pi-inject) with APICv only; add --apicv")
        if not may_post(mwait_in_guest):
            raise UsageError(
                f"the kernel of profile {profile.name} posts timer interrupts (--pi-inject) only into guests"
                " whose MWAIT does not exit; add --mwait-in-guest"
            )
    if timer == "preemption" and (parameters.pi_inject_timer or mwait_in_guest):
        why = "--pi-inject" if parameters.pi_inject_timer else "--mwait-in-guest"
        raise UsageError(f"with {why} KVM does not use the preemption timer; leave --timer preemption out")


class HousekeepingClock:
    """A vCPU's time on another CPU: calls come later by what they take there, and cost nothing here."""

    def __init__(self, clock: SimClock, latency_cycles: Iterator[int]) -> None:
        self._clock = clock
        self._latency_cycles = latency_cycles

    @property
    def now(self) -> int:
        return self._clock.now

    def at(self, host_tsc: int, call: Callable[[], None]) -> Alarm:
        return self._clock.at(max(host_tsc, self.now) + next(self._latency_cycles), call)

    def cancel(self, alarm: Alarm) -> None:
        self._clock.cancel(alarm)


class ApicvVcpu(Vcpu):
    """A vCPU with APICv."""

    #: Most of its accesses do not exit at all.
    FASTPATH = False

    def __init__(
        self,
        vm: VcpuClient,
        index: int,
        facts: HostFacts,
        cpu: PhysicalCpu,
        handlers: Handlers,
        make_engine: Callable[[GuestTsc], e.CpuEngine],
        tsc_khz: int,
        wait_for_sipi: bool = False,
    ) -> None:
        """As any other vCPU; the handlers are `APICV_HANDLERS`."""
        super().__init__(vm, index, facts, cpu, handlers, make_engine, tsc_khz, wait_for_sipi)
        self.timer.apicv = True
        may_post = MAY_POST[facts.profile.direct_injection]
        if facts.parameters.pi_inject_timer and may_post(vm.mwait_in_guest):
            self.timer.posts = True
            elsewhere = HousekeepingClock(self.clock, self.work.hrtimer)
            self.timer.host_timers.hrtimer = Hrtimer(elsewhere, facts.tsc_khz, self._fired_elsewhere)
        for reason in ("APIC_WRITE", "EOI_INDUCED"):
            self.work.exits[reason] = self.work.exits["APIC_ACCESS"]
        self._loaded: tuple[int | None, bool] = None, False  # counter and NMI window of the last entry
        self._waited: tuple[Waited | None, int] = None, 0  # of the interrupt in the IRR
        self._in_guest = False  # while calls of other CPUs find the guest running
        self._calls = 0  # of other CPUs, so far

    # -- entering --

    def _inject_interrupt(self) -> bool:
        """An external controller's interrupt is injected; the APIC's own are the guest's to take."""
        if self.lapic.controller.extint_pending:
            return super()._inject_interrupt()
        if not self._takes_interrupt():
            self.measure.blocked(self.clock.now)
        return False

    def _timer_injected(self) -> bool:
        return self.lapic.controller.timer_vector_requested

    def _wait(self) -> tuple[Waited | None, int]:
        waited, cycles = super()._wait()
        if waited is not None:
            self._waited = waited, cycles
        return waited, cycles

    def _run_guest(self, preemption: int | None, window: bool, nmi_window: bool, horizon: int | None) -> None:
        # A preemption timer that has run out makes the guest exit before it takes anything.
        if preemption is None or preemption > self.clock.now:
            window = self._take_interrupt()
        self._loaded = preemption, nmi_window
        super()._run_guest(preemption, window, nmi_window, horizon)

    # -- in the guest --

    def stay(self) -> None:
        """Go on in the guest, which has not been left."""
        preemption, nmi_window = self._loaded
        self._entered = preemption, self._take_interrupt(), nmi_window

    def _takes_interrupt(self) -> bool:
        return self.lapic.controller.deliverable() is not None and self.engine.interruptible

    def _take_interrupt(self) -> bool:
        """The guest takes the interrupt that is next, if it takes one.

        Returns:
            Whether something waits for it to take interrupts.
        """
        controller = self.lapic.controller
        if self._takes_interrupt():
            self.measure.injected(self.clock.now)
            vector = controller.acknowledge()
            waited: tuple[Waited | None, int] = None, 0
            if vector == controller.timer_vector:
                waited, self._waited = self._waited, waited
            self._reach_handler(vector, *waited)
        elif controller.deliverable() is not None:
            self.measure.blocked(self.clock.now)
        return controller.extint_pending or controller.deliverable() is not None

    # -- expiries that are never pending --

    def inject_timer(self) -> None:
        if self.lapic.controller.inject_timer():
            self.measure.accepted(self.lapic.controller.timer_vector)

    def _fired_elsewhere(self) -> None:
        self._calls += 1
        self.timer.hrtimer_fired()

    def post_timer(self) -> bool:
        """Post the timer's vector after the wait for its deadline, which is the other CPU's to wait.

        The guest has it when the notification has come. No advancement makes up for that: it is tuned with
        what is left before the posting.
        """
        if not self._in_guest:
            return False
        waited = self.timer.wait_before_posting(self.work.wait_step)
        wait_cycles = 0
        if waited is not None:
            wait_cycles = waited.cycles
            self.tracer.waited(waited.delta_cycles)
            self.tracer.tuned(self.advancement.advance_ns)
        there = self.clock.now + wait_cycles + next(self.work.posting)
        posted = (waited, wait_cycles), self.timer.fired_deadline_tsc
        self.clock.at(there, partial(self._notified, *posted))
        return True

    def _notified(self, waited: tuple[Waited | None, int], deadline_tsc: int) -> None:
        """The notification of a posted interrupt is here, in the guest or wherever its vCPU is by now."""
        self._calls += 1
        if self.lapic.controller.inject_timer():
            self._waited = waited
            self.measure.accepted(self.lapic.controller.timer_vector, deadline_tsc)

    def called_in_guest(self) -> bool:
        """Other CPUs' calls come while the guest runs. Returns whether it goes on as if nothing had been."""
        now, calls = self.clock.now, self._calls
        self._in_guest = True
        self.clock.take_interrupts()
        self._in_guest = False
        # What else came is this CPU's own, a message, or another's turn: the guest is left for it.
        if self.inbox or self.clock.now != now or self._calls == calls:
            return False
        return not (self.cpu.shared and self.cpu.turn_is_over())


# -- exits, and what is none --


def on_external_interrupt(vcpu: ApicvVcpu, left: e.ExternalInterrupt) -> None:
    if vcpu.timer.posts and vcpu.called_in_guest():
        vcpu.stay()
    else:
        exits.on_external_interrupt(vcpu, left)


def on_interrupt_window(vcpu: ApicvVcpu, left: e.InterruptWindow) -> None:
    if vcpu.lapic.controller.extint_pending:
        exits.on_interrupt_window(vcpu, left)
    else:
        vcpu.stay()


def on_read_memory(vcpu: ApicvVcpu, left: e.ReadMemory) -> None:
    offset = left.address & 0xFFF
    if not vcpu.lapic.decodes(left.address) or offset in READS_THAT_EXIT:
        exits.on_read_memory(vcpu, left)
        return
    vcpu.engine.complete(vcpu.lapic.read(offset, left.size))
    vcpu.stay()


def on_write_memory(vcpu: ApicvVcpu, left: e.WriteMemory) -> None:
    offset = left.address & 0xFFF
    if not vcpu.lapic.decodes(left.address) or offset not in WRITES_WITHOUT_EXIT:
        exits.on_write_memory(vcpu, left, "APIC_WRITE")
    elif offset == r.EOI and ends_level_triggered(vcpu):
        exits.on_write_memory(vcpu, left, "EOI_INDUCED")
    else:
        write(vcpu, offset, left.value)


def on_read_msr(vcpu: ApicvVcpu, left: e.ReadMsr) -> None:
    if not vcpu.lapic.x2apic or offset_of(left.msr) in (None, r.TMCCT):
        exits.on_read_msr(vcpu, left)
        return
    try:
        value = vcpu.lapic.read_msr(left.msr)
    except r.GeneralProtection:
        vcpu.engine.inject_exception(exits.GENERAL_PROTECTION, 0)
    else:
        vcpu.engine.complete(value)
    vcpu.stay()


def on_write_msr(vcpu: ApicvVcpu, left: e.WriteMsr) -> None:
    offset = offset_of(left.msr) if vcpu.lapic.x2apic else None
    if offset == r.TPR and left.value <= TPR_MAX:
        write(vcpu, offset, left.value)
    elif offset == r.EOI and left.value == 0 and not ends_level_triggered(vcpu):
        write(vcpu, offset, 0)
    else:
        exits.on_write_msr(vcpu, left)


def on_read_cr8(vcpu: ApicvVcpu, left: e.ReadCr8) -> None:
    vcpu.engine.complete(vcpu.lapic.interrupts.tpr >> 4)
    vcpu.stay()


def on_write_cr8(vcpu: ApicvVcpu, left: e.WriteCr8) -> None:
    if left.value > exits.MAX_CR8:
        vcpu.engine.inject_exception(exits.GENERAL_PROTECTION, 0)
        vcpu.stay()
    else:
        write(vcpu, r.TPR, left.value << 4)


def offset_of(msr: int) -> int | None:
    """The offset in the page of an x2APIC MSR, None for any other."""
    return msr - r.MSR_X2APIC_FIRST << 4 if r.MSR_X2APIC_FIRST <= msr <= r.MSR_X2APIC_LAST else None


def ends_level_triggered(vcpu: ApicvVcpu) -> bool:
    """Whether an EOI now is one that the I/O APIC has to be told of (the EOI-exit bitmap)."""
    interrupts = vcpu.lapic.interrupts
    return bool(interrupts.isr and interrupts.tmr >> interrupts.isr.bit_length() - 1 & 1)


def write(vcpu: ApicvVcpu, offset: int, value: int) -> None:
    """TPR or EOI, by the CPU: no event tells of it."""
    if offset == r.TPR:
        vcpu.lapic.interrupts.tpr = value & TPR_MAX
    else:
        vcpu.lapic.interrupts.end()
    vcpu.engine.complete()
    vcpu.stay()


#: With APICv.
APICV_HANDLERS: Handlers = {
    **exits.HANDLERS,
    e.ExternalInterrupt: on_external_interrupt,
    e.InterruptWindow: on_interrupt_window,
    e.ReadMemory: on_read_memory,
    e.WriteMemory: on_write_memory,
    e.ReadMsr: on_read_msr,
    e.WriteMsr: on_write_msr,
    e.ReadCr8: on_read_cr8,
    e.WriteCr8: on_write_cr8,
}
