# SPDX-License-Identifier: GPL-2.0-or-later
"""What the emulated engine costs over bare Unicorn: computing, exits, interrupts, CPUs that take turns.

    python benchmarks/bench_engine.py [ROUNDS]

Every line compares two ways of doing the same, interleaved round by round, best and median of the rounds:
on a shared machine the ratio tells more than the times. Targets: a WRMSR exit takes at most 5 times an empty
hook of Unicorn's own package, an exit of device memory at most 3 times an empty device of it.
"""

from __future__ import annotations

import mmap
import statistics
import sys
import time
from collections.abc import Callable

import unicorn
from unicorn import unicorn_const as uc
from unicorn import x86_const as x86

from vlapic.machine.engines import contract as exits_of
from vlapic.machine.engines.unicorn.binding import BlockCallback, Cpu, Registers, lib
from vlapic.machine.engines.unicorn.engine import UnicornEngine
from vlapic.machine.guests.loader import HEADER, MAGIC, MIB, load
from vlapic.tsc import GuestTsc

ENTRY = MIB + HEADER.size
#: Exits in a run, exits that are stopped for, slices: how many of each are timed together.
EXITS, STOPS, SLICES = 20_000, 5000, 2000


def code(listing: str) -> bytes:
    """The bytes of a listing: hex pairs, two blanks, the instruction in words."""
    return b"".join(bytes.fromhex(line.strip().split("  ")[0]) for line in listing.strip().splitlines())


ALU = code(
    """
    b9 40 4b 4c 00          0: mov $5000000, %ecx
    48 01 c8                1: add %rcx, %rax
    48 31 c3                xor %rax, %rbx
    ff c9                   dec %ecx
    75 f6                   jnz 1b
    f4                      hlt
    eb ee                   jmp 0b
    """
)
LOAD_STORE = code(
    """
    b9 80 84 1e 00           0: mov $2000000, %ecx
    48 8b 04 25 00 00 20 00  1: mov 0x200000, %rax
    48 ff c0                 inc %rax
    48 89 04 25 00 00 20 00  mov %rax, 0x200000
    ff c9                    dec %ecx
    75 e9                    jnz 1b
    f4                       hlt
    eb e1                    jmp 0b
    """
)
CALL_RETURN = code(
    """
    b9 80 84 1e 00          0: mov $2000000, %ecx
    e8 07 00 00 00          1: call 2f
    ff c9                   dec %ecx
    75 f7                   jnz 1b
    f4                      hlt
    eb ef                   jmp 0b
    c3                      2: ret
    """
)
WRMSR = code(
    """
    b9 e0 06 00 00          mov $0x6e0, %ecx
    0f 30                   1: wrmsr
    eb fc                   jmp 1b
    """
)
RDMSR = code(
    """
    b9 39 08 00 00          mov $0x839, %ecx
    0f 32                   1: rdmsr
    eb fc                   jmp 1b
    """
)
DEVICE = code(
    """
    ba b0 00 e0 fe          mov $0xfee000b0, %edx
    89 02                   1: mov %eax, (%rdx)
    eb fc                   jmp 1b
    """
)
INTERRUPTED = code(
    """
    0f 01 1c 25 00 80 00 00  lidt 0x8000
    fb                       sti
    f4                       1: hlt
    eb fd                    jmp 1b
    """
)
#: As INTERRUPTED without interrupts: what is left of the cost when none is delivered.
HALTED = code(
    """
    0f 01 1c 25 00 80 00 00  lidt 0x8000
    fb                       sti
    f4                       1: hlt
    90                       nop
    f4                       hlt
    eb fb                    jmp 1b
    """
)
IRETQ = bytes.fromhex("48 cf")
VECTOR, HANDLER = 0x40, 0x11_0000


def engine(program: bytes) -> UnicornEngine:
    """The engine at a program, with an IDT that has one handler."""
    header = HEADER.pack(MAGIC, MIB, HEADER.size, 4096, HEADER.size, bytes(8))
    loaded = load(header + program)
    cpu = UnicornEngine(loaded.memory, GuestTsc(2_000_000, 2_000_000), first=loaded.first)
    loaded.memory[0x8000:0x800A] = (0xFFF).to_bytes(2, "little") + (0x9000).to_bytes(8, "little")
    gate = bytes.fromhex("00 00 08 00 00 8e 11 00") + bytes(8)
    loaded.memory[0x9000 + VECTOR * 16 : 0x9000 + VECTOR * 16 + 16] = gate
    loaded.memory[HANDLER : HANDLER + 2] = IRETQ
    return cpu


def bare(program: bytes) -> Cpu:
    """Unicorn with memory and no hook."""
    memory = mmap.mmap(-1, 16 * MIB)
    memory[ENTRY : ENTRY + len(program)] = program
    cpu = Cpu()
    cpu.map_ram(0, memory)
    Registers(cpu, (x86.UC_X86_REG_RSP,)).write(0x80000)
    return cpu


def compute(program: bytes) -> tuple[Callable[[], float], Callable[[], float]]:
    """One run to HLT, seconds: counted, and bare."""
    ours, theirs = engine(program), bare(program)

    def counted() -> float:
        start = time.process_time()
        ours.run(0, 10**12)
        return time.process_time() - start

    def not_counted() -> float:
        start = time.process_time()
        lib.uc_emu_start(theirs.handle, ENTRY, 0, 0, 0)
        return time.process_time() - start

    return counted, not_counted


def exits(program: bytes) -> Callable[[], float]:
    """One exit, seconds: run, complete."""
    cpu = engine(program)
    run, complete = cpu.run, cpu.complete

    def round_trips() -> float:
        start = time.process_time()
        for now in range(STOPS):
            run(now, now + 10**9)
            complete()
        return (time.process_time() - start) / STOPS

    return round_trips


def fastpath_exits(program: bytes, answer: int | None = None) -> Callable[[], float]:
    """One exit that is handled in the middle of a run, seconds; whoever handles it completes it, no more."""
    cpu = engine(program)
    complete = cpu.complete
    count = 0

    def handle(left: exits_of.Exit) -> exits_of.Reentry | None:
        nonlocal count
        complete(answer)
        count += 1
        if count % EXITS == 0:
            return None
        return left.host_tsc, left.host_tsc + 10**9, None, False, False

    def run() -> None:
        while type(cpu.run(0, 10**9)) is not exits_of.Handled:
            complete(answer)

    cpu.fastpath = handle
    return lambda: timed(run) / EXITS


def empty_hook() -> Callable[[], float]:
    """A hook of one instruction that does nothing, in Python, seconds a call."""
    cpu = bare(WRMSR)
    calls = 0

    def called(_cpu: int, _address: int, _size: int, _data: int) -> None:
        nonlocal calls
        calls += 1
        if calls % EXITS == 0:
            cpu.stop()

    cpu.hook(uc.UC_HOOK_CODE, BlockCallback(called), ENTRY + 5, ENTRY + 5)
    return lambda: timed(lambda: cpu.start(ENTRY)) / EXITS


def package_hook(program: bytes, device: bool) -> Callable[[], float]:
    """An empty hook or device made with Unicorn's own package, seconds a call."""
    cpu = unicorn.Uc(uc.UC_ARCH_X86, uc.UC_MODE_64)
    cpu.mem_map(ENTRY & ~0xFFF, 0x1000)
    cpu.mem_write(ENTRY, program)
    calls = 0

    def called(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls % EXITS == 0:
            cpu.emu_stop()

    if device:
        cpu.mmio_map(0xFEE0_0000, 4096, lambda *_: 0, None, called, None)
    else:
        cpu.hook_add(uc.UC_HOOK_CODE, called, None, ENTRY + 5, ENTRY + 5)
    return lambda: timed(lambda: cpu.emu_start(ENTRY, 0)) / EXITS


def empty_device() -> Callable[[], float]:
    """A device that does nothing, seconds an access."""
    cpu = bare(DEVICE)
    calls = 0

    def written(_cpu: int, _offset: int, _size: int, _value: int, _data: int) -> None:
        nonlocal calls
        calls += 1
        if calls % EXITS == 0:
            cpu.stop()

    cpu.map_mmio(0xFEE0_0000, 4096, lambda *_: 0, written)
    return lambda: timed(lambda: cpu.start(ENTRY)) / EXITS


def interrupts(deliver: bool) -> Callable[[], float]:
    """HLT and an interrupt, seconds a turn; without delivery: HLT twice."""
    cpu = engine(INTERRUPTED if deliver else HALTED)
    cpu.run(0)

    def turns() -> float:
        run, inject = cpu.run, cpu.inject_interrupt
        start = time.process_time()
        for now in range(STOPS):
            if deliver:
                inject(VECTOR)
            run(now, now + 10**9)
        return (time.process_time() - start) / STOPS

    return turns


def slices(cpus: int) -> Callable[[], float]:
    """A slice of 1000 instructions, seconds; CPUs over one memory take turns."""
    header = HEADER.pack(MAGIC, MIB, HEADER.size, 4096, HEADER.size, bytes(8))
    loaded = load(header + CALL_RETURN)
    tsc = GuestTsc(2_000_000, 2_000_000)
    runs = [UnicornEngine(loaded.memory, tsc, first=loaded.first).run for _ in range(cpus)]

    def turns() -> float:
        start = time.process_time()
        for turn in range(SLICES):
            for run in runs:
                run(turn * 1000, (turn + 1) * 1000)
        return (time.process_time() - start) / SLICES / cpus

    return turns


def timed(do: Callable[[], object]) -> float:
    start = time.process_time()
    do()
    return time.process_time() - start


def compare(
    rounds: int, first: Callable[[], float], second: Callable[[], float]
) -> list[tuple[float, float]]:
    """Best and median of both, seconds, after one round of each that does not count."""
    first(), second()
    times = [(first(), second()) for _ in range(rounds)]
    return [(min(column), statistics.median(column)) for column in zip(*times, strict=True)]


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    print(f"{'':34}{'engine':>10}{'median':>10}{'bare':>10}{'median':>10}")
    for name, program, instructions in (
        ("compute, ALU, M insn/s", ALU, 20_000_001),
        ("compute, load and store", LOAD_STORE, 10_000_001),
        ("compute, call and return", CALL_RETURN, 8_000_001),
    ):
        ours, theirs = compare(rounds, *compute(program))
        rates = [instructions / seconds / 1e6 for seconds in (*ours, *theirs)]
        ratio = rates[0] / rates[2]
        print(f"{name:34}{''.join(f'{rate:10.0f}' for rate in rates)}   engine/bare {ratio:.2f}")
    for name, first, second in (
        ("WRMSR exit | package's hook, us", fastpath_exits(WRMSR), package_hook(WRMSR, False)),
        ("WRMSR exit | ctypes hook, us", fastpath_exits(WRMSR), empty_hook()),
        ("RDMSR exit | package's hook, us", fastpath_exits(RDMSR, 5), package_hook(RDMSR, False)),
        ("WRMSR, stopped | ctypes hook, us", exits(WRMSR), empty_hook()),
        ("device exit | package's, us", fastpath_exits(DEVICE), package_hook(DEVICE, True)),
        ("device exit | ctypes device, us", fastpath_exits(DEVICE), empty_device()),
        ("device, run twice | ctypes, us", exits(DEVICE), empty_device()),
        ("HLT and interrupt | HLT, us", interrupts(True), interrupts(False)),
        ("slice of 1000, of two | alone, us", slices(2), slices(1)),
    ):
        ours, theirs = compare(rounds, first, second)
        cells = "".join(f"{seconds * 1e6:10.2f}" for seconds in (*ours, *theirs))
        ratio, more = ours[0] / theirs[0], (ours[0] - theirs[0]) * 1e6
        print(f"{name:34}{cells}   more {more:.2f} us, {ratio:.1f} times")


if __name__ == "__main__":
    main()
