# SPDX-License-Identifier: GPL-2.0-or-later
# ipi: two CPUs. The first sends N interrupts to the second, which sleeps in HLT and answers each with one of
# its own. What is measured is the time from sending to the answer's handler; the distance is a pause between
# them. Both are in x2APIC mode.

        .include "common.S"
        .include "smp.S"

        .set    QUESTION, 0xe1
        .set    ANSWER, 0xe2
        .set    FIRST_ID, 0

        .text
        HEADER

entry:  SET_UP
        REQUIRE_TWO_CPUS "ipi"
        SET_GATE QUESTION, question
        SET_GATE ANSWER, answer
        SET_UP_X2APIC
        START_SECOND_CPU SEND_BY_MSR

        movq    %r12, %rbp
        testq   %rbp, %rbp
        jz      finish
        sti
again:  movl    $0, arrived(%rip)
        READ_TSC
        movq    %rax, %r14
        SEND_BY_MSR ICR_FIXED + QUESTION
wait:   cmpl    $0, arrived(%rip)
        je      wait
        READ_TSC
        movq    %rax, %r14
        addq    %r13, %r14
pause:  READ_TSC
        cmpq    %r14, %rax
        jb      pause
        decq    %rbp
        jnz     again
        cli
finish: movl    $WRONG_COUNT, %eax
        cmpq    %r12, questions(%rip)
        jne     report
        FINISH  "ipi"

# On the first CPU. Its vector is not the timer's: there is no deadline.
answer: ENTER_HANDLER
        X2APIC_EOI
        LEAVE_HANDLER

timer_interrupt:
        movl    $EXCEPTION + TIMER_VECTOR, %eax
        jmp     report

# -- the second CPU --

second_cpu:
        SET_UP_X2APIC
        movl    $1, second_started(%rip)
1:      sti
        hlt
        jmp     1b

question:
        pushq   %rdx
        pushq   %rcx
        pushq   %rax
        incq    questions(%rip)
        X2APIC_EOI
        movl    $FIRST_ID, %edx
        movl    $ICR_FIXED + ANSWER, %eax
        movl    $MSR_ICR, %ecx
        wrmsr
        popq    %rax
        popq    %rcx
        popq    %rdx
        iretq

        .pushsection .bss
        .balign 8
questions:
        .space  8
        .popsection

        SMP_LIBRARY
        LIBRARY
