# deadline: take N timer interrupts in TSC-deadline mode, spinning in between, and say how late each was.
#
# The local APIC is used as a kernel without x2APIC uses it: through its page at 0xfee00000.

        .include "common.S"

        .set    APIC, 0xfee00000
        .set    APIC_EOI, 0xb0
        .set    APIC_SPURIOUS, 0xf0
        .set    APIC_LVT_TIMER, 0x320

        .text
        HEADER

entry:  SET_UP
        movl    $APIC, %ebx
        movl    $0x1ff, APIC_SPURIOUS(%rbx)             # enabled, spurious vector 0xff
        movl    $0x40000 | TIMER_VECTOR, APIC_LVT_TIMER(%rbx)   # TSC-deadline mode
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
