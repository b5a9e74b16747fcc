# SPDX-License-Identifier: GPL-2.0-or-later
# oneshot: take N timer interrupts in one-shot mode, spinning in between, and say how late each was.
#
# The deadline is the guest's own: its TSC when it writes the count, plus what the count takes.

        .include "common.S"
        .include "count.S"

        .text
        HEADER

entry:  SET_UP
        COUNT_FOR_DISTANCE
        movl    %r15d, %eax
        CYCLES_OF_COUNTS
        movq    %rax, %r13
        SET_UP_APIC TIMER_VECTOR
        movl    $DIVIDE_BY_1, APIC_DIVIDE(%rbx)

        testq   %r12, %r12
        jz      finish
        sti
        movq    %r12, %rbp
again:  movl    $0, arrived(%rip)
        READ_TSC
        addq    %r13, %rax
        movq    %rax, %r14
        movl    %r15d, APIC_INITIAL_COUNT(%rbx)
wait:   cmpl    $0, arrived(%rip)
        je      wait
        decq    %rbp
        jnz     again
        cli
finish: FINISH  "oneshot"

timer_interrupt:
        ENTER_HANDLER
        movl    $0, APIC_EOI(%rbx)
        LEAVE_HANDLER

        COUNT_MEMORY
        LIBRARY
