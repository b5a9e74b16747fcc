# SPDX-License-Identifier: GPL-2.0-or-later
"""The keyboard controller, where no keyboard is."""

import pytest

from tests.support.boards import Recorder


class Keyboard(Recorder):
    """A board with verbs for its keyboard controller."""

    def command(self, value):
        self.outb(value, 0x64)

    def answers(self):
        """What waits to be read, each with its status."""
        found = []
        while (status := self.inb(0x64)) & 1:
            found.append((self.inb(0x60), status & 0xE0))
        return found


def test_it_is_ready_for_a_command_and_has_nothing_to_say():
    assert Keyboard().inb(0x64) & 0x03 == 0


@pytest.mark.parametrize(
    ("command", "answer"),
    [(0xAA, 0x55), (0xAB, 0x00), (0xA9, 0x02), (0x20, 0x34), (0xC0, 0x80), (0xD0, 0xCF), (0xE0, 0x00)],
)
def test_a_command_is_answered_at_once(command, answer):
    keyboard = Keyboard()
    keyboard.command(command)
    assert keyboard.answers() == [(answer, 0)]


@pytest.mark.parametrize(("command", "byte"), [(0xAE, 0x24), (0xA8, 0x14), (0xAD, 0x34), (0xA7, 0x34)])
def test_ports_are_switched_in_the_command_byte(command, byte):
    keyboard = Keyboard()
    keyboard.command(command)
    keyboard.command(0x20)
    assert keyboard.answers() == [(byte, 0)]


def test_the_command_byte_can_be_written():
    keyboard = Keyboard()
    keyboard.command(0x60)
    keyboard.outb(0x47, 0x60)
    keyboard.command(0x20)
    assert keyboard.answers() == [(0x47, 0)]


@pytest.mark.parametrize("command", [0xD2, 0xD3])
def test_a_byte_comes_back_that_is_to_come_back(command):
    keyboard = Keyboard()
    keyboard.command(command)
    keyboard.outb(0x5A, 0x60)
    assert keyboard.answers() == [(0x5A, 0)]


def test_a_keyboard_and_a_mouse_that_are_not_there_time_out():
    keyboard = Keyboard()
    keyboard.outb(0xF2, 0x60)
    keyboard.command(0xD4)
    keyboard.outb(0xF2, 0x60)
    assert keyboard.answers() == [(0xFE, 0x40)] * 2


def test_an_answer_interrupts_by_line_1_if_the_command_byte_says_so():
    keyboard = Keyboard()
    keyboard.memory.write(0xFEC0_0000, 4, 0x12)
    keyboard.memory.write(0xFEC0_0010, 4, 0x31)
    keyboard.command(0xAA)
    assert keyboard.messages == []
    keyboard.answers()
    keyboard.command(0x60)
    keyboard.outb(0x05, 0x60)
    for _ in range(2):
        keyboard.command(0xAA)
        keyboard.inb(0x60)
    assert [message.vector for message in keyboard.messages] == [0x31] * 2


def test_a_byte_that_was_read_is_read_again():
    keyboard = Keyboard()
    keyboard.command(0xAA)
    assert (keyboard.inb(0x60), keyboard.inb(0x60)) == (0x55, 0x55)
