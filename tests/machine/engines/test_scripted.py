# SPDX-License-Identifier: GPL-2.0-or-later
"""The scripted CPU keeps the contract of `machine/engines/contract.py`: NMIs, INIT and SIPI, hypercalls."""

import pytest

from tests.machine.engines.contract import EngineContract, Guest, handler_script, named
from vlapic.machine.engines import contract as e
from vlapic.machine.engines.contract import CpuEngine
from vlapic.machine.engines.scripted import NMI, ScriptedEngine
from vlapic.machine.engines.unicorn.engine import UnicornEngine
from vlapic.tsc import GuestTsc


def handler(cpu, vector):
    yield 10


def computing(cpu):
    yield 100


def engine(guest=computing, handler=handler):
    return ScriptedEngine(GuestTsc(1000, 1000), guest, handler)


@pytest.mark.parametrize("kind", [ScriptedEngine, UnicornEngine])
def test_an_engine_has_all_that_the_contract_names(kind):
    names = {name for name in vars(CpuEngine) if not name.startswith("_")}
    assert names <= set(dir(kind)) | {"interrupts_enabled"}


def test_an_nmi_blocks_others_until_its_handler_has_returned():
    cpu = engine()
    cpu.run(0, 5)
    cpu.inject_nmi()
    assert (cpu.handled, cpu.nmi_blocked) == ([NMI], True)
    assert named(cpu.run(5, nmi_window=True)) == named(e.NmiWindow(16))
    assert not cpu.nmi_blocked


def test_an_interrupt_in_an_nmi_handler_does_not_end_it():
    cpu = engine()
    cpu.run(0, 5)
    cpu.inject_nmi()
    cpu.interrupts_enabled = True
    cpu.inject_interrupt(0x40)
    cpu.run(5, 17)
    assert cpu.nmi_blocked
    assert named(cpu.run(17, nmi_window=True)) == named(e.NmiWindow(27))


def test_an_nmi_leaves_interrupts_as_they_were():
    cpu = engine()
    cpu.interrupts_enabled = False
    cpu.run(0, 5)
    cpu.inject_nmi()
    cpu.run(5, 50)
    assert not cpu.interrupts_enabled


def test_a_shadow_holds_an_nmi_off():
    cpu = engine()
    cpu.shadow = True
    assert cpu.nmi_blocked
    assert named(cpu.run(0, window=True, nmi_window=True)) == named(e.NmiWindow(1))


def test_init_stops_the_script_and_sipi_starts_it_again():
    cpu = engine()
    cpu.run(0, 50)
    cpu.reset()
    with pytest.raises(AssertionError):
        cpu.run(50)
    cpu.startup(9)
    assert cpu.pages == [9]
    assert named(cpu.run(50, 1000)) == named(e.Shutdown(150, "the script has ended"))
    assert cpu.instructions == 150


def test_a_hypercall_carries_its_arguments_and_reads_an_answer():
    answers = []

    def guest(cpu):
        answers.append((yield cpu.vmcall(10, 1, 2)))

    cpu = engine(guest)
    assert named(cpu.run(0)) == named(e.Hypercall(0, 10, (1, 2, 0, 0)))
    cpu.complete(7)
    cpu.run(1)
    assert answers == [7]


class ScriptedCpu:
    """A CPU on which a guest of the contract stands at its first instruction."""

    def __init__(self, guest):
        tsc = GuestTsc(2_000_000, 2_000_000)
        self.engine = ScriptedEngine(tsc, guest.script, handler_script)
        self.engine.interrupts_enabled = False
        self.read = guest.read
        self.now = 0
        self.offers_exits = True

    def run(self, **limits):
        left = self.engine.run(self.now, **limits)
        self.now = left.host_tsc
        return left


class TestScriptedEngine(EngineContract):
    @pytest.fixture
    def start(self):
        return lambda *ops: ScriptedCpu(Guest(ops))
