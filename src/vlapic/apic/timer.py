# SPDX-License-Identifier: GPL-2.0-or-later
"""The timer of a local APIC: one-shot, periodic, TSC-deadline; armed, expired, delivered, waited for.

Follows `kvm/lapic.c` (`start_apic_timer`, `restart_apic_timer`, `update_target_expiration`, `apic_get_tmcct`,
`apic_timer_expired`, `advance_periodic_target_expiration`, `__kvm_inject_apic_timer_irqs`,
`wait_lapic_expire`) and SDM vol. 3A "APIC Timer", "TSC-Deadline Mode". Where kernels differ the timer asks
its profile (`kernels/rules/timer.py` says what each rule means). The host timers under it are
`host_timers.py`'s, the advancement `advance_state.py`'s.

The timer knows no APIC and no vCPU. What it must read (the vector in service) it takes as an argument, and
what is to be done (steps to wait) it returns.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

from vlapic.apic.advance_state import Advancement, Waited
from vlapic.apic.backends import Hrtimer, PreemptionTimer
from vlapic.apic.host_timers import HostTimers
from vlapic.clock import Clock
from vlapic.kernels.profiles import Profile
from vlapic.kernels.rules import (
    AfterBlock,
    CountWrite,
    DeadlineWrite,
    DirectInjection,
    Divide,
    HvExit,
    ModeChange,
    PeriodicAdvance,
    PostedWait,
    PreExpired,
    Records,
    Restore,
    SavedCount,
)
from vlapic.tsc import U32, U64, GuestTsc, ns_to_cycles

#: A tick of the APIC's bus clock (`APIC_BUS_CYCLE_NS`): KVM's APIC timer counts at 1 GHz.
APIC_BUS_CYCLE_NS = 1
#: `min_timer_period_us`: a guest cannot have its periodic interrupt more often than this.
MIN_TIMER_PERIOD_NS = 200_000
#: The bits of TDCR that choose the divisor: 0, 1 and 3.
DIVIDE_BITS = 0xB


class TimerMode(IntEnum):
    """LVTT bits 18:17 (SDM vol. 3A "Local Vector Table")."""

    ONE_SHOT = 0
    PERIODIC = 1
    TSC_DEADLINE = 2
    RESERVED = 3


# By number, and below by names of their own: an attribute of an Enum's class costs a fifth of a microsecond
# (Python 3.11).
MODES = tuple(TimerMode)
ONE_SHOT, PERIODIC, TSC_DEADLINE, RESERVED = MODES


def divide_count(tdcr: int) -> int:
    """The divisor a divide configuration register stands for: 1 to 128 (`update_divide_count`)."""
    return 1 << (((tdcr & 3 | (tdcr & 8) >> 1) + 1) & 7)


class TimerClient(Protocol):
    """What the timer asks of its surroundings."""

    def trace_hv_timer_state(self, in_use: bool) -> None:
        """kvm_hv_timer_state."""

    def inject_timer(self) -> None:
        """Accept the timer's vector now; if LVTT masks it, it is lost. Asked with APICv only."""

    def post_timer(self) -> bool:
        """Post the timer's interrupt into the guest if that runs now; False if it does not.

        Asked by the hrtimer's callback of a timer that `posts`.
        """


class Timer:
    """One APIC timer.

    Attributes:
        host_timers: the hrtimer and the preemption timer under it.
        advancement: how early those are armed, and how long an entry waits.
        profile: the kernel whose rules it follows.
        mode: LVTT's; `set_mode` changes it.
        initial_count: TMICT, u32.
        tdcr: TDCR, as far as the profile keeps what is written (`tdcr_bits`).
        tdcr_bits: the bits of TDCR that are kept.
        period_ns: of the running one-shot or periodic count, 0 if none.
        target_ns: host monotonic time at which that count runs out.
        deadline_tsc: guest TSC for which the timer is armed, 0 if it is not (`tscdeadline`).
        expired_deadline_tsc: guest TSC for which the next entry that delivers the vector waits, 0 if none
            (`expired_tscdeadline`). `expire` writes it, `wait` clears it.
        pending: True from an expiry until it is delivered.
        fired_deadline_tsc: deadline of the pending or last delivered expiry; for measurement only.
        missed: expiries that found one pending, and periods skipped; for measurement only.
        advanced: expiries of host timers that were armed early; for measurement only.
        armings: how often the timer was started; for measurement only.
        apicv: the CPU virtualises the APIC (`apicv_active`). Its vCPU sets it when it is made.
        posts: the hrtimer may post into a running guest (`kvm_can_post_timer_interrupt`). Its vCPU sets it
            when it is made.
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
        self._client = client
        self.host_timers = HostTimers(clock, tsc, hrtimer, preemption, advancement)
        self.advancement = advancement
        self.profile = profile
        # Asked at every expiry.
        self._records_hv_timer = profile.records is Records.HV_TIMER
        self._cancels_first = profile.hv_exit is HvExit.CANCEL_FIRST
        self._collapses_periods = profile.periodic_advance is PeriodicAdvance.NOT_BEFORE_NOW
        self.mode = ONE_SHOT
        self.initial_count = 0
        self.tdcr = 0
        self.tdcr_bits = U32 if profile.divide is Divide.RAW else DIVIDE_BITS
        self.period_ns = 0
        self.target_ns = 0
        self.deadline_tsc = 0
        self.expired_deadline_tsc = 0
        self.pending = False
        self.fired_deadline_tsc = 0
        self.missed = 0
        self.advanced = 0
        self.armings = 0
        self.apicv = False
        self.posts = False
        self.wants_to_run = True

    @property
    def running(self) -> bool:
        """Whether a host timer is armed for it."""
        return self.host_timers.running

    @property
    def hv_timer_in_use(self) -> bool:
        """Whether that is the preemption timer."""
        return self.host_timers.hv_timer_in_use

    @property
    def counting(self) -> bool:
        """Whether a count runs and has not come to its end, however late the host is."""
        return (
            self.host_timers.running
            and bool(self.initial_count)
            and self.target_ns > self.host_timers.hrtimer.now_ns()
        )

    # -- what the guest writes and reads --

    def write_tsc_deadline(self, value: int) -> None:
        """WRMSR IA32_TSC_DEADLINE: arm for a guest TSC (u64), 0 disarms; ignored in modes that count.

        Up to v5.9 it is not ignored in the reserved mode, but only the preemption timer is armed there:
        `start_sw_timer` starts no hrtimer in that mode.
        """
        if self.mode is not TSC_DEADLINE and not (
            self.mode is RESERVED and self.profile.deadline_write is DeadlineWrite.NOT_COUNTING
        ):
            return
        self.host_timers.hrtimer.cancel()
        self.deadline_tsc = value
        self.period_ns = 0
        self._start_anew()

    def read_tsc_deadline(self) -> int:
        """RDMSR IA32_TSC_DEADLINE: the guest TSC it is armed for, 0 if none or in another mode."""
        return self.deadline_tsc if self.mode is TSC_DEADLINE else 0

    def set_mode(self, mode: TimerMode) -> None:
        """LVTT's mode bits (`apic_update_lvtt`): into or out of TSC-deadline mode clears the timer."""
        if mode is self.mode:
            return
        if TSC_DEADLINE in (mode, self.mode):
            rule = self.profile.mode_change
            self._cancel(hv_timer=rule is not ModeChange.HRTIMER)
            if rule is ModeChange.BOTH_AND_PENDING:
                self.pending = False
            self.initial_count = 0
            self.period_ns = 0
            self.deadline_tsc = 0
        self.mode = mode
        self._limit_periodic_frequency()

    def write_initial_count(self, value: int) -> None:
        """TMICT (u32): start counting down from `value`, 0 stops; ignored in TSC-deadline mode."""
        if self.mode is TSC_DEADLINE:
            return
        self._cancel(hv_timer=self.profile.count_write is not CountWrite.HRTIMER)
        self.initial_count = value
        self._start()

    def write_divide(self, value: int) -> None:
        """TDCR (u32): the rest of a running count is rescaled to the new divisor
        (`update_target_expiration`).
        """
        old = divide_count(self.tdcr)
        self.tdcr = value & self.tdcr_bits
        new = divide_count(self.tdcr)
        if not self.period_ns or new == old:
            return
        hrtimer = self.host_timers.hrtimer
        hrtimer.cancel()
        remaining = max(self.target_ns - hrtimer.now_ns(), 0)
        self.period_ns = self._ns_of_count(self.initial_count)
        self._limit_periodic_frequency()
        rescaled = remaining * new // old
        khz = self._tsc.khz
        self.deadline_tsc += ns_to_cycles(rescaled, khz) - ns_to_cycles(remaining, khz)
        self.deadline_tsc &= U64
        self.target_ns = hrtimer.now_ns() + rescaled
        self._restart()

    def current_count(self) -> int:
        """TMCCT (u32): what is left of the count (`apic_get_tmcct`), 0 when nothing runs."""
        if not self.initial_count or not self.period_ns:
            return 0
        remaining = max(self.target_ns - self.host_timers.hrtimer.now_ns(), 0)
        if remaining != self.period_ns:  # in the nanosecond of its start nothing has been counted yet
            remaining %= self.period_ns
        return remaining // (APIC_BUS_CYCLE_NS * divide_count(self.tdcr)) & U32

    def saved_count(self) -> int:
        """TMCCT for KVM_GET_LAPIC: of a count that runs 1 or more; always 0 where the kernel saves none."""
        if self.profile.saved_count is SavedCount.INITIAL:
            return 0
        return self.current_count() or int(self.counting)

    def reset(self) -> None:
        """Reset or INIT (`kvm_lapic_reset`).

        The advancement and an expired deadline stay, and so does a count on the preemption timer.
        """
        self.host_timers.hrtimer.cancel()
        self.set_mode(ONE_SHOT)
        self.tdcr = 0
        self.initial_count = 0
        self.pending = False

    # -- starting --

    def _start(self, restored_count: int | None = None) -> None:
        """Arm for what the guest has written, or for the rest of a count (`__start_apic_timer`)."""
        if self.mode is not TSC_DEADLINE:
            self.period_ns = self._ns_of_count(self.initial_count)
            if not self.period_ns:
                self.pending = False
                self.armings += 1
                self.deadline_tsc = 0
                return
            self._limit_periodic_frequency()
            left_ns = self.period_ns if restored_count is None else self._restored_ns(restored_count)
            self.deadline_tsc = self._deadline_in(left_ns)
            self.target_ns = self.host_timers.hrtimer.now_ns() + left_ns
        self._start_anew()

    def _start_anew(self) -> None:
        """Forget an expiry that is pending, and arm for the deadline or count that is set."""
        self.pending = False
        self.armings += 1
        self._restart()

    def _ns_of_count(self, count: int) -> int:
        return count * APIC_BUS_CYCLE_NS * divide_count(self.tdcr)

    def _restored_ns(self, count: int) -> int:
        """What is left of a restored count (`set_target_expiration`); at 0 a whole period, or nothing.

        Since Linux commit 8e6ed96cdd50 (in v6.3) a one-shot at 0 fires at once instead of running its whole
        period again.
        """
        left_ns = self._ns_of_count(count)
        if not left_ns:
            fires = self.mode is not PERIODIC and self.profile.saved_count is SavedCount.CURRENT_OR_NOW
            return 0 if fires else self.period_ns
        return min(left_ns, self.period_ns)

    def restore_count(self, count: int) -> None:
        """Go on from a saved current count (u32) or to the deadline that is set (`kvm_apic_set_state`).

        Up to v5.7 a count begins anew, whatever was left of it.
        """
        rule = self.profile.restore
        self._cancel(hv_timer=rule is Restore.ALL)
        if rule is not Restore.HRTIMER:
            self.expired_deadline_tsc = 0
        begins_anew = self.profile.saved_count is SavedCount.INITIAL
        self._start(restored_count=None if begins_anew else count)

    def tsc_moved(self, cycles: int) -> None:
        """The guest's TSC was set: `cycles` later than it would have been, modulo 2^64.

        A TSC deadline is a point on that TSC and comes sooner or later now. A count is a stretch of time: it
        ends when it would have, and only the guest TSC of that moment is another number. So is the guest TSC
        of what has come already.
        """
        self.fired_deadline_tsc = (self.fired_deadline_tsc + cycles) & U64
        if self.expired_deadline_tsc:
            self.expired_deadline_tsc = (self.expired_deadline_tsc + cycles) & U64
        if self.mode is not TSC_DEADLINE:
            self.deadline_tsc = (self.deadline_tsc + cycles) & U64 if self.deadline_tsc else 0
        elif self.host_timers.running:
            self.host_timers.hrtimer.cancel()
            self._restart()
            guest_tsc = self._tsc.at(self._clock.now)
            if self.pending and self.deadline_tsc <= guest_tsc:
                # The move went over it: this is when it came.
                self.expired_deadline_tsc = self.fired_deadline_tsc = guest_tsc

    def _limit_periodic_frequency(self) -> None:
        """`limit_periodic_timer_frequency`: no period below 200 us; none at all stays none."""
        if self.mode is PERIODIC and self.period_ns:
            self.period_ns = max(self.period_ns, MIN_TIMER_PERIOD_NS)

    # -- arming --

    def _cancel(self, hv_timer: bool) -> None:
        """Cancel the hrtimer and, if so told, the preemption timer (`cancel_apic_timer`).

        Kernels that also forget a pending expiry here show it at a change of mode only: a count or a restored
        state is started next, which forgets it in every kernel.
        """
        self.host_timers.hrtimer.cancel()
        if hv_timer:
            self.host_timers.cancel_hv_timer()

    def _restart(self) -> None:
        """Arm the preemption timer where that can be, else the hrtimer (`restart_apic_timer`)."""
        if self.pending and self.mode is not PERIODIC:
            # Up to v5.1 `start_hv_timer` itself saw the pending expiry, and said that it had failed.
            if self.profile.pre_expired is PreExpired.PRETEND_FAILURE:
                self._start_sw_timer()
            return
        if not self._start_hv_timer():
            self._start_sw_timer()

    def _start_hv_timer(self) -> bool:
        """`start_hv_timer`: False where there is none, nothing to arm, or too far a deadline.

        Up to v5.1 also where the deadline is past: it has expired then, and the hrtimer's path, which finds
        it pending, cancels the preemption timer without a trace.
        """
        timers = self.host_timers
        past = timers.start_hv_timer(self.deadline_tsc) if self.deadline_tsc else None
        if past is None:
            return False
        # A periodic timer that is already past stays armed with a zero delta: the entry exits at once and
        # re-bases it.
        if past and self.mode is not PERIODIC:
            self.expire()
            if self.profile.pre_expired is PreExpired.PRETEND_FAILURE:
                return False
            timers.cancel_hv_timer()
        self._client.trace_hv_timer_state(timers.hv_timer_in_use)
        return True

    def _start_sw_timer(self) -> None:
        """`start_sw_timer`: the hrtimer. Traced even where there is nothing to arm."""
        self.host_timers.cancel_hv_timer()
        if self.pending and self.mode is not PERIODIC:
            return
        if self.mode is not TSC_DEADLINE:
            self._start_sw_period()
        elif self.deadline_tsc and not self.host_timers.start_deadline(self.deadline_tsc):
            self.expire()
        self._client.trace_hv_timer_state(False)

    def _start_sw_period(self) -> None:
        """`start_sw_period`: a count on the hrtimer; one that is past expires, and a periodic one goes on."""
        if not self.period_ns or self.host_timers.start_period(self.target_ns):
            return
        self.expire()
        if self.mode is PERIODIC:
            self._advance_periodic_target()
            self.host_timers.hrtimer.start(self.target_ns)

    def _advance_periodic_target(self) -> None:
        """Target and deadline of the next period (`advance_periodic_target_expiration`).

        Late periods collapse to one that ends now (as of v6.19), or are made up for one by one. In the second
        case a target that is past makes a deadline of the guest's that is anywhere: nanoseconds below 0 are
        converted as the u64 they are not.
        """
        now_ns = self.host_timers.hrtimer.now_ns()
        target_ns = self.target_ns + self.period_ns
        if self._collapses_periods and target_ns < now_ns:
            self.missed += (now_ns - target_ns) // self.period_ns
            target_ns = now_ns
        self.target_ns = target_ns
        self.deadline_tsc = self._deadline_in(target_ns - now_ns & U64)

    def _deadline_in(self, ns: int) -> int:
        """The guest TSC `ns` from now, u64."""
        return (self._tsc.at(self._clock.now) + ns_to_cycles(ns, self._tsc.khz)) & U64

    # -- expiring --

    def expire(self, from_callback: bool = False) -> None:
        """The deadline has come, as far as the host is concerned (`apic_timer_expired`).

        Args:
            from_callback: it is the hrtimer's callback that calls.
        """
        if self.pending:
            self.missed += 1
            return
        timers = self.host_timers
        self.advanced += timers.armed_early
        # The series' fifth patch: what expired on the preemption timer is waited for in every mode.
        if self.mode is TSC_DEADLINE or (timers.hv_timer_in_use and self._records_hv_timer):
            self.expired_deadline_tsc = self.deadline_tsc
        # A count that a new TDCR made expire again has no deadline, and neither has one left armed.
        self.fired_deadline_tsc = self.deadline_tsc or self._tsc.at(self._clock.now)
        if self.mode is PERIODIC and not self._collapses_periods:
            self._measure_from_target()
        if not (self.apicv and self._bypass_the_loop(from_callback)):
            self.pending = True

    def _bypass_the_loop(self, from_callback: bool) -> bool:
        """With APICv: deliver an expiry here and now, if the profile does. Then it never is pending."""
        if from_callback:
            if not self.posts or not self._client.post_timer():
                return False
        elif self._injects_directly():
            self._client.inject_timer()
        else:
            return False
        if self.mode is not PERIODIC:
            self.deadline_tsc = 0
            self.target_ns = 0
        return True

    def _injects_directly(self) -> bool:
        """With APICv: whether an expiry that comes from no callback is delivered at once."""
        rule = self.profile.direct_injection
        if rule is DirectInjection.APICV_IN_KVM_RUN:
            return self.wants_to_run
        return rule is not DirectInjection.NONE and rule is not DirectInjection.POSTED

    def _measure_from_target(self) -> None:
        """Measure a period that was past when it began from its target: its deadline is no time."""
        late_ns = self.host_timers.hrtimer.now_ns() - self.target_ns
        if late_ns > 0:
            late_cycles = ns_to_cycles(late_ns, self._tsc.khz)
            self.fired_deadline_tsc = (self._tsc.at(self._clock.now) - late_cycles) & U64

    def hrtimer_fired(self) -> None:
        """The hrtimer's callback (`apic_timer_fn`): expire, and go on with the next period."""
        self.expire(from_callback=True)
        if self.mode is PERIODIC and self.period_ns:
            self._advance_periodic_target()
            self.host_timers.hrtimer.start(self.target_ns)

    def preemption_timer_ran_out(self) -> None:
        """A VM exit by the preemption timer (`kvm_lapic_expired_hv_timer`): expire and cancel."""
        timers = self.host_timers
        if not timers.hv_timer_in_use:
            return
        if self._cancels_first:
            timers.cancel_hv_timer()
        self.expire()
        timers.cancel_hv_timer()
        if self.mode is PERIODIC and self.period_ns:
            self._advance_periodic_target()
            self._restart()

    # -- HLT --

    def before_block(self) -> bool:
        """Move it to the hrtimer: its vCPU is about to sleep, and the preemption timer would not count.

        Returns:
            Whether the preemption timer was in use, for `after_block`.
        """
        if not self.host_timers.hv_timer_in_use:
            return False
        self._start_sw_timer()
        return True

    def after_block(self, hv_timer_was_in_use: bool) -> None:
        """Move it back to the preemption timer, by the profile's rule: its vCPU is awake again."""
        if hv_timer_was_in_use or (
            self.host_timers.preemption is not None and self.profile.after_block is AfterBlock.ALWAYS_RESTART
        ):
            self._restart()

    # -- delivering --

    def deliver(self) -> None:
        """Take the pending expiry, which becomes an interrupt message (`kvm_inject_apic_timer_irqs`).

        Called while one is pending, the APIC enabled and LVTT unmasked; masked, an expiry stays pending.
        """
        # Once only: what is over is forgotten, unless a count runs that was periodic when this one expired.
        if self.mode is not PERIODIC and not self.host_timers.running:
            self.deadline_tsc = 0
            self.target_ns = 0
        self.pending = False

    def wait(self, vector_in_service: bool, step_cycles: int) -> Waited | None:
        """Before an entry: how long to wait until the guest's deadline has truly come, and tune
        (`wait_lapic_expire`).

        Args:
            vector_in_service: LVTT's vector is in the ISR; with APICv, which moves it later, in the IRR.
            step_cycles: host cycles that one 1 ns step takes, at least 1.

        Returns:
            None if there is nothing to wait for. Tuning has seen the TSC as it was before the wait.
        """
        advancement = self.advancement
        if not self.expired_deadline_tsc or not advancement.tuned.advance_ns or not vector_in_service:
            return None
        deadline_tsc, self.expired_deadline_tsc = self.expired_deadline_tsc, 0
        return advancement.wait(self._clock.now, deadline_tsc, self._tsc, step_cycles)

    def wait_before_posting(self, step_cycles: int) -> Waited | None:
        """The same wait before an interrupt is posted, when its vector is not in the APIC yet.

        v5.10 and v5.11 look for the vector all the same, and so never wait.
        """
        return self.wait(self.profile.posted_wait is PostedWait.BODY, step_cycles)
