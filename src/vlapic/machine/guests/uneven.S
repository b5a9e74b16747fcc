# SPDX-License-Identifier: GPL-2.0-or-later
# uneven: two CPUs that the host serves unevenly. Each takes N timer interrupts in TSC-deadline mode, the first
# spinning in between, the second asleep in HLT, from which it has to be woken.

        .include "common.S"
        .include "smp.S"
        .include "pair.S"

# Say "uneven: CPU <number>, <how>, <count> interrupts".
        .macro  SAY number, how, area
        PRINT   "uneven: CPU \number, \how, "
        movq    \area(%rip), %rax
        call    print_number
        PRINT   " interrupts\n"
        .endm

        .text
        HEADER

entry:  SET_UP
        REQUIRE_TWO_CPUS "uneven"
        SET_UP_PAIR
        START_SECOND_CPU SEND_BY_PAGE

        leaq    results(%rip), %r11
        TAKE_SPINNING
wait:   cmpl    $0, second_done(%rip)
        je      wait

        SAY     0, spinning, results
        SAY     1, asleep, second_results
        REPORT_PAIR

second_cpu:
        JOIN_PAIR
        TAKE_ASLEEP
        LEAVE_PAIR

        PAIR_LIBRARY
        SMP_LIBRARY
        LIBRARY
