# SPDX-License-Identifier: GPL-2.0-or-later
"""The two host timers under an APIC timer: an hrtimer and the VMX preemption timer. At most one is armed.

Follows the part of `kvm/lapic.c` that arms and cancels them (`start_hv_timer`, `cancel_hv_timer`,
`start_sw_tscdeadline`). It knows no mode and no pending expiry: it is told what to arm, and answers whether
that is past. What an expiry does, and what is armed next, is `timer.py`'s; the timers themselves are
`backends.py`'s.
"""

from __future__ import annotations

from vlapic.apic.advance_state import Advancement
from vlapic.apic.backends import Hrtimer, PreemptionTimer
from vlapic.clock import Clock
from vlapic.tsc import GuestTsc, cycles_to_ns


class HostTimers:
    """The host timers of one APIC timer.

    Attributes:
        hrtimer: the high-resolution timer. With posted interrupts its vCPU gives it one on another CPU.
        preemption: the VMX preemption timer, None where the vCPU has none.
        hv_timer_in_use: True while the preemption timer is armed; the hrtimer is not armed then.
        armed_early: True if the last one armed was armed early by an advancement; for measurement only.
    """

    def __init__(
        self,
        clock: Clock,
        tsc: GuestTsc,
        hrtimer: Hrtimer,
        preemption: PreemptionTimer | None,
        advancement: Advancement,
    ) -> None:
        self._clock = clock
        self._tsc = tsc
        self._advancement = advancement
        self.hrtimer = hrtimer
        self.preemption = preemption
        self.hv_timer_in_use = False
        self.armed_early = False

    @property
    def running(self) -> bool:
        """Whether one of them is armed."""
        return self.hv_timer_in_use or self.hrtimer.active

    @property
    def has_hv_timer(self) -> bool:
        """Whether KVM ever arms the preemption timer for this vCPU (`kvm_can_use_hv_timer`)."""
        return self.preemption is not None and not self.preemption.refused

    def start_hv_timer(self, deadline_tsc: int) -> bool | None:
        """Arm the preemption timer in place of the hrtimer, early by the advancement.

        Args:
            deadline_tsc: guest TSC, u64.

        Returns:
            Whether the deadline is past, the advancement taken off; the timer is armed all the same. None if
            it cannot be armed: there is none, or the deadline is too far for its counter. Nothing is changed
            then.
        """
        if self.preemption is None:
            return None
        advance_ns = self._advancement.tuned.advance_ns
        past = self.preemption.set(deadline_tsc, advance_ns)
        if past is None:
            return None
        self.armed_early = bool(advance_ns)
        self.hv_timer_in_use = True
        self.hrtimer.cancel()
        return past

    def cancel_hv_timer(self) -> None:
        """Disarm the preemption timer (`cancel_hv_timer`); nothing happens if it is not armed."""
        if self.hv_timer_in_use and self.preemption is not None:
            self.preemption.cancel()
        self.hv_timer_in_use = False

    def start_deadline(self, deadline_tsc: int) -> bool:
        """Arm the hrtimer for a guest's deadline, early by the advancement (`start_sw_tscdeadline`).

        Args:
            deadline_tsc: guest TSC, u64.

        Returns:
            False if it was not armed because the deadline has come: it is past, or nearer than the
            advancement where the profile expires such a deadline at once (`TooShort`).
        """
        guest_tsc = self._tsc.at(self._clock.now)
        if deadline_tsc <= guest_tsc:
            return False
        remaining_ns = cycles_to_ns(deadline_tsc - guest_tsc, self._tsc.khz)
        advance_ns = self._advancement.tuned.advance_ns
        self.armed_early = bool(advance_ns)
        arms, expires_ns = self._advancement.arm(self.hrtimer.now_ns(), remaining_ns, advance_ns)
        if arms:
            self.hrtimer.start(expires_ns)
        return arms

    def start_period(self, target_ns: int) -> bool:
        """Arm the hrtimer for the end of a count, which is not advanced (`start_sw_period`).

        Args:
            target_ns: on the host's monotonic clock.

        Returns:
            False if it was not armed because that time is past.
        """
        self.armed_early = False
        if self.hrtimer.now_ns() > target_ns:
            return False
        self.hrtimer.start(target_ns)
        return True
