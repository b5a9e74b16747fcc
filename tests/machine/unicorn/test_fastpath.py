"""Exits in the middle of a run are those that leave it: same instruction, same time, same data, any guest."""

import random
import struct

import pytest

from tests.machine.unicorn.bare import SCRATCH, Bare
from vlapic.machine import engine as e
from vlapic.machine.unicorn.access_place import find_place_offset
from vlapic.machine.unicorn.machine_code import native_counting

DEVICE, DEADLINE, TMCCT = 0xFEE0_00B0, 0x6E0, 0x839
SEEDS = 60

#: Instructions to choose from: RDX is the device, RDI a byte behind it, R8 is RAM, RCX an MSR.
PIECES = [
    "89 02",  # mov %eax, (%rdx)
    "8b 02",  # mov (%rdx), %eax
    "48 89 02",  # mov %rax, (%rdx): two accesses
    "48 8b 1a",  # mov (%rdx), %rbx: two accesses
    "8b 1f",  # mov (%rdi), %ebx: not aligned
    "89 1f",  # mov %ebx, (%rdi): not aligned
    "0f b6 1a",  # movzbl (%rdx), %ebx
    "83 0a 05",  # orl $5, (%rdx): a read and a write
    "ff 32 5b",  # push (%rdx); pop %rbx
    "0f 30",  # wrmsr
    "0f 32",  # rdmsr
    "b9 e0 06 00 00 0f 30 b9 39 08 00 00",  # another MSR
    "0f 31",  # rdtsc
    "48 ff c0",  # inc %rax
    "49 89 00",  # mov %rax, (%r8)
    "49 8b 00",  # mov (%r8), %rax
    "75 00",  # jnz to the next
    "f3 90",  # pause
    "fb",  # sti
    "fa",  # cli
]


def program(choice):
    body = b"".join(bytes.fromhex(choice.choice(PIECES)) for _ in range(choice.randrange(3, 30)))
    start = (
        bytes.fromhex("ba") + struct.pack("<I", DEVICE) + bytes.fromhex("bf") + struct.pack("<I", DEVICE + 1)
    )
    start += (
        bytes.fromhex("41 b8") + struct.pack("<I", SCRATCH) + bytes.fromhex("b9") + struct.pack("<I", TMCCT)
    )
    return start + body + b"\xe9" + struct.pack("<i", -len(body) - 5)


def play(seed, fastpath):
    """Run a random guest; every exit with where the guest stood, and what is left of it in the end."""
    choice = random.Random(seed)
    guest = Bare(program(choice))
    cpu = guest.engine
    told = []
    seen = 0
    now = 0

    def arguments():
        step = random.Random(seed << 20 | seen)
        until, preemption = (
            now + step.choice((5, 50, 10_000)) if step.random() < 0.8 else None for _ in "ab"
        )
        return (
            now,
            now + 20_000 if until is preemption is None else until,
            preemption,
            step.random() < 0.3 and not cpu.interruptible,
            False,
        )

    def handle(left):
        nonlocal now, seen
        told.append((left, cpu.rip, cpu.instructions, cpu.interrupts_enabled, cpu.nmi_blocked))
        seen += 1
        now = left.host_tsc + seen % 7
        if isinstance(left, (e.ReadMsr, e.ReadMemory)):
            cpu.complete(seen * 0x0101_0101 & 0xFFFF_FFFF)
        elif isinstance(left, (e.WriteMsr, e.WriteMemory)):
            cpu.complete()
        told.append((cpu.rip, cpu.instructions))

    def at_once(left):
        handle(left)
        return None if seen % 5 == 0 else arguments()

    if fastpath:
        cpu.fastpath = at_once
    handled = 0
    while seen < 150:
        left = cpu.run(*arguments())
        if isinstance(left, e.Handled):
            handled += 1
        else:
            handle(left)
    told.append((cpu.rip, cpu.instructions, guest.u64(SCRATCH), now))
    cpu.close()
    return told, handled


@pytest.mark.skipif(not native_counting(), reason="exits are handled in a run where machine code counts")
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_random_guest_makes_the_same_exits(seed):
    without, _ = play(seed, fastpath=False)
    with_it, _ = play(seed, fastpath=True)
    assert with_it == without


@pytest.mark.skipif(not native_counting(), reason="exits are handled in a run where machine code counts")
def test_random_guests_take_it():
    assert sum(play(seed, fastpath=True)[1] for seed in range(SEEDS)) > SEEDS


@pytest.mark.skipif(not native_counting(), reason="needs the CPU's own memory")
def test_unicorn_tells_where_in_its_code_an_access_is_made():
    assert find_place_offset() is not None
