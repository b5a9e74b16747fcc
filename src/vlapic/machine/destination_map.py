# SPDX-License-Identifier: GPL-2.0-or-later
"""Which vCPUs of a VM take a message: found out once, until an APIC is found by something else.

KVM keeps a table as well (`kvm->arch.apic_map`), thrown away by `kvm_recalculate_apic_map`. The rules are
those of `apic/ipi.py`.
"""

from __future__ import annotations

from vlapic.apic.ipi import Message, receivers
from vlapic.apic.lapic import LocalApic

#: A message and the number of the vCPU that sends it, None for an I/O APIC.
Key = tuple[Message, int | None]

#: Messages known at once; a guest can make up more than there is memory for.
KNOWN_MESSAGES = 1024


class ApicMap(dict[Key, list[int]]):
    """Who takes a message, of the local APICs of a VM that are enabled.

    `apic_map[message, sender]` are the numbers of the vCPUs that a message is for, in order; `sender` is that
    of the one that sends it, None for an I/O APIC.
    """

    def __init__(self) -> None:
        """Of no APICs yet: `add` each."""
        super().__init__()
        self._lapics: list[LocalApic] = []

    def add(self, lapic: LocalApic) -> None:
        """The APIC of the vCPU that has the next number."""
        self._lapics.append(lapic)
        self.forget()

    def __missing__(self, key: Key) -> list[int]:
        """Find out who takes a message that is not known."""
        message, sender = key
        if len(self) >= KNOWN_MESSAGES:
            self.clear()
        present = [index for index, lapic in enumerate(self._lapics) if lapic.enabled]
        place = present.index(sender) if sender is not None else None
        found = receivers(message, [self._lapics[index].address for index in present], place)
        takers = self[key] = [present[index] for index in found]
        return takers

    def forget(self) -> None:
        """An APIC is found by something else now (`kvm_recalculate_apic_map`)."""
        self.clear()
