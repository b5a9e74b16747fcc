# SPDX-License-Identifier: GPL-2.0-or-later
# scaled: two CPUs whose TSCs may have different frequencies. Each takes N timer interrupts in TSC-deadline
# mode by its own TSC, asleep in HLT in between, and says how late they were; the distance is the same number of
# cycles for both.

        .include "common.S"
        .include "count.S"
        .include "smp.S"
        .include "pair.S"

# Say "scaled: CPU <number>, <count> interrupts" and, if it is known, at which TSC frequency.
        .macro  SAY number, area, hz
        PRINT   "scaled: CPU \number, "
        movq    \area(%rip), %rax
        call    print_number
        PRINT   " interrupts"
        movq    \hz(%rip), %rax
        testq   %rax, %rax
        jz      1f
        PRINT   ", TSC "
        movq    \hz(%rip), %rax
        xorl    %edx, %edx
        movl    $1000, %ecx
        divq    %rcx
        call    print_number
        PRINT   " kHz"
1:      PRINT   "\n"
        .endm

        .text
        HEADER

entry:  SET_UP
        REQUIRE_TWO_CPUS "scaled"
        READ_TSC_HZ
        movq    %rax, first_hz(%rip)
        SET_UP_PAIR
        START_SECOND_CPU SEND_BY_PAGE

        leaq    results(%rip), %r11
        call    take_interrupts
wait:   cmpl    $0, second_done(%rip)
        je      wait

        SAY     0, results, first_hz
        SAY     1, second_results, second_hz
        REPORT_PAIR

second_cpu:
        READ_TSC_HZ
        movq    %rax, second_hz(%rip)
        JOIN_PAIR
        call    take_interrupts
        LEAVE_PAIR

# On either CPU: R12 interrupts, R13 cycles apart.
take_interrupts:
        TAKE_ASLEEP
        ret

        .pushsection .bss
        .balign 8
first_hz:
        .space  8
second_hz:
        .space  8
        .popsection

        PAIR_LIBRARY
        SMP_LIBRARY
        LIBRARY
