# SPDX-License-Identifier: GPL-2.0-or-later
"""The 8259As: initialized, masked, asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.boards import Recorder
from vlapic.machine.devices.pic import PicPair

MASTER, SLAVE = 0x20, 0xA0
EOI = 0x20
READ_IRR, READ_ISR, POLL = 0x0A, 0x0B, 0x0C


def initialized(icw4=1, icw1=0x11):
    """Vectors from 0x20 and 0x28 on, nothing masked, as operating systems begin."""
    recorder = Recorder()
    for port, base, wire in [(MASTER, 0x20, 4), (SLAVE, 0x28, 2)]:
        recorder.outb(icw1, port)
        recorder.outb(base, port + 1)
        recorder.outb(wire, port + 1)
        recorder.outb(icw4, port + 1)
        recorder.outb(0, port + 1)
    return recorder


def isr(recorder, port=MASTER):
    recorder.outb(READ_ISR, port)
    return recorder.inb(port)


def irr(recorder, port=MASTER):
    recorder.outb(READ_IRR, port)
    return recorder.inb(port)


def test_all_lines_are_masked_at_reset():
    recorder = Recorder()
    assert (recorder.inb(MASTER + 1), recorder.inb(SLAVE + 1)) == (0xFF, 0xFF)
    recorder.board.set_line(1, True)
    assert recorder.int_levels == []


def test_a_guest_of_kvm_unit_tests_masks_them():
    recorder = initialized()
    recorder.outb(0xFF, MASTER + 1)
    recorder.outb(0xFF, SLAVE + 1)
    for line in range(16):
        recorder.board.set_line(line, True)
    assert recorder.int_levels == []


def test_a_mask_reads_back_as_linux_probes_it():
    recorder = initialized()
    recorder.outb(0xFB, MASTER + 1)
    assert recorder.inb(MASTER + 1) == 0xFB


def test_initialization_words_do_not_reach_the_mask():
    recorder = Recorder()
    for value in (0x20, 0x04, 0x01):
        if value == 0x20:
            recorder.outb(0x11, MASTER)
        recorder.outb(value, MASTER + 1)
        assert recorder.inb(MASTER + 1) == 0
    recorder.outb(0xAA, MASTER + 1)
    assert recorder.inb(MASTER + 1) == 0xAA


@pytest.mark.parametrize(("icw1", "words"), [(0x12, 1), (0x13, 2), (0x10, 2), (0x11, 3)])
def test_icw1_says_how_many_words_follow(icw1, words):
    recorder = Recorder()
    recorder.outb(icw1, MASTER)
    for _ in range(words):
        recorder.outb(0x08, MASTER + 1)
    recorder.outb(0x5A, MASTER + 1)
    assert recorder.inb(MASTER + 1) == 0x5A


@pytest.mark.parametrize(("line", "vector"), [(0, 0x20), (7, 0x27), (8, 0x28), (15, 0x2F)])
def test_a_line_becomes_its_vector(line, vector):
    recorder = initialized()
    recorder.board.set_line(line, False)  # that of the PIT is up
    recorder.board.set_line(line, True)
    assert recorder.int_levels == [True]
    assert recorder.board.acknowledge() == vector
    assert recorder.int_levels == [True, False]


def test_an_interrupt_in_service_holds_its_equals_and_lessers_back_until_its_eoi():
    recorder = initialized()
    recorder.board.set_line(3, True)
    assert recorder.board.acknowledge() == 0x23
    recorder.board.set_line(5, True)
    assert not recorder.board.pics.level
    recorder.board.set_line(1, True)
    assert recorder.board.acknowledge() == 0x21
    assert isr(recorder) == 0x0A
    recorder.outb(EOI, MASTER)
    assert isr(recorder) == 0x08
    assert not recorder.board.pics.level
    recorder.outb(EOI, MASTER)
    assert recorder.board.acknowledge() == 0x25


def test_the_slaves_interrupts_are_in_service_in_both_and_need_two_eois():
    recorder = initialized()
    recorder.board.set_line(12, True)
    assert recorder.board.acknowledge() == 0x2C
    assert (isr(recorder), isr(recorder, SLAVE)) == (0x04, 0x10)
    recorder.board.set_line(14, True)
    recorder.outb(EOI, MASTER)
    assert not recorder.board.pics.level
    recorder.outb(EOI, SLAVE)
    assert recorder.board.acknowledge() == 0x2E


def test_a_specific_eoi_ends_the_line_it_names():
    recorder = initialized()
    for line in (3, 1):
        recorder.board.set_line(line, True)
        recorder.board.acknowledge()
    recorder.outb(0x63, MASTER)
    assert isr(recorder) == 0x02


def test_an_edge_interrupts_once_even_if_the_line_has_fallen():
    recorder = initialized()
    recorder.board.set_line(4, True)
    recorder.board.set_line(4, False)
    assert irr(recorder) == 0x10
    assert recorder.board.acknowledge() == 0x24
    recorder.outb(EOI, MASTER)
    recorder.board.set_line(4, True)
    recorder.board.set_line(4, True)
    assert recorder.board.acknowledge() == 0x24
    recorder.outb(EOI, MASTER)
    assert not recorder.board.pics.level


def test_a_level_interrupts_until_it_falls():
    recorder = initialized()
    recorder.outb(0xFF, 0x4D0)
    recorder.outb(0xFF, 0x4D1)
    assert (recorder.inb(0x4D0), recorder.inb(0x4D1)) == (0xF8, 0xDE)
    recorder.board.set_line(5, True)
    for _ in range(2):
        assert recorder.board.acknowledge() == 0x25
        recorder.outb(EOI, MASTER)
        assert recorder.board.pics.level
    recorder.board.set_line(5, False)
    assert recorder.int_levels[-1] is False


def test_icw1_can_make_every_line_level_triggered():
    recorder = initialized(icw1=0x19)
    recorder.board.set_line(3, True)
    recorder.board.acknowledge()
    recorder.outb(EOI, MASTER)
    assert recorder.board.pics.level


def test_an_acknowledgement_of_nothing_is_spurious_and_puts_nothing_into_service():
    recorder = initialized()
    recorder.board.set_line(3, True)
    recorder.outb(0xFF, MASTER + 1)
    assert recorder.board.acknowledge() == 0x27
    assert isr(recorder) == 0


def test_a_request_of_the_slave_that_is_gone_is_spurious_in_the_slave_only():
    recorder = initialized()
    recorder.board.set_line(9, True)
    recorder.outb(0xFF, SLAVE + 1)
    assert recorder.board.acknowledge() == 0x2F
    assert (isr(recorder), isr(recorder, SLAVE)) == (0x04, 0)


def test_automatic_eoi_leaves_nothing_in_service():
    recorder = initialized(icw4=3)
    for line in (3, 11, 12):
        recorder.board.set_line(line, True)
    # The slave is on line 2, before line 3; what still asks raises INT again.
    assert [recorder.board.acknowledge() for _ in range(3)] == [0x2B, 0x2C, 0x23]
    assert (isr(recorder), isr(recorder, SLAVE)) == (0, 0)
    assert recorder.int_levels == [True, False] * 3


def test_rotation_makes_the_line_that_ended_the_last():
    recorder = initialized()
    recorder.board.set_line(3, True)
    recorder.board.acknowledge()
    recorder.outb(0xA0, MASTER)
    recorder.board.set_line(1, True)
    recorder.board.set_line(4, True)
    assert recorder.board.acknowledge() == 0x24


def test_priority_can_be_set():
    recorder = initialized()
    recorder.outb(0xC4, MASTER)
    recorder.board.set_line(0, True)
    recorder.board.set_line(5, True)
    assert recorder.board.acknowledge() == 0x25


def test_rotation_in_automatic_eoi_is_switched_by_a_command():
    recorder = initialized(icw4=3)
    recorder.outb(0x80, MASTER)
    recorder.board.set_line(0, False)  # that of the PIT is up
    for line in (0, 1):
        recorder.board.set_line(line, True)
    assert recorder.board.acknowledge() == 0x20
    recorder.board.set_line(0, False)
    recorder.board.set_line(0, True)
    assert recorder.board.acknowledge() == 0x21


def test_the_special_mask_lets_lesser_lines_through():
    recorder = initialized()
    recorder.board.set_line(3, True)
    recorder.board.acknowledge()
    recorder.board.set_line(5, True)
    recorder.outb(0x68, MASTER)
    recorder.outb(0x08, MASTER + 1)
    assert recorder.board.acknowledge() == 0x25
    recorder.outb(EOI, MASTER)
    assert isr(recorder) == 0x08


def test_special_fully_nested_mode_lets_the_slave_interrupt_itself():
    recorder = initialized(icw4=0x11)
    recorder.board.set_line(12, True)
    recorder.board.acknowledge()
    recorder.board.set_line(9, True)
    assert recorder.board.acknowledge() == 0x29


def test_a_poll_acknowledges():
    recorder = initialized()
    recorder.outb(POLL, MASTER)
    assert recorder.inb(MASTER) == 0
    recorder.board.set_line(6, True)
    recorder.outb(POLL, MASTER)
    assert recorder.inb(MASTER) == 0x86
    assert isr(recorder) == 0x40


def test_a_new_initialization_forgets_what_was_requested_and_in_service():
    recorder = initialized()
    for line in (1, 0):
        recorder.board.set_line(line, True)
    recorder.board.acknowledge()
    recorder.outb(0x11, MASTER)
    assert (irr(recorder), isr(recorder)) == (0, 0)
    assert not recorder.board.pics.level


PORTS = [(name, offset) for name in ("master", "slave", "elcr") for offset in (0, 1)]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["read", "write"]), st.sampled_from(PORTS), st.integers(0, 255)),
            st.tuples(st.just("line"), st.integers(0, 15), st.booleans()),
            st.tuples(st.just("acknowledge"), st.none(), st.none()),
        ),
        max_size=60,
    )
)
def test_any_accesses_and_lines_leave_vectors_in_range_and_int_changing(steps):
    levels = []
    pair = PicPair(levels.append)
    for verb, where, value in steps:
        if verb == "line":
            pair.set_line(where, value)
        elif verb == "acknowledge":
            assert 0 <= pair.acknowledge() <= 0xFF
        else:
            device = getattr(pair, where[0])
            if verb == "write":
                device.write_byte(where[1], value)
            else:
                assert 0 <= device.read_byte(where[1]) <= 0xFF
        assert pair.level == (levels[-1] if levels else False)
        for chip in (pair.master, pair.slave):
            assert all(0 <= register <= 0xFF for register in (chip.irr, chip.isr, chip.imr, chip.elcr))
    assert levels == [number % 2 == 0 for number in range(len(levels))]
