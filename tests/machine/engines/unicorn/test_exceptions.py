# SPDX-License-Identifier: GPL-2.0-or-later
"""Interrupts and exceptions of a guest: frames, stacks, error codes, double and triple faults."""

import struct

import pytest

from tests.support.bare_unicorn import ENTRY, HANDLERS, SCRATCH, STACKS, TSS, code
from vlapic.machine.engines import contract as e

GDT = 0xC000
STACK_TOP = 0x8_0000

#: A handler that keeps RSP and the seven quads it points at, and stops.
KEEP_FRAME = code(
    """
    48 89 24 25 00 00 20 00  mov %rsp, 0x200000
    48 89 e6                 mov %rsp, %rsi
    bf 08 00 20 00           mov $0x200008, %edi
    b9 07 00 00 00           mov $7, %ecx
    f3 48 a5                 rep movsq
    9c                       pushf
    8f 04 25 40 00 20 00     pop 0x200040
    f4                       hlt
    """
)
#: LIDT, interrupts on, three NOPs and HLT.
OPEN = code(
    """
    0f 01 1c 25 00 80 00 00  lidt 0x8000
    fb                       sti
    90                       nop
    90                       nop
    90                       nop
    f4                       hlt
    """
)


def use_tss(guest, ist=0, rsp0=0):
    """Give the guest a GDT of its own with a TSS; it loads them with LGDT 0x8010 and LTR 0x18."""
    tss_descriptor = 0x67 | (TSS & 0xFF_FFFF) << 16 | 0x89 << 40
    flat = (0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)
    user = (0x00CF_F300_0000_FFFF, 0x00AF_FB00_0000_FFFF)
    guest.put(GDT, struct.pack("<7Q", *flat, tss_descriptor, 0, *user))
    guest.put(0x8010, struct.pack("<HQ", 7 * 8 - 1, GDT))
    guest.put(TSS + 4, struct.pack("<Q", rsp0))
    guest.put(TSS + 0x24, struct.pack("<Q", ist))


def test_an_interrupt_pushes_where_it_came_from_and_switches_interrupts_off(boot):
    guest = boot(OPEN)
    handler = guest.handler(0xE0, KEEP_FRAME)
    guest.run(3)
    assert (guest.engine.rip, guest.engine.interruptible) == (ENTRY + 10, True)
    guest.engine.inject_interrupt(0xE0)
    assert (guest.engine.rip, guest.engine.instructions) == (handler, 3)
    assert not guest.engine.interrupts_enabled
    guest.run()
    rsp, *frame = guest.quads(SCRATCH, 6)
    assert rsp == STACK_TOP - 40
    assert frame == [ENTRY + 10, 0x08, 0x202, STACK_TOP, 0x10]
    assert guest.u64(SCRATCH + 0x40) & 0x200 == 0


def test_a_trap_gate_leaves_interrupts_on(boot):
    guest = boot(OPEN)
    guest.handler(0xE0, b"\xf4", kind=0xF)
    guest.run(3)
    guest.engine.inject_interrupt(0xE0)
    assert guest.engine.interrupts_enabled


def test_iretq_goes_back_to_the_next_instruction(boot):
    guest = boot(
        code(
            """
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            fb                       sti
            b8 05 00 00 00           mov $5, %eax
            ff c8                    1: dec %eax
            75 fc                    jnz 1b
            48 89 24 25 00 00 20 00  mov %rsp, 0x200000
            f4                       hlt
            """
        )
    )
    guest.handler(
        0x30,
        code(
            """
            48 ff 04 25 08 00 20 00  incq 0x200008
            48 cf                    iretq
            """
        ),
    )
    guest.run(5)
    for _ in range(3):
        guest.engine.inject_interrupt(0x30)
        guest.run(guest.now + 3)
    assert guest.run() == e.Hlt(2 + 1 + 5 * 2 + 3 * 2 + 2)
    assert guest.quads(SCRATCH, 2) == (STACK_TOP, 3)


def test_the_stack_is_aligned_before_the_frame(boot):
    guest = boot(
        code(
            """
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            48 83 ec 03              sub $3, %rsp
            cd 30                    int $0x30
            """
        )
    )
    guest.handler(0x30, KEEP_FRAME)
    guest.run()
    assert guest.u64(SCRATCH) == STACK_TOP - 16 - 40
    assert guest.u64(SCRATCH + 32) == STACK_TOP - 3


def test_an_interrupt_stack_of_the_tss_is_used(boot):
    guest = boot(
        code(
            """
            0f 01 14 25 10 80 00 00  lgdt 0x8010
            b8 18 00 00 00           mov $0x18, %eax
            0f 00 d8                 ltr %ax
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            fb                       sti
            90                       nop
            90                       nop
            f4                       hlt
            """
        )
    )
    use_tss(guest, ist=STACKS)
    guest.handler(0x30, KEEP_FRAME, ist=1)
    guest.run(6)
    assert guest.engine.interruptible
    guest.engine.inject_interrupt(0x30)
    guest.run()
    rsp, *frame = guest.quads(SCRATCH, 6)
    assert rsp == STACKS - 40
    assert frame[3:] == [STACK_TOP, 0x10]


def test_an_interrupt_of_user_code_takes_the_kernel_stack_and_goes_back(boot):
    guest = boot(
        code(
            """
            0f 01 14 25 10 80 00 00  lgdt 0x8010
            b8 18 00 00 00           mov $0x18, %eax
            0f 00 d8                 ltr %ax
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            6a 2b                    push $0x2b
            68 00 00 1f 00           push $0x1f0000
            68 02 02 00 00           push $0x202
            6a 33                    push $0x33
            68 00 80 11 00           push $0x118000
            48 cf                    iretq
            """
        )
    )
    use_tss(guest, rsp0=STACKS)
    # User pages: the first 2 MiB, at every level.
    for entry in (0x1000, 0x2000, 0x3000):
        guest.memory[entry] |= 4
    guest.put(
        0x11_8000,
        code(
            """
            90                          nop
            90                          nop
            48 83 3c 25 00 80 1f 00 00  1: cmpq $0, 0x1f8000
            74 f5                       je 1b
            f4                          hlt
            """
        ),
    )
    guest.handler(
        0x30,
        code(
            """
            48 89 e6                             mov %rsp, %rsi
            bf 08 00 20 00                       mov $0x200008, %edi
            b9 05 00 00 00                       mov $5, %ecx
            f3 48 a5                             rep movsq
            48 c7 04 25 00 80 1f 00 01 00 00 00  movq $1, 0x1f8000
            48 cf                                iretq
            """
        ),
    )
    guest.handler(13, KEEP_FRAME)
    guest.run(100)
    assert guest.engine.interruptible
    guest.engine.inject_interrupt(0x30)
    guest.run()
    # HLT in user code is a general protection, whose frame the last handler kept.
    rip, cs, _, rsp, ss = guest.quads(SCRATCH + 16, 5)
    assert (rip, cs, rsp, ss) == (0x11_800D, 0x33, 0x1F_0000, 0x2B)
    assert guest.u64(SCRATCH) == STACKS - 48
    assert guest.u64(SCRATCH + 8) == 0


def test_an_instruction_that_is_none_is_ud_at_its_address(boot):
    guest = boot(
        code(
            """
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            90                       nop
            0f 0b                    ud2
            """
        )
    )
    guest.handler(6, KEEP_FRAME)
    guest.run()
    assert guest.quads(SCRATCH, 2) == (STACK_TOP - 40, ENTRY + 9)
    assert guest.engine.instructions == 2 + 4 + 8 + 3


def test_a_page_fault_says_where_and_why(boot):
    guest = boot(
        code(
            """
            0f 01 1c 25 00 80 00 00        lidt 0x8000
            48 ba 00 00 00 00 40 00 00 00  movabs $0x4000000000, %rdx
            90                             nop
            c7 82 00 10 00 00 01 00 00 00  movl $1, 0x1000(%rdx)
            90                             nop
            """
        )
    )
    keep_cr2 = code(
        """
        0f 20 d0                 mov %cr2, %rax
        48 89 04 25 50 00 20 00  mov %rax, 0x200050
        """
    )
    guest.handler(14, keep_cr2 + KEEP_FRAME)
    guest.run()
    assert guest.u64(SCRATCH + 0x50) == 0x40_0000_1000
    rsp, error_code, rip, *_ = guest.quads(SCRATCH, 6)
    assert (rsp, error_code, rip) == (STACK_TOP - 48, 2, ENTRY + 19)


def test_a_fault_by_the_machine_replaces_the_instruction(boot):
    guest = boot(
        code(
            """
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            90                       nop
            0f 30                    wrmsr
            """
        )
    )
    handler = guest.handler(13, KEEP_FRAME)
    assert isinstance(guest.run(), e.WriteMsr)
    guest.engine.inject_exception(13, 0)
    assert (guest.engine.rip, guest.engine.instructions) == (handler, 2)
    guest.run()
    rsp, error_code, rip, cs, rflags, *_ = guest.quads(SCRATCH, 6)
    assert (rsp, error_code, rip, cs) == (STACK_TOP - 48, 0, ENTRY + 9, 8)
    assert rflags & 0x1_0000  # RF: the instruction is to be started again


def test_int_3_and_int_n_come_back_behind_themselves(boot):
    guest = boot(
        code(
            """
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            cc                       int3
            cd 06                    int $6
            cd 80                    int $0x80
            f4                       hlt
            """
        )
    )
    for vector in (3, 6, 0x80):
        guest.handler(
            vector,
            code(
                """
                48 8b 04 24             mov (%rsp), %rax
                48 89 83 00 00 20 00    mov %rax, 0x200000(%rbx)
                83 c3 08                add $8, %ebx
                48 cf                   iretq
                """
            ),
        )
    assert guest.run() == e.Hlt(1 + 3 * 5 + 1)
    assert guest.quads(SCRATCH, 3) == (ENTRY + 9, ENTRY + 11, ENTRY + 13)


def test_the_same_fault_many_times_is_no_double_fault(boot):
    guest = boot(
        code(
            """
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            bb 64 00 00 00           mov $100, %ebx
            31 c0                    1: xor %eax, %eax
            f7 f0                    div %eax
            ff cb                    dec %ebx
            75 f8                    jnz 1b
            f4                       hlt
            """
        )
    )
    guest.handler(
        0,
        code(
            """
            48 ff 04 25 00 00 20 00  incq 0x200000
            48 83 04 24 02           addq $2, (%rsp)
            48 cf                    iretq
            """
        ),
    )
    assert guest.run() == e.Hlt(2 + 100 * (1 + 3 + 2) + 1)
    assert guest.u64(SCRATCH) == 100


def test_an_invalid_selector_brings_its_error_code(boot):
    guest = boot(
        code(
            """
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            b8 34 12 00 00           mov $0x1234, %eax
            8e d8                    mov %eax, %ds
            """
        )
    )
    guest.handler(13, KEEP_FRAME)
    guest.run()
    assert guest.u64(SCRATCH + 8) == 0x1234


def test_a_fault_while_a_fault_is_delivered_is_a_double_fault(boot):
    guest = boot(
        code(
            """
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            b8 34 12 00 00           mov $0x1234, %eax
            8e d8                    mov %eax, %ds
            """
        )
    )
    guest.gate(13, HANDLERS, present=0)
    guest.handler(8, KEEP_FRAME)
    guest.run()
    assert guest.quads(SCRATCH, 3) == (STACK_TOP - 48, 0, ENTRY + 13)


def test_a_bad_gate_of_an_interrupt_is_a_general_protection_by_an_external_event(boot):
    guest = boot(OPEN)
    guest.gate(0x30, HANDLERS, kind=0xC)
    guest.handler(13, KEEP_FRAME)
    guest.run(3)
    guest.engine.inject_interrupt(0x30)
    guest.run()
    assert guest.quads(SCRATCH + 8, 2) == (0x30 << 3 | 2 | 1, ENTRY + 10)


def test_a_bad_gate_of_int_n_is_a_general_protection_at_the_instruction(boot):
    guest = boot(
        code(
            """
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            cd 30                    int $0x30
            """
        )
    )
    guest.gate(0x30, HANDLERS, present=0)
    guest.handler(11, KEEP_FRAME)
    guest.run()
    assert guest.quads(SCRATCH + 8, 2) == (0x30 << 3 | 2, ENTRY + 8)


@pytest.mark.parametrize("selector", [0, 0x7FF8, 0x10])
def test_a_gate_without_64_bit_code_is_a_general_protection(boot, selector):
    guest = boot(OPEN)
    guest.gate(0x30, HANDLERS, selector=selector)
    guest.handler(13, KEEP_FRAME)
    guest.run(3)
    guest.engine.inject_interrupt(0x30)
    guest.run()
    assert guest.u64(SCRATCH + 8) == selector | 1


def test_a_page_fault_in_the_delivery_is_delivered_instead_and_sets_cr2(boot):
    guest = boot(
        code(
            """
            0f 01 14 25 10 80 00 00        lgdt 0x8010
            b8 18 00 00 00                 mov $0x18, %eax
            0f 00 d8                       ltr %ax
            0f 01 1c 25 00 80 00 00        lidt 0x8000
            48 bc 00 00 00 00 40 00 00 00  movabs $0x4000000000, %rsp
            fb                             sti
            90                             nop
            f4                             hlt
            """
        )
    )
    use_tss(guest, ist=STACKS)
    guest.gate(0x30, HANDLERS)
    keep_cr2 = code(
        """
        0f 20 d0                 mov %cr2, %rax
        48 89 04 25 50 00 20 00  mov %rax, 0x200050
        """
    )
    guest.handler(14, keep_cr2 + KEEP_FRAME, ist=1)
    guest.run(7)
    guest.engine.inject_interrupt(0x30)
    guest.run()
    assert guest.u64(SCRATCH + 0x50) == 0x40_0000_0000 - 8
    assert guest.quads(SCRATCH, 3) == (STACKS - 48, 2, ENTRY + 36)


def test_a_double_fault_without_a_usable_gate_is_a_triple_fault(boot):
    guest = boot(
        code(
            """
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            b8 34 12 00 00           mov $0x1234, %eax
            8e d8                    mov %eax, %ds
            """
        )
    )
    assert guest.run() == e.Shutdown(
        2,
        "#GP at rip 0x10002d, error code 0x1234, then no usable gate 0xd, then #DF, then no usable gate 0x8:"
        " triple fault",
    )


def test_no_handler_at_all_is_a_triple_fault_that_tells_its_story(boot):
    guest = boot(
        code(
            """
            90                             nop
            8a 04 85 00 00 00 40           mov 0x40000000(,%rax,4), %al
            48 ba 00 00 00 00 40 00 00 00  movabs $0x4000000000, %rdx
            c6 42 08 01                    movb $1, 8(%rdx)
            """
        )
    )
    left = guest.run()
    assert left == e.Shutdown(
        3,
        "#PF at rip 0x100032, cr2=0x4000000008, then no handler, then #DF, then no handler: triple fault",
    )
    assert guest.engine.instructions == 3


def test_code_where_there_is_no_memory_is_ud(boot):
    guest = boot(
        code(
            """
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            b8 00 00 80 00           mov $0x800000, %eax
            ff e0                    jmp *%rax
            """
        )
    )
    guest.handler(6, KEEP_FRAME)
    guest.run()
    assert guest.u64(SCRATCH + 8) == 0x80_0000


def test_64_bit_code_cannot_switch_paging_off(boot):
    guest = boot(
        code(
            """
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            0f 20 c0                 mov %cr0, %rax
            48 0f ba f0 1f           btr $31, %rax
            0f 22 c0                 mov %rax, %cr0
            """
        )
    )
    guest.handler(13, KEEP_FRAME)
    guest.run()
    assert guest.quads(SCRATCH + 8, 2) == (0, ENTRY + 16)
