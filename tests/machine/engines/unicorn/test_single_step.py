# SPDX-License-Identifier: GPL-2.0-or-later
"""Single steps and RF: #DB behind each instruction, those included that the engine carries out by hand."""

from tests.support.bare_unicorn import ENTRY, SCRATCH, code
from vlapic.machine.engines import contract as e

#: Keeps the RIP that was pushed, one behind the other from 0x200000 on, and DR6 at 0x200100.
KEEP_RIP = code(
    """
    48 8b 14 24              mov (%rsp), %rdx
    48 89 93 00 00 20 00     mov %rdx, 0x200000(%rbx)
    83 c3 08                 add $8, %ebx
    0f 21 f2                 mov %dr6, %rdx
    48 89 14 25 00 01 20 00  mov %rdx, 0x200100
    48 cf                    iretq
    """
)


def step(boot, program):
    guest = boot(
        code(
            """
    0f 01 1c 25 00 80 00 00  lidt 0x8000
    31 db                    xor %ebx, %ebx
    68 02 01 00 00           push $0x102
    9d                       popf
    """
        )
        + program
    )
    guest.handler(1, KEEP_RIP)
    return guest


BEGIN = ENTRY + 16  # behind POPF


def test_each_instruction_is_followed_by_a_debug_exception(boot):
    guest = step(
        boot,
        code(
            """
            90     nop
            31 c0  xor %eax, %eax
            6a 02  push $2
            9d     popf
            f4     hlt
            """
        ),
    )
    assert isinstance(guest.run(), e.Hlt)
    assert guest.quads(SCRATCH, 5) == (BEGIN + 1, BEGIN + 3, BEGIN + 5, BEGIN + 6, 0)
    assert guest.u64(SCRATCH + 0x100) == 0xFFFF_4FF0


def test_an_instruction_that_left_the_guest_is_followed_by_one_too(boot):
    guest = step(
        boot,
        code(
            """
        0f 30  wrmsr
        90     nop
        6a 02  push $2
        9d     popf
        f4     hlt
        """
        ),
    )
    assert isinstance(guest.run(), e.WriteMsr)
    guest.engine.complete()
    assert isinstance(guest.run(), e.Hlt)
    assert guest.quads(SCRATCH, 2) == (BEGIN + 2, BEGIN + 3)


def test_hlt_under_a_single_step_does_not_wait(boot):
    guest = step(
        boot,
        code(
            """
        f4     hlt
        6a 02  push $2
        9d     popf
        f4     hlt
        """
        ),
    )
    assert guest.run().host_tsc
    assert guest.engine.rip == BEGIN + 5
    assert guest.u64(SCRATCH) == BEGIN + 1


def test_int1_is_a_trap_behind_itself(boot):
    guest = boot(
        code(
            """
        0f 01 1c 25 00 80 00 00  lidt 0x8000
        31 db                    xor %ebx, %ebx
        f1                       .byte 0xf1
        f4                       hlt
        """
        )
    )
    guest.handler(1, KEEP_RIP)
    assert guest.run() == e.Hlt(3 + 6 + 1)
    assert guest.u64(SCRATCH) == ENTRY + 11


def test_rf_lasts_for_one_instruction_behind_iret(boot):
    guest = boot(
        code(
            """
        6a 10                 push $0x10
        68 00 00 08 00        push $0x80000
        68 02 00 01 00        push $0x10002
        6a 08                 push $8
        68 35 00 10 00        push $0x100035
        48 cf                 iretq
        90                    nop
        9c                    pushf
        8f 04 25 00 00 20 00  pop 0x200000
        f4                    hlt
        """
        )
    )
    assert guest.run() == e.Hlt(10)
    assert guest.u64(SCRATCH) == 2
