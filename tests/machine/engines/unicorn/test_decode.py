# SPDX-License-Identifier: GPL-2.0-or-later
"""What is seen in a block of instructions, and which loops only wait."""

from itertools import pairwise

import pytest

from tests.support.bare_unicorn import code
from vlapic.machine.engines.unicorn.decode import (
    MODE_FLAG,
    REMAP_FLAG,
    SHADOW_FLAG,
    WINDOW_FLAG,
    Kind,
    decode,
    waiting_loop,
)

AT = 0x10_0000

LOOPS = {
    "flag in memory": code(
        """
        83 3c 25 00 00 20 00 00  1: cmpl $0, 0x200000
        74 f6                    je 1b
        """
    ),
    "flag in a register": code(
        """
        8b 04 25 00 00 20 00    1: mov 0x200000, %eax
        85 c0                   test %eax, %eax
        74 f5                   jz 1b
        """
    ),
    "byte": code(
        """
        0f b6 07                1: movzbl (%rdi), %eax
        84 c0                   test %al, %al
        74 f9                   jz 1b
        """
    ),
    "for ever": code(
        """
        eb fe                   1: jmp 1b
        """
    ),
}
OTHERS = {
    "a store": code(
        """
        ff 04 25 00 00 20 00    1: incl 0x200000
        eb f7                   jmp 1b
        """
    ),
    "a count": code(
        """
        ff c9                   1: dec %ecx
        75 fc                   jnz 1b
        """
    ),
    "a register read before it is written": code(
        """
        85 c0                   1: test %eax, %eax
        8b 04 25 00 00 20 00    mov 0x200000, %eax
        74 f5                   jz 1b
        """
    ),
    "a walk along a list": code(
        """
        48 8b 00                1: mov (%rax), %rax
        48 85 c0                test %rax, %rax
        75 f8                   jnz 1b
        """
    ),
    "a part of a register": code(
        """
        8a 07                   1: mov (%rdi), %al
        84 c0                   test %al, %al
        74 fa                   jz 1b
        """
    ),
    "a look at the time": code(
        """
        0f 31                   1: rdtsc
        eb fc                   jmp 1b
        """
    ),
    "flags read before they are set": code(
        """
        72 0a                    1: jc 2f
        83 3c 25 00 00 20 00 00  cmpl $0, 0x200000
        74 f4                    je 1b
        90                       2: nop
        """
    ),
    "a branch inside": code(
        """
        83 3c 25 00 00 20 00 00  1: cmpl $0, 0x200000
        74 08                    je 2f
        83 3c 25 00 00 20 00 01  cmpl $1, 0x200000
        eb ec                    2: jmp 1b
        """
    ),
}


def reader(program):
    return lambda address, size: program[address - AT : address - AT + size] if address >= AT else b""


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_that_only_waits_is_known(name):
    block = decode(LOOPS[name], AT, len(LOOPS[name]), 64, reader(LOOPS[name]))
    assert (block.head, block.lap) == (AT, block.count)


@pytest.mark.parametrize("name", OTHERS)
def test_a_loop_that_does_more_is_run(name):
    program = OTHERS[name]
    for end in range(1, len(program) + 1):
        assert waiting_loop(AT, AT + end, reader(program)) == (0, 0)


def test_a_waiting_loop_of_several_blocks_is_known_in_each():
    program = code(
        """
        8b 04 25 00 00 20 00    1: mov 0x200000, %eax
        85 c0                   test %eax, %eax
        75 04                   jnz 2f
        f3 90                   pause
        eb f1                   jmp 1b
        90                      2: nop
        """
    )
    read = reader(program)
    edges = (0, 11, 13, 15)
    for start, end in pairwise(edges):
        assert waiting_loop(AT + start, AT + end, read) == (AT, 5)
    assert waiting_loop(AT + 15, AT + 16, read) == (0, 0)
    assert waiting_loop(AT, AT + 13, read) == (0, 0)
    assert waiting_loop(AT + 2, AT + 11, read) == (0, 0)


def test_the_instructions_that_leave_are_found_with_their_operands():
    program = code(
        """
        0f 32                   rdmsr
        e6 80                   out %al, $0x80
        66 ed                   in %dx, %ax
        45 0f 20 c1             mov %cr8, %r9
        44 0f 22 c0             mov %rax, %cr8
        f3 6e                   rep outsb
        64 6e                   fs outsb
        67 6c                   addr32 insb
        0f a2                   cpuid
        0f 22 e3                mov %rbx, %cr4
        0f 01 c1                vmcall
        0f 01 d9                vmmcall
        """
    )
    block = decode(program, AT, len(program), 64, reader(program))
    found = [
        (site.kind, site.size, site.port, site.register, site.repeated, site.address_bits, site.segment)
        for site in block.sites
    ]
    assert found == [
        (Kind.RDMSR, 0, None, 0, False, 64, "ds"),
        (Kind.OUT, 1, 0x80, 0, False, 64, "ds"),
        (Kind.IN, 2, None, 0, False, 64, "ds"),
        (Kind.READ_CR8, 0, None, 9, False, 64, "ds"),
        (Kind.WRITE_CR8, 0, None, 0, False, 64, "ds"),
        (Kind.OUTS, 1, None, 0, True, 64, "ds"),
        (Kind.OUTS, 1, None, 0, False, 64, "fs"),
        (Kind.INS, 1, None, 0, False, 32, "ds"),
        (Kind.CPUID, 0, None, 0, False, 64, "ds"),
        (Kind.WRITE_CR4, 0, None, 3, False, 64, "ds"),
        (Kind.HYPERCALL, 0, None, 0, False, 64, "ds"),
        (Kind.HYPERCALL, 0, None, 0, False, 64, "ds"),
    ]
    assert block.count == 12


@pytest.mark.parametrize(
    ("bits", "program", "size", "address_bits", "count"),
    [
        (16, "67 f3 6e", 1, 32, 1),  # addr32 rep outsb
        (16, "66 6f", 4, 16, 1),  # outsl
        (32, "66 67 6d", 2, 16, 1),  # addr16 insw
        (32, "48 6d", 4, 32, 2),  # dec %eax; insl
    ],
)
def test_the_same_bytes_are_other_instructions_in_code_of_another_size(
    bits, program, size, address_bits, count
):
    data = bytes.fromhex(program)
    block = decode(data, AT, len(data), bits, reader(data))
    (site,) = block.sites
    assert (site.bits, site.size, site.address_bits, block.count) == (bits, size, address_bits, count)


@pytest.mark.parametrize(
    ("program", "flags"),
    [
        ("fb", WINDOW_FLAG | SHADOW_FLAG),  # sti
        ("9d", WINDOW_FLAG),  # popf
        ("48 cf", WINDOW_FLAG | MODE_FLAG),  # iretq
        ("8e d0", SHADOW_FLAG),  # mov %eax, %ss
        ("8e d8", 0),  # mov %eax, %ds
        ("0f 22 d8", REMAP_FLAG),  # mov %rax, %cr3
        ("0f 01 38", REMAP_FLAG),  # invlpg (%rax)
        ("48 cb", MODE_FLAG),  # lretq
        ("0f 05", MODE_FLAG),  # syscall
        ("90", 0),
    ],
)
def test_what_a_block_may_change_is_flagged(program, flags):
    data = bytes.fromhex(program)
    assert decode(data, AT, len(data), 64, reader(data)).flags == flags


def test_what_is_no_instruction_counts_as_one():
    data = bytes.fromhex("90 06 06 06")
    block = decode(data, AT, 4, 64, reader(data))
    assert block.starts == (AT, AT + 1)
    assert [block.left_at(AT + offset) for offset in range(5)] == [2, 1, 0, 0, 0]
