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

#: A message and the local APIC that sends it, None for an I/O APIC.
Key = tuple[Message, "LocalApic | None"]

#: Messages known at once; a guest can make up more than there is memory for.
KNOWN_MESSAGES = 1024


class ApicMap(dict[Key, "list[Vcpu]"]):
    """Who takes a message, of the vCPUs of a VM whose APICs are enabled.

    `apic_map[message, sender]` are the vCPUs that a message is for, in order of their numbers; None sends for
    an I/O APIC.
    """

    def __init__(self, vcpus: Sequence[Vcpu]) -> None:
        """`vcpus` may grow later; :meth:`forget` is to be called then."""
        super().__init__()
        self._vcpus = vcpus

    def __missing__(self, key: Key) -> list[Vcpu]:
        """Find out who takes a message that is not known."""
        message, sender = key
        if len(self) >= KNOWN_MESSAGES:
            self.clear()
        present = [vcpu for vcpu in self._vcpus if vcpu.lapic.enabled]
        lapics = [vcpu.lapic for vcpu in present]
        place = lapics.index(sender) if sender is not None else None
        found = receivers(message, [lapic.address for lapic in lapics], place)
        takers = self[key] = [present[index] for index in found]
        return takers

    def forget(self) -> None:
        """An APIC is found by something else now (`kvm_recalculate_apic_map`)."""
        self.clear()
