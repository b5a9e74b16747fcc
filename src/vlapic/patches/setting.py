# SPDX-License-Identifier: GPL-2.0-or-later
"""The fixes of setting the preemption timer: a deadline that is past (6), a distance of nothing (7)."""

from __future__ import annotations

from vlapic.events import HvTimerState
from vlapic.kernels.profiles import Profile
from vlapic.patches.host import HOST_KHZ, cycles, host
from vlapic.patches.scenario import Figures, Parameters, Scenario, Side
from vlapic.patches.stage import Guest, Played, play
from vlapic.patches.story import last_of


def _guest_saw(played: Played) -> dict[str, object]:
    """All that the guest can tell of its interrupts."""
    results = played.results()
    return {
        "guest_saw": results.count,
        "guest_saw_early": results.early,
        "guest_least_late_cycles": results.min_cycles,
        "guest_most_late_cycles": results.max_cycles,
        "guest_sum_late_cycles": results.sum_cycles,
        "instructions": played.vcpus[0].engine.instructions,
    }


def _saw_the_same(without: Figures, with_fix: Figures) -> bool:
    seen = [name for name in without if name.startswith("guest_") or name == "instructions"]
    return all(without[name] == with_fix[name] for name in seen)


_GUEST_LABELS = {
    "guest_saw": "interrupts the guest took",
    "guest_most_late_cycles": "most after its deadline, cycles",
    "instructions": "guest instructions in all",
}


# -- 6 --


def _measure_past(parameters: Parameters, profile: Profile) -> Side:
    khz = parameters["host_khz"]
    guest = Guest(
        parameters["guest"], parameters["interrupts"], cycles(parameters["deadline_ns"], khz), (khz,)
    )
    played = play(profile, host(parameters), [guest], advance=parameters["advance"])
    states = [event.hv_timer_in_use for event in played.events if isinstance(event, HvTimerState)]
    return Side(
        {
            "hv_timer_state_0": states.count(False),
            "hv_timer_state_1": states.count(True),
            **_guest_saw(played),
        },
        last_of(played.events, played.vcpus[0]),
    )


def _past_shown(parameters: Parameters, without: Figures, with_fix: Figures) -> bool:
    return bool(
        without["hv_timer_state_0"] == without["hv_timer_state_1"] == 0
        and with_fix["hv_timer_state_0"] == with_fix["guest_saw"] == parameters["interrupts"]
        and with_fix["hv_timer_state_1"] == 0
        and _saw_the_same(without, with_fix)
    )


PRE_EXPIRED = Scenario(
    fix=6,
    symptom="a deadline past when the preemption timer is set counts as a failure, and leaves no trace",
    parameters={
        "host_khz": HOST_KHZ,
        "timer": "preemption",
        "guest": "oneshot",
        "advance": 1000,
        "interrupts": 100,
        "deadline_ns": 800,
        "lateness_ns": 500,
        "other_exits_ns": 200,
    },
    labels={
        "hv_timer_state_0": "kvm_hv_timer_state 0 traced",
        "hv_timer_state_1": "kvm_hv_timer_state 1 traced",
        **_GUEST_LABELS,
    },
    story="the last interrupt",
    measure=_measure_past,
    verdict=_past_shown,
)

# -- 7 --


def _measure_zero(parameters: Parameters, profile: Profile) -> Side:
    khz = parameters["guest_khz"]
    guest = Guest(
        parameters["guest"], parameters["interrupts"], cycles(parameters["deadline_ns"], khz), (khz,)
    )
    played = play(profile, host(parameters), [guest], advance=parameters["advance"])
    preemption = played.vcpus[0].timer.host_timers.preemption
    assert preemption is not None, "the scenario's timers are on the preemption timer"
    return Side(
        {"divides": preemption.divides, **_guest_saw(played)}, last_of(played.events, played.vcpus[0])
    )


def _zero_shown(parameters: Parameters, without: Figures, with_fix: Figures) -> bool:
    return bool(
        without["divides"] >= parameters["interrupts"]
        and with_fix["divides"] == 0
        and _saw_the_same(without, with_fix)
    )


ZERO_DELTA = Scenario(
    fix=7,
    symptom="a distance of nothing is shifted and divided, 128 bits by 64, to give nothing",
    parameters={
        "host_khz": HOST_KHZ,
        "guest_khz": HOST_KHZ // 2,
        "timer": "preemption",
        "guest": "deadline",
        "advance": 1000,
        "interrupts": 100,
        "deadline_ns": 1000,
        "lateness_ns": 500,
        "other_exits_ns": 200,
    },
    labels={"divides": "shift-and-divides", **_GUEST_LABELS},
    story="the last interrupt",
    measure=_measure_zero,
    verdict=_zero_shown,
)
