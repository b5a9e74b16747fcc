# SPDX-License-Identifier: GPL-2.0-or-later
"""The I/O space with the two devices that every guest has: its console, and the port that ends it."""

from __future__ import annotations

from vlapic.machine.devices.bus import Bus
from vlapic.machine.devices.exit import ExitPort
from vlapic.machine.devices.serial import Serial

SERIAL_BASE = 0x3F8
SERIAL_LENGTH = 8
#: The port of QEMU's isa-debug-exit, and how many it takes, as kvm-unit-tests ask for it.
EXIT_PORT = 0xF4
EXIT_LENGTH = 4


class Ports(Bus):
    """The I/O ports of one VM; accesses are 1, 2 or 4 bytes.

    Attributes:
        serial: the first serial port.
        exit_port: where the guest reports its value.
    """

    def __init__(self, serial: Serial | None = None) -> None:
        super().__init__()
        self.serial = Serial() if serial is None else serial
        self.exit_port = ExitPort()
        self.add_bytes(SERIAL_BASE, SERIAL_LENGTH, self.serial)
        self.add(EXIT_PORT, EXIT_LENGTH, self.exit_port)

    @property
    def console(self) -> bytearray:
        """What the guest wrote to its serial port."""
        return self.serial.output

    @property
    def exit_value(self) -> int | None:
        """What the guest reported at the exit port, None until it did; 0 is good."""
        return self.exit_port.value
