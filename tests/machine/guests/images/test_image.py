# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether an image fits: the same question for every form."""

import pytest

from vlapic.errors import ImageError
from vlapic.machine.engines.contract import CpuMode
from vlapic.machine.guests.images.image import MIB, Image, Reserved, Segment, check

TABLES = (Reserved(0x1000, 0x2000, "the tables are"),)


def image(*segments, entry=MIB):
    parts = tuple(Segment(address, memoryview(data), size) for address, data, size in segments)
    return Image("thing", CpuMode.LONG, entry, parts)


def refused(image, memory_bytes, most=3072 * MIB):
    with pytest.raises(ImageError) as caught:
        check(image, memory_bytes, most, TABLES)
    return str(caught.value)


def test_memory_may_be_filled_to_the_last_byte():
    full = image((MIB, b"x", MIB))
    check(full, 2 * MIB, 3 * MIB, TABLES)
    assert refused(full, 2 * MIB - 1) == (
        "needs memory up to 0x200000, the guest has 0x1fffff; try --memory 2"
    )


def test_memory_that_no_guest_can_have_is_not_advised():
    much = image((MIB, b"x", 2 * MIB))
    assert refused(much, MIB, 3 * MIB).endswith("; try --memory 3")
    assert refused(much, MIB, 3 * MIB - 1).endswith("; 2 MiB is the most; try to link it lower")


def test_an_image_may_touch_reserved_memory_from_both_sides():
    check(image((0, b"x", 0x1000), (0x2000, b"x", 1), entry=0), MIB, MIB, TABLES)
    for address, size in ((0xFFF, 2), (0x1FFF, 1), (0, 0x3000)):
        assert "where the tables are" in refused(image((address, b"x", size)), MIB)


def test_segments_do_not_overlap():
    assert refused(image((MIB, b"x", 16), (MIB + 15, b"y", 1)), 2 * MIB) == (
        "has segments that overlap, 0x100000 to 0x10000f and 0x10000f to 0x10000f;"
        " expected each in a place of its own; try to link it again"
    )


def test_the_entry_point_is_in_what_the_file_fills():
    assert refused(image((MIB, b"xy", 16), entry=MIB + 2), 2 * MIB) == (
        "the entry point is at 0x100002, where the file puts nothing; expected 0x100000 to 0x100001;"
        " try to link it again"
    )
    assert "expected a part with code" in refused(image((MIB, b"", 16)), 2 * MIB)
