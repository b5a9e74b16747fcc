# SPDX-License-Identifier: GPL-2.0-or-later
# Two CPUs that each take R12 timer interrupts in TSC-deadline mode, by their own TSC, R13 cycles apart.
#
# The local APICs are used through their page. A CPU's results are at R11, and with them the flag that its
# handler sets. The first CPU says SET_UP_PAIR, starts the second, and in the end REPORT_PAIR; the second
# one begins with JOIN_PAIR.

        .set    ARRIVED, 40             # behind the results

# Keep for the second CPU what the first was asked for.
        .macro  SET_UP_PAIR
        NO_RESULTS second_results
        movl    $APIC, %ebx
        movl    $ENABLED, APIC_SPURIOUS(%rbx)
        movq    %r12, asked(%rip)
        movq    %r13, distance(%rip)
        .endm

# The second CPU is there: what it is asked for, and where its results go.
        .macro  JOIN_PAIR
        movq    asked(%rip), %r12
        movq    distance(%rip), %r13
        movl    $1, second_started(%rip)
        leaq    second_results(%rip), %r11
        .endm

# The second CPU is done, and says so.
        .macro  LEAVE_PAIR
        movl    $1, second_done(%rip)
1:      cli
        hlt
        jmp     1b
        .endm

# Report: did both take what they were asked for, and was none early?
        .macro  REPORT_PAIR
        movl    $WRONG_COUNT, %eax
        cmpq    %r12, results(%rip)
        jne     report
        cmpq    %r12, second_results(%rip)
        jne     report
        movl    $SOME_EARLY, %eax
        cmpq    $0, results + 8(%rip)
        jne     report
        cmpq    $0, second_results + 8(%rip)
        jne     report
        movl    $ALL_GOOD, %eax
        jmp     report
        .endm

# R12 interrupts, asleep in HLT in between.
        .macro  TAKE_ASLEEP
        SET_UP_APIC TSC_DEADLINE | TIMER_VECTOR
        mfence                          # before the first WRMSR of a deadline (SDM)
        movq    %r12, %rbp
        testq   %rbp, %rbp
        jz      2f
1:      movl    $0, ARRIVED(%r11)
        ARM_DEADLINE
3:      sti
        hlt
        cli
        cmpl    $0, ARRIVED(%r11)
        je      3b
        decq    %rbp
        jnz     1b
2:
        .endm

# R12 interrupts, spinning in between.
        .macro  TAKE_SPINNING
        SET_UP_APIC TSC_DEADLINE | TIMER_VECTOR
        mfence
        movq    %r12, %rbp
        testq   %rbp, %rbp
        jz      2f
        sti
1:      movl    $0, ARRIVED(%r11)
        ARM_DEADLINE
3:      cmpl    $0, ARRIVED(%r11)
        je      3b
        decq    %rbp
        jnz     1b
        cli
2:
        .endm

        .macro  PAIR_LIBRARY
timer_interrupt:
        ENTER_HANDLER 0, "(%r11)"
        movl    $0, APIC_EOI(%rbx)
        movl    $1, ARRIVED(%r11)
        popq    %rcx
        popq    %rax
        popq    %rdx
        iretq

        .pushsection .bss
        .balign 8
asked:  .space  8
distance:
        .space  8
second_done:
        .space  8
        .popsection
        .endm
