# SPDX-License-Identifier: GPL-2.0-or-later
# reach: a CPU in HLT whose own timer is seconds away is reached at once by what the other one does: an
# interrupt, the 8259As' INT, INIT and a start-up message. So is a CPU that runs.

        .include "checks/check.S"
        .include "smp.S"

        .set    FAR_AWAY, 12500000000           # cycles to a CPU's own timer, 5 s
        .set    A_LITTLE, 25000                 # cycles before one reaches the other, 10 us
        .set    SOON, 50000                     # cycles within which that is seen
        .set    ANEW, 1000000                   # a start with its pauses

        .set    HELLO, 0x51
        .set    MASTER, 0x20
        .set    MASTER_VECTOR, 0x30
        .set    LINE, 4
        .set    LINE_PORT, 0x2000 + LINE
        .set    PIC_EOI, 0x20
        .set    APIC_LINT0, 0x350
        .set    EXTERNAL, 0x700

        .set    SLEEP, 1                        # what the second CPU is to do: HLT,
        .set    SEND, 2                         # send the first an interrupt,
        .set    RAISE, 3                        # raise a line of the 8259A

        .macro  PORT_OUT port, value
        movw    $\port, %dx
        movb    $\value, %al
        outb    %al, %dx
        .endm

# RAX, RDX and RSI are lost.
        .macro  WAIT_A_LITTLE
        READ_TSC
        leaq    A_LITTLE(%rax), %rsi
6:      READ_TSC
        cmpq    %rsi, %rax
        jb      6b
        .endm

# The timer of this CPU is far away; RAX, RCX, RDX, R13 and R14 are lost.
        .macro  ARM_FAR_AWAY
        movabsq $FAR_AWAY, %r13
        ARM_DEADLINE
        .endm

# Now the other one is reached; RAX and RDX are lost.
        .macro  MARK
        READ_TSC
        movq    %rax, sent_at(%rip)
        .endm

# What was sent was there soon.
        .macro  REQUIRE_SOON
        movq    arrived_at(%rip), %rax
        subq    sent_at(%rip), %rax
        jb      check_failed
        cmpq    $SOON, %rax
        ja      check_failed
        .endm

# Have the second CPU do something; this one goes on.
        .macro  ASK what
        movq    $0, arrived_at(%rip)
        movl    $\what, task(%rip)
        .endm

        .text
        HEADER

entry:  START_CHECK
        SET_GATE HELLO, hello
        SET_GATE TIMER_VECTOR, check_failed
        SET_GATE MASTER_VECTOR+LINE, line
        REQUIRE_TWO_CPUS "reach"
        SET_UP_APIC TSC_DEADLINE+TIMER_VECTOR
        movl    $EXTERNAL, APIC_LINT0(%rbx)
        PORT_OUT MASTER, 0x11
        PORT_OUT MASTER+1, MASTER_VECTOR
        PORT_OUT MASTER+1, 4
        PORT_OUT MASTER+1, 1
        PORT_OUT MASTER+1, ~(1<<LINE)
        START_SECOND_CPU SEND_BY_PAGE

        STEP    1                               # the second is asleep, the first sends
        ASK     SLEEP
1:      cmpl    $0, task(%rip)                  # it is about to
        jne     1b
        WAIT_A_LITTLE
        MARK
        SEND_BY_PAGE ICR_FIXED+HELLO
1:      cmpq    $0, arrived_at(%rip)
        je      1b
        REQUIRE_SOON

        STEP    2                               # the first is asleep, the second sends
        ARM_FAR_AWAY
        ASK     SEND
        sti
        hlt
        cli
        REQUIRE_SOON

        STEP    3                               # the first is asleep, the second raises a line
        ARM_FAR_AWAY
        ASK     RAISE
        sti
        hlt
        cli
        REQUIRE_SOON

        STEP    4                               # the first is running
        ASK     RAISE
        sti
1:      cmpq    $0, arrived_at(%rip)
        je      1b
        cli
        REQUIRE_SOON

        STEP    5                               # the second is asleep, the first starts it anew
        ASK     SLEEP
1:      cmpl    $0, task(%rip)
        jne     1b
        movl    $0, second_started(%rip)
        MARK
        START_SECOND_CPU SEND_BY_PAGE
        READ_TSC
        subq    sent_at(%rip), %rax
        cmpq    $ANEW, %rax
        ja      check_failed
        DONE    "reach"

# -- the second --

second_cpu:
        SET_UP_APIC TSC_DEADLINE+TIMER_VECTOR
        movl    $1, second_started(%rip)
next_task:
        movl    task(%rip), %edi
        testl   %edi, %edi
        jz      next_task
        cmpl    $SLEEP, %edi
        je      sleep
        WAIT_A_LITTLE
        movl    $0, task(%rip)
        cmpl    $RAISE, %edi
        je      raise
        movl    $0, APIC_ICR_HIGH(%rbx)         # to APIC 0
        MARK
        movl    $ICR_FIXED+HELLO, APIC_ICR(%rbx)
        jmp     next_task
raise:  MARK
        PORT_OUT LINE_PORT, 1
        jmp     next_task
sleep:  ARM_FAR_AWAY
        movl    $0, task(%rip)
        sti
        hlt
        cli
        jmp     next_task

# -- on either --

# RBX is the APIC's page.
hello:  pushq   %rax
        pushq   %rdx
        READ_TSC
        movq    %rax, arrived_at(%rip)
        movl    $0, APIC_EOI(%rbx)
        popq    %rdx
        popq    %rax
        iretq

line:   pushq   %rax
        pushq   %rdx
        READ_TSC
        movq    %rax, arrived_at(%rip)
        PORT_OUT LINE_PORT, 0
        PORT_OUT MASTER, PIC_EOI
        popq    %rdx
        popq    %rax
        iretq

        .pushsection .bss
        .balign 8
task:   .space  8
sent_at:
        .space  8
arrived_at:
        .space  8
        .popsection

        SMP_LIBRARY
        CHECK_LIBRARY
