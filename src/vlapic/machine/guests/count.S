# SPDX-License-Identifier: GPL-2.0-or-later
# From cycles of the TSC to counts of the local APIC's timer and back.
#
# The timer counts a bus of 1 GHz, KVM's, divided by 1. How fast the TSC counts is in CPUID leaf 15H: TSC
# frequency = ECX * EBX / EAX. A CPU that does not say gets counts as if it were 1 GHz too, and lateness is
# then the time since the count was written.

        .set    BUS_HZ, 1000000000
        .set    MAX_COUNT, 0xffffffff

# The TSC's frequency in Hz; 0 if CPUID does not say.
        .macro  READ_TSC_HZ             # to RAX; RBX, RCX and RDX are lost
        xorl    %eax, %eax
        cpuid
        movl    %eax, %esi
        xorl    %eax, %eax
        cmpl    $0x15, %esi
        jb      1f
        movl    $0x15, %eax
        xorl    %ecx, %ecx
        cpuid
        movl    %eax, %esi
        movl    %ecx, %eax
        mulq    %rbx                    # the upper halves of both are 0
        testl   %esi, %esi
        cmovzq  %rsi, %rax
        jz      1f
        divq    %rsi
1:
        .endm

# R15 = the count for R13 cycles, 1 to MAX_COUNT; hz(%rip) = the TSC's frequency. RAX to RDX, RSI are lost.
        .macro  COUNT_FOR_DISTANCE
        READ_TSC_HZ
        movq    %rax, hz(%rip)
        movq    %rax, %rcx
        movq    %r13, %rax
        jrcxz   2f
        movl    $BUS_HZ, %edx
        mulq    %rdx
        cmpq    %rcx, %rdx              # a quotient of more than 64 bits
        movq    $-1, %rsi
        cmovaeq %rsi, %rax
        jae     2f
        divq    %rcx
2:      movl    $MAX_COUNT, %ecx
        cmpq    %rcx, %rax
        cmovaq  %rcx, %rax
        movl    $1, %ecx
        testq   %rax, %rax
        cmovzq  %rcx, %rax
        movq    %rax, %r15
        .endm

# RAX = the cycles that RAX counts take, rounded down; 0 if that is not known. RCX and RDX are lost.
        .macro  CYCLES_OF_COUNTS
        mulq    hz(%rip)
        movl    $BUS_HZ, %ecx
        divq    %rcx
        .endm

# Memory of the above, in .bss.
        .macro  COUNT_MEMORY
        .pushsection .bss
        .balign 8
hz:     .space  8
        .popsection
        .endm
