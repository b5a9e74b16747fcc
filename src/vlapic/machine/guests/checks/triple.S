# SPDX-License-Identifier: GPL-2.0-or-later
# triple: a fault without an IDT, and so a double fault and a triple fault: the CPU shuts down.

        .include "common.S"

        .text
        HEADER

entry:  PRINT   "triple: now\n"
        ud2

        LIBRARY
