# SPDX-License-Identifier: GPL-2.0-or-later
"""A serial port: National's PC16550D, whose line is a list of bytes.

Follows the PC16550D data sheet ("Registers", "FIFO Interrupt Mode Operation", "Loop Mode"). Characters take
no time: what is written has been sent when the write is done, and a character that waits below the receiver's
trigger level has waited long enough. Nothing is received but in loop mode.

Left out: a line with errors, parity and break. The interrupt line is not gated by OUT2, as it is not in QEMU.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

# registers, by offset; the first two are the divisor's halves while LCR.DLAB is set
RBR_THR = DLL = 0
IER = DLM = 1
IIR_FCR = 2
LCR = 3
MCR = 4
LSR = 5
MSR = 6
SCR = 7

IER_RECEIVED, IER_TRANSMITTER, IER_LINE, IER_MODEM = 1, 2, 4, 8
IER_BITS = 0x0F

#: IIR's values, highest priority first.
IIR_LINE, IIR_RECEIVED, IIR_TIMEOUT, IIR_TRANSMITTER, IIR_MODEM, IIR_NONE = 6, 4, 0xC, 2, 0, 1
IIR_FIFOS = 0xC0

FCR_ENABLE = 1
FCR_CLEAR_RECEIVER = 2
#: Characters at which the receiver interrupts, by FCR bits 7:6.
TRIGGER_LEVELS = (1, 4, 8, 14)
FIFO_LENGTH = 16

LCR_DLAB = 0x80

MCR_DTR, MCR_RTS, MCR_OUT1, MCR_OUT2, MCR_LOOP = 1, 2, 4, 8, 0x10
MCR_BITS = 0x1F

LSR_DATA_READY, LSR_OVERRUN = 1, 2
#: THR empty, and the shift register behind it too.
LSR_SENT = 0x60

MSR_CTS, MSR_DSR, MSR_RI, MSR_DCD = 0x10, 0x20, 0x40, 0x80
MSR_LINES = 0xF0
#: The lines of a terminal that is there.
MSR_CONNECTED = MSR_CTS | MSR_DSR | MSR_DCD
#: The bits that say a line has changed are four below the lines; that of RI counts its falling edge only.
MSR_CHANGED_SHIFT = 4

#: What each modem output is wired to in loop mode.
LOOP_WIRES = ((MCR_DTR, MSR_DSR), (MCR_RTS, MSR_CTS), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD))

#: 9600 baud at 1.8432 MHz.
RESET_DIVISOR = 12


def _no_interrupt(level: bool) -> None:
    """Go nowhere."""


class Serial:
    """A 16550A.

    Attributes:
        output: every byte sent.
        interrupt: called with the level of the interrupt line when it changes.
    """

    def __init__(self, interrupt: Callable[[bool], None] = _no_interrupt) -> None:
        self.output = bytearray()
        self.interrupt = interrupt
        self._divisor = RESET_DIVISOR
        self._ier = self._lcr = self._mcr = self._fcr = self._scratch = 0
        self._msr = MSR_CONNECTED
        self._received: deque[int] = deque()
        self._overrun = False
        # THR became empty, or its interrupt was enabled while it was; reading IIR as its cause ends it.
        self._transmitter_asks = False
        self._line = False

    def read_byte(self, offset: int) -> int:
        if self._lcr & LCR_DLAB and offset <= DLM:
            return self._divisor >> 8 * offset & 0xFF
        if offset == RBR_THR:
            return self._take()
        if offset == IER:
            return self._ier
        if offset == IIR_FCR:
            return self._read_iir()
        if offset == LCR:
            return self._lcr
        if offset == MCR:
            return self._mcr
        if offset == LSR:
            return self._read_lsr()
        if offset == MSR:
            return self._read_msr()
        return self._scratch

    def write_byte(self, offset: int, value: int) -> None:
        if self._lcr & LCR_DLAB and offset <= DLM:
            keep = 0xFF00 if offset == DLL else 0xFF
            self._divisor = self._divisor & keep | value << 8 * offset
        elif offset == RBR_THR:
            self._send(value)
        elif offset == IER:
            if value & ~self._ier & IER_TRANSMITTER:
                self._transmitter_asks = True
            self._ier = value & IER_BITS
        elif offset == IIR_FCR:
            self._write_fcr(value)
        elif offset == LCR:
            self._lcr = value
        elif offset == MCR:
            self._mcr = value & MCR_BITS
            self._see_lines()
        elif offset == SCR:
            self._scratch = value
        self._drive()

    @property
    def awaits_input(self) -> bool:
        """Whether the guest has asked for an interrupt when something is received."""
        return bool(self._ier & IER_RECEIVED)

    # -- sending and receiving --

    def _send(self, value: int) -> None:
        # The line falls and rises again: an edge a character.
        self._transmitter_asks = False
        self._drive()
        if self._mcr & MCR_LOOP:
            self._receive(value)
        else:
            self.output.append(value)
        self._transmitter_asks = True

    def _receive(self, value: int) -> None:
        if self._fcr & FCR_ENABLE:
            if len(self._received) < FIFO_LENGTH:
                self._received.append(value)
            else:
                self._overrun = True
        else:
            self._overrun |= bool(self._received)
            self._received.clear()
            self._received.append(value)

    def _take(self) -> int:
        value = self._received.popleft() if self._received else 0
        self._drive()
        return value

    def _write_fcr(self, value: int) -> None:
        if value & FCR_CLEAR_RECEIVER or (value ^ self._fcr) & FCR_ENABLE:
            self._received.clear()
        # Bits other than the first take effect only together with it.
        self._fcr = value if value & FCR_ENABLE else 0

    # -- status --

    def _read_lsr(self) -> int:
        value = LSR_SENT | self._overrun * LSR_OVERRUN | bool(self._received) * LSR_DATA_READY
        self._overrun = False
        self._drive()
        return value

    def _read_msr(self) -> int:
        value = self._msr
        self._msr &= MSR_LINES
        self._drive()
        return value

    def _see_lines(self) -> None:
        """Note the modem lines as MCR has them now, and which have changed."""
        lines = MSR_CONNECTED
        if self._mcr & MCR_LOOP:
            lines = sum(line for output, line in LOOP_WIRES if self._mcr & output)
        changed = (self._msr ^ lines) & MSR_LINES & ~(lines & MSR_RI)
        self._msr = lines | self._msr & ~MSR_LINES | changed >> MSR_CHANGED_SHIFT

    # -- interrupts --

    def _cause(self) -> int:
        """IIR's low bits: the enabled cause of the highest priority."""
        if self._ier & IER_LINE and self._overrun:
            return IIR_LINE
        if self._ier & IER_RECEIVED and self._received:
            fifos = self._fcr & FCR_ENABLE
            enough = not fifos or len(self._received) >= TRIGGER_LEVELS[self._fcr >> 6]
            return IIR_RECEIVED if enough else IIR_TIMEOUT
        if self._ier & IER_TRANSMITTER and self._transmitter_asks:
            return IIR_TRANSMITTER
        if self._ier & IER_MODEM and self._msr & ~MSR_LINES:
            return IIR_MODEM
        return IIR_NONE

    def _read_iir(self) -> int:
        cause = self._cause()
        if cause == IIR_TRANSMITTER:
            self._transmitter_asks = False
            self._drive()
        return cause | (IIR_FIFOS if self._fcr & FCR_ENABLE else 0)

    def _drive(self) -> None:
        level = self._cause() != IIR_NONE
        if level != self._line:
            self._line = level
            self.interrupt(level)
