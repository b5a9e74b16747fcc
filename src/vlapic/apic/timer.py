"""The timer of a local APIC: one-shot, periodic, TSC-deadline; armed early, expired, delivered, waited for.

Follows `kvm/lapic.c` of v6.19 for the state machine (`start_apic_timer`, `restart_apic_timer`,
`start_hv_timer`, `start_sw_timer`, `apic_timer_expired`, `__kvm_inject_apic_timer_irqs`) and SDM vol. 3A
"APIC Timer", "TSC-Deadline Mode". The advancement is the profile's (`apic/advance.py`).

The timer knows no APIC and no vCPU. It takes what it must read (the mask, the vector in service) as
arguments, and what it wants done it returns. It leaves out posted timer interrupts and direct injection with
APICv.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, Protocol

from vlapic.apic.advance import Advancement, hrtimer_expiry_ns, split_delta, tune, wait_steps
from vlapic.apic.backends import Hrtimer, PreemptionTimer
from vlapic.clock import Clock
from vlapic.profiles import Profile
from vlapic.tsc import U32, U64, GuestTsc, cycles_to_ns, ns_to_cycles, to_s64

#: A tick of the APIC's bus clock (`APIC_BUS_CYCLE_NS`): KVM's APIC timer counts at 1 GHz.
APIC_BUS_CYCLE_NS = 1
#: `min_timer_period_us`: a guest cannot have its periodic interrupt more often than this.
MIN_TIMER_PERIOD_NS = 200_000


class TimerMode(IntEnum):
    """LVTT bits 18:17 (SDM vol. 3A "Local Vector Table")."""

    ONE_SHOT = 0
    PERIODIC = 1
    TSC_DEADLINE = 2
    RESERVED = 3


class Waited(NamedTuple):
    """What a busy wait found: guest TSC minus deadline (negative is early), and steps of 1 ns to wait."""

    delta_cycles: int
    steps: int


class TimerClient(Protocol):
    """What the timer asks of its surroundings."""

    def trace_hv_timer_state(self, in_use: bool) -> None:
        """kvm_hv_timer_state."""


def divide_count(tdcr: int) -> int:
    """The divisor a divide configuration register stands for: 1 to 128 (`update_divide_count`)."""
    return 1 << (((tdcr & 3 | (tdcr & 8) >> 1) + 1) & 7)


class Timer:
    """One APIC timer.

    Attributes:
        mode: from LVTT; `set_mode` changes it.
        initial_count, tdcr: TMICT, and TDCR masked with 0xb.
        period_ns: of the running one-shot or periodic count, 0 if none.
        target_ns: host monotonic time at which that count runs out.
        deadline_tsc: guest TSC the timer is armed for, 0 if it is not (`tscdeadline`).
        expired_deadline_tsc: the deadline that the next entry delivering the vector waits for; 0 is none.
            `expire` writes it, `wait` clears it (`expired_tscdeadline`).
        pending: an expiry that has not been delivered yet.
        hv_timer_in_use: the preemption timer runs, not the hrtimer. At most one of the two does.
        fired_deadline_tsc: deadline of the pending or last delivered expiry; for measurement only.
        missed: expiries that found one pending, and periods skipped; for measurement only.
        armings: how often the timer was started; for measurement only.
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
        self.mode = TimerMode.ONE_SHOT
        self.initial_count = 0
        self.tdcr = 0
        self.period_ns = 0
        self.target_ns = 0
        self.deadline_tsc = 0
        self.expired_deadline_tsc = 0
        self.pending = False
        self.hv_timer_in_use = False
        self.fired_deadline_tsc = 0
        self.missed = 0
        self.armings = 0

    # -- what the guest writes and reads --

    def write_tsc_deadline(self, value: int) -> None:
        """WRMSR IA32_TSC_DEADLINE: arm for a guest TSC, 0 disarms; ignored outside TSC-deadline mode."""
        if self.mode is not TimerMode.TSC_DEADLINE:
            return
        self.hrtimer.cancel()
        self.deadline_tsc = value
        self._start()

    def read_tsc_deadline(self) -> int:
        """RDMSR IA32_TSC_DEADLINE: the deadline armed for, 0 if none or in another mode."""
        return self.deadline_tsc if self.mode is TimerMode.TSC_DEADLINE else 0

    def set_mode(self, mode: TimerMode) -> None:
        """LVTT's mode bits (`apic_update_lvtt`): into or out of TSC-deadline mode clears the timer."""
        if mode is self.mode:
            return
        if TimerMode.TSC_DEADLINE in (mode, self.mode):
            self._cancel()
            self.initial_count = 0
            self.period_ns = 0
            self.deadline_tsc = 0
        self.mode = mode
        self._limit_periodic_frequency()

    def write_initial_count(self, value: int) -> None:
        """TMICT: start counting down from `value`, 0 stops; ignored in TSC-deadline mode."""
        if self.mode is TimerMode.TSC_DEADLINE:
            return
        self._cancel()
        self.initial_count = value
        self._start()

    def write_divide(self, value: int) -> None:
        """TDCR: the rest of a running count is rescaled to the new divisor (`update_target_expiration`)."""
        old = divide_count(self.tdcr)
        self.tdcr = value & 0xB
        new = divide_count(self.tdcr)
        if not self.period_ns or new == old:
            return
        self.hrtimer.cancel()
        remaining = max(self.target_ns - self.hrtimer.now_ns(), 0)
        self.period_ns = self._ns_of_count(self.initial_count)
        self._limit_periodic_frequency()
        rescaled = remaining * new // old
        khz = self._tsc.khz
        self.deadline_tsc += ns_to_cycles(rescaled, khz) - ns_to_cycles(remaining, khz)
        self.deadline_tsc &= U64
        self.target_ns = self.hrtimer.now_ns() + rescaled
        self._restart()

    def current_count(self) -> int:
        """TMCCT: what is left of the count (`apic_get_tmcct`), 0 when nothing runs."""
        if not self.initial_count or not self.period_ns:
            return 0
        remaining = max(self.target_ns - self.hrtimer.now_ns(), 0)
        if remaining != self.period_ns:  # in the nanosecond it was started in, nothing has been counted yet
            remaining %= self.period_ns
        return remaining // (APIC_BUS_CYCLE_NS * divide_count(self.tdcr)) & U32

    def reset(self) -> None:
        """Reset or INIT (`kvm_lapic_reset`).

        Advancement and an expired deadline stay, and so does a count on the preemption timer.
        """
        self.hrtimer.cancel()
        self.set_mode(TimerMode.ONE_SHOT)
        self.tdcr = 0
        self.initial_count = 0
        self.pending = False

    @property
    def running(self) -> bool:
        """Whether a host timer is armed for it."""
        return self.hv_timer_in_use or self.hrtimer.active

    @property
    def counting(self) -> bool:
        """Whether a count runs and has not come to its end, were the host never so late."""
        return self.running and bool(self.initial_count) and self.target_ns > self.hrtimer.now_ns()

    # -- arming --

    def _cancel(self) -> None:
        """`cancel_apic_timer`."""
        self.hrtimer.cancel()
        self._cancel_hv_timer()
        self.pending = False

    def _start(self, restored_count: int | None = None) -> None:
        """Arm for what the guest has written, or for the rest of a count (`__start_apic_timer`)."""
        self.pending = False
        self.armings += 1
        if self.mode is not TimerMode.TSC_DEADLINE:
            self.period_ns = self._ns_of_count(self.initial_count)
            if not self.period_ns:
                self.deadline_tsc = 0
                return
            self._limit_periodic_frequency()
            left_ns = self.period_ns if restored_count is None else self._restored_ns(restored_count)
            self.deadline_tsc = self._deadline_in(left_ns)
            self.target_ns = self.hrtimer.now_ns() + left_ns
        self._restart()

    def _ns_of_count(self, count: int) -> int:
        return count * APIC_BUS_CYCLE_NS * divide_count(self.tdcr)

    def _restored_ns(self, count: int) -> int:
        """What is left of a restored count (`set_target_expiration`); a one-shot at 0 fires now.

        Since Linux commit 8e6ed96cdd50 (in v6.3) a one-shot at 0 does not run its whole period again.
        """
        left_ns = self._ns_of_count(count)
        if not left_ns:
            return self.period_ns if self.mode is TimerMode.PERIODIC else 0
        return min(left_ns, self.period_ns)

    def restore_count(self, count: int) -> None:
        """Go on from a saved current count (`kvm_apic_set_state`), or for the deadline that is set."""
        self._cancel()
        self.expired_deadline_tsc = 0
        self._start(restored_count=count)

    def tsc_moved(self, cycles: int) -> None:
        """The guest's TSC was set: `cycles` later than it would have been, modulo 2^64.

        A TSC deadline is a point on that TSC and comes sooner or later now. A count is a stretch of time and
        does not; only the guest TSC it is to end at is another one. So is that of what has come already.
        """
        self.fired_deadline_tsc = (self.fired_deadline_tsc + cycles) & U64
        if self.expired_deadline_tsc:
            self.expired_deadline_tsc = (self.expired_deadline_tsc + cycles) & U64
        if self.mode is not TimerMode.TSC_DEADLINE:
            self.deadline_tsc = (self.deadline_tsc + cycles) & U64 if self.deadline_tsc else 0
        elif self.running:
            self.hrtimer.cancel()
            self._restart()
            guest_tsc = self._tsc.at(self._clock.now)
            if self.pending and self.deadline_tsc <= guest_tsc:
                # The move went over it: this is when it came.
                self.expired_deadline_tsc = self.fired_deadline_tsc = guest_tsc

    def _deadline_in(self, ns: int) -> int:
        return (self._tsc.at(self._clock.now) + ns_to_cycles(ns, self._tsc.khz)) & U64

    def _limit_periodic_frequency(self) -> None:
        """`limit_periodic_timer_frequency`: no period below 200 us; none at all stays none."""
        if self.mode is TimerMode.PERIODIC and self.period_ns:
            self.period_ns = max(self.period_ns, MIN_TIMER_PERIOD_NS)

    def _restart(self) -> None:
        """Arm the preemption timer where that can be, else the hrtimer (`restart_apic_timer`)."""
        if self.mode is not TimerMode.PERIODIC and self.pending:
            return
        if not self._start_hv_timer():
            self._start_sw_timer()

    def _start_hv_timer(self) -> bool:
        """`start_hv_timer`: False where there is none, nothing to arm, or too far a deadline."""
        if self.preemption is None or not self.deadline_tsc:
            return False
        program = self.preemption.set(self.deadline_tsc, self.advancement.advance_ns)
        if program is None:
            return False
        self.hv_timer_in_use = True
        self.hrtimer.cancel()
        # A periodic timer that is already past stays armed with a zero delta: the entry exits at once and
        # re-bases it.
        if self.mode is not TimerMode.PERIODIC and program.expired:
            self.expire()
            self._cancel_hv_timer()
        self._client.trace_hv_timer_state(self.hv_timer_in_use)
        return True

    def _cancel_hv_timer(self) -> None:
        if self.hv_timer_in_use and self.preemption is not None:
            self.preemption.cancel()
        self.hv_timer_in_use = False

    def _start_sw_timer(self) -> None:
        """`start_sw_timer`: the hrtimer."""
        self._cancel_hv_timer()
        if self.mode is not TimerMode.PERIODIC and self.pending:
            return
        if self.mode is TimerMode.TSC_DEADLINE:
            self._start_sw_tscdeadline()
        elif not self._start_sw_period():
            return
        self._client.trace_hv_timer_state(False)

    def _start_sw_tscdeadline(self) -> None:
        """`start_sw_tscdeadline`: armed early by the advancement, without a look at whether that is past."""
        if not self.deadline_tsc:
            return
        guest_tsc = self._tsc.at(self._clock.now)
        if self.deadline_tsc <= guest_tsc:
            self.expire()
            return
        remaining_ns = cycles_to_ns(self.deadline_tsc - guest_tsc, self._tsc.khz)
        self.hrtimer.start(
            hrtimer_expiry_ns(self.hrtimer.now_ns(), remaining_ns, self.advancement.advance_ns)
        )

    def _start_sw_period(self) -> bool:
        """`start_sw_period`: not advanced. False if there is no period."""
        if not self.period_ns:
            return False
        if self.hrtimer.now_ns() > self.target_ns:
            self.expire()
            if self.mode is not TimerMode.PERIODIC:
                return True
            self._advance_periodic_target()
        self.hrtimer.start(self.target_ns)
        return True

    def _advance_periodic_target(self) -> None:
        """Target and deadline of the next period; late ones collapse to one, now (as of v6.19)."""
        now_ns = self.hrtimer.now_ns()
        target_ns = self.target_ns + self.period_ns
        if target_ns < now_ns:
            self.missed += (now_ns - target_ns) // self.period_ns
        self.target_ns = max(target_ns, now_ns)
        self.deadline_tsc = self._deadline_in(self.target_ns - now_ns)

    # -- expiring --

    def expire(self) -> bool:
        """The deadline has come, as far as the host is concerned (`apic_timer_expired`).

        Returns:
            Whether the vCPU has to be kicked: there is an expiry to deliver that was not there before.
        """
        if self.pending:
            self.missed += 1
            return False
        # The series' fifth patch: what expired on the preemption timer is waited for in every mode.
        if self.mode is TimerMode.TSC_DEADLINE or self.hv_timer_in_use:
            self.expired_deadline_tsc = self.deadline_tsc
        # A count that a new TDCR made expire again has no deadline.
        self.fired_deadline_tsc = self.deadline_tsc or self._tsc.at(self._clock.now)
        self.pending = True
        return True

    def hrtimer_fired(self) -> bool:
        """The hrtimer's callback (`apic_timer_fn`); returns as `expire`."""
        kick = self.expire()
        if self.mode is TimerMode.PERIODIC and self.period_ns:
            self._advance_periodic_target()
            self.hrtimer.start(self.target_ns)
        return kick

    def preemption_timer_ran_out(self) -> None:
        """A VM exit by the preemption timer (`kvm_lapic_expired_hv_timer`): expire, then cancel."""
        if not self.hv_timer_in_use:
            return
        self.expire()
        self._cancel_hv_timer()
        if self.mode is TimerMode.PERIODIC and self.period_ns:
            self._advance_periodic_target()
            self._restart()

    def before_block(self) -> bool:
        """The vCPU is about to sleep: the preemption timer would not count. Returns whether it was in use."""
        if not self.hv_timer_in_use:
            return False
        self._start_sw_timer()
        return True

    def after_block(self, hv_timer_was_in_use: bool) -> None:
        """The vCPU is awake again: back to the preemption timer if it was in use before."""
        if hv_timer_was_in_use:
            self._restart()

    # -- delivering --

    def deliver(self) -> bool:
        """Turn the pending expiry into an interrupt message (`kvm_inject_apic_timer_irqs`).

        To be called while the APIC is enabled and LVTT unmasked; masked, an expiry stays pending.

        Returns:
            Whether there was one: the caller accepts the LVTT vector.
        """
        if not self.pending:
            return False
        # Once only: what is over is forgotten, unless a count runs that was periodic when this one expired.
        if self.mode is not TimerMode.PERIODIC and not self.running:
            self.deadline_tsc = 0
            self.target_ns = 0
        self.pending = False
        return True

    def wait(self, vector_in_service: bool, step_cycles: int) -> Waited | None:
        """Before an entry: how long to wait until the guest's deadline has truly come, and tune
        (`wait_lapic_expire`).

        Args:
            vector_in_service: LVTT's vector is in the ISR.
            step_cycles: host cycles that one 1 ns step takes.

        Returns:
            None if there is nothing to wait for. Tuning has seen the TSC as it was before the wait.
        """
        advancement = self.advancement
        if not self.expired_deadline_tsc or not advancement.advance_ns or not vector_in_service:
            return None
        deadline_tsc, self.expired_deadline_tsc = self.expired_deadline_tsc, 0
        now = self._clock.now
        guest_tsc = self._tsc.at(now)
        early, distance = split_delta(guest_tsc, deadline_tsc)
        steps = wait_steps(now, deadline_tsc, advancement.advance_ns, step_cycles, self._tsc) if early else 0
        advancement.advance_ns, advancement.done = tune(
            self._profile, advancement.advance_ns, advancement.done, early, distance, self._tsc.khz
        )
        return Waited(to_s64(guest_tsc - deadline_tsc), steps)
