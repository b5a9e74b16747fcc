# SPDX-License-Identifier: GPL-2.0-or-later
"""The fixes of tuning: the hard cap (1), an advancement per vCPU (3), the user's own number (4)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from vlapic.apic.advance import EARLY, tune
from vlapic.apic.advance_state import Advancement, ModuleState
from vlapic.events import TimerInterrupt
from vlapic.kernels.profiles import ADVANCE_CAP_NS, ADVANCE_START_NS, Profile
from vlapic.machine.host import Host
from vlapic.machine.vcpu import Vcpu
from vlapic.patches.host import HOST_KHZ, cycles, host, stalling
from vlapic.patches.scenario import Figures, Parameters, Scenario, Side
from vlapic.patches.stage import Guest, Played, play
from vlapic.patches.story import last_of

#: A deadline like any other, for deltas that have none.
_DEADLINE = 1 << 40

# -- 1 --


def _measure_stall(parameters: Parameters, profile: Profile) -> Side:
    khz, stalls = parameters["host_khz"], parameters["stalls"]
    model = stalling(host(parameters), stalls, cycles(parameters["stall_ns"], khz))
    guest = Guest("stall", stalls + 1, cycles(parameters["deadline_ns"], khz), (khz,))
    played = play(profile, model, [guest], preemption=parameters["timer"] == "preemption")
    *before, last = played.interrupts
    return Side(
        {
            "highest_advance_ns": max(each.advance_ns for each in before),
            "last_advance_ns": before[-1].advance_ns,
            "instructions_before_last": last.instructions,
            "guest_reached_hlt": played.value() == 0,
            "guest_said": played.said(),
        },
        last_of(played.events, played.vcpus[0]),
    )


def _stall_shown(parameters: Parameters, without: Figures, with_fix: Figures) -> bool:
    return bool(
        without["last_advance_ns"] > parameters["passes_ns"]
        and without["instructions_before_last"] == 0
        and not without["guest_reached_hlt"]
        and with_fix["highest_advance_ns"] <= ADVANCE_CAP_NS
        and with_fix["guest_reached_hlt"]
    )


HARD_CAP = Scenario(
    fix=1,
    symptom="a host that stalls drives the advancement up without bound; a timer set next comes at once",
    parameters={
        "host_khz": HOST_KHZ,
        "timer": "hrtimer",
        "guest": "stall",
        "advance": "auto",
        "stalls": 110,
        "stall_ns": 200_000_000,
        "deadline_ns": 1_000_000,
        "lateness_ns": 500,
        "other_exits_ns": 500,
        "passes_ns": 100_000_000,
    },
    labels={
        "highest_advance_ns": "highest advancement, ns",
        "last_advance_ns": "after the stalls, ns",
        "instructions_before_last": "guest instructions before a 1 ms timer",
        "guest_reached_hlt": "guest reached its HLT",
    },
    story="the 1 ms timer after the stalls",
    measure=_measure_stall,
    verdict=_stall_shown,
)

# -- 3 --


def _median_cycles(interrupts: list[TimerInterrupt]) -> int:
    return round(statistics.median(abs(each.delta_cycles) for each in interrupts if each.waited))


def _measure_two(parameters: Parameters, profile: Profile) -> Side:
    khz, count = parameters["host_khz"], parameters["interrupts"]
    distance = cycles(parameters["deadline_ns"], khz)
    model = host(parameters)
    vcpus = play(profile, model, [Guest("uneven", count, distance, (khz, khz))])
    vms = play(profile, model, [Guest(name, count, distance, (khz,)) for name in parameters["guests_of_vms"]])
    worst = max(vcpus.vcpus, key=lambda vcpu: _median_cycles(vcpus.of(vcpu)))
    return Side(
        {
            "median_delta_cycles_of_vcpus": [_median_cycles(vcpus.of(vcpu)) for vcpu in vcpus.vcpus],
            "advance_ns_of_vcpus": [vcpu.advancement.advance_ns for vcpu in vcpus.vcpus],
            "value_of_vcpus": _what_happened(vcpus),
            "median_delta_cycles_of_vms": [_median_cycles(vms.of(vcpu)) for vcpu in vms.vcpus],
            "advance_ns_of_vms": [vcpu.advancement.advance_ns for vcpu in vms.vcpus],
            "value_of_vms": _what_happened(vms),
            "race_rounds": count,
            "lost_updates": _lost_updates(
                profile, [_lateness_cycles(vcpus, vcpu) for vcpu in vcpus.vcpus], count
            ),
        },
        last_of(vcpus.events, worst),
    )


def _what_happened(played: Played) -> str:
    """What became of the vCPUs' advancement: each settled, one froze it for all, or it bounced."""
    values = [vcpu.advancement for vcpu in played.vcpus]
    if all(value.done for value in values):
        medians = [_median_cycles(played.of(vcpu)) for vcpu in played.vcpus]
        return "froze for all" if max(medians) > 500 else "settled for each"
    return "bounced"


def _lateness_cycles(played: Played, vcpu: Vcpu) -> int:
    """How late a vCPU's interrupts come to the busy wait but for the advancement, by its first one."""
    return played.of(vcpu)[0].delta_cycles + cycles(ADVANCE_START_NS, vcpu.tsc.khz)


def _lost_updates(profile: Profile, lateness_cycles: Sequence[int], rounds: int) -> int:
    """Updates that another vCPU's overwrites, if in every round all read before any of them writes.

    The kernel reads and writes the value without a lock, so this order may happen on a host. Here it is
    forced: how many are lost says nothing of how often it does happen. Each vCPU tunes towards its own
    lateness.
    """
    module = ModuleState(profile, None, HOST_KHZ)
    values = [Advancement(module) for _ in lateness_cycles]
    lost = 0
    for _ in range(rounds):
        made = []
        for value, late in zip(values, lateness_cycles, strict=True):
            come = _DEADLINE + late - cycles(value.advance_ns)
            early, distance = EARLY[profile.early](come, _DEADLINE)
            made.append(tune(profile, value.advance_ns, value.done, early, distance, HOST_KHZ))
        for value, (advance_ns, done) in zip(values, made, strict=True):
            value.advance_ns, value.done = advance_ns, done
        lost += sum(value.advance_ns != made_ns for value, (made_ns, _) in zip(values, made, strict=True))
    return lost


def _two_shown(parameters: Parameters, without: Figures, with_fix: Figures) -> bool:
    kinds = ("median_delta_cycles_of_vcpus", "median_delta_cycles_of_vms")
    return bool(
        all(max(without[kind]) > parameters["bad_cycles"] for kind in kinds)
        and without["lost_updates"] > 0
        and all(max(with_fix[kind]) <= parameters["good_cycles"] for kind in kinds)
        and with_fix["lost_updates"] == 0
    )


PER_VCPU = Scenario(
    fix=3,
    symptom="vCPUs of different lateness share one value, which cannot suit them all",
    parameters={
        "host_khz": HOST_KHZ,
        "timer": "preemption",
        "guest_of_vcpus": "uneven",
        "guests_of_vms": ["deadline", "deadline-hlt"],
        "advance": "auto",
        "interrupts": 2000,
        "deadline_ns": 100_000,
        "lateness_ns": 500,
        "halted_lateness_ns": 4000,
        "other_exits_ns": 500,
        "race": "forced: each round all read the value before any writes it",
        "bad_cycles": 500,
        "good_cycles": 100,
    },
    labels={
        "median_delta_cycles_of_vcpus": "two vCPUs: median |delta|, cycles",
        "advance_ns_of_vcpus": "their advancement in the end, ns",
        "value_of_vcpus": "the value",
        "median_delta_cycles_of_vms": "two VMs: median |delta|, cycles",
        "advance_ns_of_vms": "their advancement in the end, ns",
        "value_of_vms": "the value",
        "lost_updates": "forced race, updates lost",
    },
    story="the last interrupt of the vCPU that is served worst",
    measure=_measure_two,
    verdict=_two_shown,
)

# -- 4 --


def _measure_number(parameters: Parameters, profile: Profile) -> Side:
    khz, count, number = parameters["host_khz"], parameters["interrupts"], parameters["advance"]
    model = host(parameters)
    guest = Guest(parameters["guest"], count, cycles(parameters["deadline_ns"], khz), (khz,))

    def switch_off(running: Host) -> None:
        running.module.write_parameter(0)

    fixed, off, auto = (play(profile, model, [guest], advance=advance) for advance in (number, 0, None))
    written = play(profile, model, [guest], advance=number, after=(count // 2, switch_off), then=[guest])
    return Side(
        {
            "user_ns": number,
            "user_ends_at_ns": fixed.interrupts[-1].advance_ns,
            "off_ends_at_ns": off.interrupts[-1].advance_ns,
            "auto_ends_at_ns": auto.interrupts[-1].advance_ns,
            "running_vcpu_ns_after_write_of_0": written.vcpus[0].advancement.advance_ns,
            "next_vcpu_ns": written.vcpus[1].advancement.advance_ns,
        },
        last_of(fixed.events, fixed.vcpus[0]),
    )


def _number_shown(parameters: Parameters, without: Figures, with_fix: Figures) -> bool:
    number = parameters["advance"]
    return bool(
        without["user_ends_at_ns"] != number
        and with_fix["user_ends_at_ns"] == number
        and with_fix["off_ends_at_ns"] == 0
        and abs(with_fix["auto_ends_at_ns"] - parameters["lateness_ns"]) < parameters["settles_within_ns"]
        and with_fix["running_vcpu_ns_after_write_of_0"] == number
        and with_fix["next_vcpu_ns"] == 0
    )


OVERRIDE = Scenario(
    fix=4,
    symptom="a number that an administrator sets is tuned away",
    parameters={
        "host_khz": HOST_KHZ,
        "timer": "preemption",
        "guest": "deadline",
        "advance": 2000,
        "interrupts": 200,
        "deadline_ns": 100_000,
        "lateness_ns": 500,
        "other_exits_ns": 500,
        "settles_within_ns": 100,
    },
    labels={
        "user_ends_at_ns": "set to 2000 ns, ends at, ns",
        "off_ends_at_ns": "set to 0 (off), ends at, ns",
        "auto_ends_at_ns": "auto, ends at, ns",
        "running_vcpu_ns_after_write_of_0": "a running vCPU after 0 was written, ns",
        "next_vcpu_ns": "a vCPU created after that, ns",
    },
    story="the last interrupt with 2000 ns set",
    measure=_measure_number,
    verdict=_number_shown,
)
