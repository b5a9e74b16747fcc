# SPDX-License-Identifier: GPL-2.0-or-later
"""An address space of devices: who answers which byte."""

import pytest

from vlapic.machine.devices.bus import Bus


class Bytes:
    """Eight bits wide: shows its offsets, keeps what is written."""

    def __init__(self):
        self.written = []

    def read_byte(self, offset):
        return 0x10 + offset

    def write_byte(self, offset, value):
        self.written.append((offset, value))


class Words:
    """Takes whole accesses and keeps them."""

    def __init__(self):
        self.seen = []

    def read(self, offset, size):
        self.seen.append((offset, size))
        return 0x5A

    def write(self, offset, size, value):
        self.seen.append((offset, size, value))


@pytest.mark.parametrize(("size", "ones"), [(1, 0xFF), (2, 0xFFFF), (4, 0xFFFF_FFFF), (8, 2**64 - 1)])
def test_where_nothing_is_reads_are_all_ones_and_writes_are_lost(size, ones):
    bus = Bus()
    bus.write(0x80, size, 0)
    assert bus.read(0x80, size) == ones


def test_a_wide_access_to_a_narrow_device_is_one_to_each_byte_lowest_first():
    bus, device = Bus(), Bytes()
    bus.add_bytes(0x20, 4, device)
    assert bus.read(0x20, 4) == 0x1312_1110
    bus.write(0x21, 2, 0xBBAA)
    assert device.written == [(1, 0xAA), (2, 0xBB)]


def test_an_access_within_a_wide_device_arrives_whole():
    bus, device = Bus(), Words()
    bus.add(0x100, 4, device)
    bus.read(0x101, 2)
    bus.write(0x100, 4, 0xFFF_1234_5678)
    assert device.seen == [(1, 2), (0, 4, 0x1234_5678)]


def test_an_access_over_an_edge_is_split_and_the_rest_is_ones():
    bus, device, after = Bus(), Words(), Bytes()
    bus.add(0x100, 2, device)
    bus.add_bytes(0x102, 1, after)
    assert bus.read(0x101, 4) == 0xFFFF_105A
    bus.write(0x101, 4, 0x4433_2211)
    assert device.seen == [(1, 1), (1, 1, 0x11)]
    assert after.written == [(0, 0x22)]


def test_an_access_may_begin_in_front_of_a_device():
    bus = Bus()
    bus.add_bytes(0x20, 2, Bytes())
    assert bus.read(0x1F, 2) == 0x10FF


def test_two_devices_cannot_be_at_one_address():
    bus = Bus()
    bus.add_bytes(0x20, 2, Bytes())
    with pytest.raises(AssertionError, match="0x21 to 0x22 is taken"):
        bus.add_bytes(0x21, 2, Bytes())
