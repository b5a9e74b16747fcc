# SPDX-License-Identifier: GPL-2.0-or-later
"""The time of a VM's devices, and their alarms: on the physical CPU of its bootstrap processor.

KVM has its PIT's hrtimer there too (`kvm/i8254.c: __kvm_migrate_pit_timer`). What an alarm's call brings to
another processor comes there as from any other CPU. The host's own work for an alarm costs nothing here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vlapic.clock import Alarm
from vlapic.machine.facts import HostFacts
from vlapic.machine.vcpu import Vcpu
from vlapic.tsc import cycles_as_ns


class VmTime(Protocol):
    """What the clock knows of its VM.

    Attributes:
        facts: of its host.
        vcpus: its vCPUs; the first one is the bootstrap processor.
        active: the vCPU that goes on now.
    """

    facts: HostFacts
    vcpus: list[Vcpu]
    active: Vcpu | None

    def active_at(self) -> int:
        """The host TSC that the active vCPU has reached."""


class VmClock:
    """A VM's time in ns since it was switched on (`BoardClock`)."""

    def __init__(self, vm: VmTime) -> None:
        self._vm = vm
        # The guest's instructions when `is_idle` was asked last.
        self._instructions = -1

    def now_ns(self) -> int:
        facts = self._vm.facts
        return cycles_as_ns(self._vm.active_at() - facts.start_tsc, facts.tsc_khz)

    def at_ns(self, time_ns: int, call: Callable[[], None]) -> Alarm:
        facts = self._vm.facts
        host_tsc = facts.start_tsc - -(time_ns * facts.tsc_khz) // 10**6

        def ring() -> None:
            # It is the bootstrap processor's time, whichever vCPU goes on now.
            vm = self._vm
            active, vm.active = vm.active, vm.vcpus[0]
            call()
            vm.active = active

        return self._vm.vcpus[0].clock.at(host_tsc, ring)

    def cancel(self, alarm: Alarm) -> None:
        self._vm.vcpus[0].clock.cancel(alarm)

    def is_idle(self) -> bool:
        """Whether all vCPUs sleep, no clock of theirs has another alarm, and no instruction has retired since
        the last time."""
        vcpus = self._vm.vcpus
        before, self._instructions = self._instructions, sum(it.engine.instructions for it in vcpus)
        return (
            self._instructions == before
            and all(it.is_asleep for it in vcpus)
            and not any(it.cpu.awaits_anything for it in vcpus)
        )
