"""Profiles: which rules of timer advancement are in force, as frozen data.

A rule is named here and found in a table of `apic/advance.py`; nothing asks for a version. `series` is the
seven patches of "KVM: lapic: Fix a variety of timer adv issues" (April 2019) as their cover letter describes
them, on the v5.0 base.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from vlapic.errors import unknown_name

#: Advancement a vCPU starts to tune from, ns (`LAPIC_TIMER_ADVANCE_NS_INIT`; until v5.0 the parameter's
# default).
ADVANCE_START_NS = 1000
#: The hard cap of the series' first patch, ns.
ADVANCE_CAP_NS = 5000
#: Tuning is done at the first |delta| below this many guest cycles (`LAPIC_TIMER_ADVANCE_ADJUST_DONE`).
ADJUST_DONE_CYCLES = 100
#: A step of tuning is at most the advancement divided by this (`LAPIC_TIMER_ADVANCE_ADJUST_STEP`).
ADJUST_STEP = 8


class Tuning(Enum):
    """How a delta changes the advancement."""

    EIGHTH_OF_ADVANCE = "at most an eighth of the advancement a step; done below 100 cycles"


class Overflow(Enum):
    """What becomes of an advancement above the cap."""

    HOLD = "held at the cap, done unchanged"


class Wait(Enum):
    """How the busy wait passes the time to the deadline."""

    GUEST_TSC_1NS = "re-reads the guest TSC every 1 ns, advance_ns times at most"


@dataclass(frozen=True)
class Profile:
    """The rules of one kernel, or of the series.

    Attributes:
        name: what the command line calls it.
        since: where its rules come from.
        tuning, overflow, wait: rules, by name.
        trace_kernel: the kernel whose tracepoint formats `--trace` writes.
    """

    name: str
    since: str
    tuning: Tuning
    overflow: Overflow
    wait: Wait
    trace_kernel: str


SERIES = Profile(
    name="series",
    since="KVM: lapic: Fix a variety of timer adv issues (April 2019), on v5.0",
    tuning=Tuning.EIGHTH_OF_ADVANCE,
    overflow=Overflow.HOLD,
    wait=Wait.GUEST_TSC_1NS,
    trace_kernel="v5.2",
)

PROFILES = {profile.name: profile for profile in (SERIES,)}


def find_profile(name: str) -> Profile:
    """The profile of that name.

    Raises:
        UsageError: there is none; the message offers the nearest.
    """
    try:
        return PROFILES[name]
    except KeyError:
        raise unknown_name("profile", name, PROFILES) from None
