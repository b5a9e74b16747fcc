# SPDX-License-Identifier: GPL-2.0-or-later
"""What VMCALL and VMMCALL ask of KVM: a table of its hypercalls, each with its answer.

Follows `kvm/x86.c: kvm_emulate_hypercall` and `kvm/lapic.c: kvm_pv_send_ipi` of v6.19. A call that is not in
the table answers -KVM_ENOSYS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from vlapic.apic.ipi import ICR_ASSERT, ICR_LEVEL, ICR_MODE_SHIFT, ICR_VECTOR, DeliveryMode, Message
from vlapic.apic.lapic import LocalApic
from vlapic.tsc import U64

KVM_HC_VAPIC_POLL_IRQ = 1
KVM_HC_SEND_IPI = 10
KVM_ENOSYS = 1000
KVM_EINVAL = 22

#: ICR's shorthand and destination mode: a paravirtual IPI has neither.
_ICR_DESTINATION = 3 << 18 | 1 << 11

Arguments = tuple[int, int, int, int]


class Answer(NamedTuple):
    """What a hypercall comes to.

    Attributes:
        value: what RAX is to hold; an error is negative.
        message: to be sent, None if nothing is.
        to: the numbers of the vCPUs that it is for.
    """

    value: int
    message: Message | None = None
    to: tuple[int, ...] = ()


def answer(number: int, arguments: Arguments, lapics: Sequence[LocalApic]) -> Answer:
    """Answer a hypercall of one of the vCPUs whose local APICs these are, in order of their numbers.

    Returns:
        The answer, an error as 64 bits.
    """
    handler = HYPERCALLS.get(number)
    found = Answer(-KVM_ENOSYS) if handler is None else handler(arguments, lapics)
    return found._replace(value=found.value & U64)


def poll_irq(arguments: Arguments, lapics: Sequence[LocalApic]) -> Answer:
    """KVM_HC_VAPIC_POLL_IRQ: the exit is all there is to it."""
    return Answer(0)


def send_ipi(arguments: Arguments, lapics: Sequence[LocalApic]) -> Answer:
    """KVM_HC_SEND_IPI: one message to up to 128 APICs, by a bitmap of their IDs from a first one on.

    Returns:
        How many take it.
    """
    low, high, first, icr = arguments
    if icr & _ICR_DESTINATION:
        return Answer(-KVM_EINVAL)
    mode = DeliveryMode(icr >> ICR_MODE_SHIFT & 7)
    if mode not in (DeliveryMode.FIXED, DeliveryMode.NMI):
        return Answer(-KVM_EINVAL)
    wanted = low | high << 64

    def takes(lapic: LocalApic) -> bool:
        offset = lapic.apic_id - (first & 0xFFFF_FFFF)
        return 0 <= offset < 128 and bool(wanted >> offset & 1) and lapic.enabled

    to = tuple(index for index, lapic in enumerate(lapics) if takes(lapic))
    message = Message(mode, icr & ICR_VECTOR, level=bool(icr & ICR_LEVEL), asserted=bool(icr & ICR_ASSERT))
    return Answer(len(to), message, to)


HYPERCALLS: dict[int, Callable[[Arguments, Sequence[LocalApic]], Answer]] = {
    KVM_HC_VAPIC_POLL_IRQ: poll_irq,
    KVM_HC_SEND_IPI: send_ipi,
}
