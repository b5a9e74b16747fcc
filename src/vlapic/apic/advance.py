"""Timer advancement: how early to fire, how long to wait, how to tune. Plain functions of plain integers.

Follows `kvm/lapic.c` (`start_sw_tscdeadline`, `wait_lapic_expire`), with the rules that a
:class:`~vlapic.profiles.Profile` names. Numbers are non-negative; where a difference has a sign, the sign is
a bool of its own. Machine, replay and fleet all call these functions.
"""

from __future__ import annotations

from collections.abc import Callable

from vlapic.profiles import (
    ADJUST_MIN_CYCLES,
    ADJUST_STEP,
    ADVANCE_CAP_NS,
    ADVANCE_START_NS,
    Profile,
)
from vlapic.rules import Overflow, Tuning
from vlapic.tsc import S64_SIGN, U32, U64, GuestTsc, cycles_to_ns


def split_delta(guest_tsc: int, deadline_tsc: int) -> tuple[bool, int]:
    """Whether a guest TSC value is before the deadline (an unsigned compare), and how many cycles away."""
    if guest_tsc < deadline_tsc:
        return True, deadline_tsc - guest_tsc
    return False, guest_tsc - deadline_tsc


def tune_by_eighth(
    advance_ns: int, done: bool, early: bool, distance_cycles: int, tsc_khz: int
) -> tuple[int, bool]:
    """One tuning step of v4.20 to v5.3: towards the delta by at most an eighth of the advancement.

    Since Linux commit 3b8a5df6c4dc ("KVM: LAPIC: Tune lapic_timer_advance_ns automatically") (in v4.20). The
    distance in ns is cut to 32 bits before it is compared, and a distance of 2^63 counts as below the limit:
    |s64| of it is negative.

    Returns:
        The new advancement in ns (no bound yet), and whether tuning is done.
    """
    distance_ns = cycles_to_ns(distance_cycles, tsc_khz) & U32
    step_ns = min(distance_ns, advance_ns // ADJUST_STEP)
    advance_ns = advance_ns - step_ns if early else advance_ns + step_ns
    magnitude = min(distance_cycles, (1 << 64) - distance_cycles)
    return advance_ns, done or magnitude < ADJUST_MIN_CYCLES or magnitude == S64_SIGN


def hold_at_cap(advance_ns: int, done: bool) -> tuple[int, bool]:
    """The series' first patch: a value above 5000 ns is held there, tuning goes on."""
    return min(advance_ns, ADVANCE_CAP_NS), done


TUNING: dict[Tuning, Callable[[int, bool, bool, int, int], tuple[int, bool]]] = {
    Tuning.EIGHTH_OF_ADVANCE: tune_by_eighth,
}
OVERFLOW: dict[Overflow, Callable[[int, bool], tuple[int, bool]]] = {
    Overflow.HOLD: hold_at_cap,
}


def tune(
    profile: Profile, advance_ns: int, done: bool, early: bool, distance_cycles: int, tsc_khz: int
) -> tuple[int, bool]:
    """The advancement and done flag after one expiry, by the profile's rules; unchanged once done."""
    if done:
        return advance_ns, done
    advance_ns, done = TUNING[profile.tuning](advance_ns, done, early, distance_cycles, tsc_khz)
    return OVERFLOW[profile.overflow](advance_ns, done)


class Advancement:
    """The advancement of one vCPU: its value and whether tuning has ended. Only the busy wait's tuning writes
    it.

    Attributes:
        advance_ns: how early the timer is armed, and the most that an entry waits, in ns (u32). 0 is off.
        done: True once tuning has ended for good, or never began because the user gave a number.
    """

    __slots__ = ("advance_ns", "done")

    def __init__(self, parameter: int | None) -> None:
        """Snapshot the module parameter: None (`auto`) tunes from 1000 ns, a number is used as it is."""
        self.advance_ns = ADVANCE_START_NS if parameter is None else parameter
        self.done = parameter is not None


def hrtimer_expiry_ns(now_ns: int, remaining_ns: int, advance_ns: int) -> int:
    """When to arm the hrtimer of a TSC deadline; may lie before `now_ns`, and then fires at once."""
    return now_ns + remaining_ns - advance_ns


def wait_steps(host_tsc: int, deadline_tsc: int, advance_ns: int, step_cycles: int, tsc: GuestTsc) -> int:
    """Steps that the 1 ns busy wait takes from `host_tsc` on, in closed form.

    The loop it stands for: while the guest TSC is below the deadline and fewer than `advance_ns` steps were
    taken, pass `step_cycles` host cycles. It ends at the first step that reaches the deadline whatever the
    guest's ratio and offset are, which is what makes it right in any time domain.

    Args:
        host_tsc: when the wait begins.
        step_cycles: host cycles of one step, at least 1.

    Returns:
        0 (the deadline is not ahead) to `advance_ns`.
    """
    guest_tsc = tsc.at(host_tsc)
    if guest_tsc >= deadline_tsc:
        return 0
    # The scaled host TSC that the deadline stands for, not reduced mod 2^64: that keeps it comparable.
    scaled_now = host_tsc * tsc.ratio >> tsc.frac_bits
    scaled_goal = scaled_now + deadline_tsc - guest_tsc
    host_goal = -(-(scaled_goal << tsc.frac_bits) // tsc.ratio)
    steps = -(-(host_goal - host_tsc) // step_cycles)
    # A step that jumps over the deadline *and* over 2^64 reads a small guest TSC again: the loop runs to its
    # limit.
    overshoot = ((host_tsc + steps * step_cycles) * tsc.ratio >> tsc.frac_bits) - scaled_now + guest_tsc
    return advance_ns if overshoot > U64 else min(steps, advance_ns)
