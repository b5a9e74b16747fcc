# SPDX-License-Identifier: GPL-2.0-or-later
"""Boards for tests: every wire that leaves the board is recorded, and time is what the test says."""

from vlapic.clock import SimClock
from vlapic.machine.devices import Board

SECOND = 10**9


class Clock:
    """The time of a board; its alarms ring when a test lets time go on by `go_to`."""

    def __init__(self):
        self.time_ns = 0
        self.alarms = SimClock()
        self.idle = False

    def now_ns(self):
        return self.time_ns

    def at_ns(self, time_ns, call):
        return self.alarms.at(time_ns, call)

    def cancel(self, alarm):
        self.alarms.cancel(alarm)

    def is_idle(self):
        return self.idle

    def go_to(self, time_ns):
        """Let every alarm up to a time ring at its own."""
        while self.alarms.next_due is not None and self.alarms.next_due <= time_ns:
            self.alarms.now = self.time_ns = max(self.alarms.next_due, self.time_ns)
            self.alarms.take_interrupts()
        self.time_ns = time_ns


class Recorder:
    """A board, the messages its I/O APIC sent, the levels its 8259As' INT took."""

    def __init__(self):
        self.clock = Clock()
        self.messages = []
        self.int_levels = []
        self.board = Board(clock=self.clock, send=self.messages.append, extint=self.int_levels.append)
        self.ports, self.memory = self.board.ports, self.board.memory

    @property
    def now_ns(self):
        """The time; to set it lets no alarm ring."""
        return self.clock.time_ns

    @now_ns.setter
    def now_ns(self, time_ns):
        self.clock.time_ns = time_ns

    def inb(self, port):
        return self.ports.read(port, 1)

    def outb(self, value, port):
        self.ports.write(port, 1, value)


class Cpu:
    """The smallest processor with a local APIC that takes fixed interrupts from an I/O APIC.

    A handler is a function; it runs with interrupts off and calls `eoi` itself.
    """

    def __init__(self):
        self.handlers = {}
        self.interrupts_enabled = True
        self.requested = {}
        self.in_service = []
        self.taken = []
        self.board = Board(clock=Clock(), send=self.receive, extint=lambda level: None)

    def receive(self, message):
        self.requested[message.vector] = message.level
        self.run()

    def run(self):
        """Take what is requested, highest first."""
        while self.interrupts_enabled and self.requested:
            vector = max(self.requested)
            self.in_service.append((vector, self.requested.pop(vector)))
            self.taken.append(vector)
            self.interrupts_enabled = False
            self.handlers[vector]()
            self.interrupts_enabled = True

    def eoi(self):
        vector, level = self.in_service.pop()
        if level:
            self.board.remote_eoi(vector)

    def read_register(self, register):
        self.board.memory.write(0xFEC0_0000, 4, register)
        return self.board.memory.read(0xFEC0_0010, 4)

    def write_register(self, register, value):
        self.board.memory.write(0xFEC0_0000, 4, register)
        self.board.memory.write(0xFEC0_0010, 4, value)

    def read_entry(self, line):
        return self.read_register(0x10 + 2 * line) | self.read_register(0x11 + 2 * line) << 32

    def write_entry(self, line, entry):
        self.write_register(0x10 + 2 * line, entry & 0xFFFF_FFFF)
        self.write_register(0x11 + 2 * line, entry >> 32)

    def set_line(self, line, level):
        """As kvm-unit-tests do it: through the test device."""
        self.board.ports.write(0x2000 + line, 1, level)

    def toggle(self, line):
        self.set_line(line, 1)
        self.set_line(line, 0)
