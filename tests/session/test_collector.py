# SPDX-License-Identifier: GPL-2.0-or-later
"""The collector counts each vCPU's interrupts once, whenever it is asked."""

from tests.support.made_up import KHZ, interrupts
from vlapic.analysis.regime import TuningLimits
from vlapic.analysis.statistics import VcpuStatistics
from vlapic.kernels.profiles import SERIES
from vlapic.session.collector import Collector


def collector_of(vms, vcpus_a_vm):
    collector = Collector(vcpus_a_vm)
    for _ in range(vms * vcpus_a_vm):
        limits = TuningLimits.of(SERIES)
        collector.add_vcpu(
            VcpuStatistics(tsc_khz=KHZ, host_khz=KHZ, auto=True, advance_ns=1000, limits=limits)
        )
    return collector


def test_an_interrupt_counts_for_its_own_vcpu():
    collector = collector_of(vms=2, vcpus_a_vm=2)
    for vm, vcpu, late in [(0, 0, 1000), (0, 1, 2000), (1, 1, 3000), (1, 1, 4000)]:
        (interrupt,) = interrupts([late], vm=vm, vcpu=vcpu)
        collector(interrupt)
    collector.flush()
    assert [each.interrupts for each in collector.statistics] == [1, 1, 0, 2]
    assert [each.lateness_cycles.max for each in collector.statistics] == [1000, 2000, None, 4000]


def test_interrupts_are_known_before_and_after_their_chunk_is_folded():
    collector = collector_of(vms=1, vcpus_a_vm=1)
    for count, interrupt in enumerate(interrupts([1200] * 10_000), 1):
        collector(interrupt)
        assert collector.interrupts(0) == count
    assert 0 < collector.statistics[0].interrupts < 10_000
    for _ in range(2):
        collector.flush()
        assert collector.statistics[0].interrupts == collector.interrupts(0) == 10_000
