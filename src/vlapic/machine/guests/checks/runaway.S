# SPDX-License-Identifier: GPL-2.0-or-later
# runaway: a loop without end, interrupts off.

        .include "common.S"

        .text
        HEADER

entry:  PRINT   "runaway: now\n"
1:      incq    results(%rip)
        jmp     1b

        LIBRARY
