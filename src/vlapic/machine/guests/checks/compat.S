# SPDX-License-Identifier: GPL-2.0-or-later
# compat: code of 32 and of 16 bits under a kernel of 64 (SDM vol. 3A "64-Bit Mode Exception Handling"). Instructions that
# leave the guest do so there, exceptions and the timer's interrupt come through 64-bit gates and go back, at CPL 0
# and CPL 3.

        .include "checks/check.S"

        .set    TSS_SELECTOR, 0x18
        .set    CODE_32, 0x28
        .set    CODE_16, 0x30
        .set    USER_DATA, 0x38 | 3
        .set    USER_CODE_32, 0x40 | 3
        .set    DPL_3, 0x60
        .set    IF, 0x200
        .set    USER, 4
        .set    DISTANCE, 20000
        .set    MSR_TSC_ADJUST, 0x3b

# Go on in another code segment, of CPL 0.
        .macro  GO selector, place
        pushq   $\selector
        pushq   $\place
        lretq
        .endm

        .macro  ARM_TIMER
        movl    $0, arrived(%rip)
        READ_TSC
        addq    $DISTANCE, %rax
        ARM_AT
        .endm

# What both sizes try; to the place whose address is in EDI, in 64-bit code. EBP counts what went well.
        .macro  TRY_ALL
        xorl    %ebp, %ebp
        movl    $1, %eax                        # CPUID
        xorl    %ecx, %ecx
        cpuid
        testl   $1 << 9, %edx
        jz      9f
        incl    %ebp
        movl    $MSR_TSC_ADJUST, %ecx           # MSRs
        rdmsr
        wrmsr
        incl    %ebp
        movw    $SERIAL_PORT, %dx               # ports
        movb    $'.', %al
        outb    %al, %dx
        inb     $0x61, %al
        incl    %ebp
        rdtsc                                   # the TSC
        movl    %eax, %ecx
        rdtsc
        cmpl    %ecx, %eax
        jb      9f
        incl    %ebp
        movl    $NO_HYPERCALL, %eax             # a hypercall
        vmcall
        cmpl    $ENOSYS, %eax
        jne     9f
        incl    %ebp
        .endm

        .set    NO_HYPERCALL, 1000
        .set    ENOSYS, -1000
        .set    ALL_TRIED, 5

        .macro  REQUIRE_ALL selector
        cmpl    $ALL_TRIED, %ebp
        REQUIRE_EQUAL
        cmpl    $1, arrived(%rip)
        REQUIRE_EQUAL
        REQUIRE \selector, timer_cs(%rip)
        REQUIRE \selector, seen_cs(%rip)
        .endm

        .text
        HEADER

entry:  START_CHECK
        SET_GATE TIMER_VECTOR, timer_interrupt
        SET_GATE BACK_VECTOR, back
        orb     $DPL_3, idt + BACK_VECTOR * GATE_BYTES + 5(%rip)
        lgdt    gdtr(%rip)
        leaq    tss(%rip), %rax
        movw    %ax, gdt + TSS_SELECTOR + 2(%rip)
        shrq    $16, %rax
        movb    %al, gdt + TSS_SELECTOR + 4(%rip)
        movb    %ah, gdt + TSS_SELECTOR + 7(%rip)
        movq    %rsp, tss + 4(%rip)
        movw    $TSS_SELECTOR, %ax
        ltr     %ax
        movq    %cr3, %rdi                      # the first 2 MiB are the user's too
        orb     $USER, (%rdi)
        movq    (%rdi), %rdi
        andq    $~0xfff, %rdi
        orb     $USER, (%rdi)
        movq    (%rdi), %rdi
        andq    $~0xfff, %rdi
        orb     $USER, (%rdi)
        movq    %cr3, %rax
        movq    %rax, %cr3
        SET_UP_APIC TSC_DEADLINE | TIMER_VECTOR
        movq    %rsp, %r15

        STEP    1                               # 32 bits
        ARM_TIMER
        GO      CODE_32, code_32
        .code32
code_32:
        TRY_ALL
        sti
1:      cmpl    $0, arrived
        je      1b
        cli
        movl    $in_32, resume
        ud2
in_32:  nop
9:      ljmp    $CODE_SELECTOR, $from_32
        .code64
from_32:
        REQUIRE_ALL CODE_32
        cmpq    %r15, %rsp
        REQUIRE_EQUAL

        STEP    2                               # 16 bits, in a segment that begins where its code does
        ARM_TIMER
        movl    $code_16, %eax
        movw    %ax, gdt + CODE_16 + 2(%rip)
        shrl    $16, %eax
        movb    %al, gdt + CODE_16 + 4(%rip)
        GO      CODE_16, 0
        .code16
code_16:
        TRY_ALL
        sti
        movl    $arrived, %ebx
1:      cmpl    $0, (%ebx)
        je      1b
        cli
        movl    $resume, %ebx
        movl    $in_16 - code_16, (%ebx)
        ud2
in_16:  nop
9:      ljmpl   $CODE_SELECTOR, $from_16
        .code64
from_16:
        REQUIRE_ALL CODE_16
        STEP    3                               # 32 bits at CPL 3: the frame has its stack
        ARM_TIMER
        pushq   $USER_DATA
        pushq   $user_stack
        pushq   $IF + 2
        pushq   $USER_CODE_32
        pushq   $user_32
        iretq
        .code32
user_32:
1:      cmpl    $0, arrived
        je      1b
        movl    $2f, resume
        hlt
2:      movl    $from_user, %eax
        int     $BACK_VECTOR
        .code64
from_user:
        REQUIRE USER_CODE_32, timer_cs(%rip)
        REQUIRE USER_CODE_32, seen_cs(%rip)
        REQUIRE user_stack, seen_rsp(%rip)
        REQUIRE GENERAL_PROTECTION, seen_vector(%rip)
        cmpq    %r15, %rsp
        REQUIRE_EQUAL
        PRINT   "\n"
        DONE    "compat"

timer_interrupt:
        pushq   %rax
        movq    16(%rsp), %rax
        movq    %rax, timer_cs(%rip)
        movl    $APIC, %eax
        movl    $0, APIC_EOI(%rax)
        movl    $1, arrived(%rip)
        popq    %rax
        iretq

# To CPL 0 and RAX, on the stack there was.
back:   movq    %r15, %rsp
        movl    %eax, %eax
        jmp     *%rax

        .balign 8
gdtr:   .word   gdt_end - gdt - 1
        .quad   gdt
gdt:    .quad   0
        .quad   0x00af9b000000ffff              # 64-bit code
        .quad   0x00cf93000000ffff              # data
        .quad   0x0000890000000067, 0           # the TSS, its address written above
        .quad   0x00cf9b000000ffff              # 32-bit code
        .quad   0x00009b000000ffff              # 16-bit code, its address written above
        .quad   0x00cff3000000ffff              # the user's data
        .quad   0x00cffb000000ffff              # the user's 32-bit code
gdt_end:

        .pushsection .bss
        .balign 16
tss:    .space  0x68
timer_cs:
        .space  8
        .balign 16
        .space  1024
user_stack:
        .space  8
        .popsection

        CHECK_LIBRARY
