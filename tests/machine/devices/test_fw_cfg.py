# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's firmware configuration, as guests read it."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.boards import Recorder
from vlapic.machine.devices.fw_cfg import FwCfg, file_items


def read_item(ports, number, length):
    """As kvm-unit-tests do it: select, then byte by byte."""
    ports.write(0x510, 2, number)
    return bytes(ports.read(0x511, 1) for _ in range(length))


def described(**more):
    recorder = Recorder()
    recorder.board.describe(**{"cpus": 4, "memory_bytes": 256 << 20} | more)
    return recorder.ports


def test_the_signature_is_qemus_and_there_is_no_dma():
    ports = Recorder().ports
    assert read_item(ports, 0x00, 4) == b"QEMU"
    assert read_item(ports, 0x01, 4) == struct.pack("<I", 1)


def test_a_guest_of_kvm_unit_tests_finds_its_cpus():
    assert read_item(described(cpus=8), 0x05, 2) == struct.pack("<H", 8)
    assert read_item(described(cpus=8), 0x0F, 2) == struct.pack("<H", 8)


def test_the_memory_limit_of_kvm_unit_tests_reads_as_none():
    assert read_item(described(), 0x11, 8) == bytes(8)


def test_the_size_of_memory_is_in_bytes():
    assert read_item(described(memory_bytes=512 << 20), 0x03, 8) == struct.pack("<Q", 512 << 20)


def test_the_command_line_is_there_with_its_length_and_a_zero_behind_it():
    ports = described(command_line=b"apic -smp 2")
    assert read_item(ports, 0x14, 4) == struct.pack("<I", 12)
    assert read_item(ports, 0x15, 12) == b"apic -smp 2\0"


def test_an_initrd_is_there_with_its_length():
    ports = described(initrd=b"NR_CPUS=2\n")
    assert read_item(ports, 0x0B, 4) == struct.pack("<I", 10)
    assert read_item(ports, 0x12, 10) == b"NR_CPUS=2\n"


def test_behind_its_end_an_item_reads_zeros():
    assert read_item(Recorder().ports, 0x00, 8) == b"QEMU\0\0\0\0"


def test_an_item_that_is_not_there_reads_zeros():
    assert read_item(Recorder().ports, 0x7777, 4) == bytes(4)


def test_selecting_begins_an_item_anew():
    ports = Recorder().ports
    assert read_item(ports, 0x00, 2) + read_item(ports, 0x00, 2) == b"QEQE"


def test_the_write_channel_bit_selects_the_same_item():
    assert read_item(Recorder().ports, 0x4000, 4) == b"QEMU"


def test_without_files_the_directory_is_empty():
    assert read_item(Recorder().ports, 0x19, 4) == bytes(4)


def test_files_are_found_through_the_directory():
    device = FwCfg()
    device.items |= file_items({"opt/b": b"second", "opt/a": b"1st"})

    def item(number, length):
        device.write(0, 2, number)
        return bytes(device.read(1, 1) for _ in range(length))

    directory = item(0x19, 4 + 2 * 64)
    assert directory[:4] == struct.pack(">I", 2)
    found = {}
    for at in (4, 68):
        size, select, _, name = struct.unpack(">IHH56s", directory[at : at + 64])
        found[name.rstrip(b"\0")] = item(select, size)
    assert found == {b"opt/a": b"1st", b"opt/b": b"second"}


def test_a_name_too_long_for_the_directory_is_our_mistake():
    with pytest.raises(AssertionError, match="too long"):
        file_items({"x" * 56: b""})


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1), st.sampled_from([1, 2]), st.integers(0, 0xFFFF))))
def test_nothing_a_guest_does_changes_an_item(accesses):
    device = FwCfg()
    before = dict(device.items)
    for write, offset, size, value in accesses:
        if write:
            device.write(offset, size, value)
        else:
            assert 0 <= device.read(offset, size) < 1 << 8 * size
    assert device.items == before
