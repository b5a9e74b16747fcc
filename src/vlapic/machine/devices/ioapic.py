# SPDX-License-Identifier: GPL-2.0-or-later
"""The I/O APIC: 24 pins, each with an entry that says which interrupt message a signal there becomes.

Follows the 82093AA data sheet ("IOREGSEL", "IOREDTBL"), the version 0x20 of later chipsets for its EOI
register, and `kvm/ioapic.c` where those leave something open: an edge at a masked pin is lost; a level that
is still there is sent again when its interrupt ends or its pin is unmasked; making an entry edge-triggered
clears its remote IRR, which is how operating systems end an interrupt without the EOI register. Whether a
line is active is its driver's business: the polarity bit is kept, and means nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from vlapic.apic.ipi import DeliveryMode, Message

BASE = 0xFEC0_0000
LENGTH = 0x1000
PINS = 24

# offsets, repeated every 256 bytes
IOREGSEL = 0x00
IOWIN = 0x10
EOI = 0x40
OFFSET_BITS = 0xFF

# registers behind the window
ID = 0
VERSION = 1
ARBITRATION = 2
REDIRECTION = 0x10

VERSION_VALUE = PINS - 1 << 16 | 0x20
ID_BITS = 0x0F00_0000
#: What a register that is not there reads.
NOTHING = 0xFFFF_FFFF

# a redirection entry
VECTOR = 0xFF
MODE_SHIFT = 8
LOGICAL = 1 << 11
REMOTE_IRR = 1 << 14
LEVEL = 1 << 15
MASKED = 1 << 16
DESTINATION_SHIFT = 56
POLARITY = 1 << 13
WRITABLE = VECTOR | 7 << MODE_SHIFT | LOGICAL | POLARITY | LEVEL | MASKED | 0xFF << DESTINATION_SHIFT

#: Modes whose interrupts can be level-triggered; an edge starts all others.
LEVEL_MODES = (DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY)
#: Modes that a pin cannot send.
RESERVED_MODES = (DeliveryMode.RESERVED_3, DeliveryMode.STARTUP)


def firmware_id(cpus: int) -> int:
    """The ID that firmware gives it: the first that no processor has; 0 if they have all of its 4 bits."""
    return cpus if cpus < 0xF else 0


class IoApic:
    """An I/O APIC.

    Attributes:
        entries: the redirection entries, 64 bits each.
        send: called with each interrupt message.
    """

    def __init__(self, send: Callable[[Message], None]) -> None:
        self.send = send
        self.entries = [MASKED] * PINS
        self._lines = 0
        self._select = 0
        self._id = 0

    def describe(self, cpus: int) -> None:
        """Take the ID that firmware gives it."""
        self._id = firmware_id(cpus) << 24

    # -- pins --

    def set_pin(self, pin: int, level: bool) -> None:
        """Change the level of a pin."""
        bit = 1 << pin
        rose = level and not self._lines & bit
        self._lines = self._lines | bit if level else self._lines & ~bit
        if rose:
            self._signal(pin)

    def remote_eoi(self, vector: int) -> None:
        """A local APIC has ended a level-triggered interrupt; a level that is still there is sent again."""
        for pin, entry in enumerate(self.entries):
            if self._is_level(entry) and entry & REMOTE_IRR and entry & VECTOR == vector:
                self.entries[pin] = entry & ~REMOTE_IRR
                self._signal_level(pin)

    def passes_on(self, pin: int) -> bool:
        """Whether a rise at a pin would send a message."""
        entry = self.entries[pin]
        return not (
            entry & MASKED
            or (entry & REMOTE_IRR and self._is_level(entry))
            or DeliveryMode(entry >> MODE_SHIFT & 7) in RESERVED_MODES
        )

    def may_send_nmi(self) -> bool:
        """Whether a pin is open whose messages are NMIs."""
        return any(
            not entry & MASKED and entry >> MODE_SHIFT & 7 == DeliveryMode.NMI for entry in self.entries
        )

    @staticmethod
    def _is_level(entry: int) -> bool:
        return bool(entry & LEVEL) and DeliveryMode(entry >> MODE_SHIFT & 7) in LEVEL_MODES

    def _signal_level(self, pin: int) -> None:
        """Send what a level-triggered pin asks for, if it does."""
        if self._lines >> pin & 1 and self._is_level(self.entries[pin]):
            self._signal(pin)

    def _signal(self, pin: int) -> None:
        if not self.passes_on(pin):
            return
        entry = self.entries[pin]
        level = self._is_level(entry)
        if level:
            self.entries[pin] |= REMOTE_IRR
        self.send(
            Message(
                DeliveryMode(entry >> MODE_SHIFT & 7),
                entry & VECTOR,
                level=level,
                logical=bool(entry & LOGICAL),
                destination=entry >> DESTINATION_SHIFT,
            )
        )

    # -- registers --

    def read(self, offset: int, size: int) -> int:
        """Read the selector or the window; zeros beside them."""
        where = offset & OFFSET_BITS
        value = 0
        if where == IOREGSEL:
            value = self._select
        elif where == IOWIN:
            value = self._read_register()
        return value & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Write the selector, the window or the EOI register; lost beside them."""
        where = offset & OFFSET_BITS
        if where == IOREGSEL:
            self._select = value & 0xFF
        elif where == IOWIN:
            self._write_register(value & 0xFFFF_FFFF)
        elif where == EOI:
            self.remote_eoi(value & VECTOR)

    def _read_register(self) -> int:
        if self._select in (ID, ARBITRATION):
            return self._id
        if self._select == VERSION:
            return VERSION_VALUE
        pin, high = divmod(self._select - REDIRECTION, 2)
        if not 0 <= pin < PINS:
            return NOTHING
        return self.entries[pin] >> 32 * high & 0xFFFF_FFFF

    def _write_register(self, value: int) -> None:
        if self._select == ID:
            self._id = value & ID_BITS
            return
        pin, high = divmod(self._select - REDIRECTION, 2)
        if not 0 <= pin < PINS:
            return
        writable = WRITABLE & 0xFFFF_FFFF << 32 * high
        entry = self.entries[pin] & ~writable | value << 32 * high & writable
        if not entry & LEVEL:
            entry &= ~REMOTE_IRR
        self.entries[pin] = entry
        self._signal_level(pin)
