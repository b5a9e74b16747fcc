"""How a guest leaves the emulated CPU and goes on: exits, counts and time, to the instruction."""

import os
import signal
import threading

import pytest

from tests.machine.unicorn.bare import ENTRY, SCRATCH, Bare, code
from vlapic.errors import EngineError
from vlapic.machine import engine as e


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


# -- device memory --


def test_a_device_is_read_once_with_the_count_of_the_instruction(boot):
    guest = boot(
        code(
            """
            ba 00 00 e0 fe           mov $0xfee00000, %edx
            90                       nop
            8b 82 90 03 00 00        mov 0x390(%rdx), %eax
            48 89 04 25 00 00 20 00  mov %rax, 0x200000
            f4                       hlt
            """
        )
    )
    assert guest.run() == e.ReadMemory(2, 0xFEE0_0390, 4)
    assert (guest.engine.rip, guest.engine.instructions) == (ENTRY + 6, 2)
    guest.engine.complete(0x8000_1234)
    assert guest.engine.instructions == 3
    guest.now += 1
    assert guest.run() == e.Hlt(5)
    assert guest.u64(SCRATCH) == 0x8000_1234
    assert guest.engine.instructions == 5


def test_a_device_is_written_once(boot):
    guest = boot(
        code(
            """
            ba 00 00 e0 fe                 mov $0xfee00000, %edx
            c7 82 f0 00 00 00 ff 01 00 00  movl $0x1ff, 0xf0(%rdx)
            c6 02 01                       movb $1, (%rdx)
            f4                             hlt
            """
        )
    )
    assert guest.run() == e.WriteMemory(1, 0xFEE0_00F0, 4, 0x1FF)
    guest.engine.complete()
    assert guest.run() == e.WriteMemory(1, 0xFEE0_0000, 1, 1)
    assert (guest.engine.rip, guest.engine.instructions) == (ENTRY + 15, 2)
    guest.engine.complete()
    assert guest.run() == e.Hlt(2)
    assert guest.engine.instructions == 4


def test_a_read_modify_write_reads_once_and_writes_once(boot):
    guest = boot(
        code(
            """
            ba 80 00 e0 fe           mov $0xfee00080, %edx
            90                       nop
            83 0a 05                 orl $5, (%rdx)
            0f 31                    rdtsc
            48 89 04 25 00 00 20 00  mov %rax, 0x200000
            f4                       hlt
            """
        )
    )
    assert guest.run() == e.ReadMemory(2, 0xFEE0_0080, 4)
    assert guest.engine.instructions == 2
    guest.engine.complete(0x30)
    assert guest.engine.instructions == 3
    assert guest.run() == e.WriteMemory(2, 0xFEE0_0080, 4, 0x35)
    assert (guest.engine.rip, guest.engine.instructions) == (ENTRY + 6, 3)
    guest.engine.complete()
    assert guest.engine.instructions == 3
    guest.now = 1000
    assert guest.run() == e.Hlt(1003)
    assert guest.u64(SCRATCH) == 1000
    assert guest.engine.instructions == 6


def test_the_same_access_in_a_loop_is_asked_for_each_time(boot):
    guest = boot(
        code(
            """
            ba 90 03 e0 fe          mov $0xfee00390, %edx
            83 3a 00                1: cmpl $0, (%rdx)
            75 fb                   jne 1b
            f4                      hlt
            """
        )
    )
    asked = []
    for value in (3, 2, 1, 0):
        left = guest.run()
        asked.append((left.host_tsc, guest.engine.instructions))
        assert left[1:] == (0xFEE0_0390, 4)
        guest.engine.complete(value)
        guest.now += 1
    assert asked == [(1, 1), (3, 3), (5, 5), (7, 7)]
    assert guest.run() == e.Hlt(10)
    assert guest.engine.instructions == 10


def test_a_string_move_reads_a_device_element_by_element(boot):
    guest = boot(
        code(
            """
            be 00 00 e0 fe          mov $0xfee00000, %esi
            bf 00 00 20 00          mov $0x200000, %edi
            b9 02 00 00 00          mov $2, %ecx
            f3 a5                   rep movsl
            f4                      hlt
            """
        )
    )
    for address, value in ((0xFEE0_0000, 0x1111_1111), (0xFEE0_0004, 0x2222_2222)):
        assert guest.run()[1:] == (address, 4)
        guest.engine.complete(value)
    assert isinstance(guest.run(), e.Hlt)
    assert guest.u64(SCRATCH) == 0x2222_2222_1111_1111


def test_a_push_from_a_device_reads_it_in_two_halves_and_pushes_once(boot):
    guest = boot(
        code(
            """
            ba 00 00 e0 fe           mov $0xfee00000, %edx
            bc 08 00 20 00           mov $0x200008, %esp
            ff 32                    push (%rdx)
            48 89 24 25 08 00 20 00  mov %rsp, 0x200008
            f4                       hlt
            """
        )
    )
    assert guest.run() == e.ReadMemory(2, 0xFEE0_0000, 4)
    guest.engine.complete(0x5566_7788)
    assert guest.run() == e.ReadMemory(2, 0xFEE0_0004, 4)
    guest.engine.complete(0x1122_3344)
    assert isinstance(guest.run(), e.Hlt)
    assert guest.quads(SCRATCH, 2) == (0x1122_3344_5566_7788, SCRATCH)
    assert guest.engine.instructions == 5


def test_an_interrupt_after_a_completed_access_comes_behind_its_instruction(boot):
    guest = boot(
        code(
            """
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            ba 00 00 e0 fe           mov $0xfee00000, %edx
            fb                       sti
            90                       nop
            8b 02                    mov (%rdx), %eax
            48 89 04 25 00 00 20 00  mov %rax, 0x200000
            f4                       hlt
            """
        )
    )
    guest.handler(
        0x40,
        code(
            """
            48 89 04 25 08 00 20 00  mov %rax, 0x200008
            58                       pop %rax
            48 89 04 25 10 00 20 00  mov %rax, 0x200010
            f4                       hlt
            """
        ),
    )
    assert guest.run() == e.ReadMemory(4, 0xFEE0_0000, 4)
    guest.engine.complete(77)
    assert guest.engine.interruptible
    assert (guest.engine.rip, guest.engine.instructions) == (ENTRY + 17, 5)
    guest.engine.inject_interrupt(0x40)
    guest.now += 1
    assert guest.run() == e.Hlt(9)
    assert guest.quads(SCRATCH, 3) == (0, 77, ENTRY + 17)
    assert guest.engine.instructions == 9


def test_no_interrupt_comes_between_a_read_and_a_write_of_one_instruction(boot):
    guest = boot(
        code(
            """
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            ba 00 00 e0 fe           mov $0xfee00000, %edx
            fb                       sti
            90                       nop
            ff 02                    incl (%rdx)
            f4                       hlt
            """
        )
    )
    assert guest.run() == e.ReadMemory(4, 0xFEE0_0000, 4)
    guest.engine.complete(1)
    assert not guest.engine.interruptible
    assert guest.run() == e.WriteMemory(4, 0xFEE0_0000, 4, 2)
    guest.engine.complete()
    assert guest.engine.interruptible
    assert (guest.engine.rip, guest.engine.instructions) == (ENTRY + 17, 5)
    assert guest.run() == e.Hlt(5)


def test_where_nobody_answers_a_read_is_all_ones_and_a_write_is_lost(boot):
    guest = boot(
        code(
            """
            48 8b 04 25 00 00 80 00           mov 0x800000, %rax
            48 89 04 25 00 00 20 00           mov %rax, 0x200000
            c7 04 25 00 00 80 00 01 00 00 00  movl $1, 0x800000
            8b 04 25 00 00 80 00              mov 0x800000, %eax
            48 89 04 25 08 00 20 00           mov %rax, 0x200008
            48 8b 04 25 fe ff 3f 00           mov 0x3ffffe, %rax
            48 89 04 25 10 00 20 00           mov %rax, 0x200010
            f4                                hlt
            """
        )
    )
    assert isinstance(guest.run(), e.Hlt)
    assert guest.quads(SCRATCH, 3) == (2**64 - 1, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_0000)


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


# -- the interrupt window --


def test_the_window_opens_behind_the_instruction_after_sti(boot):
    guest = boot(
        code(
            """
            90                      nop
            fb                      sti
            90                      nop
            90                      nop
            f4                      hlt
            """
        )
    )
    assert guest.run(window=True) == e.InterruptWindow(3)
    assert (guest.engine.rip, guest.engine.interruptible) == (ENTRY + 3, True)
    assert guest.run(window=True) == e.InterruptWindow(3)
    assert guest.run() == e.Hlt(5)


def test_the_window_opens_behind_popf(boot):
    guest = boot(
        code(
            """
            68 02 02 00 00          push $0x202
            9d                      popf
            90                      nop
            f4                      hlt
            """
        )
    )
    assert not guest.engine.interruptible
    assert guest.run(window=True) == e.InterruptWindow(2)
    assert guest.run() == e.Hlt(4)


def test_a_window_asked_for_does_not_stop_a_guest_that_keeps_it_shut(boot):
    guest = boot(
        code(
            """
            b9 e8 03 00 00          mov $1000, %ecx
            6a 02                   1: push $2
            9d                      popf
            ff c9                   dec %ecx
            75 f9                   jnz 1b
            f4                      hlt
            """
        )
    )
    assert guest.run(window=True) == e.Hlt(4002)


def test_sti_and_hlt_are_never_parted(boot):
    guest = boot(
        code(
            """
            fb                      sti
            f4                      hlt
            """
        )
    )
    assert guest.run(1) == e.ExternalInterrupt(1)
    assert (guest.engine.interrupts_enabled, guest.engine.interruptible) == (True, False)
    assert guest.run(window=True) == e.Hlt(2)
    assert guest.engine.interruptible


def test_an_instruction_completed_by_hand_ends_the_shadow_of_sti(boot):
    guest = boot(
        code(
            """
            fb                      sti
            0f 30                   wrmsr
            f4                      hlt
            """
        )
    )
    assert guest.run() == e.WriteMsr(1, 0, 0)
    assert not guest.engine.interruptible
    guest.engine.complete()
    assert guest.engine.interruptible


def test_mov_ss_holds_interrupts_off_for_one_instruction(boot):
    guest = boot(
        code(
            """
            fb                      sti
            90                      nop
            b8 10 00 00 00          mov $0x10, %eax
            8e d0                   mov %eax, %ss
            90                      nop
            90                      nop
            f4                      hlt
            """
        )
    )
    assert guest.run(3) == e.ExternalInterrupt(4)
    assert (guest.engine.rip, guest.engine.interruptible) == (ENTRY + 9, False)
    assert guest.run(window=True) == e.InterruptWindow(5)
    assert guest.engine.rip == ENTRY + 10


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
    timer = threading.Timer(0.1, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        guest.run(10**13)
    timer.join()
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
