# SPDX-License-Identifier: GPL-2.0-or-later
"""The host timers under an APIC timer: an hrtimer, and the VMX preemption timer.

Follows `kvm/lapic.c` (`lapic_timer.timer`), `kvm/vmx/vmx.c` (`vmx_set_hv_timer`, `vmx_update_hv_timer`,
`hardware_setup`) and SDM vol. 3C "VMX-Preemption Timer". They know no APIC: the hrtimer takes a callback, the
preemption timer is an absolute deadline on the host's TSC that every VM entry turns into the value of a
32-bit down-counter.
"""

from __future__ import annotations

from collections.abc import Callable

from vlapic.clock import Alarm, Clock
from vlapic.kernels.rules import HvOff
from vlapic.tsc import U32, U32_BITS, U64, GuestTsc, ktime_ns, ns_to_cycles, tsc_at_ktime, unscale_cycles

#: `hv_deadline_tsc` of a preemption timer that is not set (the kernel's u64 -1).
NOT_SET = U64


class Hrtimer:
    """A high-resolution timer of the host, in absolute ns of its monotonic clock."""

    def __init__(self, clock: Clock, host_khz: int, fire: Callable[[], None]) -> None:
        """`fire` is called at the first host TSC at which the monotonic clock has reached the expiry."""
        self._clock = clock
        self._host_khz = host_khz
        self._fire = fire
        self._alarm: Alarm | None = None
        self.expires_ns = 0

    @property
    def active(self) -> bool:
        """True while it is armed and has not fired."""
        return self._alarm is not None and self._alarm.active

    def now_ns(self) -> int:
        """The monotonic clock (`ktime_get`)."""
        return ktime_ns(self._clock.now, self._host_khz)

    def start(self, expires_ns: int) -> None:
        """Arm it, whatever it was armed for before; a time that is past fires at once, with interrupts on."""
        self.cancel()
        self.expires_ns = expires_ns
        self._alarm = self._clock.at(tsc_at_ktime(expires_ns, self._host_khz), self._fire)

    def cancel(self) -> None:
        """Disarm it; nothing happens if it is not armed."""
        if self._alarm is not None:
            self._clock.cancel(self._alarm)
            self._alarm = None


#: A preemption timer that is off but counts from its greatest value may run out after this long at the
#: earliest.
SOFT_DISABLED_SECONDS = 10


def may_be_soft_disabled(host_khz: int, rate: int) -> bool:
    """Whether a preemption timer is slow enough to be off by counting from its greatest value
    (`vmx.c: hardware_setup` since v5.3).

    Args:
        host_khz: frequency of the host's TSC, 1 to 2^32-1.
        rate: IA32_VMX_MISC bits 4:0.
    """
    return host_khz * 1000 >> rate <= U32 // SOFT_DISABLED_SECONDS


def uses_hv_timer(rule: HvOff, host_khz: int, rate: int) -> bool:
    """Whether KVM uses the preemption timer of a host at all; arguments as of `may_be_soft_disabled`."""
    return rule is HvOff.PIN_CONTROL or may_be_soft_disabled(host_khz, rate)


def hv_timer_cycles(
    deadline_tsc: int,
    guest_tsc: int,
    advance_cycles: int,
    ratio: int,
    frac_bits: int,
    rate: int,
    divides_zero: bool,
) -> tuple[bool, int, bool]:
    """Host cycles from now on that a preemption timer stands for a guest's deadline (`vmx_set_hv_timer`).

    Args:
        deadline_tsc, guest_tsc: the guest's deadline, and its TSC now.
        advance_cycles: the advancement in guest cycles (`ns_to_cycles`).
        ratio, frac_bits: the guest's TSC scaling.
        rate: IA32_VMX_MISC bits 4:0; the timer counts down once every 2^rate host cycles.
        divides_zero: whether a distance of 0 is shifted and divided too (`ZeroDelta.DIVIDE`).

    Returns:
        Whether it can be (else the kernel returns -ERANGE: the distance overflows the scaling, or the 32-bit
        counter), the cycles, and whether there was a shift-and-divide.
    """
    delta = max(deadline_tsc, guest_tsc) - guest_tsc
    delta = delta - min(delta, advance_cycles)
    divided = ratio != 1 << frac_bits and (delta > 0 or divides_zero)
    fits = True
    if divided:
        fits, delta = unscale_cycles(delta, ratio, frac_bits)
    return fits and not delta >> rate + U32_BITS, delta, divided


class PreemptionTimer:
    """The VMX preemption timer of one vCPU: counts only in the guest, loses no time outside it.

    Attributes:
        hv_deadline_tsc: the host TSC it is set for, `NOT_SET` if it is not.
        divides: shift-and-divides that setting it took so far; for measurement only.
        refused: KVM will not use it (-EOPNOTSUPP): the guest's MWAIT does not exit, or its timer interrupts
            may be posted.
    """

    def __init__(self, clock: Clock, tsc: GuestTsc, rate: int = 5, divides_zero: bool = False) -> None:
        """`rate` and `divides_zero` are those of `hv_timer_cycles`."""
        self._clock = clock
        self._tsc = tsc
        self.rate = rate
        self._divides_zero = divides_zero
        self.hv_deadline_tsc = NOT_SET
        self.divides = 0
        self.refused = False

    def set(self, deadline_tsc: int, advance_ns: int) -> bool | None:
        """Set it for a guest's deadline (`vmx_set_hv_timer`).

        Args:
            deadline_tsc: guest TSC, u64.
            advance_ns: how much earlier than that, u32.

        Returns:
            Whether that moment is now or past. None if it cannot be set, and then nothing is changed: it is
            refused, or the deadline is too far.
        """
        if self.refused:
            return None
        tsc, now = self._tsc, self._clock.now
        fits, cycles, divided = hv_timer_cycles(
            deadline_tsc,
            tsc.at(now),
            ns_to_cycles(advance_ns, tsc.khz),
            tsc.ratio,
            tsc.frac_bits,
            self.rate,
            self._divides_zero,
        )
        self.divides += divided
        if not fits:
            return None
        self.hv_deadline_tsc = (now + cycles) & U64
        return cycles == 0

    def cancel(self) -> None:
        """Forget the deadline (`vmx_cancel_hv_timer`)."""
        self.hv_deadline_tsc = NOT_SET

    def entry_value(self) -> int | None:
        """What a VM entry loads into the counter now: 0 for a deadline that is past, None if none is set."""
        if self.hv_deadline_tsc == NOT_SET:
            return None
        now = self._clock.now
        return (self.hv_deadline_tsc - now >> self.rate) & U32 if self.hv_deadline_tsc > now else 0

    def runs_out_at(self, value: int) -> int:
        """When a counter loaded with `value` now reaches 0: it falls as bit `rate` of the TSC changes."""
        now = self._clock.now
        return ((now >> self.rate) + value) << self.rate if value else now
