# SPDX-License-Identifier: GPL-2.0-or-later
"""The hosts of the scenarios: constant, so that every figure has one cause."""

from __future__ import annotations

from dataclasses import replace

from vlapic.machine.hostmodel.model import Cost, HostModel, constant, constant_model
from vlapic.patches.scenario import Parameters

HOST_KHZ = 2_000_000


def cycles(ns: int, khz: int = HOST_KHZ) -> int:
    """Nanoseconds in cycles of a TSC, rounded down."""
    return ns * khz // 1_000_000


def host(parameters: Parameters) -> HostModel:
    """A host that brings a timer interrupt to the busy wait late by what the parameters say, and costs no
    more.

    Parameters used: `host_khz`; `lateness_ns`, of a guest that runs; `halted_lateness_ns`, of one in HLT, in
    equal parts the hrtimer's and the wake-up's (the same as the other unless said); `other_exits_ns`.
    """
    khz = parameters["host_khz"]
    running = cycles(parameters["lateness_ns"], khz)
    halted = cycles(parameters.get("halted_lateness_ns", parameters["lateness_ns"]), khz)
    model = constant_model(
        name="scenario",
        preemption_timer=running,
        external_interrupt=running - min(running, halted // 2),
        hrtimer=halted // 2,
        wake_up=halted - halted // 2,
        other_exits=cycles(parameters["other_exits_ns"], khz),
        injection=0,
        entry=0,
    )
    # The counter ticks every cycle: no rounding between a deadline and its exit.
    return replace(model, tsc_khz=khz, preemption_timer_rate=0)


def stalling(model: HostModel, stalls: int, stall_cycles: int) -> HostModel:
    """The same host, whose first so many timer interrupts are handled that much later."""
    return replace(
        model, hrtimer=Cost(model.hrtimer.quantiles, first=(stall_cycles,) * stalls), wake_up=constant(0)
    )
