# SPDX-License-Identifier: GPL-2.0-or-later
"""The kvm module's parameter of timer advancement: what may be set, what it means, what it reads.

Follows `kvm/lapic.c` and `kvm/x86.c` (`lapic_timer_advance_ns` up to v6.10, `lapic_timer_advance` since
v6.11). A *setting* is what a person says: None for auto, a number of ns, 0 for off. The parameter's value is
what the kernel makes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from vlapic.errors import UsageError
from vlapic.kernels.profiles import ADVANCE_START_NS, PROFILES, Profile
from vlapic.kernels.rules import Parameter
from vlapic.tsc import U32

S32_MAX = (1 << 31) - 1
#: What the signed parameter says for auto.
ADAPTIVE = -1
#: The same in v5.1, whose `module_param` says uint of the signed variable.
ADAPTIVE_AS_UINT = U32


class ParameterRule(NamedTuple):
    """One form of the parameter.

    Attributes:
        least, most: numbers that it takes.
        auto: its value for auto; None where auto is a word of its own.
        start: advancement (u32 ns) and done flag that a vCPU starts with, of the value.
        text: how the value reads in sysfs.
        overrides: whether a number ends tuning.
        writable: whether it can be set while the module is loaded.
    """

    least: int
    most: int
    auto: int | None
    start: Callable[[int | None], tuple[int, bool]]
    text: Callable[[int | None], str]
    overrides: bool = True
    writable: bool = True

    def of_setting(self, profile: Profile, setting: int | None) -> int | None:
        """The value that says so.

        Raises:
            UsageError: it cannot be said.
        """
        if setting is None:
            return self.auto
        if not self.least <= setting <= self.most:
            raise _refusal(self, profile, setting)
        return setting

    def of_write(self, profile: Profile, setting: int | None) -> int | None:
        """The same of a parameter that is written while the module is loaded.

        Raises:
            UsageError: it cannot be said, or the parameter is read-only.
        """
        value = self.of_setting(profile, setting)
        if not self.writable:
            raise UsageError(
                f"the parameter is read-only in profile {profile.name}; it is set when the module is loaded"
            )
        return value


def _start_value(value: int | None) -> tuple[int, bool]:
    return ADVANCE_START_NS if value is None else value, False


def _override(value: int | None) -> tuple[int, bool]:
    return (ADVANCE_START_NS, False) if value is None else (value, True)


def _signed(value: int | None) -> tuple[int, bool]:
    """-1 tunes; any other number is assigned to a u32 and used as it is."""
    if value is None or value == ADAPTIVE:
        return ADVANCE_START_NS, False
    return value & U32, True


def _unsigned(value: int | None) -> tuple[int, bool]:
    """The greatest number is the variable's -1."""
    if value is None or value == ADAPTIVE_AS_UINT:
        return ADVANCE_START_NS, False
    return value, True


def _switch(value: int | None) -> tuple[int, bool]:
    """Off is an advancement of 0, which no entry waits or tunes with."""
    return (ADVANCE_START_NS if value else 0), False


def _number(value: int | None) -> str:
    return "auto" if value is None else str(value)


def _letter(value: int | None) -> str:
    return "Y" if value else "N"


PARAMETERS: dict[Parameter, ParameterRule] = {
    Parameter.START: ParameterRule(0, U32, ADVANCE_START_NS, _start_value, _number, overrides=False),
    Parameter.OVERRIDE: ParameterRule(0, U32, None, _override, _number),
    Parameter.UNSIGNED: ParameterRule(0, U32, ADAPTIVE_AS_UINT, _unsigned, _number),
    Parameter.SIGNED: ParameterRule(-1 - S32_MAX, S32_MAX, ADAPTIVE, _signed, _number),
    Parameter.SWITCH: ParameterRule(0, 0, 1, _switch, _letter, writable=False),
}


def _refusal(rule: ParameterRule, profile: Profile, setting: int) -> UsageError:
    """Why a number cannot be said; who could say it, if that is a kernel that takes no number at all."""
    if rule.most:
        return UsageError(
            f"advance {setting} ns is out of range in profile {profile.name}; it takes auto, or"
            f" {rule.least} to {rule.most} ns"
        )
    able = [
        name
        for name, each in PROFILES.items()
        if PARAMETERS[each.parameter].least <= setting <= PARAMETERS[each.parameter].most
    ]
    had_it = f"; {setting} ns can be had with {', '.join(able)}" if able and setting > 0 else ""
    return UsageError(
        f"profile {profile.name} takes auto or 0 as the advancement, not {setting}: since"
        f" {profile.parameter.rule.since} the kernel's parameter is on or off{had_it}"
    )
