# SPDX-License-Identifier: GPL-2.0-or-later
# interrupt: the stages of kvm-unit-tests' test "interrupt" (x86/vmx_tests.c) that need no nested VMX, under
# the numbers they have there.
#
#   0  an interrupt while the guest runs
#   2  an interrupt for STI;HLT, with a long sleep
#   3  the same with a short one
#   4  an interrupt for the HLT state: interrupts are on before the CPU goes to sleep
#
# The timer is in one-shot mode. TDCR is left alone, as it is there: the bus is divided by 2. A stage fails if no
# interrupt came, if the sleep was too short, or if the interrupt came before its HLT: then it had nothing to
# wake, and a guest that halts all the same may sleep for ever. That is how a timer that is advanced by more
# than the time it was set to shows itself.

        .include "common.S"

        .set    VECTOR, 222
        .set    RUNNING_LAPS, 10000000
        .set    LONG_COUNT, 1000000
        .set    LONG_CYCLES, 1000000
        .set    SHORT_COUNT, 10000
        .set    SHORT_CYCLES, 10000

# Print a stage's beginning; R15 = its number.
        .macro  BEGIN number, text
        movl    $\number, %r15d
        PRINT   "interrupt: stage \number, \text: "
        movl    $0, arrived(%rip)
        .endm

# R14 = the TSC now; start the count.
        .macro  START count
        READ_TSC
        movq    %rax, %r14
        movl    $\count, APIC_INITIAL_COUNT(%rbx)
        .endm

# The guest is behind HLT, at `after`: was it woken there, and not too soon?
        .macro  CHECK_SLEEP after, cycles
        cli
        cmpl    $0, arrived(%rip)
        je      missing
        leaq    \after(%rip), %rax
        cmpq    %rax, interrupted_at(%rip)
        jne     before_halt
        cmpq    $\cycles, slept(%rip)
        jbe     too_short
        call    good
        .endm

        .text
        HEADER

entry:  SET_UP
        SET_GATE VECTOR, timer_interrupt
        SET_UP_APIC VECTOR

        BEGIN   0, "interrupt while running guest"
        sti
        START   1
        movl    $RUNNING_LAPS, %ecx
1:      cmpl    $0, arrived(%rip)
        jne     2f
        decl    %ecx
        jnz     1b
2:      cli
        cmpl    $0, arrived(%rip)
        je      missing
        call    good

        BEGIN   2, "interrupt + hlt"
        START   LONG_COUNT
        call    check_pending
        sti
        hlt
after_long:
        CHECK_SLEEP after_long, LONG_CYCLES

        BEGIN   3, "interrupt + hlt, short"
        START   SHORT_COUNT
        call    check_pending
        sti
        hlt
after_short:
        CHECK_SLEEP after_short, SHORT_CYCLES

        BEGIN   4, "interrupt + activity state hlt"
        START   SHORT_COUNT
        sti
        nop
halt_open:
        hlt
after_open:
        CHECK_SLEEP after_open, SHORT_CYCLES
        movl    $ALL_GOOD, %eax
        jmp     report

# The stage passed; how many cycles after the count was written the handler came.
good:   PRINT   "after "
        movq    slept(%rip), %rax
        call    print_number
        PRINT   " cycles\n"
        ret

missing:
        PRINT   "no interrupt came\n"
        jmp     failed
too_short:
        PRINT   "slept too short, "
        movq    slept(%rip), %rax
        call    print_number
        PRINT   " cycles\n"
        jmp     failed
before_halt:
        PRINT   "the interrupt came before its hlt\n"
failed: leal    STAGE(%r15), %eax
        jmp     report

# With interrupts off: is it there already, before HLT?
check_pending:
        testl   $1 << (VECTOR % 32), APIC_IRR + (VECTOR / 32) * 16(%rbx)
        jnz     before_halt
        ret

# Where was the guest, and how long after it wrote the count? One that was about to halt is not let do so.
timer_interrupt:
        pushq   %rdx
        pushq   %rax
        READ_TSC
        pushq   %rcx
        subq    %r14, %rax
        movq    %rax, slept(%rip)
        MEASURED
        movq    24(%rsp), %rax
        movq    %rax, interrupted_at(%rip)
        leaq    halt_open(%rip), %rcx
        cmpl    $4, %r15d
        jne     1f
        cmpq    %rcx, %rax
        ja      1f
        leaq    after_open(%rip), %rcx
        movq    %rcx, 24(%rsp)
1:      movl    $0, APIC_EOI(%rbx)
        LEAVE_HANDLER

        .pushsection .bss
        .balign 8
interrupted_at:
        .space  8
slept:  .space  8
        .popsection

        LIBRARY
