# SPDX-License-Identifier: GPL-2.0-or-later
"""Timer interrupts as they come, folded into each vCPU's statistics."""

from __future__ import annotations

from vlapic.analysis.regime import share_ends
from vlapic.analysis.statistics import VcpuStatistics
from vlapic.events import Table, TimerInterrupt

#: Interrupts that are counted at a time.
_CHUNK = 4096


class Collector:
    """Takes timer interrupts one by one and folds them into each vCPU's statistics by the chunk."""

    def __init__(self, vcpus_a_vm: int) -> None:
        self._vcpus_a_vm = vcpus_a_vm
        self.statistics: list[VcpuStatistics] = []
        self._chunks: list[list[TimerInterrupt]] = []

    def add_vcpu(self, statistics: VcpuStatistics) -> None:
        """Count the next vCPU's interrupts, in the order of VMs and of their vCPUs."""
        self.statistics.append(statistics)
        self._chunks.append([])

    def __call__(self, interrupt: TimerInterrupt) -> None:
        place = interrupt.vm * self._vcpus_a_vm + interrupt.vcpu
        chunk = self._chunks[place]
        chunk.append(interrupt)
        if len(chunk) >= _CHUNK:
            self._fold(place)

    def interrupts(self, vm: int) -> int:
        """How many a VM's first vCPU has taken so far."""
        first = vm * self._vcpus_a_vm
        return self.statistics[first].interrupts + len(self._chunks[first])

    def flush(self) -> None:
        """Fold what has come since the last chunks."""
        for place in range(len(self._chunks)):
            self._fold(place)
        share_ends(statistics.history for statistics in self.statistics)

    def _fold(self, place: int) -> None:
        chunk, self._chunks[place] = self._chunks[place], []
        self.statistics[place].add(Table.of(TimerInterrupt, chunk))
