# SPDX-License-Identifier: GPL-2.0-or-later
"""Interrupts and exceptions outside 64-bit code: 32-bit gates, inner stacks, what is left out, real mode."""

import struct

import pytest

from tests.support.bare_unicorn import (
    CODE_32,
    DATA_32,
    ENTRY,
    HANDLERS,
    REAL_PAGE,
    SCRATCH,
    STACK_TOP,
    STACKS,
    TSS,
    code,
)
from vlapic.machine.engines import contract as e

GDT = 0xC000
USER_CODE, USER_DATA = 0x00CF_FB00_0000_FFFF, 0x00CF_F300_0000_FFFF

#: Keeps ESP and the six words it points at, and stops.
KEEP_FRAME = code(
    """
    89 25 00 00 20 00  mov %esp, 0x200000
    89 e6              mov %esp, %esi
    bf 04 00 20 00     mov $0x200004, %edi
    b9 06 00 00 00     mov $6, %ecx
    36 f3 a5           rep movsl %ss:(%esi), %es:(%edi)
    f4                 hlt
    """
)
OPEN = code(
    """
    0f 01 15 10 80 00 00  lgdt 0x8010
    0f 01 1d 00 80 00 00  lidt 0x8000
    fb                    sti
    90                    nop
    90                    nop
    90                    nop
    f4                    hlt
    """
)


def use_tss(guest, esp0=STACKS, ss0=0x10):
    """A GDT (LGDT 0x8010): code 8, data 0x10, TSS 0x18, user code 0x23 and data 0x2b, 16-bit code 0x30."""
    tss = 0x67 | (TSS & 0xFF_FFFF) << 16 | 0x89 << 40
    guest.put(GDT, struct.pack("<7Q", 0, CODE_32, DATA_32, tss, USER_CODE, USER_DATA, 0x0000_9B00_0000_FFFF))
    guest.put(0x8010, struct.pack("<HI", 7 * 8 - 1, GDT))
    guest.put(TSS + 4, struct.pack("<II", esp0, ss0))


def test_an_interrupt_pushes_three_words(boot):
    guest = boot(OPEN, bits=32)
    use_tss(guest)
    handler = guest.handler(0xE0, KEEP_FRAME)
    guest.run(4)
    assert guest.engine.interruptible
    rip = guest.engine.rip
    guest.engine.inject_interrupt(0xE0)
    assert (guest.engine.rip, guest.engine.interrupts_enabled) == (handler, False)
    guest.run()
    assert guest.words(SCRATCH, 4) == (STACK_TOP - 12, rip, 8, 0x202)


def test_iret_goes_back_and_a_trap_gate_leaves_interrupts_on(boot):
    guest = boot(OPEN, bits=32)
    use_tss(guest)
    guest.handler(0x40, bytes.fromhex("cf"), kind=0xF)
    guest.run(4)
    guest.engine.inject_interrupt(0x40)
    assert guest.engine.interrupts_enabled
    assert isinstance(guest.run(), e.Hlt)
    assert guest.engine.instructions == 8


def test_a_fault_pushes_its_error_code_and_restarts_with_rf(boot):
    guest = boot(
        code(
            """
    0f 01 15 10 80 00 00  lgdt 0x8010
    0f 01 1d 00 80 00 00  lidt 0x8000
    b8 34 12 00 00        mov $0x1234, %eax
    8e d8                 mov %eax, %ds
    """
        ),
        bits=32,
    )
    use_tss(guest)
    guest.handler(13, KEEP_FRAME)
    guest.run()
    assert guest.words(SCRATCH, 5) == (STACK_TOP - 16, 0x1234, ENTRY + 19, 8, 0x1_0002)


TO_USER = code(
    """
            0f 01 15 10 80 00 00  lgdt 0x8010
            0f 01 1d 00 80 00 00  lidt 0x8000
            b8 18 00 00 00        mov $0x18, %eax
            0f 00 d8              ltr %ax
            6a 2b                 push $0x2b
            68 00 00 1f 00        push $0x1f0000
            68 02 02 00 00        push $0x202
            6a 23                 push $0x23
            68 00 80 11 00        push $0x118000
            cf                    iret
            """
)


def test_an_interrupt_of_user_code_takes_the_stack_of_the_tss_and_goes_back(boot):
    guest = boot(TO_USER, bits=32)
    use_tss(guest)
    guest.put(
        0x11_8000,
        code(
            """
    90     nop
    90     nop
    90     1: nop
    eb fd  jmp 1b
    """
        ),
    )
    guest.handler(
        0x30,
        code(
            """
        89 25 00 00 20 00           mov %esp, 0x200000
        8b 44 24 10                 mov 16(%esp), %eax
        a3 04 00 20 00              mov %eax, 0x200004
        8c 15 08 00 20 00           mov %ss, 0x200008
        66 c7 05 02 80 11 00 90 f4  movw $0xf490, 0x118002
        cf                          iret
        """
        ),
    )
    guest.handler(13, KEEP_FRAME)
    guest.run(14)
    assert guest.engine.interruptible
    guest.engine.inject_interrupt(0x30)
    assert guest.run(guest.now + 4).host_tsc
    assert guest.words(SCRATCH, 3) == (STACKS - 20, 0x2B, 0x10)
    # HLT in user code is a general protection; its error code lies on the stack of the TSS as well.
    assert isinstance(guest.run(), e.Hlt)
    esp, error_code, _, cs, _, user_esp, user_ss = guest.words(SCRATCH, 7)
    assert (esp, error_code, cs, user_esp, user_ss) == (STACKS - 24, 0, 0x23, 0x1F_0000, 0x2B)


@pytest.mark.parametrize(
    ("gate", "vector", "error_code"),
    [
        ({"dpl": 0}, 13, 0x30 << 3 | 2),
        ({"present": 0, "dpl": 3}, 11, 0x30 << 3 | 2),
        ({"selector": 0, "dpl": 3}, 13, 0),
        ({"selector": 0x10, "dpl": 3}, 13, 0x10),
        ({"selector": 0x7FF8, "dpl": 3}, 13, 0x7FF8),
        ({"kind": 0xC, "dpl": 3}, 13, 0x30 << 3 | 2),
    ],
)
def test_an_int_n_of_user_code_finds_a_gate_it_may_use_or_faults(boot, gate, vector, error_code):
    guest = boot(TO_USER, bits=32)
    use_tss(guest)
    guest.put(0x11_8000, bytes.fromhex("cd 30"))
    guest.gate(0x30, HANDLERS, **gate)
    guest.handler(vector, KEEP_FRAME)
    guest.run()
    assert guest.words(SCRATCH + 4, 2) == (error_code, 0x11_8000)


@pytest.mark.parametrize("ss0", [0, 8, 0x2B, 0x78], ids=["null", "code", "another level's", "beyond the GDT"])
def test_a_tss_with_an_unusable_stack_is_an_invalid_tss_fault(boot, ss0):
    guest = boot(TO_USER, bits=32)
    use_tss(guest, ss0=ss0)
    guest.put(0x11_8000, bytes.fromhex("cd 30"))
    guest.gate(0x30, HANDLERS, dpl=3)
    left = guest.run()
    assert isinstance(left, e.Shutdown)
    assert "then #TS, then" in left.reason


def test_a_16_bit_gate_pushes_half_words(boot):
    guest = boot(OPEN, bits=32)
    use_tss(guest)
    guest.gate(0x30, 0x8100, kind=0x6, selector=0x30)
    guest.put(0x8100, b"\xf4")
    guest.run(4)
    rip = guest.engine.rip
    guest.engine.inject_interrupt(0x30)
    assert guest.engine.rip == 0x8100
    assert struct.unpack_from("<3H", guest.memory, STACK_TOP - 6) == (rip & 0xFFFF, 8, 0x202)
    assert isinstance(guest.run(), e.Hlt)


def test_a_task_gate_shuts_down_and_says_so(boot):
    guest = boot(OPEN, bits=32)
    use_tss(guest)
    guest.gate(0x30, 0, kind=0x5, selector=0x18)
    guest.run(4)
    rip = guest.engine.rip
    guest.engine.inject_interrupt(0x30)
    assert guest.run() == e.Shutdown(
        4, f"interrupt 0x30 at rip {rip:#x} has a task gate; this CPU switches no tasks by gates"
    )


def test_no_handler_in_32_bit_code_is_a_triple_fault(boot):
    guest = boot(bytes.fromhex("0f 0b"), bits=32)
    left = guest.run()
    assert left == e.Shutdown(
        0, "#UD at rip 0x100020, then no handler, then no handler, then #DF, then no handler: triple fault"
    )


# -- real mode --


def test_an_interrupt_in_real_mode_goes_through_the_table_at_0(boot):
    guest = boot(
        code(
            """
        bc 00 40  mov $0x4000, %sp
        fb        sti
        90        nop
        cd 21     int $0x21
        90        nop
        f4        hlt
        """
        ),
        bits=16,
    )
    guest.put(0x21 * 4, struct.pack("<HH", 0x50, 0x1100))
    guest.put(0x8 * 4, struct.pack("<HH", 0x60, 0x1100))
    guest.put(
        0x1_1050,
        code(
            """
            89 e5           mov %sp, %bp
            66 8b 46 00     mov (%bp), %eax
            2e 66 a3 00 01  mov %eax, %cs:0x100
            cf              iretw
            """
        ),
    )
    guest.put(0x1_1060, bytes.fromhex("cf"))
    guest.run(3)
    guest.engine.inject_interrupt(8)
    assert (guest.engine.rip, guest.engine.interrupts_enabled) == (0x60, False)
    assert isinstance(guest.run(), e.Hlt)
    assert guest.u32(0x1_1100) == (REAL_PAGE << 8) << 16 | 7
    assert guest.engine.instructions == 3 + 1 + 1 + 4 + 2


def test_a_fault_in_real_mode_has_no_error_code(boot):
    guest = boot(
        code(
            """
        bc 00 40  mov $0x4000, %sp
        0f 0b     ud2
        """
        ),
        bits=16,
    )
    guest.put(6 * 4, struct.pack("<HH", 0x50, 0x1100))
    guest.put(0x1_1050, b"\xf4")
    guest.run()
    assert struct.unpack_from("<3H", guest.memory, 0x4000 - 6)[:2] == (3, REAL_PAGE << 8)
