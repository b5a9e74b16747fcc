"""The built-in guests: rebuilt byte for byte, and run to their end."""

import shutil
import subprocess
from importlib.resources import as_file, files

import pytest

from vlapic.machine import engine as e
from vlapic.machine.loader import load
from vlapic.machine.programs import PROGRAMS
from vlapic.machine.unicorn.blocks import native_counting
from vlapic.machine.unicorn.engine import UnicornEngine
from vlapic.tsc import GuestTsc

TIMER_VECTOR = 0xE0
HOST_KHZ = GUEST_KHZ = 2_000_000


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_image_is_its_source_built(name, tmp_path):
    if not all(map(shutil.which, ("as", "ld", "objcopy"))):
        pytest.skip("needs GNU as, ld and objcopy (binutils)")

    def run(*command):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    with as_file(files("vlapic.machine").joinpath("guests")) as sources:
        run("as", "--64", "-mx86-used-note=no", "-I", sources, sources / f"{name}.S", "-o", "guest.o")
        run("ld", "-static", "--build-id=none", "-T", sources / "guest.ld", "guest.o", "-o", "guest.elf")
    run("objcopy", "-O", "binary", "-j", ".text", "guest.elf", "guest.bin")
    assert (tmp_path / "guest.bin").read_bytes() == PROGRAMS[name].image()


class Machine:
    """The smallest machine a built-in guest runs in: an APIC with a deadline and nothing else, answered
    by hand.

    Attributes:
        early_by: cycles by which its timer fires before the deadline.
        extra: interrupts that nobody asked for.
    """

    def __init__(self, name, interrupts, delta=2_000, early_by=0, extra=0, **options):
        self.guest = load(PROGRAMS[name].image(), interrupts=interrupts, delta_cycles=delta)
        self.engine = UnicornEngine(
            self.guest.memory, GuestTsc(GUEST_KHZ, HOST_KHZ), first=self.guest.first, **options
        )
        self.early_by, self.extra = early_by, extra
        self.console, self.now, self.deadline, self.pending = "", 5_000, None, False
        self.writes, self.exits = [], []

    def run(self):
        """Run to the guest's report; its value."""
        with self.engine as engine:
            while True:
                until = None if self.deadline is None else self.deadline - self.early_by
                if until is not None and until <= self.now:
                    self.deadline, self.pending = None, True
                    continue
                if self.pending and engine.interruptible:
                    engine.inject_interrupt(TIMER_VECTOR)
                    self.pending = self.extra > 0
                    self.extra -= self.pending
                left = engine.run(self.now, until, window=self.pending)
                self.now = left.host_tsc
                self.exits.append((left, engine.instructions))
                match left:
                    case e.WriteMsr(_, 0x6E0, value):
                        self.deadline = value
                        engine.complete()
                    case e.ReadMsr(_, 0x1B):
                        engine.complete(0xFEE0_0900)
                    case e.WriteMsr(_, where, value) | e.WriteMemory(_, where, _, value):
                        self.writes.append((where, value))
                        engine.complete()
                    case e.WritePort(_, 0x3F8, 1, value):
                        self.console += chr(value)
                        engine.complete()
                    case e.WritePort(_, 0xF4, 4, value):
                        engine.complete()
                        assert isinstance(engine.run(self.now), e.Hlt)
                        assert not engine.interrupts_enabled
                        return value
                    case e.Hlt():
                        assert until is not None, "halted for ever"
                        self.now = max(self.now, until)
                    case e.ExternalInterrupt() | e.InterruptWindow():
                        pass
                    case _:
                        raise AssertionError(left)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_interrupt_is_taken_and_measured(name):
    machine = Machine(name, interrupts=50)
    assert machine.run() == 0
    assert machine.console == f"{name}: 50 interrupts\n"
    results = machine.guest.results()
    assert (results.count, results.early) == (50, 0)
    assert 0 <= results.min_cycles <= results.max_cycles < 10
    assert 50 * results.min_cycles <= results.sum_cycles <= 50 * results.max_cycles


def test_deadline_uses_the_page_of_the_local_apic():
    machine = Machine("deadline", interrupts=2)
    machine.run()
    assert machine.writes == [
        (0xFEE0_00F0, 0x1FF),
        (0xFEE0_0320, 0x4_00E0),
        (0xFEE0_00B0, 0),
        (0xFEE0_00B0, 0),
    ]


def test_deadline_hlt_uses_x2apic_registers():
    machine = Machine("deadline-hlt", interrupts=2)
    machine.run()
    assert machine.writes == [(0x1B, 0xFEE0_0D00), (0x80F, 0x1FF), (0x832, 0x4_00E0), (0x80B, 0), (0x80B, 0)]


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_interrupt_asked_for_is_done_at_once(name):
    machine = Machine(name, interrupts=0)
    assert machine.run() == 0
    assert machine.console == f"{name}: 0 interrupts\n"


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_early_interrupt_is_reported_by_the_guest_itself(name):
    machine = Machine(name, interrupts=5, early_by=100)
    assert machine.run() == 1
    results = machine.guest.results()
    assert (results.count, results.early) == (5, 5)
    assert -100 <= results.min_cycles <= results.max_cycles < 0


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_interrupt_too_many_is_reported_as_a_wrong_count(name):
    machine = Machine(name, interrupts=5, extra=1)
    assert machine.run() == 2
    assert machine.guest.results().count == 6


def test_deadline_runs_the_same_whatever_makes_it_fast():
    runs = []
    for native in (True, False) if native_counting() else (False,):
        for fast_spin in (True, False):
            machine = Machine("deadline", interrupts=20, native=native, fast_spin=fast_spin)
            machine.run()
            runs.append((machine.exits, machine.console, machine.guest.memory[:]))
    assert all(run == runs[0] for run in runs)


def test_a_guest_that_faults_says_which_exception():
    machine = Machine("deadline", interrupts=1)
    while not isinstance(left := machine.engine.run(machine.now, None), e.WriteMemory):
        pass
    machine.engine.inject_exception(13, 0)
    left = machine.engine.run(machine.now)
    assert left[1:] == (0xF4, 4, 0x80 + 13)
    machine.engine.close()
