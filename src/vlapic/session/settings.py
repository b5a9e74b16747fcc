# SPDX-License-Identifier: GPL-2.0-or-later
"""What the settings of a run may be: each is refused for its own sake, before anything runs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from vlapic.errors import UsageError, nearest
from vlapic.kernels.parameter import PARAMETERS
from vlapic.kernels.profiles import Profile, find_profile
from vlapic.machine.apicv import check_posting
from vlapic.machine.host import ModuleParameters
from vlapic.session.options import TIMERS
from vlapic.tsc import U32, U64, scaling_ratio

#: The arguments of `kernel_settings`.
KERNEL_SETTINGS = ("profile", "without", "timer", "apicv", "pi_inject", "mwait_in_guest", "advance")


def tsc_frequencies(tsc_khz: int | Sequence[int] | None, vcpus: int, host_tsc_khz: int) -> list[int]:
    """Each vCPU's TSC frequency in kHz: what was given, the last one for those it was not given for.

    Raises:
        UsageError: there are too many, or one is out of range, by itself or for the host's.
    """
    given = [host_tsc_khz] if tsc_khz is None else [tsc_khz] if isinstance(tsc_khz, int) else list(tsc_khz)
    if not 1 <= len(given) <= vcpus:
        raise UsageError(
            f"{len(given)} TSC frequencies for {vcpus} vCPU{'' if vcpus == 1 else 's'};"
            " give one for all, or one for each"
        )
    for khz in given:
        check_range("guest TSC frequency", khz, 1, U32, "kHz")
        try:
            scaling_ratio(khz, host_tsc_khz)
        except ValueError as error:
            raise UsageError(str(error)) from None
    return given + given[-1:] * (vcpus - len(given))


_DISTANCE = re.compile(r"(?P<number>[0-9]{1,40}(?:\.[0-9]{1,40})?) ?(?P<unit>ns|us|µs|ms|s|cycles)")
#: The distance of a deadline in cycles that KVM can turn into ns: it multiplies by 10^6 in 64 bits
#: (`kvm/lapic.c: start_sw_tscdeadline`).
MOST_DELTA_CYCLES = U64 // 1_000_000
_NS_OF = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000}


def distance_cycles(text: str, tsc_khz: int) -> int:
    """A distance of deadlines, a time with its unit, in cycles of a TSC; rounded down, 1 at least.

    Raises:
        UsageError: it is no such time, or out of range.
    """
    found = _DISTANCE.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f"delta {text!r} is no distance of deadlines; it takes a time (50us; ns, us, ms or s) or cycles"
            " (125000cycles)"
        )
    number, unit = Fraction(found["number"]), found["unit"]
    cycles = int(number if unit == "cycles" else number * _NS_OF[unit] * tsc_khz / 1_000_000)
    if number != cycles and unit == "cycles":
        raise UsageError(f"delta {text!r} is no whole number of cycles")
    if not 1 <= cycles <= MOST_DELTA_CYCLES:
        raise UsageError(
            f"delta {text!r} is {cycles} cycles, out of range; it takes 1 to {MOST_DELTA_CYCLES} cycles,"
            " beyond which KVM's product of 64 bits wraps and timers come early"
        )
    return cycles


def same_file(first: Path, second: str | os.PathLike[str]) -> bool:
    """Whether two paths are one file; not, where one does not exist."""
    try:
        return first.samefile(second)
    except OSError:
        return False


def kernel_settings(
    profile: str | Profile = "series",
    without: Sequence[int] = (),
    timer: str = "auto",
    apicv: bool = False,
    pi_inject: bool = False,
    mwait_in_guest: bool = False,
    advance: str | int = "auto",
) -> tuple[Profile, ModuleParameters]:
    """The rules and the module parameters that these arguments of `vlapic.run` come to.

    Raises:
        UsageError: one of them makes no sense, or not with the others.
    """
    rules = (find_profile(profile) if isinstance(profile, str) else profile).without(*without)
    parameters = ModuleParameters(
        advance_setting(rules, advance), on_preemption_timer(timer), apicv, pi_inject
    )
    check_posting(rules, parameters, mwait_in_guest, timer)
    return rules, parameters


def advance_setting(rules: Profile, advance: str | int) -> int | None:
    """What the module parameter is to say, if the profile's kernel can be told so; None is auto.

    Raises:
        UsageError: it cannot.
    """
    if advance == "auto":
        return None
    if isinstance(advance, str):
        raise UsageError(f"advance {advance!r} is neither 'auto' nor a number of ns; 0 is off")
    PARAMETERS[rules.parameter].of_setting(rules, advance)
    return advance


def on_preemption_timer(timer: str) -> bool:
    """Whether a timer of TIMERS lets KVM use the VMX preemption timer.

    Raises:
        UsageError: it is none of them.
    """
    if timer not in TIMERS:
        raise UsageError(f"unknown timer {timer!r}; {nearest(timer, TIMERS)}")
    return timer != "hrtimer"


def check_range(what: str, value: int, low: int, high: int, unit: str = "", why: str = "") -> None:
    """Raise UsageError for a value that is not within `low` to `high`, both included; it ends with `why`."""
    if not low <= value <= high:
        unit = unit and f" {unit}"
        raise UsageError(f"{what} {value}{unit} is out of range; it takes {low} to {high}{unit}{why}")
