# SPDX-License-Identifier: GPL-2.0-or-later
# deadline-hlt: as `deadline`, asleep in HLT in between, and with the local APIC in x2APIC mode.
#
# Interrupts are off while the timer is armed; STI holds them off for one instruction more, so that none can
# come between the look at the flag and HLT.

        .include "common.S"

        .text
        HEADER

entry:  SET_UP
        SET_UP_X2APIC_TIMER "TSC_DEADLINE | TIMER_VECTOR"

        movq    %r12, %rbp
        testq   %rbp, %rbp
        jz      finish
again:  movl    $0, arrived(%rip)
        ARM_DEADLINE
sleep:  sti
        hlt
        cli
        cmpl    $0, arrived(%rip)
        je      sleep
        decq    %rbp
        jnz     again
finish: FINISH  "deadline-hlt"

timer_interrupt:
        ENTER_HANDLER
        X2APIC_EOI
        LEAVE_HANDLER

        LIBRARY
