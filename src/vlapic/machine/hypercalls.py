"""What VMCALL and VMMCALL do: a table of KVM's hypercalls.

Follows `kvm/x86.c: kvm_emulate_hypercall` and `kvm/lapic.c: kvm_pv_send_ipi` of v6.19. A call that is not in
the table answers -KVM_ENOSYS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vlapic.apic.ipi import ICR_ASSERT, ICR_LEVEL, ICR_MODE_SHIFT, ICR_VECTOR, DeliveryMode, Message
from vlapic.tsc import U64

if TYPE_CHECKING:
    from vlapic.machine.vcpu import Vcpu

KVM_HC_VAPIC_POLL_IRQ = 1
KVM_HC_SEND_IPI = 10
KVM_ENOSYS = 1000
KVM_EINVAL = 22

#: ICR's shorthand and destination mode: a paravirtual IPI has neither.
_ICR_DESTINATION = 3 << 18 | 1 << 11

Arguments = tuple[int, int, int, int]


def call(vcpu: Vcpu, number: int, arguments: Arguments) -> int:
    """Answer a hypercall: what RAX is to hold, a negative error as 64 bits."""
    handler = HYPERCALLS.get(number)
    return (-KVM_ENOSYS if handler is None else handler(vcpu, arguments)) & U64


def poll_irq(vcpu: Vcpu, arguments: Arguments) -> int:
    """KVM_HC_VAPIC_POLL_IRQ: the exit is all there is to it."""
    return 0


def send_ipi(vcpu: Vcpu, arguments: Arguments) -> int:
    """KVM_HC_SEND_IPI: one message to up to 128 APICs, by a bitmap of their IDs from a first one on.

    Returns:
        How many took it.
    """
    low, high, first, icr = arguments
    if icr & _ICR_DESTINATION:
        return -KVM_EINVAL
    mode = DeliveryMode(icr >> ICR_MODE_SHIFT & 7)
    if mode not in (DeliveryMode.FIXED, DeliveryMode.NMI):
        return -KVM_EINVAL
    wanted = low | high << 64
    sent = 0
    for target in vcpu.vm.vcpus:
        offset = target.lapic.apic_id - (first & 0xFFFF_FFFF)
        if 0 <= offset < 128 and wanted >> offset & 1 and target.lapic.enabled:
            message = Message(
                mode, icr & ICR_VECTOR, level=bool(icr & ICR_LEVEL), asserted=bool(icr & ICR_ASSERT)
            )
            vcpu.vm.deliver(message, (target,), vcpu)
            sent += 1
    return sent


HYPERCALLS: dict[int, Callable[[Vcpu, Arguments], int]] = {
    KVM_HC_VAPIC_POLL_IRQ: poll_irq,
    KVM_HC_SEND_IPI: send_ipi,
}
