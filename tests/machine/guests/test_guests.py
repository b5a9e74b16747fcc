# SPDX-License-Identifier: GPL-2.0-or-later
"""The built-in guests: rebuilt byte for byte, and run to their end."""

import re
import shutil
import subprocess
from itertools import pairwise

import pytest

from tests.docs.documents import ROOT
from tests.support.guest_runs import GUESTS, SOURCES, GuestRun
from vlapic.machine.engines import contract as e
from vlapic.machine.engines.unicorn.engine import UnicornEngine
from vlapic.machine.engines.unicorn.machine_code import native_counting
from vlapic.machine.guests.loader import MIB, load
from vlapic.machine.guests.programs import PROGRAMS
from vlapic.tsc import GuestTsc

TIMER_VECTOR = 0xE0
HOST_KHZ = GUEST_KHZ = 2_000_000
#: Guests of deadlines alone, which the smallest machine can run.
DEADLINE_GUESTS = pytest.mark.parametrize("name", ["deadline", "deadline-hlt"])


def build(source, folder):
    """A flat image, built as docs/guests.md says."""
    if not all(map(shutil.which, ("as", "ld", "objcopy"))):
        pytest.skip("needs GNU as, ld and objcopy (binutils)")

    def run(*command):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)

    run("as", "--64", "-mx86-used-note=no", "-I", GUESTS, source, "-o", "guest.o")
    run("ld", "-static", "--build-id=none", "-T", GUESTS / "guest.ld", "guest.o", "-o", "guest.elf")
    run("objcopy", "-O", "binary", "-j", ".text", "guest.elf", "guest.bin")
    return (folder / "guest.bin").read_bytes()


@pytest.mark.parametrize("name", SOURCES)
def test_an_image_is_its_source_built(name, tmp_path):
    assert build(GUESTS / f"{name}.S", tmp_path) == (GUESTS / f"{name}.bin").read_bytes()


def test_the_guest_written_in_the_documentation_runs(tmp_path):
    (listing,) = re.findall(
        r"```text\n( +\.include .*?)```", (ROOT / "docs" / "guests.md").read_text(), re.DOTALL
    )
    (tmp_path / "three.S").write_text(listing)
    run = GuestRun(build(tmp_path / "three.S", tmp_path))
    assert (run.value, run.console, run.results.count) == (0, "three: 3 interrupts\n", 3)


def test_the_documentation_lists_every_built_in_guest_with_its_default():
    text = (ROOT / "docs" / "guests.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| .* \| (\d) \| (none|[\d ]*\d)", text, re.MULTILINE)
    assert rows == [
        (name, str(each.vcpus), "none" if name == "interrupt" else f"{each.delta_cycles:,}".replace(",", " "))
        for name, each in PROGRAMS.items()
    ]


def test_every_built_in_guest_has_a_source():
    assert set(PROGRAMS) <= set(SOURCES)
    assert all((GUESTS / f"{name}.S").exists() for name in SOURCES)


class Machine:
    """The smallest machine a built-in guest runs in: an APIC with a deadline and nothing else, answered
    by hand.

    Attributes:
        early_by: cycles by which its timer fires before the deadline.
        extra: interrupts that nobody asked for.
    """

    def __init__(self, name, interrupts, delta=2_000, early_by=0, extra=0, **options):
        image = PROGRAMS[name].image()
        self.guest = load(image, 2 * MIB, interrupts=interrupts, delta_cycles=delta)
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


@DEADLINE_GUESTS
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


@DEADLINE_GUESTS
def test_no_interrupt_asked_for_is_done_at_once(name):
    machine = Machine(name, interrupts=0)
    assert machine.run() == 0
    assert machine.console == f"{name}: 0 interrupts\n"


@DEADLINE_GUESTS
def test_an_early_interrupt_is_reported_by_the_guest_itself(name):
    machine = Machine(name, interrupts=5, early_by=100)
    assert machine.run() == 1
    results = machine.guest.results()
    assert (results.count, results.early) == (5, 5)
    assert -100 <= results.min_cycles <= results.max_cycles < 0


@DEADLINE_GUESTS
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


# -- on the whole machine --

BOTH_TIMERS = pytest.mark.parametrize("preemption", [True, False], ids=["preemption", "hrtimer"])


@pytest.mark.parametrize("name", ["oneshot", "periodic", "tickless", "storm"])
@BOTH_TIMERS
def test_every_interrupt_asked_for_is_taken_and_none_is_early(name, preemption):
    delta = PROGRAMS[name].delta_cycles
    run = GuestRun(name, 30, delta, preemption=preemption)
    assert (run.value, run.console) == (0, f"{name}: 30 interrupts\n")
    assert (run.results.count, run.results.early, len(run.interrupts)) == (30, 0, 30)


@pytest.mark.parametrize("name", ["oneshot", "periodic", "tickless", "storm"])
def test_no_interrupt_is_a_short_run(name):
    run = GuestRun(name, 0)
    assert (run.value, run.console, run.interrupts) == (0, f"{name}: 0 interrupts\n", [])


@pytest.mark.parametrize("khz", [1_000_000, 2_500_000, 3_300_001])
@BOTH_TIMERS
def test_oneshot_computes_its_deadline_from_the_frequency_of_its_tsc(khz, preemption):
    """What the guest finds by itself, from CPUID and its TSC, is what the machine measures, but for the exit
    that the write of the count is."""
    run = GuestRun("oneshot", 10, 300_000, tsc_khz=(khz,), preemption=preemption)
    assert run.value == 0
    late = [it.handler_tsc - it.deadline_tsc for it in run.interrupts]
    exit_cycles = 900 * khz // 2_500_000
    assert run.results.min_cycles - min(late) == pytest.approx(exit_cycles, abs=20)
    assert run.results.max_cycles - max(late) == pytest.approx(exit_cycles, abs=20)


def test_periods_are_as_long_as_was_asked_for():
    run = GuestRun("periodic", 20, 1_000_000)
    deadlines = [it.deadline_tsc for it in run.interrupts]
    assert {later - sooner for sooner, later in pairwise(deadlines)} <= {999_999, 1_000_000}
    assert run.results.max_cycles < 10_000


def test_periods_that_kvm_stretches_are_seen_to_be_ever_later():
    """A period is 200 us at least (`min_timer_period_us`), 500 000 cycles here."""
    run = GuestRun("periodic", 10, 200_000)
    assert run.value == 0
    assert run.results.max_cycles - run.results.min_cycles == pytest.approx(9 * 300_000, abs=1000)


def test_tickless_deadlines_are_mixed():
    run = GuestRun("tickless", 200, 100_000)
    distances = [later.deadline_tsc - sooner.handler_tsc for sooner, later in pairwise(run.interrupts)]
    assert min(distances) < 100_000
    assert 4_500_000 < max(distances) < 5_020_000
    assert len(set(distances)) > 150


def test_the_storm_has_deadlines_of_every_kind():
    run = GuestRun("storm", 300, 20_000, events=True)
    late = [it.handler_tsc - it.deadline_tsc for it in run.interrupts]
    assert max(late) > 15_000, "deadlines far in the past"
    assert sum(value < 3_000 for value in late) > 50, "deadlines that are waited for"


INTERRUPT_LINES = """\
interrupt: stage 0, interrupt while running guest: after {} cycles
interrupt: stage 2, interrupt + hlt: after {} cycles
interrupt: stage 3, interrupt + hlt, short: after {} cycles
interrupt: stage 4, interrupt + activity state hlt: after {} cycles
"""


@BOTH_TIMERS
def test_each_stage_of_interrupt_gets_its_interrupt(preemption):
    run = GuestRun("interrupt", preemption=preemption)
    assert run.value == 0
    cycles = [int(line.split()[-2]) for line in run.console.splitlines()]
    assert run.console == INTERRUPT_LINES.format(*cycles)
    running, long, short, open_halt = cycles
    assert running < 10_000
    assert 5_000_000 < long < 5_010_000  # 1 000 000 counts of 2 ns
    assert 50_000 < short < 60_000
    assert 50_000 < open_halt < 60_000
    assert run.results.count == 4


@pytest.mark.parametrize(("advance", "stage"), [(25_000, 3), (3_000_000, 2)])
def test_a_timer_advanced_beyond_its_time_comes_before_the_hlt(advance, stage):
    """On the preemption timer: the expiry is there at once, and the guest halts with nothing to wake it."""
    run = GuestRun("interrupt", advance=advance)
    assert run.value == 16 + stage
    assert run.console.splitlines()[-1].endswith(": the interrupt came before its hlt")
    assert f"stage {stage}, interrupt + hlt" in run.console.splitlines()[-1]


def test_the_hrtimer_is_not_advanced_in_one_shot_mode():
    assert GuestRun("interrupt", advance=25_000, preemption=False).value == 0


# -- two vCPUs --


@pytest.mark.parametrize("vcpus", [2, 3])
def test_every_question_of_ipi_is_answered(vcpus):
    run = GuestRun("ipi", 25, 0, vcpus=vcpus)
    assert (run.value, run.console) == (0, "ipi: 25 interrupts\n")
    assert run.results.count == 25
    # At least an exit on each side, a wake-up and two injections.
    assert 2 * 900 + 2700 + 2 * 300 < run.results.min_cycles <= run.results.max_cycles < 50_000


def test_scaled_times_each_vcpu_by_its_own_tsc():
    run = GuestRun("scaled", 20, 300_000, vcpus=2, tsc_khz=(2_500_000, 1_500_000))
    assert run.value == 0
    assert run.console == (
        "scaled: CPU 0, 20 interrupts, TSC 2500000 kHz\nscaled: CPU 1, 20 interrupts, TSC 1500000 kHz\n"
    )
    for index, measured in enumerate((run.results, run.second_results)):
        late = [it.handler_tsc - it.deadline_tsc for it in run.interrupts if it.vcpu == index]
        assert (measured.count, measured.early) == (20, 0)
        assert measured.min_cycles == pytest.approx(min(late), abs=10)
        assert measured.max_cycles == pytest.approx(max(late), abs=10)


def test_lateness_in_cycles_goes_with_the_frequency():
    run = GuestRun("scaled", 20, 300_000, vcpus=2, tsc_khz=(2_500_000, 1_250_000))
    assert run.second_results.sum_cycles == pytest.approx(run.results.sum_cycles / 2, rel=0.02)


def test_stall_reports_an_interrupt_that_comes_before_its_hlt():
    distance = 100_000  # 40 us
    run = GuestRun("stall", 5, distance, advance=10_000)
    assert (run.value, run.console) == (0, "stall: 5 interrupts\n")
    run = GuestRun("stall", 5, distance, advance=50_000)
    assert (run.value, run.console) == (16, "stall: the last interrupt came before its hlt\n")
    assert run.interrupts[-1].instructions == 0


def test_uneven_spins_on_one_vcpu_and_sleeps_on_the_other():
    run = GuestRun("uneven", 20, 300_000, vcpus=2, advance=0)
    assert run.value == 0
    assert run.console == ("uneven: CPU 0, spinning, 20 interrupts\nuneven: CPU 1, asleep, 20 interrupts\n")
    spun, slept = ([each for each in run.interrupts if each.vcpu == vcpu] for vcpu in (0, 1))
    assert min(each.instructions for each in spun) > 1000
    assert {each.instructions for each in slept} == {2}


@pytest.mark.parametrize("name", ["ipi", "scaled", "uneven"])
def test_a_guest_for_two_says_so_where_there_is_one(name):
    run = GuestRun(name, 5)
    assert (run.value, run.console) == (3, f"{name}: needs two CPUs\n")
    assert run.failure is None


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_guest_runs_the_same_twice(name):
    def seen():
        run = GuestRun(name, 6, vcpus=PROGRAMS[name].vcpus, events=True)
        return run.console, run.results, [vcpu.engine.instructions for vcpu in run.vcpus], run.events

    assert seen() == seen()
