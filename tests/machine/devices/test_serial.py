# SPDX-License-Identifier: GPL-2.0-or-later
"""The serial port: a PC16550D that sends at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlapic.machine.devices import Ports
from vlapic.machine.devices.serial import Serial

THR = RBR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR, MCR, LSR, MSR, SCR = 3, 4, 5, 6, 7
LOOP = 0x10


class Port(Serial):
    """A serial port that remembers the levels of its interrupt line."""

    def __init__(self):
        self.levels = []
        super().__init__(self.levels.append)

    def set(self, **registers):
        for name, value in registers.items():
            self.write_byte(globals()[name.upper()], value)
        return self


def test_a_guest_of_kvm_unit_tests_sets_it_up_and_prints():
    ports = Ports()

    def inb(register):
        return ports.read(0x3F8 + register, 1)

    def outb(value, register):
        ports.write(0x3F8 + register, 1, value)

    outb(inb(LCR) | 0x80, LCR)
    outb(0x01, DLL)
    outb(0x00, DLM)
    outb(inb(LCR) & 0x7F, LCR)
    for value, register in [(0, IER), (3, LCR), (0, FCR), (3, MCR)]:
        outb(value, register)
    for character in b"PASS: apic\r\n":
        assert inb(LSR) & 0x20
        outb(character, THR)
    assert ports.console == b"PASS: apic\r\n"


def test_the_divisor_is_not_printed_and_reads_back():
    port = Port().set(lcr=0x83, dll=0x34, dlm=0x12)
    assert (port.read_byte(DLL), port.read_byte(DLM)) == (0x34, 0x12)
    port.set(lcr=0x03)
    assert port.output == b""
    assert port.read_byte(IER) == 0


def test_registers_read_back_what_they_hold():
    port = Port().set(ier=0xFF, lcr=0x1B, mcr=0xEF, scr=0xA5)
    assert [port.read_byte(register) for register in (IER, LCR, MCR, SCR)] == [0x0F, 0x1B, 0x0F, 0xA5]


def test_an_idle_port_has_an_empty_transmitter_no_data_and_a_terminal_at_its_end():
    port = Port()
    assert port.read_byte(LSR) == 0x60
    assert port.read_byte(MSR) == 0xB0
    assert port.read_byte(RBR) == 0
    assert port.read_byte(IIR) == 0x01


def test_a_wide_write_goes_to_adjacent_registers():
    ports = Ports()
    ports.write(0x3F8, 2, 0x0241)
    assert ports.console == b"A"
    assert ports.read(0x3F9, 1) == 0x02


def test_a_fifo_shows_in_iir():
    assert Port().set(fcr=0xC1).read_byte(IIR) == 0xC1
    assert Port().set(fcr=0xC0).read_byte(IIR) == 0x01


# -- interrupts --


def test_enabling_the_transmitters_interrupt_raises_it_and_reading_its_cause_ends_it():
    port = Port().set(ier=2)
    assert port.levels == [True]
    assert port.read_byte(IIR) == 0x02
    assert port.levels == [True, False]
    assert port.read_byte(IIR) == 0x01


def test_each_character_sent_is_an_edge():
    port = Port().set(ier=2)
    port.set(thr=0x41).set(thr=0x42)
    assert port.levels == [True, False, True, False, True]


def test_writing_ier_again_does_not_raise_the_transmitters_interrupt_again():
    port = Port().set(ier=2)
    port.read_byte(IIR)
    port.set(ier=2)
    assert port.levels == [True, False]
    port.set(ier=0).set(ier=2)
    assert port.levels == [True, False, True]


def test_a_cause_that_is_not_enabled_does_not_interrupt():
    port = Port().set(thr=0x41, mcr=LOOP)
    port.set(thr=0x42)
    assert port.levels == []
    assert port.read_byte(IIR) == 0x01


def test_causes_come_in_the_order_of_their_priority():
    # In loop mode: an overrun, a character, an empty transmitter, and modem lines that have changed.
    port = Port().set(mcr=LOOP, thr=0x41).set(thr=0x42).set(ier=0x0F)
    assert port.read_byte(IIR) == 0x06
    assert port.read_byte(LSR) & 0x02
    assert port.read_byte(IIR) == 0x04
    assert port.read_byte(RBR) == 0x42
    assert port.read_byte(IIR) == 0x02
    assert port.read_byte(IIR) == 0x00
    port.read_byte(MSR)
    assert port.read_byte(IIR) == 0x01
    assert port.levels == [True, False]


# -- loop mode --


def test_in_loop_mode_what_is_sent_is_received_and_not_printed():
    port = Port().set(mcr=LOOP, thr=0x41)
    assert port.read_byte(LSR) & 1
    assert port.read_byte(RBR) == 0x41
    assert not port.read_byte(LSR) & 1
    assert port.output == b""


@pytest.mark.parametrize(
    ("output", "line"), [(1, 0x20), (2, 0x10), (4, 0x40), (8, 0x80)], ids=["DTR", "RTS", "OUT1", "OUT2"]
)
def test_in_loop_mode_each_modem_output_is_wired_to_a_line(output, line):
    port = Port().set(mcr=LOOP)
    port.read_byte(MSR)
    port.set(mcr=LOOP | output)
    assert port.read_byte(MSR) == line | (0 if line == 0x40 else line >> 4)
    port.set(mcr=LOOP)
    assert port.read_byte(MSR) == line >> 4
    assert port.read_byte(MSR) == 0


def test_without_fifos_a_second_character_overruns_the_first():
    port = Port().set(mcr=LOOP, thr=1).set(thr=2)
    assert port.read_byte(LSR) == 0x63
    assert port.read_byte(LSR) == 0x61
    assert port.read_byte(RBR) == 2


def test_a_fifo_holds_16_characters_and_keeps_the_first():
    port = Port().set(mcr=LOOP, fcr=1)
    for character in range(17):
        port.set(thr=character)
    assert port.read_byte(LSR) & 2
    assert [port.read_byte(RBR) for _ in range(16)] == list(range(16))
    assert not port.read_byte(LSR) & 1


def test_below_its_trigger_level_the_receiver_times_out():
    port = Port().set(mcr=LOOP, fcr=0x41, ier=1)
    for character in range(3):
        port.set(thr=character)
    assert port.read_byte(IIR) == 0xCC
    port.set(thr=3)
    assert port.read_byte(IIR) == 0xC4


def test_fcr_empties_the_receiver():
    port = Port().set(mcr=LOOP, fcr=1, thr=0x41)
    port.set(fcr=3)
    assert not port.read_byte(LSR) & 1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7), st.integers(0, 255))))
def test_any_accesses_keep_registers_8_bits_wide_and_the_line_as_iir_says(accesses):
    port = Port()
    for write, register, value in accesses:
        if write:
            port.write_byte(register, value)
        else:
            assert 0 <= port.read_byte(register) <= 0xFF
    assert port.levels == [number % 2 == 0 for number in range(len(port.levels))]
    raised = bool(port.levels) and port.levels[-1]
    assert raised == (not port.read_byte(IIR) & 1)
