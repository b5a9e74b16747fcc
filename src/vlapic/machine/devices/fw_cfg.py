# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's firmware configuration device: numbered items that a guest selects and reads byte by byte.

Follows QEMU's docs/specs/fw_cfg. The selector is a 16-bit write to the first port; every byte read from the
second gives the next byte of the selected item, zeros behind its end and for an item that is not there.
kvm-unit-tests read the number of CPUs there, and a memory limit under a number of their own (0x11) at which
zero means none.

Left out: the DMA interface (the ID item says so) and writes of items, which QEMU dropped in 2.4.
"""

from __future__ import annotations

from collections.abc import Mapping

SELECTOR = 0
DATA = 1
#: Bit 14 of a selector once asked for writing and means nothing now.
WRITE_CHANNEL = 0x4000

# items
SIGNATURE = 0x00
ID = 0x01
UUID = 0x02
RAM_SIZE = 0x03
NOGRAPHIC = 0x04
NB_CPUS = 0x05
INITRD_SIZE = 0x0B
MAX_CPUS = 0x0F
INITRD_DATA = 0x12
CMDLINE_SIZE = 0x14
CMDLINE_DATA = 0x15
FILE_DIR = 0x19
#: The first item of a file.
FILE_FIRST = 0x20
#: IRQ 0 reaches the I/O APIC at pin 2.
IRQ0_OVERRIDE = 0x8002

TRADITIONAL_INTERFACE = 1
FILE_NAME_LENGTH = 56


def machine_items(
    cpus: int, memory_bytes: int, command_line: bytes = b"", initrd: bytes = b""
) -> dict[int, bytes]:
    """Items that describe a machine; numbers are little-endian, the command line ends in a zero byte."""
    command_line += b"\0"
    return {
        UUID: bytes(16),
        RAM_SIZE: memory_bytes.to_bytes(8, "little"),
        NOGRAPHIC: (1).to_bytes(2, "little"),
        NB_CPUS: cpus.to_bytes(2, "little"),
        MAX_CPUS: cpus.to_bytes(2, "little"),
        INITRD_SIZE: len(initrd).to_bytes(4, "little"),
        INITRD_DATA: initrd,
        CMDLINE_SIZE: len(command_line).to_bytes(4, "little"),
        CMDLINE_DATA: command_line,
        IRQ0_OVERRIDE: (1).to_bytes(4, "little"),
    }


def file_items(files: Mapping[str, bytes]) -> dict[int, bytes]:
    """Items of named files, and their directory, whose numbers are big-endian."""
    items = {}
    directory = len(files).to_bytes(4, "big")
    for select, (name, contents) in enumerate(sorted(files.items()), FILE_FIRST):
        encoded = name.encode()
        assert len(encoded) < FILE_NAME_LENGTH, f"the name {name!r} is too long for the directory"
        directory += len(contents).to_bytes(4, "big") + select.to_bytes(2, "big") + bytes(2)
        directory += encoded.ljust(FILE_NAME_LENGTH, b"\0")
        items[select] = contents
    return {FILE_DIR: directory, **items}


class FwCfg:
    """The device at its two ports.

    Attributes:
        items: contents by number; the machine may change them between accesses.
    """

    def __init__(self) -> None:
        self.items: dict[int, bytes] = {
            SIGNATURE: b"QEMU",
            ID: TRADITIONAL_INTERFACE.to_bytes(4, "little"),
            **file_items({}),
        }
        self._selected = SIGNATURE
        self._position = 0

    def read(self, offset: int, size: int) -> int:
        """One byte of the item at the data port; any other access reads all ones."""
        if offset != DATA or size != 1:
            return (1 << 8 * size) - 1
        item = self.items.get(self._selected, b"")
        if self._position >= len(item):
            return 0
        self._position += 1
        return item[self._position - 1]

    def write(self, offset: int, size: int, value: int) -> None:
        """Select an item, with 16 bits at the selector; any other write is lost."""
        if offset == SELECTOR and size == 2:
            self._selected = value & ~WRITE_CHANNEL
            self._position = 0
