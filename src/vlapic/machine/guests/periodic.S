# SPDX-License-Identifier: GPL-2.0-or-later
# periodic: let the timer run with a period and take N interrupts, spinning in between.
#
# Deadline k is where the count was written plus what k periods take, so that nothing adds up. A host that
# gives longer periods than it was asked for, as KVM does below 200 us, is seen to be ever later.

        .include "common.S"
        .include "count.S"

# R14 = the deadline of the next period: R9 counts them, R8 is where the first began. RAX, RCX, RDX are lost.
        .macro  NEXT_DEADLINE
        incq    %r9
        movq    %r9, %rax
        imulq   %r15, %rax
        CYCLES_OF_COUNTS
        addq    %r8, %rax
        movq    %rax, %r14
        .endm

        .text
        HEADER

entry:  SET_UP
        COUNT_FOR_DISTANCE
        SET_UP_APIC PERIODIC | TIMER_VECTOR
        movl    $DIVIDE_BY_1, APIC_DIVIDE(%rbx)

        testq   %r12, %r12
        jz      finish
        xorl    %r9d, %r9d              # periods so far
        READ_TSC
        movq    %rax, %r8
        NEXT_DEADLINE
        movl    %r15d, APIC_INITIAL_COUNT(%rbx)
        sti
again:  movl    $0, arrived(%rip)
wait:   cmpl    $0, arrived(%rip)
        je      wait
        jmp     again

finish: FINISH  "periodic"

timer_interrupt:
        ENTER_HANDLER
        cmpq    %r12, results(%rip)
        je      last
        NEXT_DEADLINE
        movl    $0, APIC_EOI(%rbx)
        LEAVE_HANDLER
last:   movl    $0, APIC_INITIAL_COUNT(%rbx)
        jmp     finish

        COUNT_MEMORY
        LIBRARY
