# SPDX-License-Identifier: GPL-2.0-or-later
"""What kvm-unit-tests test devices with: QEMU's pc-testdev.

Follows the ports and the memory that kvm-unit-tests use (`lib/x86/apic.c: set_irq_line`, `x86/ioram.h`,
TESTDEV_IO_PORT): a write to port 0x2000 + n sets interrupt line n, the four bytes at port 0xe0 keep what is
written there, and so do 64 KiB of device memory at 0xff000000. The port 0xe4, which takes a page away from
under the guest, is nothing here: there is no nested paging whose faults could be provoked.
"""

from __future__ import annotations

from collections.abc import Callable

LINES_BASE = 0x2000
LINES = 24
SCRATCH_BASE = 0xE0
SCRATCH_LENGTH = 4
MEMORY_BASE = 0xFF00_0000
MEMORY_LENGTH = 0x10000


class LinePorts:
    """A port an interrupt line: any value but 0 raises it."""

    def __init__(self, set_line: Callable[[int, bool], None]) -> None:
        self._set_line = set_line

    def read_byte(self, offset: int) -> int:
        return 0xFF

    def write_byte(self, offset: int, value: int) -> None:
        self._set_line(offset, value != 0)


class Memory:
    """Bytes that keep what is written, as a device."""

    def __init__(self, length: int) -> None:
        self._bytes = bytearray(length)

    def read(self, offset: int, size: int) -> int:
        return int.from_bytes(self._bytes[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self._bytes[offset : offset + size] = value.to_bytes(size, "little")
