# SPDX-License-Identifier: GPL-2.0-or-later
# dead: HLT with interrupts off and nobody to send an NMI. It sleeps for ever, which is to be found at once.

        .include "common.S"

        .text
        HEADER

entry:  PRINT   "dead: now\n"
        incq    results(%rip)
        cli
        hlt

        LIBRARY
