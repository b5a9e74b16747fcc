# SPDX-License-Identifier: GPL-2.0-or-later
"""Instructions that leave the guest: each stands where it should, says what it should, and is completed."""

import pytest

from tests.support.bare_unicorn import ENTRY, SCRATCH, code
from vlapic.machine.engines import contract as e


def test_rdmsr_stops_at_the_instruction_and_completes_with_64_bits(boot):
    guest = boot(
        code(
            """
            b9 1b 00 00 00           mov $0x1b, %ecx
            90                       nop
            0f 32                    rdmsr
            48 89 04 25 00 00 20 00  mov %rax, 0x200000
            48 89 14 25 08 00 20 00  mov %rdx, 0x200008
            f4                       hlt
            """
        )
    )
    assert guest.run() == e.ReadMsr(2, 0x1B)
    assert (guest.engine.rip, guest.engine.instructions) == (ENTRY + 6, 2)
    guest.engine.complete(0xFFFF_FFFF_8000_0001)
    assert (guest.engine.rip, guest.engine.instructions) == (ENTRY + 8, 3)
    assert guest.run() == e.Hlt(5)
    assert guest.quads(SCRATCH, 2) == (0x8000_0001, 0xFFFF_FFFF)
    assert (guest.engine.rip, guest.engine.instructions) == (ENTRY + 25, 6)


def test_wrmsr_carries_edx_eax(boot):
    guest = boot(
        code(
            """
            b9 e0 06 00 00                 mov $0x6e0, %ecx
            48 b8 01 00 00 00 ef be ad de  mov $0xdeadbeef00000001, %rax
            48 ba 02 00 00 00 ef be ad de  mov $0xdeadbeef00000002, %rdx
            0f 30                          wrmsr
            f4                             hlt
            """
        )
    )
    assert guest.run() == e.WriteMsr(3, 0x6E0, 0x2_0000_0001)
    guest.engine.complete()
    assert guest.run() == e.Hlt(4)
    assert guest.engine.instructions == 5


def test_time_goes_on_from_where_the_caller_says(boot):
    guest = boot(
        code(
            """
            0f 30                   wrmsr
            90                      nop
            0f 30                   wrmsr
            """
        ),
        cycles_per_insn=3,
    )
    assert guest.engine.run(100).host_tsc == 100
    guest.engine.complete()
    assert guest.engine.run(5000).host_tsc == 5003
    assert guest.engine.instructions == 2


def test_an_exit_that_is_not_completed_comes_again(boot):
    guest = boot(
        code(
            """
            90                      nop
            0f 30                   wrmsr
            """
        )
    )
    assert guest.run() == e.WriteMsr(1, 0, 0)
    assert guest.run() == e.WriteMsr(1, 0, 0)
    assert guest.engine.instructions == 1


def test_the_cpu_keeps_its_own_msrs_to_itself(boot):
    guest = boot(
        code(
            """
            b9 01 01 00 c0                          mov $0xc0000101, %ecx
            b8 00 00 20 00                          mov $0x200000, %eax
            31 d2                                   xor %edx, %edx
            0f 30                                   wrmsr
            65 48 c7 04 25 00 00 00 00 07 00 00 00  movq $7, %gs:0
            31 c0                                   xor %eax, %eax
            0f 32                                   rdmsr
            48 89 04 25 08 00 20 00                 mov %rax, 0x200008
            f4                                      hlt
            """
        )
    )
    assert guest.run() == e.Hlt(9)
    assert guest.quads(SCRATCH, 2) == (7, 0x20_0000)
    assert guest.engine.instructions == 9


@pytest.mark.parametrize(
    ("msr", "value"),
    [
        (0xC000_0101, 1 << 63),
        (0xC000_0080, 0xD01 | 1 << 12),
        (0xC000_0080, 0xC01),
        (0x277, 2),
        (0xC000_0103, 1 << 32),
    ],
)
def test_a_value_the_cpu_cannot_hold_is_a_general_protection(boot, msr, value):
    guest = boot(
        code(
            """
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            8b 0c 25 00 00 20 00     mov 0x200000, %ecx
            8b 04 25 08 00 20 00     mov 0x200008, %eax
            8b 14 25 0c 00 20 00     mov 0x20000c, %edx
            0f 30                    wrmsr
            f4                       hlt
            """
        )
    )
    guest.put(SCRATCH, msr.to_bytes(8, "little") + value.to_bytes(8, "little"))
    handler = guest.handler(13, b"\xf4")
    assert guest.run() == e.Hlt(5)
    assert guest.engine.rip == handler + 1


def test_cpuid_asks_for_leaf_and_subleaf_and_zero_extends(boot):
    guest = boot(
        code(
            """
            b8 0b 00 00 00           mov $0xb, %eax
            b9 01 00 00 00           mov $1, %ecx
            0f a2                    cpuid
            48 89 04 25 00 00 20 00  mov %rax, 0x200000
            48 89 1c 25 08 00 20 00  mov %rbx, 0x200008
            48 89 0c 25 10 00 20 00  mov %rcx, 0x200010
            48 89 14 25 18 00 20 00  mov %rdx, 0x200018
            f4                       hlt
            """
        )
    )
    assert guest.run() == e.Cpuid(2, 0xB, 1)
    assert guest.engine.rip == ENTRY + 10
    guest.engine.complete((1, 2, 0xFFFF_FFFF, 4))
    assert guest.run() == e.Hlt(7)
    assert guest.quads(SCRATCH, 4) == (1, 2, 0xFFFF_FFFF, 4)


def test_ports_are_read_and_written_in_their_sizes(boot):
    guest = boot(
        code(
            """
            48 b8 88 77 66 55 44 33 22 11  mov $0x1122334455667788, %rax
            ba f8 03 00 00                 mov $0x3f8, %edx
            ee                             outb %al, %dx
            66 e7 80                       outw %ax, $0x80
            ef                             outl %eax, %dx
            e4 60                          inb $0x60, %al
            48 89 04 25 00 00 20 00        mov %rax, 0x200000
            66 ed                          inw %dx, %ax
            48 89 04 25 08 00 20 00        mov %rax, 0x200008
            ed                             inl %dx, %eax
            48 89 04 25 10 00 20 00        mov %rax, 0x200010
            f4                             hlt
            """
        )
    )
    for expected, rip in (
        (e.WritePort(2, 0x3F8, 1, 0x88), 15),
        (e.WritePort(3, 0x80, 2, 0x7788), 16),
        (e.WritePort(4, 0x3F8, 4, 0x5566_7788), 19),
    ):
        assert guest.run() == expected
        assert guest.engine.rip == ENTRY + rip
        guest.now += 1
        guest.engine.complete()
    assert guest.run() == e.ReadPort(5, 0x60, 1)
    guest.engine.complete(0xFFF0)
    assert guest.run()[1:] == (0x3F8, 2)
    guest.engine.complete(0x1234)
    assert guest.run()[1:] == (0x3F8, 4)
    guest.engine.complete(0x8000_0000)
    assert isinstance(guest.run(), e.Hlt)
    assert guest.quads(SCRATCH, 3) == (0x1122_3344_5566_77F0, 0x1122_3344_5566_1234, 0x8000_0000)
    assert guest.engine.instructions == 12


def test_a_string_of_bytes_goes_to_its_port_one_by_one(boot):
    guest = boot(
        code(
            """
            be 00 00 20 00           mov $0x200000, %esi
            b9 03 00 00 00           mov $3, %ecx
            ba f8 03 00 00           mov $0x3f8, %edx
            f3 6e                    rep outsb
            48 89 34 25 10 00 20 00  mov %rsi, 0x200010
            f3 6e                    rep outsb
            f4                       hlt
            """
        )
    )
    guest.put(SCRATCH, b"abc")
    said = b""
    while isinstance(left := guest.run(), e.WritePort):
        assert guest.engine.rip == ENTRY + 15
        said += bytes([left.value])
        guest.engine.complete()
    assert said == b"abc"
    assert isinstance(left, e.Hlt)
    assert guest.u64(SCRATCH + 16) == SCRATCH + 3
    assert guest.engine.instructions == 9


def test_a_string_of_words_comes_from_its_port_downwards(boot):
    guest = boot(
        code(
            """
            bf 04 00 20 00          mov $0x200004, %edi
            b9 02 00 00 00          mov $2, %ecx
            fd                      std
            66 f3 6d                rep insw
            f4                      hlt
            """
        )
    )
    for value in (0x1111, 0x2222):
        assert guest.run()[1:] == (0, 2)
        guest.engine.complete(value)
    assert isinstance(guest.run(), e.Hlt)
    assert guest.memory[SCRATCH : SCRATCH + 8] == bytes.fromhex("0000 2222 1111 0000")


def test_cr8_is_read_and_written_by_any_register(boot):
    guest = boot(
        code(
            """
            41 bb 09 00 00 00        mov $9, %r11d
            45 0f 22 c3              mov %r11, %cr8
            44 0f 20 c3              mov %cr8, %rbx
            48 89 1c 25 00 00 20 00  mov %rbx, 0x200000
            f4                       hlt
            """
        )
    )
    assert guest.run() == e.WriteCr8(1, 9)
    guest.engine.complete()
    assert guest.run() == e.ReadCr8(1)
    assert guest.engine.rip == ENTRY + 10
    guest.engine.complete(11)
    assert isinstance(guest.run(), e.Hlt)
    assert guest.u64(SCRATCH) == 11


def test_cr8_takes_no_more_than_four_bits(boot):
    guest = boot(
        code(
            """
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            b8 10 00 00 00           mov $16, %eax
            44 0f 22 c0              mov %rax, %cr8
            """
        )
    )
    handler = guest.handler(13, b"\xf4")
    assert guest.run() == e.Hlt(3)
    assert guest.engine.rip == handler + 1


def test_hlt_stands_behind_the_instruction_and_goes_on(boot):
    guest = boot(
        code(
            """
            90                      nop
            f4                      hlt
            90                      nop
            f4                      hlt
            """
        )
    )
    assert guest.run() == e.Hlt(2)
    assert (guest.engine.rip, guest.engine.instructions) == (ENTRY + 2, 2)
    guest.now = 100
    assert guest.run() == e.Hlt(102)
    assert guest.engine.instructions == 4
