# SPDX-License-Identifier: GPL-2.0-or-later
"""The keyboard controller: Intel's 8042 at ports 0x60 and 0x64, with no keyboard at it and no second port.

Follows the IBM PS/2 Technical Reference ("Keyboard and Auxiliary Device Controller"). It is there for what
guests do with it besides keys: they reset the machine by it, open the A20 gate (which is always open), and
test it. What it answers is there at once, and asks for line 1 if the command byte says so. A byte for a
keyboard or a mouse is answered as where none is plugged in: 0xfe, with the time-out bit in the status.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

DATA, STATUS_COMMAND = 0x60, 0x64

# status
OUTPUT_FULL, SYSTEM, COMMAND_LAST, UNLOCKED, TIMED_OUT = 0x01, 0x04, 0x08, 0x10, 0x40

# the command byte
INTERRUPTS, PASSED_TEST, KEYBOARD_OFF, MOUSE_OFF = 0x01, 0x04, 0x10, 0x20

# commands
READ_BYTE, WRITE_BYTE = 0x20, 0x60
MOUSE_DISABLE, MOUSE_ENABLE, MOUSE_TEST = 0xA7, 0xA8, 0xA9
SELF_TEST, KEYBOARD_TEST = 0xAA, 0xAB
KEYBOARD_DISABLE, KEYBOARD_ENABLE = 0xAD, 0xAE
READ_INPUT_PORT, READ_OUTPUT_PORT, WRITE_OUTPUT_PORT = 0xC0, 0xD0, 0xD1
ECHO_KEYBOARD, ECHO_MOUSE, TO_MOUSE = 0xD2, 0xD3, 0xD4
READ_TEST_INPUTS = 0xE0
#: This and those behind it put the output port's bits down for a moment that are 0 in the command.
PULSE = 0xF0

#: Commands whose answer is one byte.
ANSWERS = {
    MOUSE_TEST: 0x02,  # the clock line is stuck high
    KEYBOARD_TEST: 0x00,
    READ_INPUT_PORT: 0x80,
    READ_OUTPUT_PORT: 0xCF,  # not in reset, A20 open
    READ_TEST_INPUTS: 0x00,
}
#: Commands that set and clear bits of the command byte.
SETS = {MOUSE_DISABLE: MOUSE_OFF, KEYBOARD_DISABLE: KEYBOARD_OFF}
CLEARS = {MOUSE_ENABLE: MOUSE_OFF, KEYBOARD_ENABLE: KEYBOARD_OFF}
#: Commands that the next byte at the data port belongs to.
TAKE_A_BYTE = (WRITE_BYTE, WRITE_OUTPUT_PORT, ECHO_KEYBOARD, ECHO_MOUSE, TO_MOUSE)
TEST_PASSED = 0x55
RESEND = 0xFE
#: Bit 0 of the output port, and of a pulse: 0 is reset.
NOT_RESET = 0x01


class KeyboardController:
    """An 8042.

    Args:
        interrupt: called with the level of the interrupt line when it changes.
        reset: called when a guest resets the machine.
    """

    def __init__(self, interrupt: Callable[[bool], None], reset: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._reset = reset
        self._command_byte = PASSED_TEST | KEYBOARD_OFF | MOUSE_OFF
        # What waits to be read: bytes, and the status bits that come with each.
        self._output: deque[tuple[int, int]] = deque()
        self._last = 0
        self._takes: int | None = None
        self._command_last = False
        self._level = False

    def read_data(self) -> int:
        """The byte that waits; the last one again if none does."""
        if self._output:
            self._last, _ = self._output.popleft()
            self._drive()
        return self._last

    def read_status(self) -> int:
        status = UNLOCKED | self._command_byte & SYSTEM | self._command_last * COMMAND_LAST
        if self._output:
            status |= OUTPUT_FULL | self._output[0][1]
        return status

    def write_data(self, value: int) -> None:
        self._command_last = False
        command, self._takes = self._takes, None
        if command is None or command == TO_MOUSE:
            self._answer(RESEND, TIMED_OUT)
        elif command == WRITE_BYTE:
            self._command_byte = value
        elif command == WRITE_OUTPUT_PORT:
            if not value & NOT_RESET:
                self._reset()
        else:
            self._answer(value)
        self._drive()

    def write_command(self, value: int) -> None:
        """Carry a command out; one that is not known is nothing."""
        self._command_last = True
        self._takes = value if value in TAKE_A_BYTE else None
        if value in ANSWERS:
            self._answer(ANSWERS[value])
        elif value == READ_BYTE:
            self._answer(self._command_byte)
        elif value == SELF_TEST:
            self._command_byte |= PASSED_TEST
            self._answer(TEST_PASSED)
        elif value >= PULSE and not value & NOT_RESET:
            self._reset()
        self._command_byte = (self._command_byte | SETS.get(value, 0)) & ~CLEARS.get(value, 0)
        self._drive()

    def _answer(self, value: int, status: int = 0) -> None:
        if len(self._output) < 16:
            self._output.append((value, status))

    def _drive(self) -> None:
        level = bool(self._output and self._command_byte & INTERRUPTS)
        if level != self._level:
            self._level = level
            self._interrupt(level)


class DataPort:
    """Its port for bytes."""

    def __init__(self, controller: KeyboardController) -> None:
        self._controller = controller

    def read_byte(self, offset: int) -> int:
        return self._controller.read_data()

    def write_byte(self, offset: int, value: int) -> None:
        self._controller.write_data(value)


class CommandPort:
    """Its port for status and commands."""

    def __init__(self, controller: KeyboardController) -> None:
        self._controller = controller

    def read_byte(self, offset: int) -> int:
        return self._controller.read_status()

    def write_byte(self, offset: int, value: int) -> None:
        self._controller.write_command(value)
