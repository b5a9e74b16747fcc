# SPDX-License-Identifier: GPL-2.0-or-later
# What the checks share. A check is a guest that tries what a CPU must do, step by step; it prints one line and
# reports 0, or CHECK_FAILED plus the step that failed.
#
# Every exception goes to one handler that keeps what it finds in seen_... and goes on at `resume`; one that
# nobody waited for is reported like the other guests report it.

        .include "common.S"

        .set    CHECK_FAILED, 32

        .set    BREAKPOINT, 3
        .set    INVALID_OPCODE, 6
        .set    DOUBLE_FAULT, 8
        .set    NOT_PRESENT, 11
        .set    STACK_FAULT, 12
        .set    GENERAL_PROTECTION, 13
        .set    PAGE_FAULT, 14
        .set    HAVE_ERROR_CODE, 0x227d00       # 8, 10 to 14, 17, 21

# What code at CPL 3 calls to come to CPL 0 and RAX, where there is such code.
        .set    BACK_VECTOR, 0x80

        .set    GATE_BYTES, 16
        .set    FAULT_STUB, 16                  # bytes of an exception's entry

        .macro  STEP number
        movl    $\number, step(%rip)
        .endm

# An IDT for the exceptions; RDI, RAX, RBX and RCX are lost.
        .macro  START_CHECK
        leaq    idt(%rip), %rdi
        leaq    fault_0(%rip), %rbx
        movl    $32, %ecx
1:      movq    %rbx, %rax
        WRITE_GATE
        addq    $GATE_BYTES, %rdi
        addq    $FAULT_STUB, %rbx
        decl    %ecx
        jnz     1b
        lidt    idtr(%rip)
        .endm

# The step has failed unless the comparison just made was equal.
        .macro  REQUIRE_EQUAL
        jne     check_failed
        .endm

        .macro  REQUIRE value, place
        cmpq    $\value, \place
        jne     check_failed
        .endm

# An instruction faults, and leaves RIP where it is.
        .macro  FAULTS vector, error, instruction:vararg
        movq    $5f, resume
4:      \instruction
        jmp     check_failed
5:      REQUIRE \vector, seen_vector
        REQUIRE \error, seen_error
        REQUIRE 4b, seen_rip
        .endm

# Say how many steps there were, and report that all is good.
        .macro  DONE name
        PRINT   "\name: "
        movl    step(%rip), %eax
        call    print_number
        PRINT   " steps\n"
        movl    $ALL_GOOD, %eax
        jmp     report
        .endm

        .macro  CHECK_LIBRARY
check_failed:
        movw    %cs, %ax
        testb   $3, %al
        jz      1f
        leaq    check_failed(%rip), %rax
        int     $BACK_VECTOR
1:      PRINT   "failed"
        call    print_state
        movl    step(%rip), %eax
        addl    $CHECK_FAILED, %eax
        jmp     report
unexpected:
        PRINT   "unexpected exception"
        call    print_state
        movl    $EXCEPTION, %eax
        addl    seen_vector(%rip), %eax
        jmp     report

# The step, and the last exception there was.
print_state:
        PRINT   " in step "
        movl    step(%rip), %eax
        call    print_number
        PRINT   "; last exception "
        movq    seen_vector(%rip), %rax
        call    print_number
        PRINT   ", error code "
        movq    seen_error(%rip), %rax
        call    print_number
        PRINT   ", rip "
        movq    seen_rip(%rip), %rax
        call    print_number
        PRINT   "\n"
        ret

# Entries of one size: an error code, pushed where the CPU has pushed none, and the vector.
        .set    vector_of_stub, 0
        .balign 16
fault_0:
        .rept   32
        .balign FAULT_STUB
        .if     !((HAVE_ERROR_CODE >> vector_of_stub) & 1)
        pushq   $0
        .endif
        pushq   $vector_of_stub
        jmp     fault
        .set    vector_of_stub, vector_of_stub + 1
        .endr
        .balign FAULT_STUB

# On the stack: vector, error code, RIP, CS, RFLAGS, RSP, SS.
fault:  pushq   %rax
        movq    8(%rsp), %rax
        movq    %rax, seen_vector(%rip)
        movq    16(%rsp), %rax
        movq    %rax, seen_error(%rip)
        movq    24(%rsp), %rax
        movq    %rax, seen_rip(%rip)
        movq    32(%rsp), %rax
        movq    %rax, seen_cs(%rip)
        movq    48(%rsp), %rax
        movq    %rax, seen_rsp(%rip)
        movq    %cr2, %rax
        movq    %rax, seen_cr2(%rip)
        movq    %rsp, handler_rsp(%rip)
        xorl    %eax, %eax
        xchgq   %rax, resume(%rip)
        testq   %rax, %rax
        jz      unexpected
        movq    %rax, 24(%rsp)
        popq    %rax
        addq    $16, %rsp
        iretq
        .pushsection .bss
        .balign 8
step:   .space  8
resume: .space  8
seen_vector:
        .space  8
seen_error:
        .space  8
seen_rip:
        .space  8
seen_cs:
        .space  8
seen_rsp:
        .space  8
seen_cr2:
        .space  8
handler_rsp:
        .space  8
        .popsection

        LIBRARY
        .endm
