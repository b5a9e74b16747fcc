# SPDX-License-Identifier: GPL-2.0-or-later
# faults: exceptions in 64-bit mode, as SDM vol. 3A "Interrupt and Exception Handling" has them: error codes,
# gates that are not there, stacks of their own (IST), and faults on the way to a handler.

        .include "checks/check.S"

        .set    NON_CANONICAL, 1 << 63
        .set    NO_SELECTOR, 0x60               # behind the GDT
        .set    ABSENT_SELECTOR, 0x20
        .set    TSS_SELECTOR, 0x28
        .set    FREE_VECTOR, 0x50
        .set    OUTSIDE_IDT, 0xf8
        .set    LIMIT, OUTSIDE_IDT * GATE_BYTES - 1
        .set    LAST_MAPPED, 0x40               # of an IDT at the end of a page: the first that is not
        .set    DATA_SELECTOR, 0x10
        .set    FETCH, 0x10
        .set    MOVL_ECX, 0xb9                  # the first byte of movl $number, %ecx
        .set    IN_IDT, 2                       # bits of an error code
        .set    EXTERNAL, 1
        .set    NOT_MAPPED, 2 << 20             # made so

        .macro  SET_PRESENT vector, access
        movb    $\access, idt + \vector * GATE_BYTES + 5(%rip)
        .endm

# Code there faults for the page behind it.
        .macro  RUN_AT place
        movq    $5f, resume(%rip)
        movl    $\place, %eax
        jmp     *%rax
5:      REQUIRE PAGE_FAULT, seen_vector(%rip)
        REQUIRE FETCH, seen_error(%rip)
        REQUIRE NOT_MAPPED, seen_cr2(%rip)
        .endm

# Which stack of the TSS an exception takes, 0 for none of them.
        .macro  SET_STACK vector, number
        movb    $\number, idt + \vector * GATE_BYTES + 4(%rip)
        .endm

        .text
        HEADER

entry:  START_CHECK
        lgdt    gdtr(%rip)
        leaq    tss(%rip), %rax                 # its descriptor's address
        movw    %ax, gdt + TSS_SELECTOR + 2(%rip)
        shrq    $16, %rax
        movb    %al, gdt + TSS_SELECTOR + 4(%rip)
        movb    %ah, gdt + TSS_SELECTOR + 7(%rip)
        leaq    ist_1(%rip), %rax
        movq    %rax, tss + 0x24(%rip)
        leaq    ist_2(%rip), %rax
        movq    %rax, tss + 0x2c(%rip)
        movabsq $NON_CANONICAL, %rax
        movq    %rax, tss + 0x34(%rip)
        movq    $NOT_MAPPED + 0x100, tss + 0x3c(%rip)
        movw    $TSS_SELECTOR, %ax
        ltr     %ax
        movq    %cr3, %rax                      # the second 2 MiB are not there
        movq    (%rax), %rax
        andq    $~0xfff, %rax
        movq    (%rax), %rax
        andq    $~0xfff, %rax
        movq    $0, 8(%rax)
        invlpg  NOT_MAPPED

        STEP    1                               # invalid opcode: no error code
        FAULTS  INVALID_OPCODE, 0, ud2
        STEP    2                               # divide error
        xorl    %ecx, %ecx
        FAULTS  0, 0, divl %ecx
        STEP    3                               # an address that is not canonical
        movabsq $NON_CANONICAL, %rbx
        FAULTS  GENERAL_PROTECTION, 0, movq (%rbx), %rcx
        STEP    4                               # a stack segment that is not present
        movl    $ABSENT_SELECTOR, %ecx
        FAULTS  STACK_FAULT, ABSENT_SELECTOR, movw %cx, %ss
        STEP    5                               # a selector outside the GDT
        movl    $NO_SELECTOR, %ecx
        FAULTS  GENERAL_PROTECTION, NO_SELECTOR, movw %cx, %ds
        STEP    6                               # a segment that is not present
        movl    $ABSENT_SELECTOR, %ecx
        FAULTS  NOT_PRESENT, ABSENT_SELECTOR, movw %cx, %es
        STEP    7                               # a page that is not there: read, write, and where
        FAULTS  PAGE_FAULT, 0, movq NOT_MAPPED + 8, %rcx
        REQUIRE NOT_MAPPED+8, seen_cr2
        STEP    8
        FAULTS  PAGE_FAULT, 2, movq %rcx, NOT_MAPPED + 0x10
        REQUIRE NOT_MAPPED+0x10, seen_cr2

        STEP    9                               # a breakpoint is a trap: RIP is behind it
        movq    $after_int3, resume(%rip)
        int3
after_int3:
        REQUIRE BREAKPOINT, seen_vector(%rip)
        REQUIRE after_int3, seen_rip(%rip)
        STEP    10                              # a software interrupt through a gate that is not present
        SET_PRESENT FREE_VECTOR, 0x0e
        FAULTS  NOT_PRESENT, FREE_VECTOR*8+IN_IDT, int $FREE_VECTOR
        STEP    11                              # and one outside the IDT
        lidt    short_idtr(%rip)
        FAULTS  GENERAL_PROTECTION, OUTSIDE_IDT*8+IN_IDT, int $OUTSIDE_IDT

        STEP    12                              # a stack of its own
        movb    $1, idt + INVALID_OPCODE * GATE_BYTES + 4(%rip)
        movq    %rsp, %rbp
        FAULTS  INVALID_OPCODE, 0, ud2
        REQUIRE ist_1-64, handler_rsp(%rip)   # SS, RSP, RFLAGS, CS, RIP, error code, vector, RAX
        cmpq    %rbp, seen_rsp(%rip)
        REQUIRE_EQUAL
        movb    $0, idt + INVALID_OPCODE * GATE_BYTES + 4(%rip)

        STEP    13                              # without one, the stack is aligned to 16 bytes first
        leaq    -3(%rsp), %rsp
        FAULTS  INVALID_OPCODE, 0, ud2
        movq    handler_rsp(%rip), %rax
        testl   $0xf, %eax
        REQUIRE_EQUAL
        movq    %rbp, %rsp

        STEP    14                              # a benign exception without a gate: not present, external
        SET_PRESENT INVALID_OPCODE, 0x0e
        FAULTS  NOT_PRESENT, INVALID_OPCODE*8+IN_IDT+EXTERNAL, ud2
        SET_PRESENT INVALID_OPCODE, 0x8e
        STEP    15                              # a contributory one: double fault, on its own stack
        movb    $2, idt + DOUBLE_FAULT * GATE_BYTES + 4(%rip)
        SET_PRESENT GENERAL_PROTECTION, 0x0e
        movabsq $NON_CANONICAL, %rbx
        FAULTS  DOUBLE_FAULT, 0, movq (%rbx), %rcx
        REQUIRE ist_2-64, handler_rsp(%rip)
        SET_PRESENT GENERAL_PROTECTION, 0x8e
        STEP    16                              # a page fault without a gate: double fault, CR2 kept
        SET_PRESENT PAGE_FAULT, 0x0e
        FAULTS  DOUBLE_FAULT, 0, movq NOT_MAPPED + 0x18, %rcx
        REQUIRE NOT_MAPPED+0x18, seen_cr2
        SET_PRESENT PAGE_FAULT, 0x8e
        STEP    17                              # one after the other is no double fault
        FAULTS  PAGE_FAULT, 0, movq NOT_MAPPED, %rcx
        FAULTS  PAGE_FAULT, 0, movq NOT_MAPPED, %rcx
        movabsq $NON_CANONICAL, %rbx
        FAULTS  GENERAL_PROTECTION, 0, movq (%rbx), %rcx
        FAULTS  GENERAL_PROTECTION, 0, movq (%rbx), %rcx
        STEP    18                              # a bad stack on the way to a handler: double fault
        movq    %rsp, %rbp
        movq    $5f, resume(%rip)
        movl    $NOT_MAPPED + 0x100, %esp
4:      ud2
        jmp     check_failed
5:      movq    %rbp, %rsp
        REQUIRE DOUBLE_FAULT, seen_vector(%rip)

        STEP    19                              # a stack in the TSS that is not canonical
        SET_STACK INVALID_OPCODE, 3
        FAULTS  STACK_FAULT, EXTERNAL, ud2
        STEP    20                              # one on a page that is not there: where the first word goes
        SET_STACK INVALID_OPCODE, 4
        FAULTS  PAGE_FAULT, 2, ud2
        REQUIRE NOT_MAPPED+0x100-8, seen_cr2
        STEP    21                              # one that ends at 0 goes on below the last address
        SET_STACK INVALID_OPCODE, 5
        FAULTS  PAGE_FAULT, 2, ud2
        REQUIRE -8, seen_cr2
        SET_STACK INVALID_OPCODE, 0
        STEP    22                              # a handler's address that is not canonical
        movl    $NON_CANONICAL >> 32, idt + INVALID_OPCODE * GATE_BYTES + 8(%rip)
        FAULTS  GENERAL_PROTECTION, EXTERNAL, ud2
        movl    $0, idt + INVALID_OPCODE * GATE_BYTES + 8(%rip)
        STEP    23                              # what is no gate, and gates to what is no 64-bit code
        SET_PRESENT INVALID_OPCODE, 0x8c
        FAULTS  GENERAL_PROTECTION, INVALID_OPCODE*8+IN_IDT+EXTERNAL, ud2
        SET_PRESENT INVALID_OPCODE, 0x8e
        movw    $0, idt + INVALID_OPCODE * GATE_BYTES + 2(%rip)
        FAULTS  GENERAL_PROTECTION, EXTERNAL, ud2
        movw    $DATA_SELECTOR, idt + INVALID_OPCODE * GATE_BYTES + 2(%rip)
        FAULTS  GENERAL_PROTECTION, DATA_SELECTOR+EXTERNAL, ud2
        movw    $CODE_SELECTOR, idt + INVALID_OPCODE * GATE_BYTES + 2(%rip)
        STEP    24                              # an IDT that goes on where no page is
        leaq    idt(%rip), %rsi
        movl    $NOT_MAPPED - LAST_MAPPED * GATE_BYTES, %edi
        movl    $LAST_MAPPED * GATE_BYTES, %ecx
        rep movsb
        lidt    reaching_idtr(%rip)
        FAULTS  INVALID_OPCODE, 0, ud2
        FAULTS  PAGE_FAULT, 0, int $LAST_MAPPED
        REQUIRE NOT_MAPPED, seen_cr2
        lidt    idtr(%rip)
        STEP    25                              # code that goes on where no page is: up to there it has run
        movb    $MOVL_ECX, NOT_MAPPED - 5
        movl    $1, NOT_MAPPED - 4              # its operand
        xorl    %ecx, %ecx
        RUN_AT  NOT_MAPPED-5
        REQUIRE NOT_MAPPED, seen_rip
        REQUIRE 1, %rcx
        STEP    26                              # an instruction that lies across has not
        movb    $MOVL_ECX, NOT_MAPPED - 2
        RUN_AT  NOT_MAPPED-2
        REQUIRE NOT_MAPPED-2, seen_rip
        REQUIRE 1, %rcx
        DONE    "faults"

        .balign 8
gdtr:   .word   gdt_end - gdt - 1
        .quad   gdt
short_idtr:
        .word   LIMIT
        .quad   idt
reaching_idtr:
        .word   LIMIT
        .quad   NOT_MAPPED - LAST_MAPPED * GATE_BYTES
gdt:    .quad   0
        .quad   0x00af9b000000ffff              # 64-bit code
        .quad   0x00cf93000000ffff              # data
        .quad   0
        .quad   0x00cf13000000ffff              # data that is not present
        .quad   0x0000890000000067, 0           # the TSS, its address written above
gdt_end:

        .pushsection .bss
        .balign 16
tss:    .space  0x68
        .balign 16
        .space  1024
ist_1:
        .space  1024
ist_2:
        .space  16
        .popsection

        CHECK_LIBRARY
