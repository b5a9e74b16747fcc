# SPDX-License-Identifier: GPL-2.0-or-later
# features: each set of instructions that CPUID tells of is there, and one of its instructions does what it should.
# Prints the names as it comes past them.

        .include "checks/check.S"

        .set    STEP_NUMBER, 0

# CPUID tells of a feature. RSI is a place in memory.
        .macro  FEATURE name, leaf, register, bit
        .set    STEP_NUMBER, STEP_NUMBER + 1
        movl    $STEP_NUMBER, step(%rip)
        movl    $\leaf, %eax
        xorl    %ecx, %ecx
        cpuid
        btl     $\bit, %\register
        jnc     check_failed
        PRINT   "\name "
        leaq    area(%rip), %rsi
        .endm

        .text
        HEADER

entry:  START_CHECK

        FEATURE "fpu", 1, edx, 0
        fninit
        fld1
        fld1
        faddp
        fistpl  (%rsi)
        cmpl    $2, (%rsi)
        REQUIRE_EQUAL

        FEATURE "tsc", 1, edx, 4
        rdtsc
        movl    %eax, %ebx
        rdtsc
        cmpl    %ebx, %eax
        je      check_failed

        FEATURE "msr", 1, edx, 5
        movl    $0x1b, %ecx
        rdmsr
        testl   $0x800, %eax                    # the APIC is enabled
        jz      check_failed

        FEATURE "cx8", 1, edx, 8
        movq    $0, (%rsi)
        xorl    %eax, %eax
        xorl    %edx, %edx
        movl    $5, %ebx
        movl    $6, %ecx
        cmpxchg8b (%rsi)
        movabsq $0x600000005, %rax
        cmpq    %rax, (%rsi)
        REQUIRE_EQUAL

        FEATURE "cmov", 1, edx, 15
        movl    $7, %ebx
        xorl    %eax, %eax
        cmovzl  %ebx, %eax
        cmpl    $7, %eax
        REQUIRE_EQUAL

        FEATURE "clflush", 1, edx, 19
        clflush (%rsi)

        FEATURE "mmx", 1, edx, 23
        movl    $0x01020304, %eax
        movd    %eax, %mm0
        paddb   %mm0, %mm0
        movd    %mm0, %eax
        emms
        cmpl    $0x02040608, %eax
        REQUIRE_EQUAL

        FEATURE "fxsr", 1, edx, 24
        fninit
        fxsave  (%rsi)
        cmpw    $0x37f, (%rsi)
        REQUIRE_EQUAL
        fxrstor (%rsi)

        FEATURE "sse", 1, edx, 25
        movl    $2, %eax
        cvtsi2ssl %eax, %xmm0
        addss   %xmm0, %xmm0
        cvtss2sil %xmm0, %eax
        cmpl    $4, %eax
        REQUIRE_EQUAL

        FEATURE "sse2", 1, edx, 26
        movl    $3, %eax
        cvtsi2sdl %eax, %xmm0
        mulsd   %xmm0, %xmm0
        cvtsd2sil %xmm0, %eax
        cmpl    $9, %eax
        REQUIRE_EQUAL

        FEATURE "pni", 1, ecx, 0
        movups  ones(%rip), %xmm0
        haddps  %xmm0, %xmm0
        cvtss2sil %xmm0, %eax
        cmpl    $2, %eax
        REQUIRE_EQUAL

        FEATURE "ssse3", 1, ecx, 9
        movl    $-5, %eax
        movd    %eax, %xmm0
        pabsd   %xmm0, %xmm0
        movd    %xmm0, %eax
        cmpl    $5, %eax
        REQUIRE_EQUAL

        FEATURE "cx16", 1, ecx, 13
        movq    $0, (%rsi)
        movq    $0, 8(%rsi)
        xorl    %eax, %eax
        xorl    %edx, %edx
        movl    $8, %ebx
        movl    $9, %ecx
        cmpxchg16b (%rsi)
        REQUIRE 8, (%rsi)
        REQUIRE 9, 8(%rsi)

        FEATURE "sse4_1", 1, ecx, 19
        movl    $11, %eax
        pinsrd  $1, %eax, %xmm0
        pextrd  $1, %xmm0, %eax
        cmpl    $11, %eax
        REQUIRE_EQUAL

        FEATURE "sse4_2", 1, ecx, 20
        xorl    %eax, %eax
        movl    $1, %ecx
        crc32l  %ecx, %eax
        cmpl    $0xdd45aab8, %eax               # CRC-32C of 1, from 0 on
        REQUIRE_EQUAL
        pxor    %xmm0, %xmm0
        movl    $1, %eax
        movd    %eax, %xmm1
        pcmpgtq %xmm0, %xmm1
        movd    %xmm1, %eax
        cmpl    $-1, %eax
        REQUIRE_EQUAL

        FEATURE "popcnt", 1, ecx, 23
        movl    $0xf0f, %eax
        popcntl %eax, %eax
        cmpl    $8, %eax
        REQUIRE_EQUAL

        FEATURE "rdtscp", 0x80000001, edx, 27
        rdtscp
        testl   %ecx, %ecx                      # IA32_TSC_AUX
        jnz     check_failed

        FEATURE "lahf_lm", 0x80000001, ecx, 0
        stc
        lahf
        testb   $1, %ah
        jz      check_failed

        PRINT   "\n"
        DONE    "features"

        .balign 16
ones:   .float  1, 1, 1, 1

        .pushsection .bss
        .balign 16
area:   .space  512
        .popsection

        CHECK_LIBRARY
