# SPDX-License-Identifier: GPL-2.0-or-later
"""Made-up interrupts and results, for tests of what is said about them."""

from typing import Any

from vlapic.analysis.regime import TuningLimits
from vlapic.analysis.statistics import VcpuStatistics
from vlapic.events import Table, TimerInterrupt
from vlapic.kernels.profiles import SERIES
from vlapic.session.results import RunResult, VcpuResult

KHZ = 2_500_000


def interrupts(lateness_cycles, **columns):
    """An interrupt for each lateness; a column is a list of as many, or one value for all."""
    made = []
    for index, late in enumerate(lateness_cycles):
        fields = {
            "host_tsc": 10**9 + 200_000 * index + late, "vm": 0, "vcpu": 0, "vector": 0xEC,
            "deadline_tsc": 10**9 + 200_000 * index, "handler_tsc": 10**9 + 200_000 * index + late,
            "instructions": 20, "missed": 0, "blocked_cycles": 0, "waited": True, "delta_cycles": -50,
            "wait_cycles": 100, "advance_ns": 1400,
        }  # fmt: skip
        for name, column in columns.items():
            fields[name] = column[index] if isinstance(column, list) else column
        made.append(TimerInterrupt(**fields))
    return made


def vcpu_result(events, *, auto=True, advance_ns=1000, vcpu=0, timer="preemption", limits=None, **more):
    """The result of a vCPU that took these."""
    limits = limits or TuningLimits.of(SERIES)
    statistics = VcpuStatistics(tsc_khz=KHZ, host_khz=KHZ, auto=auto, advance_ns=advance_ns, limits=limits)
    statistics.add(Table.of(TimerInterrupt, events))
    return VcpuResult.of(statistics, vm=0, id=vcpu, tsc_ratio=1 << 48, timer=timer, **more)


def run_result(*vcpus, **fields):
    """A result of half a second; without vCPUs of one that settled at 1400 ns after one interrupt."""
    vcpus = vcpus or (vcpu_result(interrupts([1200 + index % 40 for index in range(200)])),)
    values: dict[str, Any] = {
        "engine": "emulated", "profile": "series", "host": "default", "seed": 0,
        "guest": "deadline", "exit_code": 0, "consoles": ("",), "virtual_ns": 500_000_000,
        "instructions": 123_456, "vcpus": vcpus,
    }  # fmt: skip
    if "console" in fields:
        fields["consoles"] = (fields.pop("console"),)
    return RunResult(**(values | fields))
