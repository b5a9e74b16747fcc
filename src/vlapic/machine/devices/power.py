# SPDX-License-Identifier: GPL-2.0-or-later
"""How a guest switches its machine off or resets it, and what else ACPI's fixed registers hold.

Follows the ACPI specification ("PM1 Event Grouping", "PM1 Control Grouping", "Power Management Timer") at the
ports of QEMU's PCs, 0x600 to 0x60b, with the control register once more where Bochs and old QEMU have it; the
reset control register of Intel's PIIX3 and ICH data sheets at 0xcf9; port 0x92 of the PS/2. A reset by the
keyboard controller is `keyboard.py`'s.

Any sleep type switches off: this machine has no other sleep. It leaves out the SCI, so that the enable bits
are kept and mean nothing; of the status bits only the timer's is ever set.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

# ports
PM1A_EVENT, PM1A_EVENT_LENGTH = 0x600, 4
PM1A_CONTROL, PM1A_CONTROL_LENGTH = 0x604, 2
PM_TIMER, PM_TIMER_LENGTH = 0x608, 4
BOCHS_CONTROL = 0xB004
#: Where PCI's configuration address is; its second byte, by itself, is the reset control register.
PCI_ADDRESS, PCI_ADDRESS_LENGTH = 0xCF8, 4
RESET_CONTROL = 1
PORT_92 = 0x92

PM_TIMER_HZ = 3_579_545
#: The timer is 24 bits wide, which a FADT says by its flag TMR_VAL_EXT being clear.
PM_TIMER_BITS = 24
NS_PER_SECOND = 10**9

# PM1 status and enable
TIMER_STATUS = 0x0001
# PM1 control
SCI_ENABLE = 0x0001
SLEEP_TYPE = 0x1C00
SLEEP_ENABLE = 0x2000
#: What of it reads as it was written.
CONTROL_KEPT = SLEEP_TYPE | 0x0002

# the reset control register
HARD_RESET, RESET_CPU = 0x02, 0x04
# port 0x92
FAST_RESET, A20 = 0x01, 0x02


class End(Enum):
    """How a guest has ended its machine; the value follows "the guest"."""

    OFF = "switched the machine off"
    RESET = "reset the machine"


class Power:
    """Whether the machine is still on.

    Attributes:
        end: how the guest has ended it first, None if it has not.
        reset_asked: whether it is on the way to a reset: a shutdown of its CPU (a triple fault) is one then.
    """

    def __init__(self) -> None:
        self.end: End | None = None
        self.reset_asked = False

    def switch_off(self) -> None:
        """The machine is off."""
        self.end = self.end or End.OFF

    def reset(self) -> None:
        """The machine is reset, which is the end of a run."""
        self.end = self.end or End.RESET


class Pm1Events:
    """PM1a status, two bytes, and enable, two more."""

    def __init__(self, timer: PmTimer) -> None:
        self._timer = timer
        self._enabled = 0
        # How often the timer's top bit had changed when its status was cleared last.
        self._cleared = 0

    def read_byte(self, offset: int) -> int:
        if offset < 2:
            status = TIMER_STATUS if self._timer.changes() != self._cleared else 0
            return status >> 8 * offset & 0xFF
        return self._enabled >> 8 * (offset - 2) & 0xFF

    def write_byte(self, offset: int, value: int) -> None:
        """Clear the status bits that are written as ones; keep the enable bits."""
        if offset >= 2:
            shift = 8 * (offset - 2)
            self._enabled = self._enabled & ~(0xFF << shift) | value << shift
        elif offset == 0 and value & TIMER_STATUS:
            self._cleared = self._timer.changes()


class Pm1Control:
    """PM1a control, two bytes: the sleep type, and the bit that enters it. ACPI is always enabled."""

    def __init__(self, power: Power) -> None:
        self._power = power
        self._kept = 0

    def read_byte(self, offset: int) -> int:
        return (self._kept | SCI_ENABLE) >> 8 * offset & 0xFF

    def write_byte(self, offset: int, value: int) -> None:
        shift = 8 * offset
        self._kept = (self._kept & ~(0xFF << shift) | value << shift) & CONTROL_KEPT
        if value << shift & SLEEP_ENABLE:
            self._power.switch_off()


class PmTimer:
    """The power management timer: it counts up at 3.579545 MHz, and is not written.

    Args:
        now_ns: reads the time since the machine was switched on.
    """

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns

    def _ticks(self) -> int:
        return self._now_ns() * PM_TIMER_HZ // NS_PER_SECOND

    def changes(self) -> int:
        """How often its top bit has changed."""
        return self._ticks() >> PM_TIMER_BITS - 1

    def read(self, offset: int, size: int) -> int:
        value = self._ticks() & (1 << PM_TIMER_BITS) - 1
        return value >> 8 * offset & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Lose it."""


class ResetControl:
    """The reset control register: one byte at 0xcf9. Other accesses there are PCI's, which is not here."""

    def __init__(self, power: Power) -> None:
        self._power = power
        self._value = 0

    def read(self, offset: int, size: int) -> int:
        return self._value if (offset, size) == (RESET_CONTROL, 1) else (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        if (offset, size) != (RESET_CONTROL, 1):
            return
        self._value = value & HARD_RESET
        self._power.reset_asked |= bool(value & HARD_RESET)
        if value & RESET_CPU:
            self._power.reset()


class Port92:
    """Port 0x92: the fast reset, and the A20 gate, which is always open."""

    def __init__(self, power: Power) -> None:
        self._power = power

    def read_byte(self, offset: int) -> int:
        return A20

    def write_byte(self, offset: int, value: int) -> None:
        if value & FAST_RESET:
            self._power.reset()
