# SPDX-License-Identifier: GPL-2.0-or-later
# What checks with code at CPL 3 share: a GDT and a TSS, the user's pages, the way there and back.
#
# The first 2 MiB, the image among them, are made the user's; the second are the supervisor's, the third are
# read only, the fourth are not there.

        .set    USER_CODE, 0x20 | 3             # as SYSRET wants them: SS, then CS
        .set    USER_DATA, 0x18 | 3
        .set    TSS_SELECTOR, 0x28
        .set    TSS_BYTES, 0x68
        .set    SUPERVISOR_PAGE, 2 << 20
        .set    READ_ONLY_PAGE, 4 << 20
        .set    ABSENT_PAGE, 6 << 20

        .set    PRESENT, 1
        .set    WRITABLE, 2
        .set    USER, 4                         # in an entry and in an error code
        .set    WRITE, 2

        .set    DPL_3, 0x60
        .set    IF, 0x200
        .set    IOPL_3, 0x3000

# All of it; RAX and RDI are lost.
        .macro  SET_UP_USER
        SET_GATE BACK_VECTOR, back
        orb     $DPL_3, idt + BACK_VECTOR * GATE_BYTES + 5(%rip)
        lgdt    gdtr(%rip)
        leaq    tss(%rip), %rax
        movw    %ax, gdt + TSS_SELECTOR + 2(%rip)
        shrq    $16, %rax
        movb    %al, gdt + TSS_SELECTOR + 4(%rip)
        movb    %ah, gdt + TSS_SELECTOR + 7(%rip)
        movq    %rsp, tss + 4(%rip)
        movw    $TSS_BYTES, tss + 0x66(%rip)    # no map of ports
        movw    $TSS_SELECTOR, %ax
        ltr     %ax

        movq    %cr3, %rdi
        orb     $USER, (%rdi)
        movq    (%rdi), %rdi
        andq    $~0xfff, %rdi
        orb     $USER, (%rdi)
        movq    (%rdi), %rdi
        andq    $~0xfff, %rdi
        orb     $USER, (%rdi)
        orb     $USER, 16(%rdi)
        andb    $~WRITABLE, 16(%rdi)
        movq    $0, 24(%rdi)
        movq    %cr3, %rax
        movq    %rax, %cr3
        .endm

# Go on at CPL 3 with other flags.
        .macro  GO_USER flags
        pushq   $USER_DATA
        leaq    user_stack(%rip), %rax
        pushq   %rax
        pushq   $\flags
        pushq   $USER_CODE
        leaq    6f(%rip), %rax
        pushq   %rax
        iretq
6:      movw    %cs, %ax
        cmpw    $USER_CODE, %ax
        jne     check_failed
        .endm

# And back at CPL 0.
        .macro  GO_BACK
        leaq    7f(%rip), %rax
        int     $BACK_VECTOR
7:
        .endm

        .macro  USER_LIBRARY
# To CPL 0 and RAX, on the stack there was before the user's.
back:   addq    $40, %rsp
        jmp     *%rax

        .balign 8
gdtr:   .word   gdt_end - gdt - 1
        .quad   gdt
gdt:    .quad   0
        .quad   0x00af9b000000ffff              # 64-bit code
        .quad   0x00cf93000000ffff              # data
        .quad   0x00cff3000000ffff              # the user's data
        .quad   0x00affb000000ffff              # the user's 64-bit code
        .quad   0x0000890000000067, 0           # the TSS, its address written above
gdt_end:

        .pushsection .bss
        .balign 16
tss:    .space  TSS_BYTES
        .balign 16
        .space  1024
user_stack:
        .space  8
        .popsection
        .endm
