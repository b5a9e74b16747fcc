# SPDX-License-Identifier: GPL-2.0-or-later
"""The exit port: a guest writes a value there, and that is the end of it.

Follows QEMU's isa-debug-exit, in which the process ends with the value shifted left by one and bit 0 set;
here the value is kept as the guest wrote it. Reads give 0, so that a guest can tell it from an empty port.
"""

from __future__ import annotations


class ExitPort:
    """The port by which a guest reports a value and ends.

    Attributes:
        value: what was written last, None if nothing was.
    """

    def __init__(self) -> None:
        self.value: int | None = None

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self.value = value
