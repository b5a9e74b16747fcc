# SPDX-License-Identifier: GPL-2.0-or-later
# deadline: take N timer interrupts in TSC-deadline mode, spinning in between, and say how late each was.
#
# The local APIC is used as a kernel without x2APIC uses it: through its page at 0xfee00000.

        .include "common.S"

        .text
        HEADER

entry:  SET_UP
        SET_UP_APIC TSC_DEADLINE | TIMER_VECTOR
        mfence                                          # before the first WRMSR of a deadline (SDM)

        testq   %r12, %r12
        jz      finish
        sti
        movq    %r12, %rbp
again:  movl    $0, arrived(%rip)
        ARM_DEADLINE
wait:   cmpl    $0, arrived(%rip)
        je      wait
        decq    %rbp
        jnz     again
        cli
finish: FINISH  "deadline"

timer_interrupt:
        ENTER_HANDLER
        movl    $0, APIC_EOI(%rbx)
        LEAVE_HANDLER

        LIBRARY
