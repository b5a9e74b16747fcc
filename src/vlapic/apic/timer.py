"""The timer of a local APIC as its guest knows it: one-shot, periodic, TSC-deadline; delivered, waited for.

Follows `kvm/lapic.c` (`start_apic_timer`, `update_target_expiration`, `apic_get_tmcct`,
`__kvm_inject_apic_timer_irqs`, `wait_lapic_expire`) and SDM vol. 3A "APIC Timer", "TSC-Deadline Mode".
Where kernels differ the profile decides (`timer_rules.py`, `apic/advance.py`); the host timers under it are
`host_timers.py`'s.

The timer knows no APIC and no vCPU. It takes what it must read (the mask, the vector in service) as
arguments, and what it wants done it returns.
"""

from __future__ import annotations

from vlapic.apic.advance_state import Advancement, Waited
from vlapic.apic.backends import Hrtimer, PreemptionTimer
from vlapic.apic.host_timers import HostTimers, TimerClient
from vlapic.apic.timer_rules import ONE_SHOT, PERIODIC, TSC_DEADLINE, TimerMode
from vlapic.clock import Clock
from vlapic.kernels.profiles import Profile
from vlapic.tsc import U32, U64, GuestTsc, ns_to_cycles

__all__ = [
    "APIC_BUS_CYCLE_NS",
    "MIN_TIMER_PERIOD_NS",
    "Timer",
    "TimerClient",
    "TimerMode",
    "Waited",
    "divide_count",
]

#: A tick of the APIC's bus clock (`APIC_BUS_CYCLE_NS`): KVM's APIC timer counts at 1 GHz.
APIC_BUS_CYCLE_NS = 1
#: `min_timer_period_us`: a guest cannot have its periodic interrupt more often than this.
MIN_TIMER_PERIOD_NS = 200_000


def divide_count(tdcr: int) -> int:
    """The divisor a divide configuration register stands for: 1 to 128 (`update_divide_count`)."""
    return 1 << (((tdcr & 3 | (tdcr & 8) >> 1) + 1) & 7)


class Timer(HostTimers):
    """One APIC timer.

    Attributes:
        mode: from LVTT; `set_mode` changes it.
        initial_count: TMICT.
        tdcr: TDCR, as far as the profile keeps what is written.
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
        super().__init__(clock, tsc, hrtimer, preemption, advancement, profile, client)
        self.initial_count = 0
        self.tdcr = 0
        self.armings = 0

    # -- what the guest writes and reads --

    def write_tsc_deadline(self, value: int) -> None:
        """WRMSR IA32_TSC_DEADLINE: arm for a guest TSC, 0 disarms; ignored in modes that count.

        Up to v5.9 the reserved mode is none of those. Its deadline is one for the preemption timer only: no
        hrtimer is started in that mode (`start_sw_timer`).
        """
        if self.mode not in self.rules.deadline_modes:
            return
        self.hrtimer.cancel()
        self.deadline_tsc = value
        self.period_ns = 0
        self._start_anew()

    def read_tsc_deadline(self) -> int:
        """RDMSR IA32_TSC_DEADLINE: the deadline armed for, 0 if none or in another mode."""
        return self.deadline_tsc if self.mode is TSC_DEADLINE else 0

    def set_mode(self, mode: TimerMode) -> None:
        """LVTT's mode bits (`apic_update_lvtt`): into or out of TSC-deadline mode clears the timer."""
        if mode is self.mode:
            return
        if TSC_DEADLINE in (mode, self.mode):
            self._cancel(self.rules.mode_change)
            self.initial_count = 0
            self.period_ns = 0
            self.deadline_tsc = 0
        self.mode = mode
        self._limit_periodic_frequency()

    def write_initial_count(self, value: int) -> None:
        """TMICT: start counting down from `value`, 0 stops; ignored in TSC-deadline mode."""
        if self.mode is TSC_DEADLINE:
            return
        self._cancel(self.rules.count_write)
        self.initial_count = value
        self._start()

    def write_divide(self, value: int) -> None:
        """TDCR: the rest of a running count is rescaled to the new divisor (`update_target_expiration`)."""
        old = divide_count(self.tdcr)
        self.tdcr = value & self.rules.tdcr_bits
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

    def saved_count(self) -> int:
        """TMCCT for KVM_GET_LAPIC: of a count that runs 1 or more; 0 always where the kernel saves none."""
        if not self.rules.saves_current_count:
            return 0
        return self.current_count() or int(self.counting)

    def reset(self) -> None:
        """Reset or INIT (`kvm_lapic_reset`).

        Advancement and an expired deadline stay, and so does a count on the preemption timer.
        """
        self.hrtimer.cancel()
        self.set_mode(ONE_SHOT)
        self.tdcr = 0
        self.initial_count = 0
        self.pending = False

    @property
    def counting(self) -> bool:
        """Whether a count runs and has not come to its end, were the host never so late."""
        return self.running and bool(self.initial_count) and self.target_ns > self.hrtimer.now_ns()

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
            self.target_ns = self.hrtimer.now_ns() + left_ns
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
            fires = self.rules.restored_0_fires and self.mode is not PERIODIC
            return 0 if fires else self.period_ns
        return min(left_ns, self.period_ns)

    def restore_count(self, count: int) -> None:
        """Go on from a saved current count (`kvm_apic_set_state`), or for the deadline that is set.

        Up to v5.7 a count begins anew, whatever was left of it.
        """
        self._cancel(self.rules.restore)
        if self.rules.restore_forgets_expired:
            self.expired_deadline_tsc = 0
        self._start(restored_count=count if self.rules.saves_current_count else None)

    def tsc_moved(self, cycles: int) -> None:
        """The guest's TSC was set: `cycles` later than it would have been, modulo 2^64.

        A TSC deadline is a point on that TSC and comes sooner or later now. A count is a stretch of time and
        does not; only the guest TSC it is to end at is another one. So is that of what has come already.
        """
        self.fired_deadline_tsc = (self.fired_deadline_tsc + cycles) & U64
        if self.expired_deadline_tsc:
            self.expired_deadline_tsc = (self.expired_deadline_tsc + cycles) & U64
        if self.mode is not TSC_DEADLINE:
            self.deadline_tsc = (self.deadline_tsc + cycles) & U64 if self.deadline_tsc else 0
        elif self.running:
            self.hrtimer.cancel()
            self._restart()
            guest_tsc = self._tsc.at(self._clock.now)
            if self.pending and self.deadline_tsc <= guest_tsc:
                # The move went over it: this is when it came.
                self.expired_deadline_tsc = self.fired_deadline_tsc = guest_tsc

    def _limit_periodic_frequency(self) -> None:
        """`limit_periodic_timer_frequency`: no period below 200 us; none at all stays none."""
        if self.mode is PERIODIC and self.period_ns:
            self.period_ns = max(self.period_ns, MIN_TIMER_PERIOD_NS)

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
        if self.mode is not PERIODIC and not self.running:
            self.deadline_tsc = 0
            self.target_ns = 0
        self.pending = False
        return True

    def wait(self, vector_in_service: bool, step_cycles: int) -> Waited | None:
        """Before an entry: how long to wait until the guest's deadline has truly come, and tune
        (`wait_lapic_expire`).

        Args:
            vector_in_service: LVTT's vector is in the ISR; with APICv, which moves it later, in the IRR.
            step_cycles: host cycles that one 1 ns step takes.

        Returns:
            None if there is nothing to wait for. Tuning has seen the TSC as it was before the wait.
        """
        advancement = self.advancement
        if not self.expired_deadline_tsc or not advancement.tuned.advance_ns or not vector_in_service:
            return None
        deadline_tsc, self.expired_deadline_tsc = self.expired_deadline_tsc, 0
        return advancement.wait(self._clock.now, deadline_tsc, self._tsc, step_cycles)

    def wait_before_posting(self, step_cycles: int) -> Waited | None:
        """The same for an interrupt that is about to be posted, whose vector is nowhere yet.

        In v5.10 and v5.11 the vector was asked for all the same, and so nobody waited.
        """
        return self.wait(self.rules.waits_before_posting, step_cycles)
