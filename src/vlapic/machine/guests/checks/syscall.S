# SPDX-License-Identifier: GPL-2.0-or-later
# syscall: SYSCALL from CPL 3 and SYSRET back, in 64-bit mode (SDM vol. 2 "SYSCALL", "SYSRET").

        .include "checks/check.S"
        .include "checks/user.S"

        .set    MSR_EFER, 0xc0000080
        .set    EFER_SCE, 1
        .set    MSR_STAR, 0xc0000081
        .set    MSR_LSTAR, 0xc0000082
        .set    MSR_FMASK, 0xc0000084

        .macro  WRITE_MSR number, high, low
        movl    $\number, %ecx
        movl    $\high, %edx
        movl    $\low, %eax
        wrmsr
        .endm

        .text
        HEADER

entry:  START_CHECK
        SET_UP_USER

        STEP    1                               # to LSTAR with flags masked, and back
        WRITE_MSR MSR_STAR, ((USER_DATA-8)<<16)|CODE_SELECTOR, 0
        WRITE_MSR MSR_LSTAR, 0, system_call
        WRITE_MSR MSR_FMASK, 0, IF
        movl    $MSR_EFER, %ecx
        rdmsr
        orl     $EFER_SCE, %eax
        wrmsr
        movq    %rsp, %r8
        GO_USER IF+2
        movl    $1, %edi
        syscall
        cmpl    $2, %edi
        jne     check_failed
        movw    %cs, %ax
        cmpw    $USER_CODE, %ax
        jne     check_failed
        movw    %ss, %ax
        cmpw    $USER_DATA, %ax
        jne     check_failed
        GO_BACK
        STEP    2                               # not without EFER.SCE
        movl    $MSR_EFER, %ecx
        rdmsr
        andl    $~EFER_SCE, %eax
        wrmsr
        FAULTS  INVALID_OPCODE, 0, syscall
        DONE    "syscall"

# CPL 0 on the user's stack: return there with RDI + 1.
system_call:
        movq    %cs, %rax
        cmpl    $CODE_SELECTOR, %eax
        jne     check_failed
        pushfq
        popq    %rax
        testl   $IF, %eax
        jnz     check_failed
        testl   $IF, %r11d
        jz      check_failed
        incl    %edi
        sysretq

        USER_LIBRARY
        CHECK_LIBRARY
