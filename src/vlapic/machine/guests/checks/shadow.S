# SPDX-License-Identifier: GPL-2.0-or-later
# shadow: when an interrupt that waits comes in. Not with interrupts off; after STI one instruction later, so
# that STI;HLT sleeps and STI;CLI lets nothing in; after POPF at once; by CR8 or TPR when its class is let in
# (SDM vol. 2 "STI", vol. 3A "Task Priority in IA-32e Mode").

        .include "checks/check.S"

        .set    VECTOR, 0x51
        .set    APIC_TPR, 0x80
        .set    ICR_SELF, 0x44000               # fixed, to itself
        .set    IF, 0x200

        .macro  SEND_SELF
        movl    $ICR_SELF + VECTOR, APIC_ICR(%rbx)
        .endm

# The interrupt came, and the next instruction would have been the one at `place`.
        .macro  CAME_AT place
        cli
        REQUIRE 1, count(%rip)
        REQUIRE \place, seen_rip(%rip)
        movq    $0, count(%rip)
        .endm

        .text
        HEADER

entry:  START_CHECK
        SET_GATE VECTOR, interrupt
        SET_UP_APIC TIMER_VECTOR + 0x10000      # masked

        STEP    1
        SEND_SELF
        nop
        REQUIRE 0, count(%rip)
        STEP    2
        sti
        nop
1:      nop
        CAME_AT 1b
        STEP    3
        SEND_SELF
        sti
        cli
        nop
        REQUIRE 0, count(%rip)
        STEP    4
        sti
        hlt
1:      CAME_AT 1b
        STEP    5
        SEND_SELF
        pushfq
        orl     $IF, (%rsp)
        popfq
1:      nop
        CAME_AT 1b
        STEP    6                               # interrupts are on before it is sent
        sti
        nop
        SEND_SELF
        nop
        cli
        REQUIRE 1, count(%rip)
        movq    $0, count(%rip)
        STEP    7                               # CR8 keeps its class out
        movl    $VECTOR >> 4, %eax
        movq    %rax, %cr8
        movq    %cr8, %rcx
        cmpq    %rax, %rcx
        REQUIRE_EQUAL
        cmpl    $VECTOR & 0xf0, APIC_TPR(%rbx)
        REQUIRE_EQUAL
        sti
        SEND_SELF
        nop
        nop
        REQUIRE 0, count(%rip)
        movl    $(VECTOR >> 4) - 1, %eax
        movq    %rax, %cr8
        nop
        cli
        REQUIRE 1, count(%rip)
        movq    $0, count(%rip)
        STEP    8                               # and so does TPR
        movl    $VECTOR & 0xf0, APIC_TPR(%rbx)
        sti
        SEND_SELF
        nop
        nop
        REQUIRE 0, count(%rip)
        movl    $0, APIC_TPR(%rbx)
        nop
        cli
        REQUIRE 1, count(%rip)
        movq    %cr8, %rax
        testq   %rax, %rax
        REQUIRE_EQUAL
        STEP    9                               # CR8 has four bits
        movl    $0x10, %eax
        FAULTS  GENERAL_PROTECTION, 0, movq %rax,%cr8
        STEP    10                              # STI and a load of SS each have a shadow, one behind the other
        movq    $0, count(%rip)
        movw    %ss, %ax
        SEND_SELF
        sti
        movw    %ax, %ss
        nop
1:      nop
        CAME_AT 1b
        SEND_SELF
        movw    %ax, %ss
        sti
        nop
1:      nop
        CAME_AT 1b
        STEP    11                              # but the same one behind itself does not
        sti
        nop
        cli
        SEND_SELF
        sti
        sti
1:      nop
        CAME_AT 1b
        DONE    "shadow"

interrupt:
        incq    count(%rip)
        pushq   %rax
        movq    8(%rsp), %rax
        movq    %rax, seen_rip(%rip)
        movl    $0, APIC_EOI(%rbx)
        popq    %rax
        iretq

        .pushsection .bss
        .balign 8
count:  .space  8
        .popsection

        CHECK_LIBRARY
