"""The host timers of an APIC timer: which of them runs, when a deadline counts as come, what comes after it.

Follows `kvm/lapic.c` (`restart_apic_timer`, `start_hv_timer`, `start_sw_timer`, `apic_timer_expired`,
`advance_periodic_target_expiration`), with the rules in which kernels differ by name (`timer_rules.py`). What
the guest writes and reads is `timer.py`'s. The advancement is the profile's (`apic/advance.py`).
"""

from __future__ import annotations

from typing import Protocol

from vlapic.apic.advance_state import Advancement
from vlapic.apic.backends import Hrtimer, PreemptionTimer
from vlapic.apic.timer_rules import ONE_SHOT, PERIODIC, TSC_DEADLINE, Cancels, TimerRules
from vlapic.clock import Clock
from vlapic.kernels.profiles import Profile
from vlapic.tsc import U64, GuestTsc, cycles_to_ns, ns_to_cycles


class TimerClient(Protocol):
    """What the timer asks of its surroundings."""

    def trace_hv_timer_state(self, in_use: bool) -> None:
        """kvm_hv_timer_state."""

    def inject_timer(self) -> None:
        """Accept the timer's vector now; masked, it is lost. Asked for with APICv only."""

    def post_timer(self) -> bool:
        """Post the timer's interrupt into the guest if that runs now; False if it does not.

        Asked for by the hrtimer's callback of a timer that `posts`.
        """


class HostTimers:
    """An APIC timer from the write that arms it to its expiry.

    Attributes:
        mode: LVTT's.
        period_ns: of the running one-shot or periodic count, 0 if none.
        target_ns: host monotonic time at which that count runs out.
        deadline_tsc: guest TSC the timer is armed for, 0 if it is not (`tscdeadline`).
        expired_deadline_tsc: the deadline that the next entry delivering the vector waits for; 0 is none.
            `expire` writes it, `wait` clears it (`expired_tscdeadline`).
        pending: an expiry that has not been delivered yet.
        hv_timer_in_use: the preemption timer runs, not the hrtimer. At most one of the two does.
        fired_deadline_tsc: deadline of the pending or last delivered expiry; for measurement only.
        missed: expiries that found one pending, and periods skipped; for measurement only.
        armed_early: the host timer was last armed early by an advancement; for measurement only.
        advanced: expiries of host timers that were armed so; likewise.
        rules: the profile's.
        apicv: the APIC is virtualised by the CPU (`apicv_active`). Its vCPU sets it when it is made.
        posts: its hrtimer may post into a running guest (`kvm_can_post_timer_interrupt`). Likewise.
        wants_to_run: KVM_RUN is under way (`vcpu->wants_to_run`). `state.py` clears it while it puts in what
            KVM_SET_LAPIC and KVM_SET_MSRS do.
    """

    def __init__(
        self,
        clock: Clock,
        tsc: GuestTsc,
        hrtimer: Hrtimer,
        preemption: PreemptionTimer | None,
        advancement: Advancement,
        profile: Profile,
        client: TimerClient,
    ) -> None:
        self._clock = clock
        self._tsc = tsc
        self.hrtimer = hrtimer
        self.preemption = preemption
        self.advancement = advancement
        self._profile = profile
        self._client = client
        self.rules = TimerRules.of(profile)
        self.mode = ONE_SHOT
        self.period_ns = 0
        self.target_ns = 0
        self.deadline_tsc = 0
        self.expired_deadline_tsc = 0
        self.pending = False
        self.hv_timer_in_use = False
        self.fired_deadline_tsc = 0
        self.missed = 0
        self.advanced = 0
        self.armed_early = False
        self.apicv = False
        self.posts = False
        self.wants_to_run = True

    @property
    def running(self) -> bool:
        """Whether a host timer is armed for it."""
        return self.hv_timer_in_use or self.hrtimer.active

    @property
    def has_hv_timer(self) -> bool:
        """Whether it may ever be on the preemption timer (`kvm_can_use_hv_timer`)."""
        return self.preemption is not None and not self.preemption.refused

    # -- arming --

    def _cancel(self, what: Cancels) -> None:
        """The hrtimer, and what else the profile's `cancel_apic_timer` cancels here."""
        self.hrtimer.cancel()
        if what.hv_timer:
            self._cancel_hv_timer()
        if what.pending:
            self.pending = False

    def _restart(self) -> None:
        """Arm the preemption timer where that can be, else the hrtimer (`restart_apic_timer`)."""
        if self.mode is not PERIODIC and self.pending:
            # Up to v5.1 it was `start_hv_timer` that saw the pending expiry, and said that it had failed.
            if self.rules.pretends_failure:
                self._start_sw_timer()
            return
        if not self._start_hv_timer():
            self._start_sw_timer()

    def _start_hv_timer(self) -> bool:
        """`start_hv_timer`: False where there is none, nothing to arm, or too far a deadline.

        Up to v5.1 also where the deadline is past: it has expired then, and the hrtimer's path, which finds
        it pending, cancels the preemption timer without a word.
        """
        if self.preemption is None or not self.deadline_tsc:
            return False
        program = self.preemption.set(self.deadline_tsc, self.advancement.tuned.advance_ns)
        if program is None:
            return False
        self.armed_early = bool(self.advancement.tuned.advance_ns)
        self.hv_timer_in_use = True
        self.hrtimer.cancel()
        # A periodic timer that is already past stays armed with a zero delta: the entry exits at once and
        # re-bases it.
        if self.mode is not PERIODIC and program.expired:
            self.expire()
            if self.rules.pretends_failure:
                return False
            self._cancel_hv_timer()
        self._client.trace_hv_timer_state(self.hv_timer_in_use)
        return True

    def _cancel_hv_timer(self) -> None:
        if self.hv_timer_in_use and self.preemption is not None:
            self.preemption.cancel()
        self.hv_timer_in_use = False

    def _start_sw_timer(self) -> None:
        """`start_sw_timer`: the hrtimer. Traced even where there is nothing to arm."""
        self._cancel_hv_timer()
        if self.mode is not PERIODIC and self.pending:
            return
        if self.mode is TSC_DEADLINE:
            self._start_sw_tscdeadline()
        else:
            self._start_sw_period()
        self._client.trace_hv_timer_state(False)

    def _start_sw_tscdeadline(self) -> None:
        """`start_sw_tscdeadline`: armed early by the advancement, or expired, as the profile says."""
        if not self.deadline_tsc:
            return
        guest_tsc = self._tsc.at(self._clock.now)
        if self.deadline_tsc <= guest_tsc:
            self.expire()
            return
        remaining_ns = cycles_to_ns(self.deadline_tsc - guest_tsc, self._tsc.khz)
        advancement = self.advancement
        self.armed_early = bool(advancement.tuned.advance_ns)
        arms, expires_ns = advancement.arm(self.hrtimer.now_ns(), remaining_ns, advancement.tuned.advance_ns)
        if arms:
            self.hrtimer.start(expires_ns)
        else:
            self.expire()

    def _start_sw_period(self) -> None:
        """`start_sw_period`: not advanced."""
        if not self.period_ns:
            return
        self.armed_early = False
        if self.hrtimer.now_ns() > self.target_ns:
            self.expire()
            if self.mode is not PERIODIC:
                return
            self._advance_periodic_target()
        self.hrtimer.start(self.target_ns)

    def _advance_periodic_target(self) -> None:
        """Target and deadline of the next period (`advance_periodic_target_expiration`).

        Late periods collapse to one that ends now (as of v6.19), or are made up for one by one. In the second
        case a target that is past makes a deadline of the guest's that is anywhere: nanoseconds below 0 are
        converted as the u64 they are not.
        """
        now_ns = self.hrtimer.now_ns()
        target_ns = self.target_ns + self.period_ns
        if self.rules.collapses_periods and target_ns < now_ns:
            self.missed += (now_ns - target_ns) // self.period_ns
            target_ns = now_ns
        self.target_ns = target_ns
        self.deadline_tsc = self._deadline_in(target_ns - now_ns & U64)

    def _deadline_in(self, ns: int) -> int:
        return (self._tsc.at(self._clock.now) + ns_to_cycles(ns, self._tsc.khz)) & U64

    # -- expiring --

    def expire(self, from_callback: bool = False) -> bool:
        """The deadline has come, as far as the host is concerned (`apic_timer_expired`).

        Args:
            from_callback: the hrtimer's callback says so.

        Returns:
            Whether the vCPU has to be kicked: there is an expiry to deliver that was not there before.
        """
        if self.pending:
            self.missed += 1
            return False
        self.advanced += self.armed_early
        # The series' fifth patch: what expired on the preemption timer is waited for in every mode.
        if self.mode is TSC_DEADLINE or (self.hv_timer_in_use and self.rules.records_hv_timer):
            self.expired_deadline_tsc = self.deadline_tsc
        # A count that a new TDCR made expire again has no deadline, and neither has one left armed.
        self.fired_deadline_tsc = self.deadline_tsc or self._tsc.at(self._clock.now)
        if self.mode is PERIODIC and not self.rules.collapses_periods:
            self._measure_from_target()
        if self.apicv and self._bypass_the_loop(from_callback):
            return False
        self.pending = True
        return True

    def _bypass_the_loop(self, from_callback: bool) -> bool:
        """With APICv: deliver an expiry here and now, if the profile does. Then it never is pending."""
        if from_callback:
            if not self.posts or not self._client.post_timer():
                return False
        elif self.rules.injects_directly and (self.wants_to_run or not self.rules.injects_in_kvm_run_only):
            self._client.inject_timer()
        else:
            return False
        if self.mode is not PERIODIC:
            self.deadline_tsc = 0
            self.target_ns = 0
        return True

    def _measure_from_target(self) -> None:
        """The deadline of a period that was past when it began is no time; its target is."""
        late_ns = self.hrtimer.now_ns() - self.target_ns
        if late_ns > 0:
            late_cycles = ns_to_cycles(late_ns, self._tsc.khz)
            self.fired_deadline_tsc = (self._tsc.at(self._clock.now) - late_cycles) & U64

    def hrtimer_fired(self) -> bool:
        """The hrtimer's callback (`apic_timer_fn`); returns as `expire`."""
        kick = self.expire(from_callback=True)
        if self.mode is PERIODIC and self.period_ns:
            self._advance_periodic_target()
            self.hrtimer.start(self.target_ns)
        return kick

    def preemption_timer_ran_out(self) -> None:
        """A VM exit by the preemption timer (`kvm_lapic_expired_hv_timer`): expire and cancel."""
        if not self.hv_timer_in_use:
            return
        if self.rules.cancels_first:
            self._cancel_hv_timer()
        self.expire()
        self._cancel_hv_timer()
        if self.mode is PERIODIC and self.period_ns:
            self._advance_periodic_target()
            self._restart()

    # -- HLT --

    def before_block(self) -> bool:
        """The vCPU is about to sleep: the preemption timer would not count. Returns whether it was in use."""
        if not self.hv_timer_in_use:
            return False
        self._start_sw_timer()
        return True

    def after_block(self, hv_timer_was_in_use: bool) -> None:
        """The vCPU is awake again: back to the preemption timer, by the profile's rule."""
        if hv_timer_was_in_use or (self.rules.restarts_always and self.preemption is not None):
            self._restart()
