# SPDX-License-Identifier: GPL-2.0-or-later
"""The devices of a PC that bare-metal guests expect around the CPU.

`Ports` is the I/O space: a table from ranges of ports to devices, all ones where nothing is. `Board` puts
the devices into it, the I/O APIC into memory, and draws the interrupt wires between them. A device is handed
callbacks and, where it counts, a time to read; it knows neither machine nor CPU. Nothing a guest writes makes
a device raise: what hardware ignores is ignored.
"""

from vlapic.machine.devices.board import Board
from vlapic.machine.devices.ports import Ports

__all__ = ["Board", "Ports"]
