# SPDX-License-Identifier: GPL-2.0-or-later
# ring3: code at CPL 3 and back. A timer interrupt is taken there, on the stack that the TSS names; what the
# user must not do faults; a gate of DPL 3 leads back (SDM vol. 3A "Protection").

        .include "checks/check.S"
        .include "checks/user.S"

        .set    CLOSED_VECTOR, 0x81             # its gate has DPL 0
        .set    IN_IDT, 2
        .set    SPIN_DISTANCE, 50000

        .text
        HEADER

entry:  START_CHECK
        SET_UP_USER
        SET_GATE TIMER_VECTOR, timer_interrupt
        SET_GATE CLOSED_VECTOR, back
        SET_UP_APIC TSC_DEADLINE | TIMER_VECTOR

        STEP    1                               # there and back
        movq    %rsp, %r8
        GO_USER 2
        GO_BACK
        cmpq    %rsp, %r8
        REQUIRE_EQUAL

        STEP    2                               # the timer's interrupt comes there
        mfence
        READ_TSC
        addq    $SPIN_DISTANCE, %rax
        ARM_AT
        GO_USER IF+2
1:      cmpl    $0, arrived(%rip)
        je      1b
        GO_BACK
        REQUIRE USER_CODE, seen_cs(%rip)
        REQUIRE USER_DATA, seen_ss(%rip)
        REQUIRE user_stack, seen_rsp(%rip)
        leaq    -40(%r8), %rax                  # SS, RSP, RFLAGS, CS, RIP
        cmpq    %rax, handler_rsp(%rip)
        REQUIRE_EQUAL

        STEP    3                               # what the user must not do
        GO_USER 2
        FAULTS  GENERAL_PROTECTION, 0, cli
        FAULTS  GENERAL_PROTECTION, 0, hlt
        FAULTS  GENERAL_PROTECTION, 0, outb %al,$0x80
        FAULTS  GENERAL_PROTECTION, 0, movq %cr0,%rax
        FAULTS  GENERAL_PROTECTION, 0, rdmsr
        FAULTS  GENERAL_PROTECTION, 0, invlpg (%rsp)
        FAULTS  GENERAL_PROTECTION, 0, lidt idtr
        GO_BACK
        STEP    4                               # a gate of DPL 0
        GO_USER 2
        FAULTS  GENERAL_PROTECTION, CLOSED_VECTOR*8+IN_IDT, int $CLOSED_VECTOR
        GO_BACK
        STEP    5                               # the supervisor's pages
        GO_USER 2
        FAULTS  PAGE_FAULT, PRESENT+USER, movq SUPERVISOR_PAGE,%rax
        REQUIRE SUPERVISOR_PAGE, seen_cr2
        FAULTS  PAGE_FAULT, PRESENT+USER+WRITE, movq %rax,SUPERVISOR_PAGE
        GO_BACK
        movq    SUPERVISOR_PAGE, %rax
        STEP    6                               # a page to be read only, and one that is not there
        GO_USER 2
        movq    READ_ONLY_PAGE, %rax
        FAULTS  PAGE_FAULT, PRESENT+USER+WRITE, movq %rax,READ_ONLY_PAGE
        FAULTS  PAGE_FAULT, USER, movq ABSENT_PAGE,%rax
        FAULTS  PAGE_FAULT, USER+WRITE, movq %rax,ABSENT_PAGE
        REQUIRE ABSENT_PAGE, seen_cr2
        GO_BACK
        STEP    7                               # exceptions of its own, with its CS
        GO_USER 2
        FAULTS  INVALID_OPCODE, 0, ud2
        REQUIRE USER_CODE, seen_cs
        GO_BACK
        STEP    8                               # ports and IF, if IOPL lets it
        GO_USER IOPL_3+2
        outb    %al, $0x80
        sti
        cli
        GO_BACK

        DONE    "ring3"

timer_interrupt:
        movq    %rsp, handler_rsp(%rip)
        pushq   %rax
        movq    16(%rsp), %rax
        movq    %rax, seen_cs(%rip)
        movq    32(%rsp), %rax
        movq    %rax, seen_rsp(%rip)
        movq    40(%rsp), %rax
        movq    %rax, seen_ss(%rip)
        movl    $0, APIC_EOI(%rbx)
        movl    $1, arrived(%rip)
        popq    %rax
        iretq

        .pushsection .bss
        .balign 8
seen_ss:
        .space  8
        .popsection

        USER_LIBRARY
        CHECK_LIBRARY
