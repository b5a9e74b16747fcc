# SPDX-License-Identifier: GPL-2.0-or-later
"""The flat form, that of the built-in guests: 64-bit code behind a header of 32 bytes.

The header, little-endian, is part of the image and is loaded with it:

    offset  0  8 bytes  b"VLAPIC64"
            8  u32      physical address at which the image's first byte is loaded
           12  u32      entry point, counted from there
           16  u32      bytes of memory the guest needs beyond the image, zeroed
           20  u32      results area, counted from the load address
           24  8 bytes  zero

An image begins at 1 MiB or above. Its results area is what `loader.Results` is read from.
"""

from __future__ import annotations

import struct

from vlapic.errors import ImageError
from vlapic.machine.engines.contract import CpuMode
from vlapic.machine.guests.images.image import MIB, Image, Segment

MAGIC = b"VLAPIC64"
HEADER = struct.Struct("<8sIIII8s")
#: Count, early count, then minimum, maximum and sum of the lateness in guest TSC cycles (signed).
RESULTS = struct.Struct("<QQqqq")


def read(data: memoryview) -> Image:
    """The image in a file that begins with MAGIC.

    Raises:
        ImageError: the header is cut off, of another version, or asks for what cannot be.
    """
    if len(data) < HEADER.size:
        raise ImageError(f"{len(data)} bytes, cut off in its header of {HEADER.size}; try to build it again")
    _, address, entry, zeros, results, reserved = HEADER.unpack_from(data)
    if any(reserved):
        raise ImageError(
            f"the header's last 8 bytes are {reserved.hex()}, expected zeros;"
            " try an image built for this version"
        )
    if address < MIB:
        raise ImageError(
            f"wants to be loaded at {address:#x}, where the page tables are; link it at {MIB:#x} or above"
        )
    if not HEADER.size <= entry < len(data):
        raise ImageError(
            f"the entry point is at {entry:#x}, expected {HEADER.size:#x} to {len(data) - 1:#x},"
            " inside the image and behind its header"
        )
    size = len(data) + zeros
    if results + RESULTS.size > size:
        raise ImageError(
            f"the results area is at {results:#x}, expected {RESULTS.size} bytes below {size:#x}"
        )
    segment = Segment(address, data, size)
    return Image("flat image", CpuMode.LONG, address + entry, (segment,), address + results)
