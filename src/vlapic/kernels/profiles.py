# SPDX-License-Identifier: GPL-2.0-or-later
"""Profiles: which rules of timer advancement are in force, as frozen data, one row a kernel.

A rule is one of `rules/`; the part that acts on it asks for it by name, and nothing asks for a version.
`series` is the seven patches of "KVM: lapic: Fix a variety of timer adv issues" (April 2019) as their cover
letter describes them, on the v5.0 base; each of them is a switch (:meth:`Profile.without`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace

from vlapic.errors import UsageError, nearest
from vlapic.kernels import rules as r
from vlapic.kernels.fixes import FIXES
from vlapic.numerals import shown

#: Advancement a vCPU starts to tune from, ns (`LAPIC_TIMER_ADVANCE_NS_INIT`).
ADVANCE_START_NS = 1000
#: The most that tuning may come to, ns (`LAPIC_TIMER_ADVANCE_NS_MAX`; the hard cap of the series).
ADVANCE_CAP_NS = 5000
#: Tuning is done at the first |delta| below this many guest cycles; later kernels leave such deltas out
#: (`LAPIC_TIMER_ADVANCE_ADJUST_MIN`).
ADJUST_MIN_CYCLES = 100
#: Deltas above this many guest cycles are left out since v5.4 (`LAPIC_TIMER_ADVANCE_ADJUST_MAX`).
ADJUST_MAX_CYCLES = 10_000
#: A step of tuning is an eighth, of the advancement or of the delta (`LAPIC_TIMER_ADVANCE_ADJUST_STEP`).
ADJUST_STEP = 8


@dataclass(frozen=True, repr=False)
class Profile:
    """The rules of one kernel, or of the series.

    Attributes:
        name: what the command line calls it.
        kernel: the tree or build that it stands for, with its point release.
        since: the first release that behaves so.
        base: the kernel before it, whose rules it changes; empty for the oldest.
        trace_kernel: the kernel whose tracepoint formats `--trace` writes.
        hz: ticks a second it is built with; what `ndelay` takes depends on it. 250 in Debian's kernels; else
            what `x86_64_defconfig` says.
        fixes: the patches of the series in force, for `series` alone.

    The others are rules, a question each; `rules/` says what they mean.
    """

    name: str
    kernel: str
    since: str
    base: str
    trace_kernel: str
    hz: int
    scope: r.Scope
    parameter: r.Parameter
    early: r.Early
    ending: r.Ending
    tuning: r.Tuning
    overflow: r.Overflow
    wait: r.Wait
    order: r.Order
    place: r.Place
    wait_trace: r.WaitTrace
    exit_trace: r.ExitTrace
    records: r.Records
    hv_exit: r.HvExit
    pre_expired: r.PreExpired
    zero_delta: r.ZeroDelta
    hv_off: r.HvOff
    too_short: r.TooShort
    mode_change: r.ModeChange
    count_write: r.CountWrite
    deadline_write: r.DeadlineWrite
    deadline_read: r.DeadlineRead
    divide: r.Divide
    periodic_advance: r.PeriodicAdvance
    after_block: r.AfterBlock
    direct_injection: r.DirectInjection
    posted_wait: r.PostedWait
    saved_count: r.SavedCount
    restore: r.Restore
    fixes: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        return f"<Profile {self.name}>"  # `rules` has the rest

    @property
    def rules(self) -> dict[str, r.RuleEnum]:
        """Its rules by the question they answer, in the order of their declaration."""
        return {
            field.name: value
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), r.RuleEnum)
        }

    def changes(self, other: Profile) -> dict[str, tuple[r.RuleEnum, r.RuleEnum]]:
        """Where another profile answers otherwise: by the question, this one's rule and the other's."""
        theirs = other.rules
        return {name: (rule, theirs[name]) for name, rule in self.rules.items() if rule is not theirs[name]}

    def without(self, *numbers: int) -> Profile:
        """The series without some of its fixes, 1 to 7; its name says which.

        Raises:
            UsageError: this is not the series, or there is no such fix.
        """
        if not numbers:
            return self
        if not self.fixes:
            raise UsageError(
                f"profile {self.name} has no fixes to leave out; expected profile series, which has 1 to 7"
            )
        changed: dict[str, r.RuleEnum] = {}
        for number in numbers:
            if number not in FIXES:
                near = min(max(number, 1), len(FIXES))
                raise UsageError(
                    f"no fix {number} in the series; did you mean {near}? known: 1 to {len(FIXES)}"
                )
            changed |= FIXES[number].before
        left = self.fixes - set(numbers)
        absent = sorted(FIXES.keys() - left)
        name = SERIES.name + "".join(f"-{number}" for number in absent)
        return replace(self, **changed, name=name, fixes=left)  # type: ignore[arg-type]


V5_0 = Profile(
    name="v5.0",
    kernel="5.0.0",
    since="v4.20",
    base="",
    trace_kernel="v5.0",
    hz=1000,
    scope=r.Scope.GLOBAL,
    parameter=r.Parameter.START,
    early=r.Early.COMPARE,
    ending=r.Ending.DONE,
    tuning=r.Tuning.EIGHTH_OF_ADVANCE,
    overflow=r.Overflow.KEEP,
    wait=r.Wait.DELAY,
    order=r.Order.WAIT_THEN_TUNE,
    place=r.Place.BEFORE_COUNTER,
    wait_trace=r.WaitTrace.IN_WAIT,
    exit_trace=r.ExitTrace.IN_HANDLER,
    records=r.Records.TSC_DEADLINE,
    hv_exit=r.HvExit.CANCEL_FIRST,
    pre_expired=r.PreExpired.PRETEND_FAILURE,
    zero_delta=r.ZeroDelta.DIVIDE,
    hv_off=r.HvOff.PIN_CONTROL,
    too_short=r.TooShort.ARM,
    mode_change=r.ModeChange.HRTIMER,
    count_write=r.CountWrite.HRTIMER,
    deadline_write=r.DeadlineWrite.NOT_COUNTING,
    deadline_read=r.DeadlineRead.DEADLINE,
    divide=r.Divide.RAW,
    periodic_advance=r.PeriodicAdvance.OLD_TARGET,
    after_block=r.AfterBlock.ALWAYS_RESTART,
    direct_injection=r.DirectInjection.NONE,
    posted_wait=r.PostedWait.BODY,
    saved_count=r.SavedCount.INITIAL,
    restore=r.Restore.HRTIMER,
)

V5_1 = replace(
    V5_0,
    name="v5.1",
    kernel="5.1.0",
    since="v5.1",
    base="v5.0",
    trace_kernel="v5.1",
    scope=r.Scope.VCPU,
    parameter=r.Parameter.UNSIGNED,
    overflow=r.Overflow.KILL,
    wait=r.Wait.NDELAY_IF_SCALED,
    too_short=r.TooShort.EXPIRE,
)

V5_2 = replace(
    V5_1,
    name="v5.2",
    kernel="5.2.1",
    since="v5.2",
    base="v5.1",
    trace_kernel="v5.2",
    parameter=r.Parameter.SIGNED,
    records=r.Records.HV_TIMER,
    pre_expired=r.PreExpired.CANCEL,
    zero_delta=r.ZeroDelta.SKIP,
)

V5_3 = replace(
    V5_2,
    name="v5.3",
    kernel="5.3.1",
    since="v5.3",
    base="v5.2",
    trace_kernel="v5.3",
    early=r.Early.SIGN,
    overflow=r.Overflow.RESTART,
    place=r.Place.LAST,
    wait_trace=r.WaitTrace.AFTER_EXIT,
    hv_off=r.HvOff.GREATEST_VALUE,
    direct_injection=r.DirectInjection.POSTED,
)

V5_4 = replace(
    V5_3,
    name="v5.4",
    kernel="5.4.18",
    since="v5.4",
    base="v5.3",
    trace_kernel="v5.4",
    ending=r.Ending.MODULE_FLAG,
    tuning=r.Tuning.EIGHTH_OF_DELTA,
)

V5_14 = replace(
    V5_4,
    name="v5.14",
    kernel="5.14.2",
    since="v5.14",
    base="v5.4",
    trace_kernel="v5.14",
    order=r.Order.TUNE_THEN_WAIT_IF_TUNING,
    exit_trace=r.ExitTrace.AT_ONCE,
    hv_exit=r.HvExit.EXPIRE_FIRST,
    mode_change=r.ModeChange.BOTH,
    count_write=r.CountWrite.BOTH,
    deadline_write=r.DeadlineWrite.TSC_DEADLINE,
    deadline_read=r.DeadlineRead.ZERO,
    divide=r.Divide.MASKED,
    direct_injection=r.DirectInjection.APICV,
    saved_count=r.SavedCount.CURRENT,
    restore=r.Restore.HRTIMER_AND_EXPIRED,
)

V6_1 = replace(
    V5_14,
    name="v6.1",
    kernel="Debian 6.1.192, with the periodic mends of v6.19",
    since="v5.19",
    base="v5.14",
    trace_kernel="v6.1",
    hz=250,
    wait_trace=r.WaitTrace.IN_WAIT,
    mode_change=r.ModeChange.BOTH_AND_PENDING,
    count_write=r.CountWrite.BOTH_AND_PENDING,
    periodic_advance=r.PeriodicAdvance.NOT_BEFORE_NOW,
    after_block=r.AfterBlock.RESTART_IF_MOVED,
    direct_injection=r.DirectInjection.APICV_IN_KVM_RUN,
    saved_count=r.SavedCount.CURRENT_OR_NOW,
    restore=r.Restore.ALL,
)

V6_12 = replace(
    V6_1,
    name="v6.12",
    kernel="Debian 6.12.117, with the periodic mends of v6.19",
    since="v6.11",
    base="v6.1",
    trace_kernel="v6.12",
    parameter=r.Parameter.SWITCH,
    ending=r.Ending.NEVER,
    order=r.Order.TUNE_THEN_WAIT,
)

V6_19 = replace(
    V6_12,
    name="v6.19",
    kernel="6.19",
    since="v6.19",
    base="v6.12",
    trace_kernel="v6.19",
    hz=1000,
    # What Debian's builds have of v7.2 came after it.
    direct_injection=r.DirectInjection.APICV_IDLE_IN_GUEST,
)

#: The seven patches on the advancement of v5.0; the timer's state machine is that of v6.19.
SERIES = replace(
    V5_0,
    name="series",
    kernel="KVM: lapic: Fix a variety of timer adv issues (April 2019), on v5.0",
    since="v5.0",
    base="v5.0",
    trace_kernel="v5.2",
    scope=r.Scope.VCPU,
    parameter=r.Parameter.OVERRIDE,
    overflow=r.Overflow.HOLD,
    wait=r.Wait.GUEST_TSC_1NS,
    records=r.Records.HV_TIMER,
    hv_exit=r.HvExit.EXPIRE_FIRST,
    pre_expired=r.PreExpired.CANCEL,
    zero_delta=r.ZeroDelta.SKIP,
    mode_change=r.ModeChange.BOTH_AND_PENDING,
    count_write=r.CountWrite.BOTH_AND_PENDING,
    deadline_write=r.DeadlineWrite.TSC_DEADLINE,
    deadline_read=r.DeadlineRead.ZERO,
    divide=r.Divide.MASKED,
    periodic_advance=r.PeriodicAdvance.NOT_BEFORE_NOW,
    after_block=r.AfterBlock.RESTART_IF_MOVED,
    saved_count=r.SavedCount.CURRENT_OR_NOW,
    restore=r.Restore.ALL,
    fixes=frozenset(FIXES),
)

PROFILES = {
    profile.name: profile for profile in (SERIES, V5_0, V5_1, V5_2, V5_3, V5_4, V5_14, V6_1, V6_12, V6_19)
}

_SERIES_WITHOUT = re.compile(rf"{SERIES.name}((?:-[0-9]+)+)")


def find_profile(name: str) -> Profile:
    """The profile of that name; `6.1` is `v6.1`, `series-3-5` the series without its fixes 3 and 5.

    Raises:
        UsageError: there is none; the message offers the nearest and says which there are.
    """
    for known in (name, f"v{name}"):
        if known in PROFILES:
            return PROFILES[known]
    if found := _SERIES_WITHOUT.fullmatch(name):
        return SERIES.without(*map(int, found[1][1:].split("-")))
    raise UsageError(f"unknown profile {shown(name)}; {_hint(name)}known: {', '.join(PROFILES)}")


def _hint(name: str) -> str:
    """Which profile is meant: for a kernel's release the one it behaves like, else the one written alike."""
    if release_numbers(name) > (0, 0):
        like = profile_of_release(name)
        if like is None:
            return "none is as old; "
        older = release_numbers(like.name) != release_numbers(name)
        return f"did you mean {like.name!r}{', the newest up to it' if older else ''}? "
    near = nearest(name, PROFILES)
    return f"{near} " if near.startswith("did") else ""


def release_numbers(release: str) -> tuple[int, int]:
    """Major and minor number of a kernel's release as `uname -r` says it; (0, 0) if it says none."""
    match = re.match(r"v?([0-9]{1,4})\.([0-9]{1,4})(?![0-9])", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def profile_of_release(release: str) -> Profile | None:
    """The profile that a kernel behaves like: the newest of those that begin at it or before.

    None if all begin later. Fixes that a stable release took from a newer kernel do not count.
    """
    number = release_numbers(release)
    able = [
        each for each in PROFILES.values() if each is not SERIES and release_numbers(each.since) <= number
    ]
    return max(able, key=lambda each: release_numbers(each.since), default=None)
