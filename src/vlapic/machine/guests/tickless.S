# SPDX-License-Identifier: GPL-2.0-or-later
# tickless: as an idle kernel without a tick, asleep in HLT between deadlines that are sometimes near and
# sometimes far: 1/16 to 50 times the distance, a fixed pseudo-random sequence.

        .include "common.S"

        .set    PARTS, 16               # of the distance
        .set    MOST_PARTS, 50 * PARTS

        .text
        HEADER

entry:  SET_UP
        SET_UP_X2APIC_TIMER "TSC_DEADLINE | TIMER_VECTOR"

        movq    %r12, %rbp
        testq   %rbp, %rbp
        jz      finish
        movl    $1, %r15d
again:  RANDOM
        shrq    $32, %rax
        imulq   $MOST_PARTS, %rax, %rax
        shrq    $32, %rax
        incq    %rax                    # 1 to MOST_PARTS
        mulq    %r13
        shrdq   $4, %rdx, %rax          # of PARTS
        movq    %rax, %rdi
        movl    $0, arrived(%rip)
        READ_TSC
        addq    %rdi, %rax
        ARM_AT
sleep:  sti                             # holds interrupts off until HLT has begun
        hlt
        cli
        cmpl    $0, arrived(%rip)
        je      sleep
        decq    %rbp
        jnz     again
finish: FINISH  "tickless"

timer_interrupt:
        ENTER_HANDLER
        X2APIC_EOI
        LEAVE_HANDLER

        LIBRARY
