# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts and time of the emulated CPU, to the instruction; how a run ends, whatever ends it."""

import os

import pytest

from tests.support.bare_unicorn import ENTRY, SCRATCH, Bare, code
from tests.support.limits import interrupted_after
from vlapic.errors import EngineError
from vlapic.machine.engines import contract as e

# -- time --


def test_rdtsc_is_exact_in_the_middle_of_a_block(boot):
    guest = boot(
        code(
            """
            90                       nop
            0f 31                    rdtsc
            48 89 04 25 00 00 20 00  mov %rax, 0x200000
            0f 01 f9                 rdtscp
            48 89 04 25 08 00 20 00  mov %rax, 0x200008
            0f 31                    rdtsc
            48 c1 e2 20              shl $32, %rdx
            48 09 d0                 or %rdx, %rax
            48 89 04 25 10 00 20 00  mov %rax, 0x200010
            f4                       hlt
            """
        ),
        cycles_per_insn=4,
    )
    guest.now = 1 << 33
    guest.run()
    assert guest.quads(SCRATCH, 3) == (4, 12, (1 << 33) + 20)


def test_rdtsc_follows_scale_and_offset(boot):
    guest = boot(
        code(
            """
            0f 31                    rdtsc
            48 89 04 25 00 00 20 00  mov %rax, 0x200000
            f4                       hlt
            """
        ),
        host_khz=4_000_000,
        offset=7,
    )
    guest.now = 1000
    guest.run()
    assert guest.u64(SCRATCH) == 507


# -- counting --

_LOOP = code(
    """
    b9 e8 03 00 00          mov $1000, %ecx
    48 01 c8                1: add %rcx, %rax
    e8 05 00 00 00          call 2f
    ff c9                   dec %ecx
    75 f4                   jnz 1b
    f4                      hlt
    c3                      2: ret
    """
)


def test_a_loop_with_a_call_is_counted_exactly(boot):
    guest = boot(_LOOP)
    assert guest.run() == e.Hlt(1 + 1000 * 5 + 1)
    assert guest.engine.instructions == 5002


def test_the_guest_is_stopped_at_the_first_block_at_or_past_the_limit(boot):
    # Blocks of 3 (mov, add, call), 1 (ret), 2 (dec, jnz), 2 (add, call), 1, 2, 2 ...
    guest = boot(_LOOP)
    seen = []
    for until in range(1, 12):
        left = guest.run(max(until, guest.now + 1))
        assert isinstance(left, e.ExternalInterrupt)
        seen.append(guest.now)
    assert seen == [3, 4, 6, 8, 9, 11, 13, 14, 16, 18, 19]
    assert guest.run() == e.Hlt(5002)


def test_a_limit_reached_already_runs_nothing_and_the_preemption_timer_comes_first(boot):
    guest = boot(_LOOP)
    guest.now = 50
    assert guest.run(50) == e.ExternalInterrupt(50)
    assert guest.run(50, 50) == e.PreemptionTimer(50)
    assert guest.run(None, 40) == e.PreemptionTimer(50)
    assert guest.engine.instructions == 0
    assert guest.run(60, 60) == e.PreemptionTimer(61)
    assert guest.run(70, 75) == e.ExternalInterrupt(71)


def test_a_string_instruction_counts_each_iteration_and_the_look_at_zero(boot):
    guest = boot(
        code(
            """
            bf 00 00 20 00          mov $0x200000, %edi
            b9 64 00 00 00          mov $100, %ecx
            f3 aa                   rep stosb
            90                      nop
            f4                      hlt
            """
        )
    )
    assert isinstance(guest.run(), e.Hlt)
    assert guest.engine.instructions == 2 + 101 + 2


def test_code_that_the_guest_rewrites_is_looked_at_again(boot):
    guest = boot(
        code(
            """
            bb 02 00 00 00                 mov $2, %ebx
            e8 0f 00 00 00                 1: call 2f
            66 c7 04 25 39 00 10 00 0f 30  movw $0x300f, 2f
            ff cb                          dec %ebx
            75 ed                          jnz 1b
            f4                             hlt
            66 90                          2: xchg %ax, %ax
            c3                             ret
            """
        )
    )
    assert guest.run() == e.WriteMsr(1 + 6 + 1, 0, 0)
    guest.engine.complete()
    assert isinstance(guest.run(), e.Hlt)
    assert guest.engine.instructions == 1 + 6 + 6 + 1


def test_code_that_no_longer_leaves_the_guest_runs_on(boot):
    guest = boot(
        code(
            """
            bb 02 00 00 00                 mov $2, %ebx
            e8 0f 00 00 00                 1: call 2f
            66 c7 04 25 39 00 10 00 66 90  movw $0x9066, 2f
            ff cb                          dec %ebx
            75 ed                          jnz 1b
            f4                             hlt
            0f 30                          2: wrmsr
            c3                             ret
            """
        )
    )
    assert isinstance(guest.run(), e.WriteMsr)
    guest.engine.complete()
    assert isinstance(guest.run(), e.Hlt)
    assert guest.engine.instructions == 1 + 6 + 6 + 1


def test_pause_costs_an_instruction_and_does_not_leave(boot):
    guest = boot(
        code(
            """
            b9 0a 00 00 00          mov $10, %ecx
            f3 90                   1: pause
            ff c9                   dec %ecx
            75 fa                   jnz 1b
            f4                      hlt
            """
        )
    )
    assert guest.run() == e.Hlt(32)


# -- loops that only wait --


def test_a_waiting_loop_costs_the_host_nothing_and_the_guest_the_same(native):
    program = code(
        """
        90                       nop
        f3 90                    1: pause
        83 3c 25 00 00 20 00 00  cmpl $0, 0x200000
        74 f4                    je 1b
        f4                       hlt
        """
    )
    runs = []
    for fast_spin in (True, False):
        guest = Bare(program, native=native, fast_spin=fast_spin)
        with guest.engine as engine:
            stops = [
                (guest.run(until), engine.rip, engine.instructions) for until in (1, 2, 3, 100, 101, 4711)
            ]
            guest.put(SCRATCH, b"\1")
            stops.append((guest.run(), engine.rip, engine.instructions))
        runs.append(stops)
    assert runs[0] == runs[1]
    assert [stop[0].host_tsc for stop in runs[0]] == [2, 2, 4, 100, 101, 4711, 4715]


def test_a_waiting_loop_is_run_to_any_time_at_once(boot):
    guest = boot(
        code(
            """
            83 3c 25 00 00 20 00 00  1: cmpl $0, 0x200000
            74 f6                    je 1b
            """
        )
    )
    assert guest.run(10_000_000_001) == e.ExternalInterrupt(10_000_000_002)


# -- what the outside world does --


def test_a_run_without_an_end_comes_back_now_and_then(boot):
    guest = boot(
        code(
            """
            eb fe                   1: jmp 1b
            """
        )
    )
    assert isinstance(guest.run(), e.ExternalInterrupt)
    assert guest.engine.instructions == 20_000_000


@pytest.mark.skipif(os.name != "posix", reason="sends itself a signal")
@pytest.mark.parametrize("program", ["0f 31 eb fc", "48 ff c0 eb fb", "eb fe"], ids=["rdtsc", "inc", "wait"])
def test_ctrl_c_comes_out_of_a_long_run(boot, program):
    guest = boot(bytes.fromhex(program))  # 1: the instruction, jmp 1b
    with pytest.raises(KeyboardInterrupt), interrupted_after(0.1):
        guest.run(10**13)
    assert ENTRY <= guest.engine.rip <= ENTRY + 3
    assert guest.engine.instructions > 1000


def test_what_a_callback_raises_comes_out_of_the_run(boot, monkeypatch):
    guest = boot(
        code(
            """
            0f 31                   rdtsc
            f4                      hlt
            """
        )
    )
    monkeypatch.setattr(guest.engine._time._tsc, "ratio", None, raising=False)
    with pytest.raises(TypeError):
        guest.run()


def test_a_closed_cpu_knows_where_it_stood_and_leaves_memory_to_its_owner(boot):
    guest = boot(b"\x90\x0f\x30")
    guest.run()
    guest.engine.close()
    guest.engine.close()
    assert (guest.engine.rip, guest.engine.instructions) == (ENTRY + 1, 1)
    for use in (guest.run, guest.engine.complete, lambda: guest.engine.inject_interrupt(32)):
        with pytest.raises(EngineError, match="the emulated CPU is closed; make another one"):
            use()
    assert guest.memory[ENTRY : ENTRY + 3] == b"\x90\x0f\x30"
    guest.memory.close()


def test_an_instruction_takes_a_cycle_at_least(boot):
    with pytest.raises(EngineError, match="takes 0 cycles; expected 1 or more"):
        boot(b"\xf4", cycles_per_insn=0)
