# SPDX-License-Identifier: GPL-2.0-or-later
"""Interprocessor interrupts: what a message says, and which local APICs it is for.

Follows SDM vol. 3A "Issuing Interprocessor Interrupts" and "Determining IPI Destination", and `kvm/lapic.c`
(`kvm_irq_delivery_to_apic` and what it calls) of v6.19.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, IntEnum
from functools import lru_cache
from typing import NamedTuple

XAPIC_BROADCAST = 0xFF
X2APIC_BROADCAST = 0xFFFF_FFFF
#: DFR's model field; any other value is reserved.
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
    """What a message finds a local APIC by.

    Attributes:
        x2apic: whether it is in x2APIC mode.
        apic_id: its ID in that mode.
        logical_id: LDR, the whole register.
        dfr_model: DFR bits 31:28; of no meaning in x2APIC mode.
        software_enabled: SVR's enable bit.
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
    """Whether a message is for this local APIC, asked by itself (`kvm_apic_match_dest`).

    Args:
        external: it comes from an I/O APIC, whose 8 bits of destination reach x2APICs too: 0xff is
            all of them (`kvm_apic_mda`).
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


class LogicalMode(Enum):
    """What a logical destination is read as, the same for all of a machine (`kvm_apic_logical_mode`)."""

    #: No APIC enabled by software has a logical ID.
    NONE = "none"
    FLAT = "flat"
    CLUSTER = "cluster"
    X2APIC = "x2APIC"
    #: They differ, or two share a bit: each APIC is asked by itself.
    EACH_BY_ITSELF = "each by itself"


class DestinationMap:
    """Which local APIC has an ID, and which a bit of a logical destination (`kvm_recalculate_apic_map`).

    Attributes:
        physical: indices by APIC ID; None if two have the same one, and then each is asked by itself.
        logical_mode: how logical destinations are read.
    """

    def __init__(self, targets: Sequence[Address]) -> None:
        self.physical: dict[int, int] | None = {}
        self.logical_mode = LogicalMode.NONE
        self._bits: dict[tuple[int, int], int] = {}  # by cluster, 0 of flat ones, and number of the bit
        self._last_id = max(0xFF, *(target.apic_id for target in targets)) if targets else 0xFF
        for index, target in enumerate(targets):
            if target.apic_id in self.physical:
                self.physical = None
                return
            self.physical[target.apic_id] = index
            if target.software_enabled and target.logical_id:
                self._add_logical(index, target)

    def _add_logical(self, index: int, target: Address) -> None:
        """`kvm_recalculate_logical_map`."""
        if target.x2apic:
            mode = LogicalMode.X2APIC
        else:
            # Any other model than flat is taken for cluster.
            mode = LogicalMode.FLAT if target.dfr_model == DFR_FLAT else LogicalMode.CLUSTER
        if self.logical_mode not in (LogicalMode.NONE, mode):
            self.logical_mode = LogicalMode.EACH_BY_ITSELF
            return
        self.logical_mode = mode
        if target.x2apic:
            return  # found by its ID, of which the logical one is made
        cluster, bits = self._split(target.logical_id >> 24)
        if not bits:
            return
        place = cluster, bits.bit_length() - 1
        if bits & bits - 1 or place in self._bits:
            self.logical_mode = LogicalMode.EACH_BY_ITSELF
        else:
            self._bits[place] = index

    def _split(self, destination: int) -> tuple[int, int]:
        """The cluster of a logical destination, and its bits (`kvm_apic_map_get_logical_dest`)."""
        if self.logical_mode is LogicalMode.X2APIC:
            cluster = destination >> 16
            # A bit beyond the last ID names no APIC.
            members = min(max(self._last_id + 1 - (cluster << 4), 0), 16)
            return cluster, destination & (1 << members) - 1
        if self.logical_mode is LogicalMode.CLUSTER:
            return destination >> 4 & 0xF, destination & 0xF
        return 0, destination & 0xFF

    def named(self, message: Message) -> list[int] | None:
        """Indices of the APICs that a destination names; None if each has to be asked by itself
        (`kvm_apic_map_get_dest_lapic`).

        A lowest-priority message goes to one of the *bits* of its logical destination, chosen by its vector:
        if no APIC that is enabled by software has that bit, the message is lost.
        """
        physical = self.physical
        if physical is None:
            return None
        if not message.logical:
            index = physical.get(message.destination)
            return [] if index is None else [index]
        if self.logical_mode is LogicalMode.EACH_BY_ITSELF:
            return None
        if self.logical_mode is LogicalMode.NONE:
            return []
        cluster, bits = self._split(message.destination)
        numbers = [number for number in range(16) if bits >> number & 1]
        if message.mode is LOWEST_PRIORITY and numbers:
            numbers = [numbers[message.vector % len(numbers)]]
        if self.logical_mode is LogicalMode.X2APIC:
            found = [physical.get(cluster << 4 | number) for number in numbers]
        else:
            found = [self._bits.get((cluster, number)) for number in numbers]
        return sorted(index for index in found if index is not None)


def receivers(message: Message, targets: Sequence[Address], sender: int | None) -> list[int]:
    """Indices of the local APICs to which a message goes, in order (`kvm_irq_delivery_to_apic`).

    Which one takes a lowest-priority message, and how destinations are read where modes or models differ, the
    SDM leaves to the processor and the platform; that is as KVM has it. An NMI, SMI, INIT or start-up message
    reaches APICs that are disabled by software too (SDM vol. 3A "Local APIC State After It Has Been Software
    Disabled"), of which KVM's map of logical destinations knows nothing.

    Args:
        message: what is sent.
        targets: all local APICs of the machine that IA32_APIC_BASE enables.
        sender: index of the one that sends it, None for an I/O APIC.
    """
    if message.shorthand is Shorthand.NONE and not _is_broadcast(message, targets, sender):
        found = DestinationMap(targets).named(message)
        if found is not None:
            if message.logical and message.mode not in (FIXED, LOWEST_PRIORITY):
                found += [
                    index
                    for index, target in enumerate(targets)
                    if not target.software_enabled
                    and index not in found
                    and _matches_logically(message.destination, target)
                ]
            return sorted(found)
    found = [
        index
        for index, target in enumerate(targets)
        if is_destination(message, target, is_sender=index == sender, external=sender is None)
    ]
    if message.shorthand is Shorthand.SELF or as_delivered(message).mode is not LOWEST_PRIORITY:
        return found
    willing = [index for index in found if targets[index].software_enabled]
    return [willing[message.vector % len(willing)]] if willing else []


def _is_broadcast(message: Message, targets: Sequence[Address], sender: int | None) -> bool:
    """`kvm_apic_is_broadcast_dest`: all ones, as many as the sender's mode has."""
    from_x2apic = sender is not None and targets[sender].x2apic
    return message.destination == (X2APIC_BROADCAST if from_x2apic else XAPIC_BROADCAST)


def as_delivered(message: Message) -> Message:
    """The message that arrives: a lowest-priority one to all, by physical destination 0xff, arrives as
    a fixed one (`__kvm_irq_delivery_to_apic`).
    """
    if message.mode is not LOWEST_PRIORITY or message.shorthand is Shorthand.SELF:
        return message
    if not message.logical and message.destination == XAPIC_BROADCAST:
        return message._replace(mode=FIXED)
    return message
