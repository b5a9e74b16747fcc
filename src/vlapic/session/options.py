# SPDX-License-Identifier: GPL-2.0-or-later
"""

Light: completion reads it at every key, so that the machine may not come with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from vlapic.numerals import real_number, whole_number

#: Host timers under an APIC: KVM's choice, or one of the two.
TIMERS = ("auto", "hrtimer", "preemption")


def _whole_number(text: str) -> int:
    try:
        return whole_number(text)
    except ValueError:
        raise ValueError("a whole number") from None


def _advance(text: str) -> int | str:
    if text == "auto":
        return text
    try:
        return _whole_number(text)
    except ValueError:
        raise ValueError("'auto' or a whole number of ns") from None


def _seconds(text: str) -> float:
    try:
        return real_number(text)
    except ValueError:
        raise ValueError("a number of seconds") from None


def _module(text: str) -> tuple[str, ...]:
    return () if text == "none" else (text,)


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise ValueError("on or off")
    return text == "on"


def _several(none: str = "") -> Callable[[str], list[int]]:
    """Reads whole numbers with a plus between them; `none` is a word for not one."""

    def read(text: str) -> list[int]:
        if none and text == none:
            return []
        try:
            return [_whole_number(part) for part in text.split("+")]
        except ValueError:
            but = f"{none!r}, or " if none else ""
            raise ValueError(f"{but}whole numbers with a + between them") from None

    return read


class Option(NamedTuple):
    """An option that can be varied.

    Attributes:
        parameter: of :func:`vlapic.run`.
        read: how one of its values is read; a ValueError says what it would be.
        offers: values to offer, where they are few.
    """

    parameter: str
    read: Callable[[str], Any]
    offers: tuple[str, ...] = ()


_ON_OFF = ("off", "on")
#: Options that can be varied, by the name they have on the command line.
COMPARABLE: dict[str, Option] = {
    "profile": Option("profile", str),
    "timer": Option("timer", str),
    "advance": Option("advance", _advance, ("auto", "0")),
    "host": Option("host", str),
    "guest": Option("guest", str),
    "seed": Option("seed", _whole_number),
    "without": Option("without", _several("none"), ("none", *"1234567")),
    "apicv": Option("apicv", _switch, _ON_OFF),
    "pi-inject": Option("pi_inject", _switch, _ON_OFF),
    "mwait-in-guest": Option("mwait_in_guest", _switch, _ON_OFF),
    "delta": Option("delta", str),
    "tsc-khz": Option("tsc_khz", _several()),
    "host-tsc-khz": Option("host_tsc_khz", _whole_number),
    "events": Option("events", _whole_number),
    "seconds": Option("seconds", _seconds),
    "instructions": Option("instructions", _whole_number),
    "vcpus": Option("vcpus", _whole_number),
    "vms": Option("vms", _whole_number),
    "pcpus": Option("pcpus", _whole_number),
    "memory": Option("memory_mib", _whole_number),
    "append": Option("append", str),
    "module": Option("modules", _module, ("none",)),
}
#: Options that do not change what a run comes to, so that there would be nothing to compare.
NOT_COMPARABLE = (
    "trace", "worst", "events-off", "budget", "junit", "config", "compare", "live", "quiet", "json", "list",
    "print-host",
)  # fmt: skip
