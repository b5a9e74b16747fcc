# SPDX-License-Identifier: GPL-2.0-or-later
"""The test device of kvm-unit-tests."""

import pytest

from tests.support.boards import Recorder


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_scratch_port_keeps_what_is_written_at_any_width(size):
    ports = Recorder().ports
    ones = (1 << 8 * size) - 1
    for value in (ones, 0x12345678 & ones):
        ports.write(0xE0, size, value)
        assert ports.read(0xE0, size) == value


def test_the_scratch_ports_bytes_are_apart():
    ports = Recorder().ports
    ports.write(0xE0, 4, 0x44332211)
    ports.write(0xE1, 1, 0xAA)
    assert ports.read(0xE0, 4) == 0x4433AA11


def test_device_memory_keeps_what_is_written():
    memory = Recorder().memory
    memory.write(0xFF00_0FFC, 8, 0x1122334455667788)
    assert memory.read(0xFF00_1000, 4) == 0x11223344
    assert memory.read(0xFF00_FFFC, 8) == 0xFFFFFFFF_00000000


def test_a_line_port_raises_and_lowers_its_line():
    recorder = Recorder()
    recorder.memory.write(0xFEC0_0000, 4, 0x10 + 2 * 14)
    recorder.memory.write(0xFEC0_0010, 4, 0x8076)
    recorder.outb(1, 0x200E)
    assert [message.vector for message in recorder.messages] == [0x76]
    recorder.outb(0, 0x200E)
    recorder.board.remote_eoi(0x76)
    assert len(recorder.messages) == 1
    assert recorder.inb(0x200E) == 0xFF


def test_lines_beyond_the_isa_bus_reach_the_io_apic_alone():
    recorder = Recorder()
    recorder.memory.write(0xFEC0_0000, 4, 0x10 + 2 * 23)
    recorder.memory.write(0xFEC0_0010, 4, 0x55)
    recorder.outb(1, 0x2017)
    assert [message.vector for message in recorder.messages] == [0x55]
