# SPDX-License-Identifier: GPL-2.0-or-later
"""Unicorn through ctypes: its version, its hidden state, its registers, what callbacks raise."""

import sys

import pytest
from unicorn import unicorn_const as uc
from unicorn import x86_const as x86

from tests.support.bare_unicorn import ram
from vlapic.errors import EngineError
from vlapic.machine.engines.unicorn import layout
from vlapic.machine.engines.unicorn.binding import BlockCallback, Cpu, Registers


@pytest.fixture
def cpu():
    made = Cpu()
    memory = ram()
    memory[0x1000:0x1001] = b"\xf4"
    made.map_ram(0, memory)
    yield made
    made.close()


def test_another_unicorn_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(uc, "UC_VERSION_PATCH", 9)
    with pytest.raises(EngineError) as caught:
        Cpu()
    assert str(caught.value) == (
        "Unicorn 2.1.9 is installed, the emulated CPU needs 2.1.4; try: pip install unicorn==2.1.4"
    )


def test_a_state_laid_out_differently_is_refused(monkeypatch):
    monkeypatch.setattr(layout, "_layout", None)

    class Registers:
        def read(self):
            return [0] * 21

        def write(self, *values):
            pass

    with pytest.raises(EngineError, match="registers stand 0 times in Unicorn's state, once was expected"):
        layout.find_layout(Registers(), lambda: bytes(6000))


def test_hidden_flags_are_read_and_changed(cpu):
    state = cpu.state
    fresh = state.hflags()
    assert fresh & layout.HF_CS64
    state.change_hflags(0, layout.HF_INHIBIT_IRQ)
    assert state.hflags() == fresh | layout.HF_INHIBIT_IRQ
    state.change_hflags(clear=layout.HF_INHIBIT_IRQ)
    assert state.hflags() == fresh


def test_registers_are_read_and_written_at_once(cpu):
    registers = Registers(cpu, (x86.UC_X86_REG_RAX, x86.UC_X86_REG_GDTR, x86.UC_X86_REG_R15))
    registers.write(2**64 - 1, 0, 0x1234_5678_9ABC, 0x77, 5)
    assert registers.read() == [2**64 - 1, 0, 0x1234_5678_9ABC, 0x77, 5]


def test_what_a_callback_raises_comes_out_of_the_run_and_is_told_nobody_else(cpu, monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    def fail(*_):
        raise KeyboardInterrupt

    cpu.hook(uc.UC_HOOK_BLOCK, BlockCallback(fail))
    with pytest.raises(KeyboardInterrupt):
        cpu.start(0x1000)
    assert (told, sys.unraisablehook) == ([], told.append)


def test_ctrl_c_in_a_finaliser_comes_out_of_the_run_as_well(cpu):
    class Fragile:
        def __del__(self):
            raise KeyboardInterrupt

    cpu.hook(uc.UC_HOOK_BLOCK, BlockCallback(lambda *_: Fragile() and None))
    with pytest.raises(KeyboardInterrupt):
        cpu.start(0x1000)


def test_what_others_cannot_raise_goes_where_it_went_before(cpu, monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    class Fragile:
        def __del__(self):
            raise ValueError

    cpu.hook(uc.UC_HOOK_BLOCK, BlockCallback(lambda *_: Fragile() and None))
    cpu.start(0x1000)
    assert [unraisable.exc_type for unraisable in told] == [ValueError]
