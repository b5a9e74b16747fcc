# SPDX-License-Identifier: GPL-2.0-or-later
# storm: deadlines that are near or already past, armed with interrupts on and off. Each must bring its handler
# once: one that never comes is waited for without end, one that comes twice is counted.
#
# A pseudo-random number says how each is armed: bit 63 for the past, bit 62 for interrupts off, 32 bits below
# them for how far, up to the distance.

        .include "common.S"

        .set    INTERRUPTS_OFF_LAPS, 500
        .set    STRAGGLER_LAPS, 50000

        .text
        HEADER

entry:  SET_UP
        SET_UP_APIC TSC_DEADLINE | TIMER_VECTOR
        mfence                          # before the first WRMSR of a deadline (SDM)

        movq    %r12, %rbp
        testq   %rbp, %rbp
        jz      finish
        movl    $1, %r15d
        sti
again:  RANDOM
        shrq    $30, %rax
        movl    %eax, %eax
        mulq    %r13
        shrdq   $32, %rdx, %rax
        movq    %rax, %rdi              # how far
        movl    $0, arrived(%rip)
        btq     $62, %r15
        jnc     1f
        cli
1:      READ_TSC
        testq   %r15, %r15
        js      past
        addq    %rdi, %rax
        jmp     2f
past:   subq    %rdi, %rax              # there is no time before 1
        jbe     3f
2:      testq   %rax, %rax
        jnz     4f
3:      movl    $1, %eax
4:      ARM_AT
        btq     $62, %r15
        jnc     wait
        movl    $INTERRUPTS_OFF_LAPS, %ecx
5:      pause
        decl    %ecx
        jnz     5b
        sti
wait:   cmpl    $0, arrived(%rip)
        je      wait
        decq    %rbp
        jnz     again
        movl    $STRAGGLER_LAPS, %ecx
6:      pause
        decl    %ecx
        jnz     6b
        cli
finish: FINISH  "storm"

timer_interrupt:
        ENTER_HANDLER
        movl    $0, APIC_EOI(%rbx)
        LEAVE_HANDLER

        LIBRARY
