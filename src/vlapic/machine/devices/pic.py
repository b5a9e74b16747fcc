# SPDX-License-Identifier: GPL-2.0-or-later
"""The interrupt controllers of the ISA bus: two Intel 8259As, the second behind line 2 of the first.

Follows the 8259A data sheet ("Initialization Command Words", "Operation Command Words") and QEMU in two
places: the edge/level control registers of later chipsets at ports 0x4d0 and 0x4d1 make single lines
level-triggered, and an edge stays requested until it is acknowledged, even if the line has fallen. All lines
are masked at reset; data sheet and firmware leave that open.

Left out: the 8080 mode and buffered mode.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

COMMAND = 0
DATA = 1

ICW1 = 0x10
ICW1_NEEDS_ICW4, ICW1_SINGLE, ICW1_LEVEL = 0x01, 0x02, 0x08
ICW2_BASE = 0xF8
ICW4_AUTO_EOI, ICW4_SPECIAL_FULLY_NESTED = 0x02, 0x10
OCW3 = 0x08
OCW3_POLL, OCW3_READ, OCW3_READ_ISR = 0x04, 0x02, 0x01
OCW3_SET_SPECIAL_MASK, OCW3_SPECIAL_MASK = 0x40, 0x20
OCW2_SHIFT = 5
POLL_FOUND = 0x80

LINES = 8
#: The vector offset of a request that is gone when it is acknowledged.
SPURIOUS = 7
#: The master's line that the slave drives.
CASCADE = 2
#: Lines that ELCR can make level-triggered: all but those of the timer, the keyboard and the cascade; all but
#: those of the clock and the coprocessor.
ELCR_MASTER, ELCR_SLAVE = 0xF8, 0xDE


class Expects(Enum):
    """What the next write to the data port is."""

    MASK = auto()
    ICW2 = auto()
    ICW3 = auto()
    ICW4 = auto()


class Pic:
    """One 8259A.

    Attributes:
        irr, isr, imr: requests, lines in service, masked lines; a bit a line.
        elcr: lines made level-triggered one by one.
        elcr_bits: which of them can be.
        base: the vector of line 0.
        output: called with the level of INT when it changes.
        level: the level of INT.
    """

    def __init__(self, output: Callable[[bool], None], elcr_bits: int, cascade: int = 0) -> None:
        """Make one that is masked.

        Args:
            cascade: lines that another 8259A drives, a bit each.
        """
        self.output = output
        self.level = False
        self.irr = self.isr = 0
        self.imr = 0xFF
        self.elcr = 0
        self.elcr_bits = elcr_bits
        self.base = 0
        self._cascade = cascade
        self._lines = 0
        self._expects = Expects.MASK
        self._icw1 = self._icw4 = 0
        # The line of the lowest priority; the next one has the highest.
        self._lowest = LINES - 1
        self._rotates_in_auto_eoi = False
        self._special_mask = False
        self._reads_isr = False
        self._polled = False

    # -- lines and priorities --

    def set_line(self, line: int, level: bool) -> None:
        """Change the level of a line."""
        bit = 1 << line
        rose = level and not self._lines & bit
        self._lines = self._lines | bit if level else self._lines & ~bit
        if self._is_level(bit):
            self.irr = self.irr & ~bit | self._lines & bit
        elif rose:
            self.irr |= bit
        self._drive()

    def passes_on(self, line: int) -> bool:
        """Whether a rise of a line would be a new request that is not masked."""
        return not (self.imr | self.irr) >> line & 1

    def acknowledge(self) -> int:
        """What INTA does: the line of the highest priority goes into service.

        Returns:
            The line; `SPURIOUS` if none asks any more.
        """
        line = self._deliverable()
        if line is None:
            return SPURIOUS
        bit = 1 << line
        if not self._is_level(bit):
            self.irr &= ~bit
        if not self._icw4 & ICW4_AUTO_EOI:
            self.isr |= bit
        elif self._rotates_in_auto_eoi:
            self._lowest = line
        # INT falls with every acknowledgement; what still asks raises it again.
        self._set_level(False)
        self._drive()
        return line

    def _is_level(self, bit: int) -> bool:
        return bool(self._icw1 & ICW1_LEVEL or self.elcr & bit)

    def _by_priority(self) -> list[int]:
        return [(self._lowest + 1 + step) % LINES for step in range(LINES)]

    def _deliverable(self) -> int | None:
        """The line that asks with the highest priority, unless one as high is in service."""
        asking = self.irr & ~self.imr
        blocking = self.isr
        if self._special_mask:
            blocking &= ~self.imr
        if self._icw4 & ICW4_SPECIAL_FULLY_NESTED:
            blocking &= ~self._cascade
        for line in self._by_priority():
            if blocking >> line & 1:
                return None
            if asking >> line & 1:
                return line
        return None

    def _drive(self) -> None:
        self._set_level(self._deliverable() is not None)

    def _set_level(self, level: bool) -> None:
        if level != self.level:
            self.level = level
            self.output(level)

    # -- ports --

    def read_byte(self, offset: int) -> int:
        if self._polled:
            self._polled = False
            if not self.level:
                return 0
            return POLL_FOUND | self.acknowledge()
        if offset == DATA:
            return self.imr
        return self.isr if self._reads_isr else self.irr

    def write_byte(self, offset: int, value: int) -> None:
        if offset == DATA:
            self._write_data(value)
        elif value & ICW1:
            self._initialize(value)
        elif value & OCW3:
            self._write_ocw3(value)
        else:
            self._write_ocw2(value)
        self._drive()

    def _initialize(self, icw1: int) -> None:
        self._icw1 = icw1
        self._icw4 = 0
        self.irr = self._lines if icw1 & ICW1_LEVEL else 0
        self.isr = self.imr = 0
        self._lowest = LINES - 1
        self._rotates_in_auto_eoi = self._special_mask = self._reads_isr = self._polled = False
        self._expects = Expects.ICW2

    def _write_data(self, value: int) -> None:
        if self._expects is Expects.MASK:
            self.imr = value
            return
        if self._expects is Expects.ICW2:
            self.base = value & ICW2_BASE
            if not self._icw1 & ICW1_SINGLE:
                self._expects = Expects.ICW3
                return
        elif self._expects is Expects.ICW4:
            self._icw4 = value
            self._expects = Expects.MASK
            return
        self._expects = Expects.ICW4 if self._icw1 & ICW1_NEEDS_ICW4 else Expects.MASK

    def _write_ocw2(self, value: int) -> None:
        line = value & 7
        match value >> OCW2_SHIFT:
            case 0 | 4 as rotate:
                self._rotates_in_auto_eoi = bool(rotate)
            case 1 | 5 as rotate:
                ended = self._highest_in_service()
                if ended is not None:
                    self.isr &= ~(1 << ended)
                    self._lowest = ended if rotate == 5 else self._lowest
            case 3 | 7 as rotate:
                self.isr &= ~(1 << line)
                self._lowest = line if rotate == 7 else self._lowest
            case 6:
                self._lowest = line

    def _highest_in_service(self) -> int | None:
        """The line that an unspecific EOI ends."""
        in_service = self.isr & ~self.imr if self._special_mask else self.isr
        return next((line for line in self._by_priority() if in_service >> line & 1), None)

    def _write_ocw3(self, value: int) -> None:
        if value & OCW3_SET_SPECIAL_MASK:
            self._special_mask = bool(value & OCW3_SPECIAL_MASK)
        if value & OCW3_POLL:
            self._polled = True
        elif value & OCW3_READ:
            self._reads_isr = bool(value & OCW3_READ_ISR)

    def write_elcr(self, value: int) -> None:
        """Make lines level-triggered, others edge-triggered."""
        self.elcr = value & self.elcr_bits
        self._drive()


class Elcr:
    """The edge/level control registers of both."""

    def __init__(self, master: Pic, slave: Pic) -> None:
        self._chips = (master, slave)

    def read_byte(self, offset: int) -> int:
        return self._chips[offset].elcr

    def write_byte(self, offset: int, value: int) -> None:
        self._chips[offset].write_elcr(value)


class PicPair:
    """Both 8259As of a PC: ISA lines in, one INT out.

    Attributes:
        master, slave: each at two ports.
        elcr: at two more.
    """

    def __init__(self, output: Callable[[bool], None]) -> None:
        """Make a masked pair.

        Args:
            output: called with the level of INT when it changes.
        """
        self.master = Pic(output, ELCR_MASTER, cascade=1 << CASCADE)
        self.slave = Pic(lambda level: self.master.set_line(CASCADE, level), ELCR_SLAVE)
        self.elcr = Elcr(self.master, self.slave)

    @property
    def level(self) -> bool:
        """The level of INT: an interrupt waits to be acknowledged."""
        return self.master.level

    def set_line(self, line: int, level: bool) -> None:
        """Change the level of an ISA line, 0 to 15; line 2 is the cascade's."""
        if line >= LINES:
            self.slave.set_line(line - LINES, level)
        elif line != CASCADE:
            self.master.set_line(line, level)

    def passes_on(self, line: int) -> bool:
        """Whether a rise of an ISA line would be a new request that is not masked."""
        if line < LINES:
            return self.master.passes_on(line)
        return self.slave.passes_on(line - LINES) and not self.master.imr >> CASCADE & 1

    def acknowledge(self) -> int:
        """What the processor's INTA cycles do.

        Returns:
            The vector; a spurious one if nothing asks any more.
        """
        line = self.master.acknowledge()
        if line == CASCADE:
            return self.slave.base + self.slave.acknowledge()
        return self.master.base + line
