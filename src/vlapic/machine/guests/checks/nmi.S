# SPDX-License-Identifier: GPL-2.0-or-later
# nmi: NMIs that the CPU sends itself. They come with interrupts off, one waits behind the one that is handled
# until its IRET, two that wait are one (SDM vol. 3A "Nonmaskable Interrupt (NMI)").

        .include "checks/check.S"

        .set    NMI, 2
        .set    ICR_NMI, 0x4400                 # to APIC ID 0
        .set    WAIT_LAPS, 1000

        .macro  SEND_NMI
        movl    $0, APIC_ICR_HIGH(%rbx)
        movl    $ICR_NMI, APIC_ICR(%rbx)
        .endm

# Let pass what time an NMI may take; RCX is lost.
        .macro  WAIT_A_LITTLE
        movl    $WAIT_LAPS, %ecx
3:      pause
        decl    %ecx
        jnz     3b
        .endm

        .text
        HEADER

entry:  START_CHECK
        SET_GATE NMI, nmi
        SET_UP_APIC TIMER_VECTOR + 0x10000      # masked

        STEP    1                               # interrupts are off: that is no matter
        SEND_NMI
        WAIT_A_LITTLE
        REQUIRE 1, count(%rip)
        STEP    2                               # the handler sends two more: one comes after it
        movq    $0, count(%rip)
        movq    $2, to_send(%rip)
        SEND_NMI
        WAIT_A_LITTLE
        REQUIRE 2, count(%rip)
        REQUIRE 1, count_in_handler(%rip)
        STEP    3                               # a fault's IRET in the handler opens the way too
        movq    $0, count(%rip)
        movq    $1, to_send(%rip)
        movq    $1, fault_in_handler(%rip)
        SEND_NMI
        WAIT_A_LITTLE
        REQUIRE 2, count(%rip)
        REQUIRE 2, count_in_handler(%rip)
        STEP    4                               # and an IRET that faults, ahead of that fault's handler
        movq    $0, count(%rip)
        movq    $1, to_send(%rip)
        movq    $1, bad_iret_in_handler(%rip)
        SEND_NMI
        WAIT_A_LITTLE
        REQUIRE 2, count(%rip)
        REQUIRE 2, count_in_handler(%rip)
        REQUIRE GENERAL_PROTECTION, seen_vector(%rip)
        leaq    fault_0 + GENERAL_PROTECTION * FAULT_STUB(%rip), %rax
        cmpq    %rax, nmi_rip(%rip)
        REQUIRE_EQUAL
        DONE    "nmi"

nmi:    pushq   %rax
        movq    8(%rsp), %rax
        movq    %rax, nmi_rip(%rip)
        pushq   %rcx
        incq    count(%rip)
        movq    to_send(%rip), %rax
        testq   %rax, %rax
        jz      2f
        movq    $0, to_send(%rip)
1:      SEND_NMI
        decq    %rax
        jnz     1b
        WAIT_A_LITTLE
        cmpq    $0, fault_in_handler(%rip)
        je      4f
        movq    $0, fault_in_handler(%rip)
        movq    $4f, resume(%rip)
        ud2
4:      movq    %rsp, %rcx
        cmpq    $0, bad_iret_in_handler(%rip)
        je      5f
        movq    $0, bad_iret_in_handler(%rip)
        movq    $5f, resume(%rip)
        pushq   $0                              # SS, RSP, RFLAGS, CS, RIP: a null CS
        pushq   %rcx
        pushq   $2
        pushq   $0
        pushq   $0
        iretq
5:      movq    %rcx, %rsp
        movq    count(%rip), %rax
        movq    %rax, count_in_handler(%rip)
2:      popq    %rcx
        popq    %rax
        iretq

        .pushsection .bss
        .balign 8
count:  .space  8
count_in_handler:
        .space  8
to_send:
        .space  8
fault_in_handler:
        .space  8
bad_iret_in_handler:
        .space  8
nmi_rip:
        .space  8
        .popsection

        CHECK_LIBRARY
