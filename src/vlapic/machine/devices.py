"""The machine's ports: a serial console, and the port by which a guest reports its value and ends."""

from __future__ import annotations

SERIAL_BASE = 0x3F8
#: The port of QEMU's isa-debug-exit, as kvm-unit-tests use it.
EXIT_PORT = 0xF4

_SERIAL_LINE_STATUS = 5
_TRANSMITTER_EMPTY = 0x60


class Ports:
    """The I/O ports of one VM.

    Attributes:
        console: what the guest wrote to its serial port.
        exit_value: what it reported at the exit port, None until it did; 0 is good.
    """

    def __init__(self) -> None:
        self.console = bytearray()
        self.exit_value: int | None = None

    def read(self, port: int, size: int) -> int:
        """IN of 1, 2 or 4 bytes; all ones where there is no device."""
        if port == SERIAL_BASE + _SERIAL_LINE_STATUS and size == 1:
            return _TRANSMITTER_EMPTY
        if SERIAL_BASE <= port < SERIAL_BASE + 8 and size == 1:
            return 0
        return (1 << 8 * size) - 1

    def write(self, port: int, size: int, value: int) -> None:
        """OUT of 1, 2 or 4 bytes; lost where there is no device."""
        if port == SERIAL_BASE and size == 1:
            self.console.append(value)
        elif port == EXIT_PORT:
            self.exit_value = value
