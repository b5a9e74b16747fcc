# SPDX-License-Identifier: GPL-2.0-or-later
"""Many vCPUs and many interrupts: the rate of eight vCPUs beside that of one, and memory by interrupts.

Rates are taken in turns, the best and the median of several, because the machine is shared; compare ratios.
Memory is the greatest resident size of a process that does nothing else. 10^8 interrupts of the machine
would take hours: the machine takes 10^5 and 10^6, and the fold that keeps its statistics is fed with 10^5
and 10^8 made-up ones.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import vlapic

TURNS = 5
INTERRUPTS = 16_000
VCPUS = 8
#: Few and many interrupts, whose memory is compared: of the machine, of the fold.
RUN_INTERRUPTS = 10**5, 10**6
FOLD_INTERRUPTS = 10**5, 10**8

#: What a process does whose memory is measured; its argument is a number of interrupts.
RUN = """
import sys, vlapic
vlapic.run("deadline-hlt", events=int(sys.argv[1]))
"""
FOLD = """
import sys
import numpy as np
from vlapic.events import DTYPES, Table, TimerInterrupt
from vlapic.analysis.statistics import VcpuStatistics
made = np.random.default_rng(0)
folded = VcpuStatistics(tsc_khz=2_500_000, host_khz=2_500_000, auto=True, advance_ns=1000)
left = int(sys.argv[1])
while left:
    rows = np.zeros(min(left, 1 << 16), DTYPES[TimerInterrupt])
    left -= len(rows)
    late = (1200 + made.exponential(300, len(rows))).astype("u8")
    rows["deadline_tsc"] = 10**9
    rows["handler_tsc"] = late + 10**9
    rows["advance_ns"] = made.integers(1300, 1500, len(rows))
    rows["delta_cycles"] = late.astype("i8") - 1300
    rows["waited"] = True
    folded.add(Table(TimerInterrupt, rows))
assert folded.interrupts == int(sys.argv[1])
"""
#: VmHWM and not getrusage: that counts in the process which started this one.
PEAK = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def rate(guest: str, **arguments: int) -> float:
    """Timer interrupts of all vCPUs a second of CPU time."""
    begin = time.process_time()
    result = vlapic.run(guest, **arguments)
    took = time.process_time() - begin
    assert all(vcpu.interrupts == arguments["events"] for vcpu in result.vcpus), "a vCPU took too few"
    return sum(vcpu.interrupts for vcpu in result.vcpus) / took


def peak_mib(program: str, interrupts: int) -> float:
    """The greatest resident size of a process, in MiB."""
    command = [sys.executable, "-c", program + PEAK, str(interrupts)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout) / 1024


def main() -> None:
    print(
        f"{'interrupts/s, best and median':40} {'one':>16} {'eight VMs':>16} {'on four CPUs':>16}   eight/one"
    )
    for guest in ("deadline-hlt", "deadline"):
        rates: list[list[float]] = [[], [], []]
        for _ in range(TURNS):
            rates[0].append(rate(guest, events=INTERRUPTS))
            rates[1].append(rate(guest, events=INTERRUPTS // VCPUS, vms=VCPUS))
            rates[2].append(rate(guest, events=INTERRUPTS // VCPUS, vms=VCPUS, pcpus=VCPUS // 2))
        shown = "".join(f" {max(each):9,.0f} {statistics.median(each):6,.0f}" for each in rates)
        ratio = statistics.median(rates[1]) / statistics.median(rates[0])
        print(f"{guest:40}{shown}   {ratio:.2f}, aim 0.7")

    print(f"\n{'greatest resident size, MiB':40} {'few':>16} {'many':>16}   grown by")
    for what, program, (few, many) in (
        ("vlapic.run", RUN, RUN_INTERRUPTS),
        ("the fold of statistics", FOLD, FOLD_INTERRUPTS),
    ):
        small, large = peak_mib(program, few), peak_mib(program, many)
        name = f"{what}, {few:.0e} and {many:.0e}"
        print(f"{name:40} {small:16.1f} {large:16.1f}   {large - small:.1f}")


if __name__ == "__main__":
    main()
