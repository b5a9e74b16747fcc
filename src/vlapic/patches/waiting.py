# SPDX-License-Identifier: GPL-2.0-or-later
"""The fixes of waiting: in the guest's time (2), on the preemption timer too (5)."""

from __future__ import annotations

from vlapic.events import TimerInterrupt
from vlapic.kernels.profiles import Profile
from vlapic.patches.host import HOST_KHZ, cycles, host
from vlapic.patches.scenario import Figures, Parameters, Scenario, Side
from vlapic.patches.stage import Guest, play
from vlapic.patches.story import last_of
from vlapic.tsc import cycles_as_ns


def _late_ns(interrupt: TimerInterrupt, khz: int) -> int:
    """From the deadline to the handler, negative if it is early."""
    return cycles_as_ns(interrupt.handler_tsc - interrupt.deadline_tsc, khz)


# -- 2 --

#: The guests' TSC frequencies as shares of the host's, and what their figures are called.
_SHARES = {"half": (1, 2), "twice": (2, 1)}


def _measure_scaled(parameters: Parameters, profile: Profile) -> Side:
    khz, count = parameters["host_khz"], parameters["interrupts"]
    figures: Figures = {}
    stories = []
    for name, (over, under) in _SHARES.items():
        guest_khz = khz * over // under
        guest = Guest(parameters["guest"], count, cycles(parameters["deadline_ns"], guest_khz), (guest_khz,))
        played = play(profile, host(parameters), [guest], advance=parameters["advance"])
        late = [_late_ns(each, guest_khz) for each in played.interrupts]
        before = [cycles_as_ns(-each.delta_cycles, guest_khz) for each in played.interrupts]
        figures |= {
            f"{name}_before_deadline_ns": min(before),
            f"{name}_least_late_ns": min(late),
            f"{name}_most_late_ns": max(late),
            f"{name}_guest_saw_early": played.results().early,
        }
        stories.append(last_of(played.events, played.vcpus[0]))
    return Side(figures, stories[0])


def _scaled_shown(parameters: Parameters, without: Figures, with_fix: Figures) -> bool:
    half, twice = without["half_before_deadline_ns"], without["twice_before_deadline_ns"]
    near = parameters["near_percent"]
    return bool(
        abs(without["half_most_late_ns"] + half // 2) * 100 <= near * half
        and abs(without["twice_least_late_ns"] - twice) * 100 <= near * twice
        and all(
            0
            <= with_fix[f"{name}_least_late_ns"]
            <= with_fix[f"{name}_most_late_ns"]
            <= parameters["step_ns"]
            and with_fix[f"{name}_guest_saw_early"] == 0
            for name in _SHARES
        )
    )


TIME_DOMAIN = Scenario(
    fix=2,
    symptom="guest cycles are waited for on the host's TSC: too short for slow guests, too long for fast",
    parameters={
        "host_khz": HOST_KHZ,
        "timer": "preemption",
        "guest": "deadline",
        "advance": 5000,
        "interrupts": 50,
        "deadline_ns": 100_000,
        "lateness_ns": 500,
        "other_exits_ns": 500,
        "step_ns": 1,
        "near_percent": 5,
    },
    labels={
        "half_before_deadline_ns": "guest at half speed: to wait for, ns",
        "half_least_late_ns": "its handler after the deadline, least, ns",
        "half_most_late_ns": "most, ns",
        "half_guest_saw_early": "interrupts it saw early",
        "twice_before_deadline_ns": "guest at twice the speed: to wait for, ns",
        "twice_least_late_ns": "its handler after the deadline, least, ns",
        "twice_most_late_ns": "most, ns",
        "twice_guest_saw_early": "interrupts it saw early",
    },
    story="the last interrupt of the guest at half the host's frequency",
    measure=_measure_scaled,
    verdict=_scaled_shown,
)

# -- 5 --


def _measure_oneshot(parameters: Parameters, profile: Profile) -> Side:
    khz = parameters["host_khz"]
    guest = Guest(
        parameters["guest"], parameters["interrupts"], cycles(parameters["deadline_ns"], khz), (khz,)
    )
    played = play(profile, host(parameters), [guest])
    results = played.results()
    return Side(
        {
            "guest_saw": results.count,
            "guest_saw_early": results.early,
            "guest_least_late_ns": cycles_as_ns(results.min_cycles, khz),
            "guest_most_late_ns": cycles_as_ns(results.max_cycles, khz),
            "waited_for": sum(each.waited for each in played.interrupts),
        },
        last_of(played.events, played.vcpus[0]),
    )


def _oneshot_shown(parameters: Parameters, without: Figures, with_fix: Figures) -> bool:
    return bool(
        without["guest_saw_early"] > 0
        and without["guest_least_late_ns"] < 0
        and with_fix["guest_saw_early"] == 0
        and with_fix["guest_saw"] == without["guest_saw"] == parameters["interrupts"]
    )


HV_TIMER = Scenario(
    fix=5,
    symptom="a one-shot on the preemption timer is armed early and not waited for: it comes early",
    parameters={
        "host_khz": HOST_KHZ,
        "timer": "preemption",
        "guest": "oneshot",
        "advance": "auto",
        "interrupts": 100,
        "deadline_ns": 100_000,
        "lateness_ns": 500,
        "other_exits_ns": 200,
    },
    labels={
        "guest_saw": "interrupts the guest took",
        "guest_saw_early": "before its deadline",
        "guest_least_late_ns": "least after its deadline, ns",
        "guest_most_late_ns": "most, ns",
        "waited_for": "interrupts the host waited for",
    },
    story="the last interrupt",
    measure=_measure_oneshot,
    verdict=_oneshot_shown,
)
