# SPDX-License-Identifier: GPL-2.0-or-later
# instructions: those that a virtual CPU answers itself. CPUID, RDTSC and RDTSCP, RDMSR and WRMSR of registers that
# are there and of one that is not, VMCALL.

        .include "checks/check.S"

        .set    MSR_TSC, 0x10
        .set    MSR_TSC_ADJUST, 0x3b
        .set    MSR_NONE, 0x12345678
        .set    MSR_EFER, 0xc0000080
        .set    MSR_LSTAR, 0xc0000082
        .set    MSR_FS_BASE, 0xc0000100
        .set    MSR_GS_BASE, 0xc0000101
        .set    MSR_KERNEL_GS_BASE, 0xc0000102
        .set    MSR_TSC_AUX, 0xc0000103

        .set    CPUID_ECX, 1 << 21 | 1 << 24 | 1 << 31  # x2APIC, TSC-deadline, hypervisor
        .set    CPUID_EDX, 1 << 4 | 1 << 5 | 1 << 6 | 1 << 9    # TSC, MSR, PAE, APIC
        .set    CPUID_APIC, 1 << 9
        .set    APIC_ENABLE, 1 << 11
        .set    NO_HYPERCALL, 1000
        .set    ENOSYS, -1000

# RDMSR to RAX; RCX and RDX are lost.
        .macro  READ_MSR number
        movl    $\number, %ecx
        rdmsr
        shlq    $32, %rdx
        orq     %rdx, %rax
        .endm

# WRMSR of RAX; RCX and RDX are lost.
        .macro  WRITE_MSR number
        movl    $\number, %ecx
        movq    %rax, %rdx
        shrq    $32, %rdx
        wrmsr
        .endm

# What is written is read.
        .macro  KEEPS_MSR number, value
        movabsq $\value, %rax
        WRITE_MSR \number
        READ_MSR \number
        movabsq $\value, %rbx
        cmpq    %rax, %rbx
        REQUIRE_EQUAL
        .endm

        .text
        HEADER

entry:  START_CHECK
        STEP    1                               # CPUID
        movl    $1, %eax
        xorl    %ecx, %ecx
        cpuid
        andl    $CPUID_ECX, %ecx
        cmpl    $CPUID_ECX, %ecx
        REQUIRE_EQUAL
        andl    $CPUID_EDX, %edx
        cmpl    $CPUID_EDX, %edx
        REQUIRE_EQUAL
        STEP    2                               # the TSC's frequency
        movl    $0x15, %eax
        xorl    %ecx, %ecx
        cpuid
        testl   %eax, %eax
        jz      check_failed
        testl   %ebx, %ebx
        jz      check_failed
        testl   %ecx, %ecx
        jz      check_failed
        STEP    3                               # a leaf that is not there
        movl    $3, %eax
        cpuid
        orl     %ebx, %eax
        orl     %ecx, %eax
        orl     %edx, %eax
        REQUIRE_EQUAL

        STEP    4                               # the TSC goes on
        READ_TSC
        movq    %rax, %rbp
        READ_TSC
        cmpq    %rbp, %rax
        jbe     check_failed
        READ_MSR MSR_TSC
        cmpq    %rbp, %rax
        jbe     check_failed
        STEP    5                               # it can be set, and TSC_ADJUST goes along
        movabsq $1 << 50, %rax
        WRITE_MSR MSR_TSC
        READ_TSC
        shrq    $50, %rax
        cmpq    $1, %rax
        REQUIRE_EQUAL
        READ_MSR MSR_TSC_ADJUST
        testq   %rax, %rax
        jz      check_failed
        xorl    %eax, %eax
        WRITE_MSR MSR_TSC_ADJUST
        READ_TSC
        shrq    $50, %rax
        REQUIRE_EQUAL

        STEP    6
        KEEPS_MSR MSR_TSC_AUX, 0x1234
        rdtscp
        cmpl    $0x1234, %ecx
        REQUIRE_EQUAL
        STEP    7
        KEEPS_MSR MSR_LSTAR, 0x100000
        KEEPS_MSR MSR_FS_BASE, mark_1
        cmpq    $1, %fs:0
        REQUIRE_EQUAL
        KEEPS_MSR MSR_GS_BASE, mark_1
        KEEPS_MSR MSR_KERNEL_GS_BASE, mark_2
        cmpq    $1, %gs:0
        REQUIRE_EQUAL
        swapgs
        cmpq    $2, %gs:0
        REQUIRE_EQUAL
        swapgs
        READ_MSR MSR_EFER
        andl    $0x500, %eax                    # LME, LMA
        cmpl    $0x500, %eax
        REQUIRE_EQUAL
        STEP    8                               # an address that is not canonical
        movl    $MSR_LSTAR, %ecx
        movl    $0x80000000, %edx
        FAULTS  GENERAL_PROTECTION, 0, wrmsr
        STEP    9                               # no such register
        movl    $MSR_NONE, %ecx
        FAULTS  GENERAL_PROTECTION, 0, rdmsr
        FAULTS  GENERAL_PROTECTION, 0, wrmsr

        STEP    10                              # without its APIC the CPU says so
        READ_MSR MSR_APIC_BASE
        movq    %rax, %rbp
        andl    $~APIC_ENABLE, %eax
        WRITE_MSR MSR_APIC_BASE
        movl    $1, %eax
        cpuid
        testl   $CPUID_APIC, %edx
        jnz     check_failed
        movq    %rbp, %rax
        WRITE_MSR MSR_APIC_BASE
        STEP    11                              # from xAPIC to x2APIC mode, and no way back but through off
        READ_MSR MSR_APIC_BASE
        orl     $X2APIC_ENABLE, %eax
        WRITE_MSR MSR_APIC_BASE
        movq    %rbp, %rax
        movl    $MSR_APIC_BASE, %ecx
        movq    %rax, %rdx
        shrq    $32, %rdx
        FAULTS  GENERAL_PROTECTION, 0, wrmsr

        STEP    12                              # a hypercall that nobody answers
        movl    $NO_HYPERCALL, %eax
        vmcall
        cmpq    $ENOSYS, %rax
        REQUIRE_EQUAL
        STEP    13                              # no performance counters
        xorl    %ecx, %ecx
        FAULTS  GENERAL_PROTECTION, 0, rdpmc
        DONE    "instructions"

        .balign 8
mark_1: .quad   1
mark_2: .quad   2

        CHECK_LIBRARY
