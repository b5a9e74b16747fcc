# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulated CPU keeps the contract of every engine, with counting by machine code and in Python."""

import pytest

from tests.machine.engines.contract import PAGE, READ, EngineContract, Guest
from tests.support.bare_unicorn import Bare


class EmulatedCpu(Bare):
    """A CPU on which a guest of the contract stands at its first instruction."""

    def __init__(self, guest, native):
        super().__init__(guest.code(), host_khz=2_000_000, native=native)
        self._slots = guest.slots
        self.offers_exits = native
        for vector in guest.VECTORS:
            self.handler(vector, guest.handler(vector))
        self.put(PAGE << 12, guest.at_page())

    @property
    def read(self):
        return list(self.words(READ, self._slots))


class TestEmulatedEngine(EngineContract):
    @pytest.fixture
    def start(self, native):
        cpus = []

        def start(*ops):
            cpus.append(EmulatedCpu(Guest(ops), native))
            return cpus[-1]

        yield start
        for cpu in cpus:
            cpu.engine.close()
