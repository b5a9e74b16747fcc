# SPDX-License-Identifier: GPL-2.0-or-later
"""What every engine has to do: bodies of tests, and guests that any engine can run.

An engine's tests have a subclass of `EngineContract` with a fixture `start`, which puts a `Guest` on a new
CPU. A guest is a list of `Op`: each is a stretch of 64-bit machine code, for engines that have a CPU, and a
generator that does the same with as many instructions, for the one that has none.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest

from vlapic.machine.engines import contract as e
from vlapic.machine.engines.scripted import ScriptedFault

#: Where a guest keeps what it reads, 4 bytes each, and the operand of its LIDT.
READ, IDTR = 0x20_0000, 0x8000
#: The operand of an LIDT that leaves no IDT: zeros.
NO_IDT = 0x8800
#: Where a handler tells which vector it is for.
VECTOR_PORT = 0x80
#: The page that a SIPI sends a CPU to, and how many instructions it has there before HLT.
PAGE, AT_PAGE = 0x10, 7
NMI, GP = 2, 13


class Op(NamedTuple):
    """A stretch of a guest.

    Attributes:
        code: the machine code of it, which may write to this slot of READ.
        play: the same as a generator, of a CPU and of the list of what was read.
        reads: whether it fills a slot.
    """

    code: Callable[[int], bytes]
    play: Callable
    reads: bool = False


def _access(made, before, code):
    """An exit that reads nothing; `before` instructions set its operands up."""

    def play(cpu, read):
        yield before
        yield from _exit(cpu, made)

    return Op(lambda slot: code, play)


def _reading(made, before, code):
    """An exit whose answer the guest keeps."""

    def play(cpu, read):
        yield before
        answer = yield from _exit(cpu, made)
        read.append((answer[0] if isinstance(answer, tuple) else answer) & 0xFFFF_FFFF)
        yield 1

    return Op(lambda slot: code + _keep(slot), play, reads=True)


def _exit(cpu, made):
    """Make an exit; a fault calls its handler, from which there is no way back."""
    try:
        return (yield made)
    except ScriptedFault as fault:
        cpu.interrupts_enabled = False
        yield from handler_script(cpu, fault.vector)
        yield e.Hlt(0)


def _keep(slot):
    return b"\x89\x04\x25" + struct.pack("<I", READ + 4 * slot)  # mov [READ + 4 * slot], eax


def _mov(register, value):
    """MOV of 32 bits to EAX (0), ECX (1), EDX (2), EBX (3)."""
    return bytes([0xB8 + register]) + struct.pack("<I", value)


def wrmsr(msr, value):
    return _access(
        e.WriteMsr(0, msr, value),
        3,
        _mov(1, msr) + _mov(0, value & 0xFFFF_FFFF) + _mov(2, value >> 32) + b"\x0f\x30",
    )


def rdmsr(msr):
    return _reading(e.ReadMsr(0, msr), 1, _mov(1, msr) + b"\x0f\x32")


def store(address, value):
    return _access(e.WriteMemory(0, address, 4, value), 2, _mov(3, address) + _mov(0, value) + b"\x89\x03")


def load(address):
    return _reading(e.ReadMemory(0, address, 4), 1, _mov(3, address) + b"\x8b\x03")


def out(port, value):
    return _access(e.WritePort(0, port, 4, value), 2, _mov(2, port) + _mov(0, value) + b"\xef")


def inp(port):
    return _reading(e.ReadPort(0, port, 4), 1, _mov(2, port) + b"\xed")


def write_cr8(value):
    return _access(e.WriteCr8(0, value), 1, _mov(0, value) + b"\x44\x0f\x22\xc0")


def read_cr8():
    return _reading(e.ReadCr8(0), 0, b"\x44\x0f\x20\xc0")


def cpuid(leaf):
    return _reading(e.Cpuid(0, leaf, 3), 2, _mov(0, leaf) + _mov(1, 3) + b"\x0f\xa2")


def vmcall(number, *arguments):
    movs = _mov(0, number) + b"".join(map(_mov, (3, 1, 2, 6), arguments))
    return _reading(e.Hypercall(0, number, arguments), 5, movs + b"\x0f\x01\xc1")


def compute(count):
    """NOPs."""

    def play(cpu, read):
        yield count

    return Op(lambda slot: b"\x90" * count, play)


def rdtsc():
    def play(cpu, read):
        read.append(cpu.rdtsc() & 0xFFFF_FFFF)
        yield 2

    return Op(lambda slot: b"\x0f\x31" + _keep(slot), play, reads=True)


def hlt():
    def play(cpu, read):
        yield e.Hlt(0)

    return Op(lambda slot: b"\xf4", play)


def cli():
    def play(cpu, read):
        cpu.interrupts_enabled = False
        yield 1

    return Op(lambda slot: b"\xfa", play)


def sti():
    def play(cpu, read):
        yield 1
        cpu.interrupts_enabled = cpu.shadow = True

    return Op(lambda slot: b"\xfb", play)


def spin():
    """A jump to itself, for ever."""

    def play(cpu, read):
        while True:
            yield 1

    return Op(lambda slot: b"\xeb\xfe", play)


def crash():
    """An exception without an IDT: the CPU shuts down."""

    def play(cpu, read):
        yield 1  # a script that ends is a CPU that shuts down

    return Op(lambda slot: b"\x0f\x01\x1c\x25" + struct.pack("<I", NO_IDT) + b"\x0f\x0b", play)


def repeat(count, op):
    """The same stretch several times; in R8 it is counted down."""

    def code(slot):
        body = op.code(slot) + b"\x41\xff\xc8"
        return b"\x41\xb8" + struct.pack("<I", count) + body + b"\x75" + struct.pack("<b", -len(body) - 2)

    def play(cpu, read):
        yield 1
        kept = len(read)
        for _ in range(count):
            del read[kept:]
            yield from op.play(cpu, read)
            yield 2

    return Op(code, play, op.reads)


@dataclass
class Guest:
    """A guest that begins with one instruction that loads its IDT, interrupts off.

    The handlers of the vectors in `VECTORS` send their number to a port, and return, but for that of #GP,
    which halts. At PAGE there are AT_PAGE instructions and a HLT.
    """

    VECTORS = (NMI, GP, 0x40, 0x50)
    ops: tuple[Op, ...]
    read: list[int] = field(default_factory=list)

    def code(self):
        """From the first instruction on."""
        slots, code = 0, b"\x0f\x01\x1c\x25" + struct.pack("<I", IDTR)
        for op in self.ops:
            code += op.code(slots)
            slots += op.reads
        return code

    @property
    def slots(self):
        return sum(op.reads for op in self.ops)

    @staticmethod
    def handler(vector):
        """PUSH RAX, PUSH RDX, OUT, POP RDX, POP RAX, IRETQ; #GP's halts."""
        told = b"\x50\x52" + out(VECTOR_PORT, vector).code(0) + b"\x5a\x58"
        return told + (b"\xf4" if vector == GP else b"\x48\xcf")

    @staticmethod
    def at_page():
        return b"\x90" * AT_PAGE + b"\xf4"

    def script(self, cpu):
        """The guest as a generator."""
        if cpu.pages:
            yield AT_PAGE
            yield e.Hlt(0)
        yield 1
        for op in self.ops:
            yield from op.play(cpu, self.read)


def handler_script(cpu, vector):
    yield 2
    yield from out(VECTOR_PORT, vector).play(cpu, None)
    yield 2


MSR, ADDRESS, PORT = 0x6E0, 0xFEE0_0320, 0x1234
WRITES = [
    pytest.param(wrmsr(MSR, 0x1234_5678_9ABC_DEF0), e.WriteMsr(5, MSR, 0x1234_5678_9ABC_DEF0), id="wrmsr"),
    pytest.param(store(ADDRESS, 0x400E0), e.WriteMemory(4, ADDRESS, 4, 0x400E0), id="store"),
    pytest.param(out(PORT, 0xAB), e.WritePort(4, PORT, 4, 0xAB), id="out"),
    pytest.param(write_cr8(7), e.WriteCr8(3, 7), id="mov to cr8"),
]
READS = [
    pytest.param(rdmsr(MSR), e.ReadMsr(3, MSR), 0x89AB_CDEF, id="rdmsr"),
    pytest.param(load(ADDRESS), e.ReadMemory(3, ADDRESS, 4), 0x89AB_CDEF, id="load"),
    pytest.param(inp(PORT), e.ReadPort(3, PORT, 4), 0x89AB_CDEF, id="in"),
    pytest.param(read_cr8(), e.ReadCr8(2), 9, id="mov from cr8"),
    pytest.param(cpuid(0x4000_0000), e.Cpuid(4, 0x4000_0000, 3), (0x4000_0001, 2, 3, 4), id="cpuid"),
    pytest.param(vmcall(10, 1, 2, 3, 4), e.Hypercall(7, 10, (1, 2, 3, 4)), 77, id="vmcall"),
]
ALL = [pytest.param(*param.values[:2], id=param.id) for param in WRITES + READS]


def named(left):
    """An exit with its kind, which a NamedTuple by itself is equal without."""
    return type(left).__name__, *left


def answer_of(left):
    """Something to complete an exit with."""
    if isinstance(left, e.Cpuid):
        return 5, 6, 7, 8
    return 3 if type(left).__name__.startswith(("Read", "Hypercall")) else None


class EngineContract:
    """Bodies of tests; `start(*ops)` gives a CPU that stands at a guest's first instruction.

    What it gives has `engine`, `now`, which is the host TSC at the next instruction, `run`, which takes what
    `CpuEngine.run` takes behind `now`, `read`, which is what the guest has read, and `offers_exits`: whether
    the engine ever uses its fast path. An instruction costs one host cycle, and the guest's TSC is the
    host's.
    """

    # -- exits --

    @pytest.mark.parametrize(("op", "left"), ALL)
    def test_an_access_stands_at_its_instruction_until_it_is_completed(self, start, op, left):
        cpu = start(compute(1), op, hlt())
        assert named(cpu.run()) == named(left)
        assert cpu.engine.instructions == left.host_tsc
        at = cpu.engine.rip
        cpu.engine.complete(answer_of(left))
        assert cpu.engine.instructions == left.host_tsc + 1
        assert cpu.engine.rip > at or cpu.engine.rip == at == 0  # a script stands nowhere
        assert isinstance(cpu.run(), e.Hlt)

    @pytest.mark.parametrize(("op", "left", "answer"), READS)
    def test_a_guest_reads_what_its_exit_was_completed_with(self, start, op, left, answer):
        cpu = start(compute(1), op, rdmsr(MSR), hlt())
        cpu.run()
        cpu.engine.complete(answer)
        cpu.run()
        cpu.engine.complete(5)
        cpu.run()
        assert cpu.read == [answer[0] if isinstance(answer, tuple) else answer, 5]

    @pytest.mark.parametrize(("op", "left"), ALL)
    def test_an_access_can_fault_instead_and_never_retires(self, start, op, left):
        cpu = start(compute(1), op, hlt())
        cpu.run()
        cpu.engine.inject_exception(GP, 0)
        told = cpu.run()
        assert (told.port, told.value) == (VECTOR_PORT, GP)
        assert cpu.engine.instructions == left.host_tsc + 4  # PUSH, PUSH, MOV, MOV
        assert not cpu.engine.interrupts_enabled

    def test_hlt_has_retired_when_it_exits(self, start):
        cpu = start(compute(3), hlt(), compute(2), hlt())
        assert named(cpu.run()) == named(e.Hlt(5))
        assert cpu.engine.instructions == 5
        assert named(cpu.run()) == named(e.Hlt(8))

    def test_time_goes_on_from_where_the_caller_says(self, start):
        cpu = start(wrmsr(MSR, 1), compute(3), wrmsr(MSR, 2))
        cpu.run()
        cpu.engine.complete()
        cpu.now = 1_000
        assert named(cpu.run()) == named(e.WriteMsr(1_006, MSR, 2))

    def test_the_guest_s_clock_is_exact_at_its_instruction(self, start):
        cpu = start(compute(4), rdtsc(), wrmsr(MSR, 1), rdtsc(), hlt())
        cpu.run()
        cpu.engine.complete()
        cpu.now = 500
        cpu.run()
        assert cpu.read == [5, 500]

    def test_a_cpu_that_can_do_nothing_about_an_exception_shuts_down(self, start):
        cpu = start(compute(4), crash())
        left = cpu.run()
        assert isinstance(left, e.Shutdown)
        assert left.host_tsc == 6
        assert left.reason

    # -- limits --

    @pytest.mark.parametrize("limit", [1, 2, 5_000, 123_456])
    def test_a_guest_runs_up_to_its_limit_and_no_block_further(self, start, limit):
        for name, kind in (("until", e.ExternalInterrupt), ("preemption", e.PreemptionTimer)):
            cpu = start(spin())
            left = cpu.run(**{name: limit})
            assert isinstance(left, kind)
            assert limit <= left.host_tsc < limit + 20
            assert cpu.engine.instructions == left.host_tsc

    def test_at_a_limit_that_is_reached_no_instruction_is_run(self, start):
        cpu = start(sti(), compute(2), hlt())
        for limits, left in [
            ({"until": 0}, e.ExternalInterrupt(0)),
            ({"preemption": 0}, e.PreemptionTimer(0)),
            ({"until": 0, "preemption": 0, "window": True, "nmi_window": True}, e.PreemptionTimer(0)),
            ({"until": 0, "window": True, "nmi_window": True}, e.ExternalInterrupt(0)),
        ]:
            assert named(cpu.run(**limits)) == named(left)
        assert cpu.engine.instructions == 0
        assert named(cpu.run()) == named(e.Hlt(5))

    def test_the_nearer_of_two_limits_ends_a_run(self, start):
        assert isinstance(start(spin()).run(until=1_000, preemption=2_000), e.ExternalInterrupt)
        assert isinstance(start(spin()).run(until=2_000, preemption=1_000), e.PreemptionTimer)

    # -- windows and shadows --

    def test_a_window_opens_behind_the_shadow_of_sti(self, start):
        cpu = start(compute(3), sti(), compute(50), hlt())
        assert named(cpu.run(window=True)) == named(e.InterruptWindow(6))
        assert cpu.engine.interruptible
        assert cpu.engine.instructions == 6

    def test_a_window_that_is_open_runs_no_instruction(self, start):
        cpu = start(sti(), hlt(), compute(5), hlt())
        cpu.run()
        before = cpu.engine.instructions
        assert named(cpu.run(window=True)) == named(e.InterruptWindow(cpu.now))
        assert named(cpu.run(nmi_window=True)) == named(e.NmiWindow(cpu.now))
        assert named(cpu.run(window=True, nmi_window=True)) == named(e.NmiWindow(cpu.now))
        assert cpu.engine.instructions == before

    def test_a_window_that_stays_shut_stops_no_guest(self, start):
        cpu = start(sti(), cli(), compute(9), hlt())
        assert named(cpu.run(window=True)) == named(e.Hlt(13))
        assert not cpu.engine.interruptible

    def test_hlt_behind_sti_takes_the_interrupt_that_came_before_it(self, start):
        cpu = start(sti(), hlt())
        assert named(cpu.run(window=True)) == named(e.Hlt(3))
        assert cpu.engine.interruptible

    def test_an_access_in_a_shadow_ends_it_when_it_is_completed(self, start):
        cpu = start(compute(1), sti(), read_cr8(), hlt())
        cpu.run()
        engine = cpu.engine
        assert (engine.interrupts_enabled, engine.interruptible, engine.nmi_blocked) == (True, False, True)
        engine.complete(1)
        assert (engine.interruptible, engine.nmi_blocked) == (True, False)

    # -- injection --

    def test_an_interrupt_is_taken_before_the_next_instruction_and_returns_to_it(self, start):
        cpu = start(sti(), hlt(), wrmsr(MSR, 1))
        cpu.run()
        cpu.engine.inject_interrupt(0x40)
        assert named(cpu.run()) == named(e.WritePort(7, VECTOR_PORT, 4, 0x40))
        assert not cpu.engine.interrupts_enabled
        cpu.engine.complete()
        assert named(cpu.run()) == named(e.WriteMsr(7 + 3 + 3, MSR, 1))  # POP, POP, IRETQ
        assert cpu.engine.interrupts_enabled
        assert cpu.engine.instructions == 3 + 4 + 1 + 3 + 3

    def test_an_interrupt_in_the_middle_of_a_computation_returns_to_the_rest_of_it(self, start):
        cpu = start(sti(), compute(50), hlt())
        assert named(cpu.run(window=True)) == named(e.InterruptWindow(3))
        cpu.engine.inject_interrupt(0x50)
        assert cpu.run().value == 0x50
        cpu.engine.complete()
        assert named(cpu.run()) == named(e.Hlt(7 + 3 + 49 + 1))

    def test_an_interrupt_at_a_limit_is_taken_behind_it(self, start):
        cpu = start(sti(), hlt(), wrmsr(MSR, 1))
        cpu.run()
        cpu.engine.inject_interrupt(0x40)
        assert named(cpu.run(until=cpu.now)) == named(e.ExternalInterrupt(3))
        assert cpu.run().value == 0x40

    def test_an_interrupt_loses_no_answer_of_the_exit_before_it(self, start):
        cpu = start(sti(), compute(1), load(ADDRESS), hlt())
        cpu.run()
        cpu.engine.complete(0x1357)
        cpu.engine.inject_interrupt(0x40)
        assert cpu.run().value == 0x40
        cpu.engine.complete()
        assert isinstance(cpu.run(), e.Hlt)
        assert cpu.read == [0x1357]

    def test_of_an_interrupt_and_an_nmi_injected_together_the_nmi_s_handler_is_first(self, start):
        cpu = start(sti(), hlt(), hlt())
        cpu.run()
        cpu.engine.inject_interrupt(0x40)
        cpu.engine.inject_nmi()
        told = []
        while isinstance(left := cpu.run(), e.WritePort):
            told.append(left.value)
            cpu.engine.complete()
        assert told == [NMI, 0x40]
        assert isinstance(left, e.Hlt)

    def test_an_nmi_is_taken_with_interrupts_off_and_blocks_others_until_iret(self, start):
        cpu = start(compute(2), hlt(), compute(5), hlt())
        cpu.run()
        assert not cpu.engine.nmi_blocked
        cpu.engine.inject_nmi()
        assert cpu.engine.nmi_blocked
        assert cpu.run(nmi_window=True).value == NMI
        cpu.engine.complete()
        assert cpu.engine.nmi_blocked
        left = cpu.run(nmi_window=True)
        assert isinstance(left, e.NmiWindow)
        assert left.host_tsc == 4 + 4 + 3
        assert not cpu.engine.nmi_blocked

    # -- INIT and SIPI --

    def test_init_stops_a_cpu_and_sipi_starts_it_at_its_page(self, start):
        cpu = start(sti(), hlt(), compute(5), hlt())
        cpu.run()
        cpu.engine.reset()
        assert not cpu.engine.interrupts_enabled
        with pytest.raises(AssertionError, match="a CPU that waits for SIPI was run"):
            cpu.run()
        cpu.engine.startup(PAGE)
        before = cpu.engine.instructions
        assert named(cpu.run()) == named(e.Hlt(cpu.now))
        assert cpu.engine.instructions == before + AT_PAGE + 1

    @pytest.mark.parametrize(("op", "left"), ALL)
    def test_init_drops_an_exit_that_was_not_completed(self, start, op, left):
        cpu = start(compute(1), op, hlt())
        cpu.run()
        cpu.engine.reset()
        cpu.engine.startup(PAGE)
        assert named(cpu.run()) == named(e.Hlt(left.host_tsc + AT_PAGE + 1))
        assert cpu.engine.instructions == left.host_tsc + AT_PAGE + 1

    def test_init_unblocks_nmis(self, start):
        cpu = start(compute(1), hlt())
        cpu.run()
        cpu.engine.inject_nmi()
        cpu.engine.reset()
        assert not cpu.engine.nmi_blocked

    # -- the fast path --

    def test_exits_on_the_fast_path_are_those_of_the_loop(self, start):
        def by_loop(cpu):
            while not isinstance(left := cpu.run(), e.Hlt):
                yield named(left), cpu.engine.instructions
                cpu.engine.complete(answer_of(left))
                cpu.now += 100
            yield named(left), cpu.engine.instructions

        ops = [repeat(4, param.values[0]) for param in WRITES + READS]
        plain, fast = start(*ops, hlt()), start(*ops, hlt())
        seen, offered = [], []

        def handle(left):
            offered.append(left)
            seen.append((named(left), fast.engine.instructions))
            fast.engine.complete(answer_of(left))
            return left.host_tsc + 100, None, None, False, False

        fast.engine.fastpath = handle
        expected = list(by_loop(plain))
        seen.extend(by_loop(fast))
        assert seen == expected
        assert bool(offered) is fast.offers_exits
        assert fast.read == plain.read

    def test_a_caller_that_wants_no_more_gets_the_guest_back_at_once(self, start):
        cpu, made, handled = start(repeat(8, wrmsr(MSR, 1)), hlt()), [], []

        def handle(left):
            made.append(named(left))
            cpu.engine.complete()

        cpu.engine.fastpath = handle
        while not isinstance(left := cpu.run(), e.Hlt):
            if isinstance(left, e.Handled):
                handled.append(left)
                assert left.host_tsc == made[-1][1]
            else:
                handle(left)
            cpu.now += 1
        assert made == [named(e.WriteMsr(5 + 6 * lap, MSR, 1)) for lap in range(8)]
        assert cpu.engine.instructions == 2 + 8 * 6 + 1
        assert bool(handled) is cpu.offers_exits

    # -- the end --

    def test_to_close_twice_is_to_close_once(self, start):
        cpu = start(hlt())
        cpu.run()
        cpu.engine.close()
        cpu.engine.close()
