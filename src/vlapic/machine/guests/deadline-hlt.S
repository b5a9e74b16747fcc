# deadline-hlt: as `deadline`, asleep in HLT in between, and with the local APIC in x2APIC mode.
#
# Interrupts are off while the timer is armed; STI holds them off for one instruction more, so that none can
# come between the look at the flag and HLT.

        .include "common.S"

        .set    X2APIC_ENABLE, 1 << 10
        .set    MSR_EOI, 0x80b
        .set    MSR_SPURIOUS, 0x80f
        .set    MSR_LVT_TIMER, 0x832

        .text
        HEADER

entry:  SET_UP
        movl    $MSR_APIC_BASE, %ecx
        rdmsr
        orl     $X2APIC_ENABLE, %eax
        wrmsr
        xorl    %edx, %edx
        movl    $MSR_SPURIOUS, %ecx
        movl    $0x1ff, %eax                            # enabled, spurious vector 0xff
        wrmsr
        movl    $MSR_LVT_TIMER, %ecx
        movl    $0x40000 | TIMER_VECTOR, %eax           # TSC-deadline mode
        wrmsr

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
        xorl    %eax, %eax
        xorl    %edx, %edx
        movl    $MSR_EOI, %ecx
        wrmsr
        LEAVE_HANDLER

        LIBRARY
