# SPDX-License-Identifier: GPL-2.0-or-later
"""The I/O APIC, driven as the ioapic test of kvm-unit-tests drives it, on the smallest CPU there is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.boards import Cpu
from vlapic.apic.ipi import DeliveryMode, Message
from vlapic.machine.devices.ioapic import IoApic

LEVEL, MASKED, LOGICAL = 0x8000, 0x10000, 0x800
REMOTE_IRR = 0x4000


def counting(cpu, vector, work=lambda: None):
    """A handler that does its work and ends the interrupt."""

    def handler():
        work()
        cpu.eoi()

    cpu.handlers[vector] = handler


# -- found and masked --


def test_it_is_found_with_24_masked_pins():
    cpu = Cpu()
    version = cpu.read_register(1)
    assert (version & 0xFF, version >> 16 & 0xFF) == (0x20, 23)
    assert all(cpu.read_entry(line) == MASKED for line in range(24))


def test_a_masked_pin_sends_nothing():
    cpu = Cpu()
    for line in range(24):
        cpu.toggle(line)
    assert cpu.requested == {}


def test_the_version_is_read_only():
    cpu = Cpu()
    version = cpu.read_register(1)
    cpu.write_register(1, version ^ 0xFFFF_FFFF)
    assert cpu.read_register(1) == version


def test_four_bits_of_the_id_can_be_written_and_show_in_the_arbitration_register():
    cpu = Cpu()
    before = cpu.read_register(0)
    cpu.write_register(0, before ^ 0xFFFF_FFFF)
    assert before ^ cpu.read_register(0) == 0x0F00_0000
    cpu.write_register(2, 0)
    assert cpu.read_register(2) == 0x0F00_0000


def test_the_selector_reads_back_and_what_is_not_there_is_all_ones():
    cpu = Cpu()
    assert cpu.read_register(3) == cpu.read_register(0x40) == 0xFFFF_FFFF
    cpu.write_register(0x40, 0)
    assert cpu.board.memory.read(0xFEC0_0000, 4) == 0x40
    assert cpu.board.memory.read(0xFEC0_0020, 4) == 0


def test_status_bits_of_an_entry_cannot_be_written():
    cpu = Cpu()
    cpu.write_entry(5, 2**64 - 1)
    assert cpu.read_entry(5) == 0xFF00_0000_0001_AFFF


@pytest.mark.parametrize(("size", "value"), [(1, 0x20), (2, 0x0020), (4, 0x0017_0020), (8, 0x0017_0020)])
def test_the_window_is_read_at_any_width(size, value):
    cpu = Cpu()
    cpu.board.memory.write(0xFEC0_0000, 1, 1)
    assert cpu.board.memory.read(0xFEC0_0010, size) == value


# -- edges and levels --


def test_an_edge_interrupts_once():
    cpu = Cpu()
    counting(cpu, 0x76)
    cpu.write_entry(14, 0x76)
    cpu.toggle(14)
    assert cpu.taken == [0x76]


def test_a_line_held_up_is_one_edge():
    cpu = Cpu()
    counting(cpu, 0x76)
    cpu.write_entry(14, 0x76)
    cpu.set_line(14, 1)
    cpu.set_line(14, 1)
    assert cpu.taken == [0x76]


def test_a_level_that_its_handler_takes_away_interrupts_once():
    cpu = Cpu()
    counting(cpu, 0x77, lambda: cpu.set_line(14, 0))
    cpu.write_entry(14, 0x77 | LEVEL)
    cpu.set_line(14, 1)
    assert cpu.taken == [0x77]
    assert not cpu.read_entry(14) & REMOTE_IRR


def test_simultaneous_edges_come_highest_vector_first():
    cpu = Cpu()
    counting(cpu, 0x78)
    counting(cpu, 0x66)
    cpu.write_entry(14, 0x78)
    cpu.write_entry(15, 0x66)
    cpu.interrupts_enabled = False
    cpu.toggle(15)
    cpu.toggle(14)
    cpu.interrupts_enabled = True
    cpu.run()
    assert cpu.taken == [0x78, 0x66]


def test_a_level_that_falls_and_rises_in_its_handler_is_one_interrupt():
    cpu = Cpu()

    def work():
        if len(cpu.taken) == 1:
            cpu.set_line(14, 0)
            cpu.set_line(14, 1)
        cpu.set_line(14, 0)

    counting(cpu, 0x98, work)
    cpu.write_entry(14, 0x98 | LEVEL)
    cpu.set_line(14, 1)
    assert cpu.taken == [0x98]


def test_levels_one_after_the_other_are_two_interrupts():
    cpu = Cpu()
    counting(cpu, 0x99, lambda: cpu.set_line(14, 0))
    cpu.write_entry(14, 0x99 | LEVEL)
    cpu.set_line(14, 1)
    cpu.set_line(14, 1)
    assert cpu.taken == [0x99, 0x99]


def test_a_level_that_is_still_there_after_its_eoi_interrupts_again():
    cpu = Cpu()
    counting(cpu, 0x9A, lambda: len(cpu.taken) == 2 and cpu.set_line(14, 0))
    cpu.write_entry(14, 0x9A | LEVEL)
    cpu.set_line(14, 1)
    assert cpu.taken == [0x9A, 0x9A]


def test_an_edge_at_a_masked_pin_is_lost():
    cpu = Cpu()
    counting(cpu, 0x81, lambda: cpu.set_line(14, 0))
    cpu.write_entry(14, 0x81 | MASKED)
    cpu.toggle(14)
    cpu.write_entry(14, 0x81)
    assert cpu.taken == []
    cpu.set_line(14, 1)
    assert cpu.taken == [0x81]


def test_a_level_at_a_masked_pin_comes_when_it_is_unmasked():
    cpu = Cpu()
    counting(cpu, 0x82, lambda: cpu.set_line(14, 0))
    cpu.write_entry(14, 0x82 | LEVEL | MASKED)
    cpu.set_line(14, 1)
    assert cpu.taken == []
    cpu.write_entry(14, 0x82 | LEVEL)
    assert cpu.taken == [0x82]


def test_a_handler_may_mask_a_level_and_get_it_again_later():
    cpu = Cpu()
    counting(cpu, 0x83, lambda: cpu.write_entry(14, cpu.read_entry(14) | MASKED))
    cpu.write_entry(14, 0x83 | LEVEL)
    cpu.set_line(14, 1)
    assert cpu.taken == [0x83]
    cpu.write_entry(14, cpu.read_entry(14) & ~MASKED)
    assert cpu.taken == [0x83, 0x83]


def test_a_pin_may_be_sent_elsewhere_while_its_interrupt_is_in_service():
    cpu = Cpu()

    def reconfigure(line):
        cpu.set_line(line, 0)
        entry = cpu.read_entry(line)
        assert entry & REMOTE_IRR
        cpu.write_register(0x11 + 2 * line, 1 << 24)

    def work():
        cpu.set_line(14, 1)
        reconfigure(14)
        reconfigure(13)

    counting(cpu, 0x64, work)
    counting(cpu, 0x84)
    cpu.write_entry(13, 0x64 | LEVEL)
    cpu.write_entry(14, 0x84 | LEVEL)
    cpu.set_line(13, 1)
    assert cpu.taken == [0x64, 0x84]
    assert not (cpu.read_entry(13) | cpu.read_entry(14)) & REMOTE_IRR


def test_the_eoi_register_ends_a_level():
    cpu = Cpu()
    cpu.interrupts_enabled = False
    cpu.write_entry(3, 0x51 | LEVEL)
    cpu.set_line(3, 1)
    cpu.set_line(3, 0)
    assert cpu.read_entry(3) & REMOTE_IRR
    cpu.board.memory.write(0xFEC0_0040, 4, 0x52)
    assert cpu.read_entry(3) & REMOTE_IRR
    cpu.board.memory.write(0xFEC0_0040, 4, 0x51)
    assert not cpu.read_entry(3) & REMOTE_IRR


def test_making_an_entry_edge_triggered_clears_its_remote_irr():
    cpu = Cpu()
    cpu.interrupts_enabled = False
    cpu.write_entry(3, 0x51 | LEVEL)
    cpu.set_line(3, 1)
    cpu.write_entry(3, 0x51 | MASKED)
    cpu.write_entry(3, 0x51 | LEVEL | MASKED)
    assert not cpu.read_entry(3) & REMOTE_IRR


# -- messages --


def sent(entry):
    messages = []
    ioapic = IoApic(messages.append)
    ioapic.write(0x00, 4, 0x10)
    ioapic.write(0x10, 4, entry & 0xFFFF_FFFF)
    ioapic.write(0x00, 4, 0x11)
    ioapic.write(0x10, 4, entry >> 32)
    ioapic.set_pin(0, True)
    return messages


def test_a_message_says_what_its_entry_says():
    assert sent(0x0D00_0000_0000_8186 | LOGICAL) == [
        Message(DeliveryMode.LOWEST_PRIORITY, 0x86, level=True, logical=True, destination=0x0D)
    ]
    assert sent(0x0100_0000_0000_0031) == [Message(DeliveryMode.FIXED, 0x31, destination=1)]


@pytest.mark.parametrize("mode", [DeliveryMode.SMI, DeliveryMode.NMI, DeliveryMode.INIT, DeliveryMode.EXTINT])
def test_other_modes_are_edges_whatever_the_trigger_bit_says(mode):
    assert sent(mode << 8 | LEVEL) == [Message(mode, 0)]


@pytest.mark.parametrize("mode", [3, 6])
def test_a_reserved_mode_sends_nothing(mode):
    assert sent(mode << 8 | 0x31) == []


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("write"), st.integers(0, 0xFFF), st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**64 - 1)
        ),
        st.tuples(st.just("register"), st.integers(0, 0x42), st.just(4), st.integers(0, 2**32 - 1)),
        st.tuples(st.just("read"), st.integers(0, 0xFFF), st.sampled_from([1, 2, 4, 8]), st.just(0)),
        st.tuples(st.just("line"), st.integers(0, 23), st.just(0), st.booleans()),
        st.tuples(st.just("eoi"), st.integers(0, 255), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@given(steps)
def test_any_accesses_send_only_messages_of_levels_that_then_wait_for_their_end(steps):
    messages = []
    ioapic = IoApic(messages.append)
    for verb, where, size, value in steps:
        if verb == "write":
            ioapic.write(where, size, value)
        elif verb == "register":
            ioapic.write(0x00, 4, where)
            ioapic.write(0x10, 4, value)
        elif verb == "read":
            assert 0 <= ioapic.read(where, size) < 1 << 8 * size
        elif verb == "line":
            ioapic.set_pin(where, value)
        else:
            ioapic.remote_eoi(where)
        for entry in ioapic.entries:
            assert 0 <= entry < 2**64
            assert not entry & REMOTE_IRR or entry & LEVEL
    assert all(0 <= message.vector <= 0xFF and 0 <= message.destination <= 0xFF for message in messages)
    assert all(message.mode in (0, 1) for message in messages if message.level)
