# SPDX-License-Identifier: GPL-2.0-or-later
# msrs: registers that a kernel reads and writes without asking CPUID. MTRRs keep what is written and refuse what
# they do not take; the platform's and AMD's registers read as in KVM (SDM vol. 4).

        .include "checks/check.S"

        .set    MTRR_CAP, 0xfe
        .set    MTRR_BASE_7, 0x20e
        .set    MTRR_MASK_7, 0x20f
        .set    MTRR_FIX_4K_F8000, 0x26f
        .set    MTRR_DEF_TYPE, 0x2ff
        .set    PLATFORM_INFO, 0xce
        .set    MISC_ENABLE, 0x1a0
        .set    HWCR, 0xc0010015

# An MSR holds EDX:EAX.
        .macro  HOLDS number, high, low
        movl    $\number, %ecx
        rdmsr
        cmpl    $\low, %eax
        REQUIRE_EQUAL
        cmpl    $\high, %edx
        REQUIRE_EQUAL
        .endm

        .macro  WRITE number, high, low
        movl    $\number, %ecx
        movl    $\high, %edx
        movl    $\low, %eax
        wrmsr
        .endm

# A write is #GP, and the MSR holds what it held.
        .macro  REFUSES number, high, low
        movl    $\number, %ecx
        rdmsr
        movl    %eax, %ebx
        movl    %edx, %ebp
        movl    $\high, %edx
        movl    $\low, %eax
        FAULTS  GENERAL_PROTECTION, 0, wrmsr
        rdmsr
        cmpl    %ebx, %eax
        REQUIRE_EQUAL
        cmpl    %ebp, %edx
        REQUIRE_EQUAL
        .endm

        .text
        HEADER

entry:  START_CHECK
        STEP    1                               # 8 variable MTRRs, fixed ones, write combining
        HOLDS   MTRR_CAP, 0, 0x508
        REFUSES MTRR_CAP, 0, 0x508
        STEP    2                               # write back for the first 8 GiB
        WRITE   MTRR_BASE_7, 0, 6
        WRITE   MTRR_MASK_7, 0xfe, 0x800
        WRITE   MTRR_FIX_4K_F8000, 0x05050505, 0x05050505
        WRITE   MTRR_DEF_TYPE, 0, 0xc00
        HOLDS   MTRR_BASE_7, 0, 6
        HOLDS   MTRR_MASK_7, 0xfe, 0x800
        HOLDS   MTRR_FIX_4K_F8000, 0x05050505, 0x05050505
        HOLDS   MTRR_DEF_TYPE, 0, 0xc00
        STEP    3                               # types that there are not, reserved bits
        REFUSES MTRR_BASE_7, 0, 7
        REFUSES MTRR_BASE_7, 0x100, 6
        REFUSES MTRR_MASK_7, 0, 0x400
        REFUSES MTRR_FIX_4K_F8000, 0x02000000, 0
        REFUSES MTRR_DEF_TYPE, 0, 3
        STEP    4                               # the platform's and AMD's
        HOLDS   PLATFORM_INFO, 0, 0x80000000
        HOLDS   HWCR, 0, 0
        WRITE   HWCR, 0, 0x1000000
        HOLDS   HWCR, 0, 0x1000000
        WRITE   MISC_ENABLE, 4, 0x00c51889
        HOLDS   MISC_ENABLE, 4, 0x00c51809
        STEP    5                               # and one that KVM does not have either
        movl    $0x10a, %ecx
        FAULTS  GENERAL_PROTECTION, 0, rdmsr
        DONE    "msrs"

        CHECK_LIBRARY
