# SPDX-License-Identifier: GPL-2.0-or-later
"""Where what a replay needs beside deltas comes from: the rules, each vCPU's TSC frequency, its parameter.

What a person gives comes first, then the sidecar, then what the trace says. Each answer says where it is
from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from vlapic.errors import TraceError, UsageError
from vlapic.events import VcpuStart
from vlapic.kernels.profiles import (
    ADVANCE_START_NS,
    PROFILES,
    Profile,
    find_profile,
    profile_of_release,
    release_numbers,
)
from vlapic.numerals import shown, whole_number
from vlapic.replay.apicv_deltas import HIDING_KERNELS
from vlapic.replay.frequency import Frequency, fit_frequencies
from vlapic.trace import open_trace
from vlapic.trace.reader import Clock, TraceFacts, TraceReader, TscConversion
from vlapic.trace.sidecar import Sidecar
from vlapic.trace.source import Origin
from vlapic.tsc import U32, U64_BITS, VMX_FRAC_BITS

#: Where nothing says which kernel it was: the one whose rules have been longest in force.
FALLBACK_PROFILE = "v6.1"
#: More than a kernel's release has (`struct new_utsname`).
_LONGEST_RELEASE = 64
#: The source of what a person gave.
AS_GIVEN = "as given"
#: The module's parameter, before v6.11 and since.
PARAMETER_NAMES = ("lapic_timer_advance_ns", "lapic_timer_advance")


class Chosen(NamedTuple):
    """The rules of a replay.

    Attributes:
        profile: the rules.
        why: these.
        recorded: the profile of the kernel that recorded, None if it is not known or has none.
        hides_deltas: that kernel enters a guest again before it traces a delta (`HIDING_KERNELS`).
    """

    profile: Profile
    why: str
    recorded: Profile | None
    hides_deltas: bool = False


class TscFrequency(NamedTuple):
    """A guest's TSC frequency, kHz, and where it is from; `error_khz` is that of a fit."""

    khz: int
    source: str
    error_khz: float | None = None


class Setting(NamedTuple):
    """The module parameter under which a vCPU was created (None is auto, else ns), and where it is from."""

    ns: int | None
    source: str


@dataclass
class Sources:
    """The answers for one trace.

    Attributes:
        reader: the trace; what its `facts` say may still grow.
        origin: what it is read from.
        sidecar: what lies beside it.
        tsc_khz, advance: what a person gave; None if nothing (`auto` is a setting of None).
        start: the advancement of vCPUs that were there before the trace, ns: of each by its key, and of all
            others under None.
    """

    reader: TraceReader
    origin: Origin
    sidecar: Sidecar
    tsc_khz: int | None = None
    advance: int | str | None = None
    start: Mapping[int | None, int] = field(default_factory=dict)
    _whole: TraceFacts | None = None
    _fitted: dict[int, Frequency] = field(default_factory=dict)

    def profile(self, name: str | None, start: VcpuStart | None) -> Chosen:
        """The rules: those that are named, else those of the kernel that recorded the trace.

        Args:
            name: what a person gave.
            start: the first start marker, if there is one.

        Raises:
            UsageError: there is no such profile.
            TraceError: the recording is of a kernel without one.
        """
        if start is not None and start.profile:
            recorded: Profile | None = profile_in_trace(start.profile)
            why, hides = "the trace's start marker says so", False
        else:
            release = self.sidecar.kernel or self.reader.facts.kernel or ""
            recorded = profile_of_release(release)
            why = f"{'the sidecar' if self.sidecar.kernel else 'the trace'} says kernel {_in_short(release)}"
            hides = HIDING_KERNELS[0] <= release_numbers(release) < HIDING_KERNELS[1]
            if recorded is None and release and name is None:
                raise TraceError(
                    f"{why}, which has no profile: advancement tunes itself since v4.20; give --profile to"
                    " replay by the rules of another kernel"
                )
        if name is not None:
            return Chosen(find_profile(name), AS_GIVEN, recorded, hides)
        if recorded is not None:
            return Chosen(recorded, why, recorded, hides)
        return Chosen(PROFILES[FALLBACK_PROFILE], "nothing says which kernel recorded the trace", None)

    def ratio(self, start: VcpuStart | None) -> tuple[int, int]:
        """The scaling ratio of a guest's TSC and its fraction bits; (0, 0) is not scaled."""
        if start is not None and start.tsc_ratio:
            return start.tsc_ratio, start.frac_bits
        return self.sidecar.tsc_ratio or 0, self.sidecar.frac_bits or VMX_FRAC_BITS

    def frequency(self, key: int, start: VcpuStart | None) -> TscFrequency:
        """The TSC frequency of the vCPU with this key.

        Raises:
            TraceError: nobody says it, and it cannot be fitted.
        """
        if self.tsc_khz is not None:
            return TscFrequency(self.tsc_khz, AS_GIVEN)
        if self.sidecar.tsc_khz is not None:
            return TscFrequency(self.sidecar.tsc_khz, "the sidecar")
        if start is not None and start.tsc_khz:
            return TscFrequency(start.tsc_khz, "the start marker")
        facts = self.reader.facts
        if facts.tsc_khz is None and self._whole is None:
            # What stands at the end of the file is not read yet.
            facts = self._survey()
        if facts.tsc_khz is not None:
            return TscFrequency(facts.tsc_khz, "the header")
        if facts.conversion is not None and (khz := khz_of_conversion(facts.conversion)) is not None:
            return TscFrequency(khz, "the host's TSC in trace.dat")
        if key in self._fitted:
            fit = self._fitted[key]
            return TscFrequency(round(fit.khz), f"fitted to {fit.points} deadlines", fit.error_khz)
        raise TraceError(self._unknown_frequency())

    def setting(self, start: VcpuStart | None) -> Setting:
        """The module parameter under which a vCPU was created; auto if nobody says.

        Raises:
            TraceError: what is said there is no value of it.
        """
        if self.advance is not None:
            return Setting(None if self.advance == "auto" else int(self.advance), AS_GIVEN)
        told = [(self.sidecar.parameters.get(name), "the sidecar") for name in PARAMETER_NAMES]
        if start is not None and start.parameter:
            told.append((start.parameter, "the start marker"))
        told += [(self.reader.facts.parameters.get(name), "the header") for name in PARAMETER_NAMES]
        for value, source in told:
            if value is not None:
                return Setting(setting_of(value, source), source)
        if start is not None and start.advance_ns != ADVANCE_START_NS:
            return Setting(start.advance_ns, "the start marker")
        return Setting(None, "assumed")

    def start_ns(self, key: int, start: VcpuStart | None) -> int | None:
        """The advancement that the vCPU with this key has when the trace begins, ns.

        None is that of a new one, as of each whose creation the trace shows.
        """
        return None if start is not None else self.start.get(key, self.start.get(None))

    def _survey(self) -> TraceFacts:
        """Read the whole trace for what it says at its end, and fit frequencies if its clock is ns."""
        again = open_trace(self.origin)
        if self.reader.clock is Clock.NS:
            self._fitted = fit_frequencies(again)
        else:
            for _ in again.batches():
                pass
        self._whole = again.facts
        return again.facts

    def _unknown_frequency(self) -> str:
        fit = "; too few writes of TSC_DEADLINE are in it to fit one" if self.reader.clock is Clock.NS else ""
        refused = self.reader.facts.refused | (self._whole.refused if self._whole else {})
        if "virtual_tsc_khz" in refused:
            line, said = refused["virtual_tsc_khz"]
            fit = f" (line {line} has virtual_tsc_khz {said!r}, expected 1 to {U32}){fit}"
        return (
            f"the trace {self.reader.path!r} does not say the frequency of the guest's TSC{fit}; give it by"
            " --tsc-khz or as tsc_khz in a sidecar NAME.toml. It is what KVM_GET_TSC_KHZ returns, and for a"
            " guest that is not scaled the host's: `dmesg | grep -i 'tsc:.*MHz'`, times 1000"
        )


def _in_short(release: str) -> str:
    return release if len(release) <= _LONGEST_RELEASE else f"{release[:_LONGEST_RELEASE]}..."


def setting_of(value: str, source: str) -> int | None:
    """A module parameter's value in sysfs as a setting: -1, Y and auto are auto (None), N is off (0).

    Raises:
        TraceError: it is none of these, and no number.
    """
    words = {"-1": None, "Y": None, "auto": None, "N": 0}
    if value in words:
        return words[value]
    try:
        return whole_number(value, (0, U32))
    except ValueError:
        raise TraceError(
            f"{source} has {PARAMETER_NAMES[0]} = {shown(value)}; expected -1, a number of ns up to {U32},"
            " Y or N"
        ) from None


def khz_of_conversion(conversion: TscConversion) -> int | None:
    """The TSC frequency that a clock's conversion to ns was made for, kHz, rounded; None if it is none."""
    mult, shift = conversion.mult, conversion.shift
    if mult <= 0 or not 0 <= shift < U64_BITS:
        return None
    khz = (1_000_000 << shift) // mult + (2 * ((1_000_000 << shift) % mult) >= mult)
    return khz if 1 <= khz <= U32 else None


def profile_in_trace(name: str) -> Profile:
    """The profile that a start marker names.

    Raises:
        TraceError: there is none of that name.
    """
    try:
        return find_profile(name)
    except UsageError as error:
        raise TraceError(f"a start marker of the trace says profile={name}: {error}") from None
