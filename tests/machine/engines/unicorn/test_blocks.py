# SPDX-License-Identifier: GPL-2.0-or-later
"""Counting: the machine code counts as Python does, whatever the guest."""

import random
import struct
import sys
from typing import Any

import pytest

from tests.support import limits
from tests.support.bare_unicorn import ENTRY, SCRATCH, Bare
from vlapic.machine.engines import contract as e
from vlapic.machine.engines.unicorn import machine_code
from vlapic.machine.engines.unicorn.machine_code import native_counting

SEEDS = 200


def test_more_blocks_than_the_table_holds_are_counted_exactly(boot, monkeypatch):
    monkeypatch.setattr(machine_code, "_FULL", 100)
    count = 1000
    # mov $3, %ecx; 1: jmp +0, `count` times; dec %ecx; jz 2f; jmp 1b; 2: hlt
    back = struct.pack("<i", -(2 * count + 9))
    guest = boot(bytes.fromhex("b9 03 00 00 00" + "eb 00" * count + "ff c9 74 05 e9") + back + b"\xf4")
    assert guest.run() == e.Hlt(1 + 3 * (count + 2) + 2 + 1)


#: LIDT of what `Bare` has at 0x8000, in each size of code.
LIDT = {64: "0f 01 1c 25 00 80 00 00", 32: "0f 01 1d 00 80 00 00", 16: "66 67 0f 01 1d 00 80 00 00"}


def play(seed, native):
    """Run random bytes as code, answer and interrupt at random; all that could be seen from outside."""
    choice = random.Random(seed)
    bits = choice.choice((64, 64, 32, 16))
    program = choice.randbytes(choice.choice((16, 64, 512, 4096)))
    lidt = bytes.fromhex(LIDT[bits])
    guest = Bare(lidt + program if seed % 2 else program, native=native, bits=bits)
    if seed % 2:
        for vector in range(256):
            guest.gate(vector, ENTRY + len(lidt) + choice.randrange(len(program)))
    seen: list[Any] = []
    with guest.engine as engine:
        for _ in range(40):
            left = guest.run(guest.now + 500, window=choice.random() < 0.3, nmi_window=choice.random() < 0.1)
            seen.append((left, engine.instructions, engine.rip))
            match left:
                case e.Shutdown():
                    break
                case e.ExternalInterrupt() | e.InterruptWindow() | e.Hlt() | e.NmiWindow():
                    if choice.random() < 0.1 and not engine.nmi_blocked:
                        engine.inject_nmi()
                    elif choice.random() < 0.02:
                        engine.reset()
                        engine.startup(choice.randrange(256))
                    elif engine.interruptible:
                        engine.inject_interrupt(choice.randrange(32, 256))
                case _ if choice.random() < 0.1:
                    engine.inject_exception(13, 0)
                case e.Cpuid():
                    engine.complete((1, 2, 3, 4))
                case e.ReadMsr() | e.ReadPort() | e.ReadMemory() | e.ReadCr8() | e.Hypercall():
                    engine.complete(choice.getrandbits(32))
                case _:
                    engine.complete()
        seen.append(guest.memory[SCRATCH : SCRATCH + 4096])
    return seen


def main(first, last):
    for seed in range(first, last):
        print("seed", seed, flush=True)
        runs = [play(seed, native) for native in ((True, False) if native_counting() else (False, False))]
        assert runs[0] == runs[1], f"seed {seed}: {runs[0]} != {runs[1]}"
    print("done")


@pytest.mark.hunt
def test_random_code_never_crashes_the_process_and_both_ways_of_counting_agree():
    command = [sys.executable, "-c", f"from {__name__} import main; main(0, {SEEDS})"]
    ran = limits.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr, ran.stdout.split()[-1]) == (0, "", "done"), (
        ran.stderr + ran.stdout[-40:]
    )


def test_a_few_random_programs_run_alike_with_both_ways_of_counting():
    main(1000, 1010)


@pytest.mark.parametrize(
    ("vector", "program"),
    [
        (6, "0f 0b"),  # ud2
        (13, "b9 80 00 00 c0 b8 00 10 00 00 31 d2 0f 30"),  # wrmsr of a bit EFER does not have
    ],
    ids=["ud2", "wrmsr"],
)
def test_a_handler_that_faults_at_once_does_not_stop_time(boot, vector, program):
    lidt = bytes.fromhex("0f 01 1c 25 00 80 00 00")
    guest = boot(lidt + bytes.fromhex(program))
    last = ENTRY + len(lidt) + len(bytes.fromhex(program)) - 2
    guest.gate(vector, last)  # the instruction that faults is its own handler
    left = guest.run(1000)
    assert isinstance(left, e.ExternalInterrupt)
    assert left.host_tsc == 1000
    assert (guest.engine.rip, guest.engine.instructions) == (last, 1 if vector == 6 else 4)
