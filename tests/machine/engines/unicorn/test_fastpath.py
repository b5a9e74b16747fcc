# SPDX-License-Identifier: GPL-2.0-or-later
"""Exits in the middle of a run are those that leave it: same instruction, same time, same data, any guest."""

import random
import struct
from typing import Any

import pytest

from tests.support.bare_unicorn import SCRATCH, STACK_TOP, Bare
from vlapic.machine.engines import contract as e
from vlapic.machine.engines.unicorn import device_memory
from vlapic.machine.engines.unicorn.access_place import find_place_offset
from vlapic.machine.engines.unicorn.fastpath import FastpathCore
from vlapic.machine.engines.unicorn.machine_code import native_counting
from vlapic.machine.engines.unicorn.processor import Processor

DEVICE, DEADLINE, TMCCT = 0xFEE0_00B0, 0x6E0, 0x839
SEEDS = 50

#: Instructions to choose from, of 32 and 64-bit code: RDX is the device, RDI a byte behind it, RSI is RAM,
#: RCX an MSR.
COMMON = [
    "89 02",  # mov %eax, (%rdx)
    "8b 02",  # mov (%rdx), %eax
    "8b 1f",  # mov (%rdi), %ebx: not aligned
    "89 1f",  # mov %ebx, (%rdi): not aligned
    "0f b6 1a",  # movzbl (%rdx), %ebx
    "83 0a 05",  # orl $5, (%rdx): a read and a write
    "ff 32 5b",  # push (%rdx); pop %rbx
    "0f 30",  # wrmsr
    "0f 32",  # rdmsr
    "b9 e0 06 00 00 0f 30 b9 39 08 00 00",  # another MSR
    "0f 31",  # rdtsc
    "ff c0",  # inc %eax
    "89 06",  # mov %eax, (%rsi)
    "8b 06",  # mov (%rsi), %eax
    "75 00",  # jnz to the next
    "f3 90",  # pause
    "fb",  # sti
    "fa",  # cli
    "fd",  # std
    "fc",  # cld
    "11 c0",  # adc %eax, %eax
    "0f 92 c3",  # setc %bl
    "9c 5b 31 d8",  # pushf; pop %rbx; xor %ebx, %eax
    "0f a2",  # cpuid
    "e6 80",  # out %al, $0x80
    "cd 41",  # int $0x41
]
PIECES = {
    32: COMMON,
    64: [
        *COMMON,
        "48 89 02",  # mov %rax, (%rdx): two accesses
        "48 8b 1a",  # mov (%rdx), %rbx: two accesses
    ],
}


#: LIDT and LGDT of what `Bare` has.
TABLES = {64: "0f 01 1c 25 00 80 00 00", 32: "0f 01 1d 00 80 00 00 0f 01 15 18 80 00 00"}
#: Handlers: count; in SCRATCH + 16, put 31 times what is there, and the flags and RIP that were pushed; write
#: an MSR, return.
HANDLER = {
    64: "48 ff 04 25 08 00 20 00 50 48 6b 04 25 10 00 20 00 1f 48 03 44 24 18 48 03 44 24 08"
    "48 89 04 25 10 00 20 00 58 0f 30 48 cf",
    32: "ff 05 08 00 20 00 50 6b 05 10 00 20 00 1f 03 44 24 0c 03 44 24 04 a3 10 00 20 00 58 0f 30 cf",
}
VECTOR, SOFTWARE = 0x40, 0x41


def program(choice, bits):
    body = b"".join(bytes.fromhex(choice.choice(PIECES[bits])) for _ in range(choice.randrange(3, 30)))
    # mov to EDX, EDI, ESI, ECX
    into = zip((0xBA, 0xBF, 0xBE, 0xB9), (DEVICE, DEVICE + 1, SCRATCH, TMCCT), strict=True)
    start = b"".join(struct.pack("<BI", register, value) for register, value in into)
    return bytes.fromhex(TABLES[bits]) + start + body + b"\xe9" + struct.pack("<i", -len(body) - 5)


def play(seed, fastpath, bits):
    """Run a random guest; every exit with where the guest stood, and what is left of it in the end."""
    choice = random.Random(seed)
    guest = Bare(program(choice, bits), bits=bits)
    for vector in (2, VECTOR, SOFTWARE):
        if choice.random() < 0.95:  # else the guest shuts down
            guest.handler(vector, bytes.fromhex(HANDLER[bits]), kind=choice.choice((0xE, 0xF)))
    cpu = guest.engine
    told: list[Any] = []
    seen = 0
    now = 0
    shut = nmi_shut = False  # by what has been injected; not if its gate is a trap gate

    def arguments():
        step = random.Random(seed << 20 | seen)
        until, preemption = (
            now + step.choice((5, 50, 10_000)) if step.random() < 0.8 else None for _ in "ab"
        )
        return (
            now,
            now + 20_000 if until is preemption is None else until,
            preemption,
            step.random() < 0.3 and (shut or not cpu.interruptible),
            step.random() < 0.3 and (nmi_shut or cpu.nmi_blocked),
        )

    def handle(left):
        nonlocal now, seen, shut, nmi_shut
        told.append((left, cpu.rip, cpu.instructions, cpu.interrupts_enabled, cpu.nmi_blocked))
        seen += 1
        now = left.host_tsc + seen % 7
        if isinstance(left, (e.ReadMsr, e.ReadMemory)):
            cpu.complete(seen * 0x0101_0101 & 0xFFFF_FFFF)
        elif isinstance(left, (e.WriteMsr, e.WriteMemory, e.WritePort)):
            cpu.complete()
        elif isinstance(left, e.Cpuid):
            cpu.complete((seen, TMCCT, SCRATCH, DEVICE))
        told.append((cpu.rip, cpu.instructions))
        step = random.Random(seed << 20 | seen | 1 << 19)
        nmi_shut = step.random() < 0.3 and not cpu.nmi_blocked
        shut = nmi_shut or (step.random() < 0.3 and cpu.interruptible)
        if nmi_shut:
            cpu.inject_nmi()
        elif shut:
            cpu.inject_interrupt(VECTOR)

    def at_once(left):
        handle(left)
        return None if seen % 5 == 0 else arguments()

    if fastpath:
        cpu.fastpath = at_once
    handled = 0
    left = None
    while seen < 150 and not isinstance(left, e.Shutdown):
        left = cpu.run(*arguments())
        if isinstance(left, e.Handled):
            handled += 1
        else:
            handle(left)
    told.append((cpu.rip, cpu.instructions, guest.quads(SCRATCH, 3), now))
    cpu.close()
    return told, handled


@pytest.mark.skipif(not native_counting(), reason="exits are handled in a run where machine code counts")
@pytest.mark.parametrize("bits", PIECES)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_random_guest_makes_the_same_exits(seed, bits):
    without, _ = play(seed, False, bits)
    with_it, _ = play(seed, True, bits)
    assert with_it == without


@pytest.mark.parametrize("bits", PIECES)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_random_guest_makes_the_same_exits_where_accesses_run_one_by_one(monkeypatch, seed, bits):
    expected, _ = play(seed, False, bits)
    monkeypatch.setattr(device_memory, "_CREDIT", -1)
    assert play(seed, False, bits)[0] == expected
    assert play(seed, native_counting(), bits)[0] == expected


@pytest.mark.skipif(not native_counting(), reason="exits are handled in a run where machine code counts")
@pytest.mark.parametrize("bits", PIECES)
def test_random_guests_take_it(bits):
    assert sum(play(seed, True, bits)[1] for seed in range(SEEDS)) > SEEDS


@pytest.mark.skipif(not native_counting(), reason="exits are handled in a run where machine code counts")
def test_random_guests_go_to_handlers_without_a_stop(monkeypatch):
    gone = {False: 0, True: 0}
    interrupt_at_once = Processor.interrupt_at_once

    def count(processor, *call):
        went = interrupt_at_once(processor, *call)
        gone[went] += 1
        return went

    monkeypatch.setattr(Processor, "interrupt_at_once", count)
    for seed in range(SEEDS):
        play(seed, True, 64)
    assert gone[True] > SEEDS
    assert gone[False]  # the first time a handler is entered, for one


@pytest.mark.skipif(not native_counting(), reason="exits are handled in a run where machine code counts")
@pytest.mark.parametrize("piece", ["89 02", "8b 02", "0f 30", "0f 32"])
def test_machine_code_knows_an_exit_after_it_was_seen(monkeypatch, piece):
    """Else the tests above would compare Python with itself."""
    asked = []
    for name in ("_on_site", "_on_access"):
        ask = getattr(FastpathCore, name)
        monkeypatch.setattr(FastpathCore, name, lambda *call, ask=ask: asked.append(0) or ask(*call))
    # mov $DEVICE, %edx; mov $TMCCT, %ecx; 1: the piece; jmp 1b
    start = struct.pack("<BIBI", 0xBA, DEVICE, 0xB9, TMCCT)
    guest = Bare(start + bytes.fromhex(piece) + b"\xeb\xfc")
    times = []

    def handle(left):
        times.append(left.host_tsc)
        guest.engine.complete(0 if isinstance(left, (e.ReadMsr, e.ReadMemory)) else None)
        return None if len(times) == 500 else (left.host_tsc, left.host_tsc + 10_000, None, False, False)

    guest.engine.fastpath = handle
    while not isinstance(left := guest.engine.run(0, 10_000), e.Handled):
        times.append(left.host_tsc)
        guest.engine.complete(0 if isinstance(left, (e.ReadMsr, e.ReadMemory)) else None)
    guest.engine.close()
    assert len(times) == 500
    assert len(asked) < 10


@pytest.mark.skipif(not native_counting(), reason="needs the CPU's own memory")
def test_unicorn_tells_where_in_its_code_an_access_is_made():
    assert find_place_offset() is not None


@pytest.mark.parametrize("fastpath", [False, True])
@pytest.mark.parametrize("piece", ["0f 30", "89 02"])
def test_an_interrupt_without_a_handler_shuts_the_guest_down_at_once(fastpath, piece):
    # sti; mov $DEVICE, %edx; mov $DEADLINE, %ecx; 1: the piece; nop; jmp 1b
    start = struct.pack("<BBIBI", 0xFB, 0xBA, DEVICE, 0xB9, DEADLINE)
    guest = Bare(start + bytes.fromhex(f"{piece} 90 eb fb"))
    cpu = guest.engine
    seen = []

    def handle(left):
        seen.append(left)
        cpu.complete()
        if len(seen) == 9:
            cpu.inject_interrupt(VECTOR)
        return left.host_tsc, 1_000, None, False, False

    if fastpath:
        cpu.fastpath = handle
    while not isinstance(left := guest.run(1_000), (e.Shutdown, e.ExternalInterrupt)):
        handle(left)
    assert isinstance(left, e.Shutdown)
    assert cpu.instructions == 3 + 8 * 3 + 1
    assert len(seen) == 9


@pytest.mark.parametrize("fastpath", [False, True])
def test_the_interrupt_window_is_open_in_the_nmi_handler_of_a_trap_gate(fastpath):
    # lidt; sti; mov $DEADLINE, %ecx; 1: wrmsr; jmp 1b
    guest = Bare(bytes.fromhex(TABLES[64] + "fb b9 e0 06 00 00 0f 30 eb fc"))
    handler = guest.handler(2, bytes.fromhex("90 48 cf"), kind=0xF)
    cpu = guest.engine
    told: list[Any] = []

    def handle(left):
        told.append((left, cpu.rip))
        if isinstance(left, e.InterruptWindow):
            return left.host_tsc, None, None, False, False
        cpu.complete()
        asked = len(told) % 8 == 1
        if asked:
            cpu.inject_nmi()
        return left.host_tsc, None, None, asked, False

    if fastpath:
        cpu.fastpath = lambda left: handle(left) if len(told) < 99 else handle(left) and None
    entry = None, None, False, False
    while len(told) < 100:
        left = cpu.run(guest.now, *entry)
        if not isinstance(left, e.Handled):
            guest.now, *entry = handle(left)
    windows = [index for index, (left, rip) in enumerate(told) if isinstance(left, e.InterruptWindow)]
    assert windows == [index for index in range(100) if index % 8 == 1]
    assert {told[index][1] for index in windows} == {handler}


@pytest.mark.parametrize("fastpath", [False, True])
def test_an_interrupt_pushes_the_flags_that_hold_now(fastpath):
    """In a hook Unicorn has others beside them: those of the last instruction that had one."""
    # lidt; mov $DEADLINE, %ecx; sti; 1: xor %eax, %eax: ZF and PF; wrmsr; mov $0, %ah; sahf: none of them;
    # jmp to the next; wrmsr; jmp 1b
    program = TABLES[64] + "b9 e0 06 00 00 fb 31 c0 0f 30 b4 00 9e eb 00 0f 30 eb f1"
    guest = Bare(bytes.fromhex(program))
    guest.handler(VECTOR, bytes.fromhex("48 cf"))
    cpu = guest.engine
    seen, pushed = [], set()

    def handle(left):
        seen.append(left)
        pushed.add(guest.u64(STACK_TOP - 3 * 8))
        cpu.complete()
        if len(seen) % 2 == 0:
            cpu.inject_interrupt(VECTOR)
        return left.host_tsc, None, None, False, False

    if fastpath:
        cpu.fastpath = lambda left: handle(left) if len(seen) < 49 else handle(left) and None
    while len(seen) < 50:
        left = guest.run()
        if not isinstance(left, e.Handled):
            handle(left)
    assert pushed == {0, 0x202}


@pytest.mark.parametrize("fastpath", [False, True])
def test_another_exiting_instruction_written_over_one_is_that_one(fastpath):
    kinds = {"0f 30": e.WriteMsr, "0f 32": e.ReadMsr, "0f a2": e.Cpuid}
    # 1: mov $DEADLINE, %ecx; mov $SCRATCH, %edi; movw the bytes, 1(%rdi); call *%rdi, four times; jmp 1b
    body = b"".join(
        struct.pack("<BIBI", 0xB9, DEADLINE, 0xBF, SCRATCH)
        + bytes.fromhex(f"66 c7 47 01 {code}{' ff d7' * 4}")
        for code in kinds
    )
    guest = Bare(body + b"\xe9" + struct.pack("<i", -len(body) - 5))
    guest.put(SCRATCH, bytes.fromhex("90 0f 30 90 c3"))
    cpu = guest.engine
    seen = []

    def handle(left):
        seen.append(type(left))
        answers: dict[type, Any] = {e.ReadMsr: 5, e.Cpuid: (1, 2, 3, 4)}
        cpu.complete(answers.get(type(left)))
        return left.host_tsc, left.host_tsc + 10_000, None, False, False

    cpu.fastpath = handle if fastpath else None
    now = 0
    while len(seen) < 60:
        left = cpu.run(now, now + 10_000)
        now = left.host_tsc
        handle(left)
    assert seen[:60] == [kind for kind in kinds.values() for _ in range(4)] * 5
