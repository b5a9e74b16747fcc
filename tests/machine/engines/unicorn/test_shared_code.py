# SPDX-License-Identifier: GPL-2.0-or-later
"""Several CPUs over one memory: what one overwrites, another does not run as it was."""

from tests.support.bare_unicorn import SCRATCH, code
from vlapic.machine.engines import contract as e

#: Calls code at 0x118000 again and again.
CALLER = code(
    """
    e8 db 7f 01 00  1: call 0x118000
    f4              hlt
    eb f8           jmp 1b
    """
)
ONE = bytes.fromhex("48 c7 04 25 00 00 20 00 01 00 00 00 c3")  # movq $1, 0x200000; ret
TWO = bytes.fromhex("48 c7 04 25 00 00 20 00 02 00 00 00 c3")
#: Makes the one into the other.
PATCH = code(
    """
    c6 04 25 08 80 11 00 02  movb $2, 0x118008
    f4                       hlt
    """
)
WRITE = code(
    """
    48 c7 04 25 00 84 11 00 05 00 00 00  1: movq $5, 0x118400
    48 c7 04 25 08 00 20 00 05 00 00 00  movq $5, 0x200008
    f4                                   hlt
    eb e5                                jmp 1b
    """
)


def run(guest):
    assert isinstance(guest.run(), e.Hlt)
    return guest.u64(SCRATCH)


def pair(boot, program):
    """A CPU that calls ONE, and one that runs `program` at 0x119000, over the same memory."""
    first = boot(CALLER)
    first.put(0x11_8000, ONE)
    second = boot(b"", memory=first.memory, rip=0x11_9000)
    second.put(0x11_9000, program)
    return first, second


def test_code_that_another_cpu_has_overwritten_is_not_run_as_it_was(boot):
    first, second = pair(boot, PATCH)
    assert run(first) == 1
    run(second)
    assert run(first) == 2
    assert first.memory[0x11_8000 : 0x11_8000 + len(TWO)] == TWO


def test_code_that_was_translated_before_there_was_another_cpu_is_not_either(boot):
    first = boot(CALLER)
    first.put(0x11_8000, ONE)
    assert run(first) == 1
    second = boot(b"", memory=first.memory, rip=0x11_9000)
    second.put(0x11_9000, PATCH)
    run(second)
    assert run(first) == 2


def test_a_count_is_right_after_another_cpu_made_the_code_longer(boot):
    first, second = pair(
        boot,
        code(
            """
    c7 04 25 00 80 11 00 90 90 90 c3  movl $0xc3909090, 0x118000
    f4                                hlt
    """
        ),
    )
    assert first.run() == e.Hlt(4)
    run(second)
    assert first.run() == e.Hlt(4 + 1 + 1 + 4 + 1)


def test_data_beside_code_costs_no_translation(boot, monkeypatch):
    first, second = pair(boot, WRITE)
    run(first)
    run(second)
    run(first)
    forgotten = []
    monkeypatch.setattr(first.engine, "_forget_translated", lambda: forgotten.append(1))
    run(second)
    assert run(first) == 1
    assert forgotten == []
    assert first.u64(0x11_8400) == 5


def test_cpus_of_one_memory_see_what_the_others_write(boot):
    first, second = pair(boot, WRITE)
    run(first)
    run(second)
    assert first.quads(SCRATCH, 2) == (1, 5)
