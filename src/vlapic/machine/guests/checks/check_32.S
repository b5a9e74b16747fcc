# SPDX-License-Identifier: GPL-2.0-or-later
# What 32-bit code checks with: check.S once more, for protected mode. Segments are flat.

        .set    CODE_32, 0x18
        .set    USER_CODE_32, 0x20 | 3
        .set    USER_DATA_32, 0x28 | 3
        .set    GATE_32_BYTES, 8

# An IDT entry at EDI for the handler at EAX; EAX is lost.
        .macro  WRITE_GATE_32
        movw    %ax, (%edi)
        movw    $CODE_32, 2(%edi)
        movw    $0x8e00, 4(%edi)
        shrl    $16, %eax
        movw    %ax, 6(%edi)
        .endm

        .macro  SET_GATE_32 vector, handler
        movl    $idt + \vector * GATE_32_BYTES, %edi
        movl    $\handler, %eax
        WRITE_GATE_32
        .endm

        .macro  REQUIRE_32 value, place
        cmpl    $\value, \place
        jne     check_failed_32
        .endm

        .macro  STEP_32 number
        movl    $\number, step
        .endm

        .macro  FAULTS_32 vector, error, instruction:vararg
        movl    $5f, resume
4:      \instruction
        jmp     check_failed_32
5:      REQUIRE_32 \vector, seen_vector
        REQUIRE_32 \error, seen_error
        REQUIRE_32 4b, seen_rip
        .endm

        .macro  GO_USER_32 flags
        pushl   $USER_DATA_32
        pushl   $user_stack
        pushl   $\flags
        pushl   $USER_CODE_32
        pushl   $6f
        iretl
6:      movw    %cs, %ax
        cmpw    $USER_CODE_32, %ax
        jne     check_failed_32
        .endm

        .macro  GO_BACK_32
        movl    $7f, %eax
        int     $BACK_VECTOR
7:
        .endm

        .macro  CHECK_LIBRARY_32
        .code32
check_failed_32:
        movw    %cs, %ax
        testb   $3, %al
        jz      1f
        movl    $check_failed_32, %eax
        int     $BACK_VECTOR
1:      movl    step, %eax
        addl    $CHECK_FAILED, %eax
2:      movw    $EXIT_PORT, %dx
        outl    %eax, %dx
        cli
        hlt
        jmp     2b
unexpected_32:
        movl    $EXCEPTION, %eax
        addl    seen_vector, %eax
        jmp     2b

        .set    vector_of_stub, 0
        .balign FAULT_STUB
fault_32_0:
        .rept   32
        .balign FAULT_STUB
        .if     !((HAVE_ERROR_CODE >> vector_of_stub) & 1)
        pushl   $0
        .endif
        pushl   $vector_of_stub
        jmp     fault_32
        .set    vector_of_stub, vector_of_stub + 1
        .endr
        .balign FAULT_STUB

# On the stack: vector, error code, EIP, CS, EFLAGS, and from CPL 3 ESP and SS.
fault_32:
        pushl   %eax
        movl    4(%esp), %eax
        movl    %eax, seen_vector
        movl    8(%esp), %eax
        movl    %eax, seen_error
        movl    12(%esp), %eax
        movl    %eax, seen_rip
        movl    %cr2, %eax
        movl    %eax, seen_cr2
        xorl    %eax, %eax
        xchgl   %eax, resume
        testl   %eax, %eax
        jz      unexpected_32
        movl    %eax, 12(%esp)
        popl    %eax
        addl    $8, %esp
        iretl

# To CPL 0 and EAX.
back_32:
        addl    $20, %esp
        jmp     *%eax
        .code64
        .endm
