# SPDX-License-Identifier: GPL-2.0-or-later
"""An address space of devices: I/O ports, or the part of memory that is not RAM.

A device sees offsets from the beginning of its range. Most devices of a PC are eight bits wide: a wider
access to one is, as on the ISA bus, several accesses to adjacent bytes, lowest first. Where no device
answers, reads are all ones and writes are lost.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import NamedTuple, Protocol

NOTHING = 0xFF


class Device(Protocol):
    """What answers accesses of any size to its range, little-endian."""

    def read(self, offset: int, size: int) -> int:
        """Answer a read of `size` bytes, less than 2^(8 * size)."""

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a write of `size` bytes."""


class ByteDevice(Protocol):
    """A device eight bits wide."""

    def read_byte(self, offset: int) -> int:
        """Answer a read, 0 to 255."""

    def write_byte(self, offset: int, value: int) -> None:
        """Take a write of 0 to 255."""


class Range(NamedTuple):
    """Where a device is."""

    base: int
    end: int
    device: Device


class ByteWide:
    """A device eight bits wide, at accesses of any size that stay within its range."""

    def __init__(self, device: ByteDevice) -> None:
        self._device = device

    def read(self, offset: int, size: int) -> int:
        value = 0
        for byte in range(size):
            value |= self._device.read_byte(offset + byte) << 8 * byte
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        for byte in range(size):
            self._device.write_byte(offset + byte, value >> 8 * byte & 0xFF)


class Bus:
    """A table from ranges of addresses to devices.

    Attributes:
        ranges: what was added, in the order of addresses; no two overlap.
    """

    def __init__(self) -> None:
        self.ranges: list[Range] = []

    def add(self, base: int, length: int, device: Device) -> None:
        """Put a device at `length` addresses from `base` on, which must be free."""
        assert all(base + length <= other.base or other.end <= base for other in self.ranges), (
            f"{base:#x} to {base + length - 1:#x} is taken"
        )
        insort(self.ranges, Range(base, base + length, device), key=lambda other: other.base)

    def add_bytes(self, base: int, length: int, device: ByteDevice) -> None:
        """Put a device eight bits wide at `length` addresses from `base` on, which must be free."""
        self.add(base, length, ByteWide(device))

    def read(self, address: int, size: int) -> int:
        """Read 1, 2, 4 or 8 bytes."""
        at = self._at(address)
        if at is not None and address + size <= at.end:
            return at.device.read(address - at.base, size)
        value = 0
        for byte in range(size):
            at = self._at(address + byte)
            found = NOTHING if at is None else at.device.read(address + byte - at.base, 1)
            value |= found << 8 * byte
        return value

    def write(self, address: int, size: int, value: int) -> None:
        """Write 1, 2, 4 or 8 bytes; what of the value is wider than that is cut off."""
        at = self._at(address)
        if at is not None and address + size <= at.end:
            at.device.write(address - at.base, size, value & (1 << 8 * size) - 1)
            return
        for byte in range(size):
            at = self._at(address + byte)
            if at is not None:
                at.device.write(address + byte - at.base, 1, value >> 8 * byte & 0xFF)

    def _at(self, address: int) -> Range | None:
        place = bisect_right(self.ranges, address, key=lambda other: other.base)
        if place and address < self.ranges[place - 1].end:
            return self.ranges[place - 1]
        return None
