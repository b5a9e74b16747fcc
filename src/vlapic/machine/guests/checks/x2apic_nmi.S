# SPDX-License-Identifier: GPL-2.0-or-later
# x2apic_nmi: NMIs that the CPU sends itself by WRMSR, many times over. The first comes behind the WRMSR; of those
# that its handler sends, one comes behind the handler's IRET (SDM vol. 3A "Nonmaskable Interrupt (NMI)"). An
# interrupt that the handler sends comes behind the last IRET, if RFLAGS.IF lets it.

        .include "checks/check.S"

        .set    NMI, 2
        .set    VECTOR, 0x51
        .set    ICR_NMI, 0x4400                 # to APIC ID 0
        .set    ICR_SELF, 0x44000               # fixed, to itself
        .set    ROUNDS, 100

# RAX, RCX and RDX are lost.
        .macro  SEND icr
        movl    $MSR_ICR, %ecx
        movl    $\icr, %eax
        xorl    %edx, %edx
        wrmsr
        .endm

        .text
        HEADER

entry:  START_CHECK
        SET_GATE NMI, nmi
        SET_GATE VECTOR, interrupt
        SET_UP_X2APIC

        STEP    1                               # one NMI brings another one
        movl    $ROUNDS, %ebx
1:      movq    $0, nmis(%rip)
        SEND    ICR_NMI
        REQUIRE 2, nmis(%rip)
        REQUIRE 1, nested(%rip)
        decl    %ebx
        jnz     1b
        STEP    2                               # each with an interrupt, which waits for IF
        movl    $ROUNDS, %ebx
1:      movq    $0, nmis(%rip)
        movq    $0, interrupts(%rip)
        movq    $1, send_interrupt(%rip)
        SEND    ICR_NMI
        REQUIRE 2, nmis(%rip)
        REQUIRE 0, interrupts(%rip)
        sti
        nop
        cli
        REQUIRE 1, interrupts(%rip)
        decl    %ebx
        jnz     1b
        STEP    3                               # and where IF is set, behind the last IRET
        sti
        movl    $ROUNDS, %ebx
1:      movq    $0, nmis(%rip)
        movq    $0, interrupts(%rip)
        SEND    ICR_NMI
        REQUIRE 2, nmis(%rip)
        REQUIRE 1, interrupts(%rip)
        decl    %ebx
        jnz     1b
        DONE    "x2apic_nmi"

nmi:    pushq   %rax
        pushq   %rcx
        pushq   %rdx
        incq    nmis(%rip)
        cmpq    $1, nmis(%rip)
        jne     2f
        cmpq    $0, send_interrupt(%rip)
        je      1f
        SEND    ICR_SELF + VECTOR
1:      SEND    ICR_NMI
        SEND    ICR_NMI
        movq    nmis(%rip), %rax                # none has come in here
        movq    %rax, nested(%rip)
2:      popq    %rdx
        popq    %rcx
        popq    %rax
        iretq

interrupt:
        pushq   %rax
        pushq   %rcx
        pushq   %rdx
        incq    interrupts(%rip)
        X2APIC_EOI
        popq    %rdx
        popq    %rcx
        popq    %rax
        iretq

        .pushsection .bss
        .balign 8
nmis:   .space  8
nested: .space  8
interrupts:
        .space  8
send_interrupt:
        .space  8
        .popsection

        CHECK_LIBRARY
