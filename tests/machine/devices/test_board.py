# SPDX-License-Identifier: GPL-2.0-or-later
"""The devices together: where they are, how their interrupt lines run, and that nothing upsets them."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.docs.documents import ROOT
from tests.support.boards import Clock, Recorder
from vlapic.machine.devices import Board

GUESTS_PAGE = ROOT / "docs" / "guests.md"
IOREGSEL, IOWIN = 0xFEC0_0000, 0xFEC0_0010


def route(recorder, pin, entry):
    recorder.memory.write(IOREGSEL, 4, 0x10 + 2 * pin)
    recorder.memory.write(IOWIN, 4, entry)


@pytest.mark.parametrize("port", [0x00, 0x80, 0xE4, 0x2F8, 0x378, 0x400, 0xCF8, 0xCFC, 0x8900])
def test_what_is_not_there_reads_all_ones(port):
    ports = Recorder().ports
    ports.write(port, 4, 0)
    assert ports.read(port, 4) == 0xFFFF_FFFF
    assert ports.read(port, 1) == 0xFF


@pytest.mark.parametrize("address", [0xFED0_0000, 0xFEC0_1000, 0xC000_0000, 0x1_0000_0000])
def test_memory_that_is_not_there_reads_all_ones(address):
    memory = Recorder().memory
    memory.write(address, 8, 0)
    assert memory.read(address, 8) == 2**64 - 1


def test_the_io_apic_routes_the_serial_port_if_asked():
    recorder = Recorder()
    route(recorder, 4, 0x34)
    recorder.outb(2, 0x3F9)
    assert [message.vector for message in recorder.messages] == [0x34]
    for character in b"hi":
        recorder.outb(character, 0x3F8)
    assert [message.vector for message in recorder.messages] == [0x34] * 3
    assert recorder.ports.console == b"hi"


def test_a_level_triggered_serial_port_interrupts_until_its_cause_is_read():
    recorder = Recorder()
    route(recorder, 4, 0x8034)
    recorder.outb(2, 0x3F9)
    recorder.board.remote_eoi(0x34)
    assert len(recorder.messages) == 2
    assert recorder.inb(0x3FA) == 0x02
    recorder.board.remote_eoi(0x34)
    assert len(recorder.messages) == 2


def test_the_serial_port_reaches_the_8259s_too():
    recorder = Recorder()
    recorder.outb(0xEF, 0x21)
    recorder.outb(2, 0x3F9)
    assert recorder.int_levels == [True]
    assert recorder.board.acknowledge() & 7 == 4


def test_line_0_comes_to_the_io_apic_at_pin_2():
    recorder = Recorder()
    route(recorder, 0, 0x30)
    route(recorder, 2, 0x32)
    recorder.board.set_line(0, False)
    recorder.board.set_line(0, True)
    assert [message.vector for message in recorder.messages] == [0x32]


def test_line_2_is_the_cascades_and_goes_nowhere():
    recorder = Recorder()
    route(recorder, 2, 0x32)
    recorder.outb(0x00, 0x21)
    recorder.board.set_line(2, True)
    assert recorder.messages == recorder.int_levels == []


PORTS = st.one_of(
    st.sampled_from(
        [
            0x20,
            0x21,
            0xA0,
            0xA1,
            0x4D0,
            0x4D1,
            0x40,
            0x41,
            0x42,
            0x43,
            0x60,
            0x61,
            0x64,
            0x70,
            0x71,
            0xE0,
            0xF3,
            0xF4,
            0x510,
            0x511,
            0x604,
            0xCF9,
        ]
    ),
    st.integers(0x3F5, 0x400),
    st.integers(0x2000, 0x2018),
    st.integers(0, 0xFFFF),
)
ADDRESSES = st.one_of(
    st.sampled_from([IOREGSEL, IOWIN, 0xFEC0_0040]),
    st.integers(0xFEC0_0000, 0xFEC0_1010),
    st.integers(0xFEFF_FFF0, 0xFF01_0010),
    st.integers(0, 2**52 - 1),
)
SIZES = st.sampled_from([1, 2, 4, 8, 16])
VALUES = st.one_of(st.integers(0, 255), st.integers(0, 2**128 - 1))
ACCESSES = st.lists(
    st.one_of(
        st.tuples(st.just("ports"), PORTS, st.booleans(), SIZES, VALUES),
        st.tuples(st.just("memory"), ADDRESSES, st.booleans(), SIZES, VALUES),
    ),
    max_size=80,
)


def carry_out(recorder, accesses):
    """Carry accesses out, 100 us each, and tell what was read."""
    answers = []
    for space, where, write, size, value in accesses:
        recorder.now_ns += 100_000
        bus = getattr(recorder, space)
        if write:
            bus.write(where, size, value)
        else:
            answers.append(bus.read(where, size))
            assert 0 <= answers[-1] < 1 << 8 * size
    return answers


SURVEY = [
    (space, where, False, 1, 0)
    for space, ranges in [
        (
            "ports",
            [
                range(0x20, 0x22),
                range(0x40, 0x44),
                range(0x60, 0x72),
                range(0x92, 0x93),
                range(0xA0, 0xA2),
                range(0xE0, 0xF8),
            ],
        ),
        ("ports", [range(0x3F8, 0x400), range(0x4D0, 0x4D2), range(0x510, 0x512), range(0x600, 0x60C)]),
        ("memory", [range(0xFEC0_0000, 0xFEC0_0020), range(0xFF00_0000, 0xFF00_0010)]),
    ]
    for places in ranges
    for where in places
]


@given(ACCESSES)
@example([("memory", 0xFF00_FFFE, True, 8, 2**64 - 1), ("ports", 0xFFFF, False, 4, 0)])
def test_no_sequence_of_accesses_raises_or_changes_another_board(accesses):
    bystander = Recorder()
    recorder = Recorder()
    answers = carry_out(recorder, accesses)
    assert carry_out(bystander, SURVEY) == carry_out(Recorder(), SURVEY)
    assert bystander.messages == bystander.int_levels == []
    # The same accesses again give the same answers and the same interrupts.
    again = Recorder()
    assert carry_out(again, accesses) == answers
    assert (again.messages, again.int_levels) == (recorder.messages, recorder.int_levels)


@given(ACCESSES)
def test_only_the_serial_port_prints_and_only_the_exit_port_ends(accesses):
    recorder = Recorder()
    touched = {
        where + byte
        for space, where, write, size, _ in accesses
        for byte in range(size)
        if space == "ports" and write
    }
    carry_out(recorder, accesses)
    assert (recorder.ports.exit_value is None) == touched.isdisjoint(range(0xF4, 0xF8))
    if 0x3F8 not in touched:
        assert recorder.ports.console == b""


def test_firmware_leaves_line_11_open_at_vector_0x73_and_every_other_closed():
    levels = []
    board = Board(clock=Clock(), send=lambda message: None, extint=levels.append)
    board.leave_as_firmware_does()
    for line in (0, 1, 3, 4, 8, 12, 15):
        board.set_line(line, True)
    assert levels == []
    board.set_line(11, True)
    assert levels == [True]
    assert board.acknowledge() == 0x73


def test_the_documentation_names_every_device_where_it_is():
    _, section = GUESTS_PAGE.read_text().split("### Devices\n")
    rows = [line.split(" | ")[1] for line in section.split("\n### ")[0].splitlines() if line.startswith("| ")]
    named = {int(place, 16) for row in rows for place in re.findall("0x[0-9a-f]+", row)}
    board = Recorder().board
    ranges = [*board.ports.ranges, *board.memory.ranges]
    assert not [f"{each.base:#x}" for each in ranges if not any(each.base <= at < each.end for at in named)]
    assert not [f"{at:#x}" for at in named if not any(each.base <= at < each.end for each in ranges)]
