# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules of timer advancement: how early to fire, how to tune. Plain functions of plain integers.

Follows `kvm/lapic.c` (`start_sw_tscdeadline`, `adjust_lapic_timer_advance`, earlier a part of
`wait_lapic_expire`). A :class:`~vlapic.kernels.profiles.Profile` names its rules; the tables below lead from
a name to its function. Numbers are non-negative and at most 64 bits wide; where a difference has a sign, the
sign is a bool of its own: so machine, replay and fleet can call the same functions, interpreted or compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from vlapic.kernels.profiles import (
    ADJUST_MAX_CYCLES,
    ADJUST_MIN_CYCLES,
    ADJUST_STEP,
    ADVANCE_CAP_NS,
    ADVANCE_START_NS,
    Profile,
)
from vlapic.kernels.rules import Early, Ending, Overflow, TooShort, Tuning
from vlapic.tsc import S64_SIGN, U32, U64, cycles_to_ns

#: A u64 difference from here on is a negative s64 of less than `ADJUST_MIN_CYCLES`.
_NEARLY_ZERO = (1 << 64) - ADJUST_MIN_CYCLES + 1

#: From a guest TSC and a deadline: whether it is before the deadline, and how many guest cycles away.
Split = Callable[[int, int], tuple[bool, int]]
#: From a distance (u64 cycles): whether tuning uses it at all.
Counts = Callable[[int], bool]
#: From advancement (u32 ns), early, distance (u64 cycles) and the guest's kHz: the advancement after a step.
Step = Callable[[int, bool, int, int], int]
#: From whether tuning had ended before, and the distance: whether it has ended now.
Ends = Callable[[bool, int], bool]
#: From advancement and done flag: the two after the limit.
Limit = Callable[[int, bool], tuple[int, bool]]
#: From advancement, done flag, early, distance and kHz: advancement and done flag after one tuning.
Tune = Callable[[int, bool, bool, int, int], tuple[int, bool]]
#: From now, the time to the deadline and the advancement, in ns: whether to arm the hrtimer, and for when.
Arm = Callable[[int, int, int], tuple[bool, int]]


# -- early or late --


def split_delta(guest_tsc: int, deadline_tsc: int) -> tuple[bool, int]:
    """Whether a guest TSC is before the deadline (an unsigned compare), and how many cycles away."""
    if guest_tsc < deadline_tsc:
        return True, deadline_tsc - guest_tsc
    return False, guest_tsc - deadline_tsc


def split_signed_delta(guest_tsc: int, deadline_tsc: int) -> tuple[bool, int]:
    """The same by the sign of the difference as an s64, as the kernel has it since v5.3."""
    late = (guest_tsc - deadline_tsc) & U64
    if late < S64_SIGN:
        return False, late
    return True, (deadline_tsc - guest_tsc) & U64


# -- which deltas count --


def counts_always(distance_cycles: int) -> bool:
    """Tuning uses every delta (v4.20 to v5.3)."""
    return True


def counts_between_limits(distance_cycles: int) -> bool:
    """Tuning uses no delta below 100 cycles, a fluctuation, and none above 10 000, a spike (v5.4 on)."""
    return ADJUST_MIN_CYCLES <= distance_cycles <= ADJUST_MAX_CYCLES


# -- the step --


def step_by_eighth_of_advance(advance_ns: int, early: bool, distance_cycles: int, tsc_khz: int) -> int:
    """Move the advancement by the delta, but at most by an eighth of itself (v4.20 to v5.3).

    Since Linux commit 3b8a5df6c4dc ("KVM: LAPIC: Tune lapic_timer_advance_ns automatically") (in v4.20). The
    distance in ns is cut to 32 bits before it is compared.
    """
    step_ns = min(cycles_to_ns(distance_cycles, tsc_khz) & U32, advance_ns // ADJUST_STEP)
    if early:
        return advance_ns - step_ns
    return (advance_ns + step_ns) & U32


def step_by_eighth_of_delta(advance_ns: int, early: bool, distance_cycles: int, tsc_khz: int) -> int:
    """Move the advancement by an eighth of the delta (v5.4 on).

    Nothing keeps a step early below the advancement: the difference wraps at 32 bits.
    """
    step_ns = cycles_to_ns(distance_cycles, tsc_khz) // ADJUST_STEP
    if early:
        return (advance_ns - step_ns) & U32
    return (advance_ns + step_ns) & U32


# -- the end of tuning --


def ends_when_near(done: bool, distance_cycles: int) -> bool:
    """Tuning ends at the first |delta| below 100 cycles, for good.

    The kernel takes the absolute value of an s64: a distance near 2^64 is near, and so is 2^63, whose
    absolute value is negative.
    """
    return (
        done
        or distance_cycles < ADJUST_MIN_CYCLES
        or distance_cycles >= _NEARLY_ZERO
        or distance_cycles == S64_SIGN
    )


def ends_never(done: bool, distance_cycles: int) -> bool:
    """Tuning never ends."""
    return done


# -- the limit --


def keep(advance_ns: int, done: bool) -> tuple[int, bool]:
    """There is no limit."""
    return advance_ns, done


def hold_at_cap(advance_ns: int, done: bool) -> tuple[int, bool]:
    """Hold a value above 5000 ns at 5000 and tune on (the series' first patch)."""
    return min(advance_ns, ADVANCE_CAP_NS), done


def kill_above_cap(advance_ns: int, done: bool) -> tuple[int, bool]:
    """End tuning and advancement both at a value above 5000 ns.

    Since Linux commit 57bf67e73ce9 ("KVM: lapic: Disable timer advancement if adaptive tuning goes haywire")
    (in v5.1).
    """
    if advance_ns > ADVANCE_CAP_NS:
        return 0, True
    return advance_ns, done


def restart_above_cap(advance_ns: int, done: bool) -> tuple[int, bool]:
    """Start again from 1000 ns at a value above 5000, even if this delta had ended tuning (v5.3 on)."""
    if advance_ns > ADVANCE_CAP_NS:
        return ADVANCE_START_NS, False
    return advance_ns, done


EARLY: dict[Early, Split] = {Early.COMPARE: split_delta, Early.SIGN: split_signed_delta}
COUNTS: dict[Tuning, Counts] = {
    Tuning.EIGHTH_OF_ADVANCE: counts_always,
    Tuning.EIGHTH_OF_DELTA: counts_between_limits,
}
STEP: dict[Tuning, Step] = {
    Tuning.EIGHTH_OF_ADVANCE: step_by_eighth_of_advance,
    Tuning.EIGHTH_OF_DELTA: step_by_eighth_of_delta,
}
ENDS: dict[Ending, Ends] = {
    Ending.DONE: ends_when_near,
    Ending.MODULE_FLAG: ends_never,
    Ending.NEVER: ends_never,
}
LIMIT: dict[Overflow, Limit] = {
    Overflow.KEEP: keep,
    Overflow.HOLD: hold_at_cap,
    Overflow.KILL: kill_above_cap,
    Overflow.RESTART: restart_above_cap,
}


def tuning(counts: Counts, step: Step, ends: Ends, limit: Limit) -> Tune:
    """The tuning that consists of these rules, in the kernel's order; once done nothing changes."""

    def tune_once(
        advance_ns: int, done: bool, early: bool, distance_cycles: int, tsc_khz: int
    ) -> tuple[int, bool]:
        if done or not counts(distance_cycles):
            return advance_ns, done
        return limit(step(advance_ns, early, distance_cycles, tsc_khz), ends(done, distance_cycles))

    return tune_once


def rules_of(tuned: Tuning, ending: Ending, overflow: Overflow) -> tuple[Counts, Step, Ends, Limit]:
    """The functions that named rules stand for."""
    return COUNTS[tuned], STEP[tuned], ENDS[ending], LIMIT[overflow]


@cache
def tuning_of(tuned: Tuning, ending: Ending, overflow: Overflow) -> Tune:
    """The tuning by named rules."""
    return tuning(*rules_of(tuned, ending, overflow))


def tune(
    profile: Profile, advance_ns: int, done: bool, early: bool, distance_cycles: int, tsc_khz: int
) -> tuple[int, bool]:
    """The advancement and done flag after one expiry, by the profile's rules.

    Args:
        advance_ns: u32.
        done: whether tuning has ended.
        early: whether the guest TSC is before the deadline, as the profile tells (`EARLY`).
        distance_cycles: how far, u64 guest cycles, as the profile tells.
        tsc_khz: the guest's frequency, at least 1.
    """
    one = tuning_of(profile.tuning, profile.ending, profile.overflow)
    return one(advance_ns, done, early, distance_cycles, tsc_khz)


# -- arming the hrtimer --


def arm_whatever(now_ns: int, remaining_ns: int, advance_ns: int) -> tuple[bool, int]:
    """Arm it early by the advancement; that may be before now, and then it fires at once.

    A time before the monotonic clock's 0, which is negative in the kernel, is 0 here.
    """
    at_ns = now_ns + remaining_ns
    return True, at_ns - min(advance_ns, at_ns)


def arm_if_ahead(now_ns: int, remaining_ns: int, advance_ns: int) -> tuple[bool, int]:
    """Arm it early by the advancement if that is still to come; else the deadline expires now.

    Since Linux commit c09d65d9eab6 ("KVM: x86: Consider LAPIC TSC-Deadline timer expired if deadline too
    short") (in v5.1).
    """
    if remaining_ns <= advance_ns:
        return False, now_ns
    return True, now_ns + remaining_ns - advance_ns


ARM: dict[TooShort, Arm] = {TooShort.ARM: arm_whatever, TooShort.EXPIRE: arm_if_ahead}
