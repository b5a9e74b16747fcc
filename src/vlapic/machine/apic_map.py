"""Which vCPUs of a VM take a message: found out once, until an APIC is found by something else.

KVM keeps a table as well (`kvm->arch.apic_map`), thrown away by `kvm_recalculate_apic_map`. The rules are
those of `apic/ipi.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlapic.apic.ipi import Message, receivers

if TYPE_CHECKING:
    from vlapic.apic.lapic import LocalApic
    from vlapic.machine.vcpu import Vcpu

#: Messages known at once; a guest can make up more than there is memory for.
KNOWN_MESSAGES = 1024


class ApicMap:
    """Who takes a message, of the vCPUs of a VM whose APICs are enabled."""

    def __init__(self, vcpus: Sequence[Vcpu]) -> None:
        """`vcpus` may grow later; :meth:`forget` is to be called then."""
        self._vcpus = vcpus
        self._known: dict[tuple[Message, LocalApic | None], list[Vcpu]] = {}

    def receivers(self, message: Message, sender: LocalApic | None) -> list[Vcpu]:
        """The vCPUs that a message is for, in order of their numbers; None sends for an I/O APIC."""
        known = self._known.get((message, sender))
        if known is None:
            if len(self._known) >= KNOWN_MESSAGES:
                self._known.clear()
            present = [vcpu for vcpu in self._vcpus if vcpu.lapic.enabled]
            lapics = [vcpu.lapic for vcpu in present]
            place = lapics.index(sender) if sender is not None else None
            found = receivers(message, [lapic.address for lapic in lapics], place)
            known = self._known[message, sender] = [present[index] for index in found]
        return known

    def forget(self) -> None:
        """An APIC is found by something else now (`kvm_recalculate_apic_map`)."""
        self._known.clear()
