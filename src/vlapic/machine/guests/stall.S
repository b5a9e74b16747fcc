# SPDX-License-Identifier: GPL-2.0-or-later
# stall: N - 1 timer interrupts in TSC-deadline mode while spinning, then one that STI;HLT waits for.
#
# Whatever the first ones were like, the last must not come before its HLT: it would find nothing to wake, and a
# guest that halts all the same may sleep for ever. A timer that is advanced by more than the time it is set
# to does that. The guest does not halt then, and reports it.

        .include "common.S"

        .text
        HEADER

entry:  SET_UP
        SET_UP_APIC TSC_DEADLINE | TIMER_VECTOR
        mfence                          # before the first WRMSR of a deadline (SDM)
        testq   %r12, %r12
        jz      finish
        sti
        movq    %r12, %rbp
again:  movl    $0, arrived(%rip)
        decq    %rbp
        jz      last
        ARM_DEADLINE
wait:   cmpl    $0, arrived(%rip)
        je      wait
        jmp     again

last:   ARM_DEADLINE
        sti
        hlt
halted: cli
        leaq    halted(%rip), %rax
        cmpq    %rax, interrupted_at(%rip)
        je      finish
        PRINT   "stall: the last interrupt came before its hlt\n"
        movl    $STAGE, %eax
        jmp     report
finish: FINISH  "stall"

# Where was the guest? One that was about to halt is not let do so.
timer_interrupt:
        ENTER_HANDLER
        movq    24(%rsp), %rax
        movq    %rax, interrupted_at(%rip)
        leaq    last(%rip), %rcx
        cmpq    %rcx, %rax
        jb      1f
        leaq    halted(%rip), %rcx
        movq    %rcx, 24(%rsp)
1:      movl    $0, APIC_EOI(%rbx)
        LEAVE_HANDLER

        .pushsection .bss
        .balign 8
interrupted_at:
        .space  8
        .popsection

        LIBRARY
