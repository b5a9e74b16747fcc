"""Interprocessor interrupts: what a message says, and which local APICs it is for.

Follows SDM vol. 3A "Issuing Interprocessor Interrupts" and "Determining IPI Destination", and `kvm/lapic.c`
(`kvm_apic_match_dest`, `kvm_vector_to_index`) of v6.19.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

XAPIC_BROADCAST = 0xFF
X2APIC_BROADCAST = 0xFFFF_FFFF
#: DFR's model field: anything but these two matches no logical destination.
DFR_FLAT, DFR_CLUSTER = 0xF, 0x0

# ICR bits
ICR_VECTOR = 0xFF
ICR_MODE_SHIFT = 8
ICR_LOGICAL = 1 << 11
ICR_ASSERT = 1 << 14
ICR_LEVEL = 1 << 15
ICR_SHORTHAND_SHIFT = 18


class DeliveryMode(IntEnum):
    """ICR and LVT bits 10:8."""

    FIXED = 0
    LOWEST_PRIORITY = 1
    SMI = 2
    RESERVED_3 = 3
    NMI = 4
    INIT = 5
    STARTUP = 6
    EXTINT = 7


class Shorthand(IntEnum):
    """ICR bits 19:18."""

    NONE = 0
    SELF = 1
    ALL = 2
    OTHERS = 3


# By number, and below by names of their own: calling an Enum to find a member costs a microsecond, and an
# attribute of its class a fifth of one (Python 3.11).
DELIVERY_MODES = tuple(DeliveryMode)
SHORTHANDS = tuple(Shorthand)
FIXED, LOWEST_PRIORITY, SMI, RESERVED_3, NMI, INIT, STARTUP, EXTINT = DELIVERY_MODES


class Message(NamedTuple):
    """What one local APIC sends to others.

    Attributes:
        mode: SDM delivery mode.
        vector: 0 to 255; of a startup message the page it starts at.
        level: level-triggered.
        asserted: the level, of a level-triggered message.
        destination: an APIC ID or a logical destination, with no shorthand.
    """

    mode: DeliveryMode
    vector: int
    level: bool = False
    asserted: bool = True
    shorthand: Shorthand = Shorthand.NONE
    logical: bool = False
    destination: int = 0


class Address(NamedTuple):
    """What a local APIC is matched by.

    Attributes:
        x2apic: whether it is in x2APIC mode.
        apic_id: its ID in that mode.
        logical_id: LDR, the whole register.
        dfr_model: DFR bits 31:28; of no meaning in x2APIC mode.
        software_enabled: SVR's enable bit; without it no lowest-priority message is given to it.
    """

    x2apic: bool
    apic_id: int
    logical_id: int
    dfr_model: int = DFR_FLAT
    software_enabled: bool = True


@lru_cache(maxsize=256)
def message_of_icr(icr: int, destination: int) -> Message:
    """What a write of ICR's low half sends; `destination` is 8 bits wide in xAPIC mode, 32 in x2APIC mode."""
    return Message(
        mode=DELIVERY_MODES[icr >> ICR_MODE_SHIFT & 7],
        vector=icr & ICR_VECTOR,
        level=bool(icr & ICR_LEVEL),
        asserted=bool(icr & ICR_ASSERT),
        shorthand=SHORTHANDS[icr >> ICR_SHORTHAND_SHIFT & 3],
        logical=bool(icr & ICR_LOGICAL),
        destination=destination,
    )


def icr_of_message(message: Message) -> int:
    """ICR's low half that sends a message."""
    return (
        message.vector
        | message.mode << ICR_MODE_SHIFT
        | message.logical * ICR_LOGICAL
        | message.asserted * ICR_ASSERT
        | message.level * ICR_LEVEL
        | message.shorthand << ICR_SHORTHAND_SHIFT
    )


def x2apic_logical_id(apic_id: int) -> int:
    """LDR in x2APIC mode: the cluster in the high half, one bit of 16 in the low one."""
    return apic_id >> 4 << 16 | 1 << (apic_id & 15)


def is_destination(message: Message, target: Address, is_sender: bool, external: bool = False) -> bool:
    """Whether a local APIC is among those a message is for.

    Args:
        external: it comes from an I/O APIC, whose 8 bits of destination reach x2APICs too: 0xff is
            everybody (`kvm_apic_mda`).
    """
    if message.shorthand is not Shorthand.NONE:
        return {
            Shorthand.SELF: is_sender,
            Shorthand.ALL: True,
            Shorthand.OTHERS: not is_sender,
        }[message.shorthand]
    if message.destination == (X2APIC_BROADCAST if target.x2apic and not external else XAPIC_BROADCAST):
        return True
    if not message.logical:
        return message.destination == target.apic_id
    return _matches_logically(message.destination, target)


def _matches_logically(destination: int, target: Address) -> bool:
    if target.x2apic:
        same_cluster = destination >> 16 == target.logical_id >> 16
        return same_cluster and bool(destination & target.logical_id & 0xFFFF)
    logical_id = target.logical_id >> 24
    if target.dfr_model == DFR_FLAT:
        return bool(destination & logical_id)
    if target.dfr_model == DFR_CLUSTER:
        return destination >> 4 == logical_id >> 4 and bool(destination & logical_id & 0xF)
    return False


def receivers(message: Message, targets: Sequence[Address], sender: int | None) -> list[int]:
    """Indices of the local APICs that take a message, of all of a machine's enabled ones.

    A lowest-priority message goes to one of its destinations that are enabled by software, chosen by its
    vector (`kvm.vector_hashing`, on by default).

    Args:
        sender: index of the one that sends it, None for an I/O APIC.
    """
    found = [
        index
        for index, target in enumerate(targets)
        if is_destination(message, target, is_sender=index == sender, external=sender is None)
    ]
    if message.mode is not DeliveryMode.LOWEST_PRIORITY:
        return found
    willing = [index for index in found if targets[index].software_enabled]
    return [willing[message.vector % len(willing)]] if willing else []
