# SPDX-License-Identifier: GPL-2.0-or-later
"""A place in a file's bytes that moves as numbers, strings and blocks are read from it."""

from __future__ import annotations

import struct


class EndOfData(Exception):
    """What was to be read does not lie inside the bytes, or makes no sense; readers turn it into damage."""


class Cursor:
    """Reads from `data[at:end]`; numbers are in the file's byte order.

    Raises:
        EndOfData: from any reading, if there is less than that.
    """

    def __init__(
        self,
        data: memoryview,
        order: str,
        at: int = 0,
        end: int | None = None,
        *,
        packed_at: int | None = None,
    ) -> None:
        """Stand at a place.

        Args:
            packed_at: where in the file the bytes are packed, if they are; else they are the file's own.
        """
        self.packed_at = packed_at
        self.data = data
        self.order = order
        self.at = at
        self.end = len(data) if end is None else min(end, len(data))

    @property
    def left(self) -> int:
        return max(self.end - self.at, 0)

    @property
    def place(self) -> int:
        """Where in the file this is: the byte, or that with which what is packed begins."""
        return self.at if self.packed_at is None else self.packed_at

    def block(self, size: int) -> memoryview:
        """The next bytes, not copied."""
        if not 0 <= size <= self.left:
            raise EndOfData
        self.at += size
        return self.data[self.at - size : self.at]

    def string(self, limit: int = 4096) -> str:
        """A string that a zero byte ends, which is no part of it."""
        found = bytes(self.data[self.at : min(self.at + limit, self.end)]).find(0)
        if found < 0:
            raise EndOfData
        text = bytes(self.block(found + 1)[:-1])
        return text.decode("utf-8", "replace")

    def u8(self) -> int:
        return self.block(1)[0]

    def u16(self) -> int:
        return int(struct.unpack(self.order + "H", self.block(2))[0])

    def u32(self) -> int:
        return int(struct.unpack(self.order + "I", self.block(4))[0])

    def u64(self) -> int:
        return int(struct.unpack(self.order + "Q", self.block(8))[0])
