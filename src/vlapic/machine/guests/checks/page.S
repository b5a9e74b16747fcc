# SPDX-License-Identifier: GPL-2.0-or-later
# page: the local APIC's page, reached by every kind of instruction that reaches memory: exchanges, locked and plain
# read-modify-writes, moves of 1 to 16 bytes, strings, stack pointers and calls through it, code at CPL 3 where the
# page tables let it. Each access happens once, however often the machine looks (SDM vol. 3A "Local APIC").

        .include "checks/check.S"
        .include "checks/user.S"

        .set    APIC_ID, 0x20
        .set    APIC_VERSION, 0x30
        .set    APIC_TPR, 0x80
        .set    MASKED, 0x10000
        .set    CURRENT_COUNT, 0x390
        .set    WORDS, 16                       # of a string
        .set    DEVICES, 3                      # the GiB of the page

        .macro  REQUIRE_TPR value
        cmpl    $\value, APIC_TPR(%rbx)
        jne     check_failed
        .endm

        .text
        HEADER

entry:  START_CHECK
        SET_UP_USER
        SET_UP_APIC TIMER_VECTOR + MASKED
        movq    %rsp, %rbp

        STEP    1                               # read and write in one
        movl    $0x20, %ecx
        xchgl   %ecx, APIC_TPR(%rbx)
        testl   %ecx, %ecx
        REQUIRE_EQUAL
        REQUIRE_TPR 0x20
        lock orl $0x10, APIC_TPR(%rbx)
        REQUIRE_TPR 0x30
        addl    $0x10, APIC_TPR(%rbx)
        incl    APIC_TPR(%rbx)
        REQUIRE_TPR 0x41
        lock btsl $1, APIC_TPR(%rbx)
        jc      check_failed
        REQUIRE_TPR 0x43
        movl    $0x43, %eax
        movl    $0x50, %ecx
        lock cmpxchgl %ecx, APIC_TPR(%rbx)
        REQUIRE_EQUAL
        REQUIRE_TPR 0x50
        movl    $0x51, %eax
        lock cmpxchgl %ecx, APIC_TPR(%rbx)
        je      check_failed
        cmpl    $0x50, %eax
        REQUIRE_EQUAL
        STEP    2                               # the counter of a timer that runs is read once in each
        movl    $DIVIDE_BY_1, APIC_DIVIDE(%rbx)
        movl    $-1, APIC_INITIAL_COUNT(%rbx)
        movl    CURRENT_COUNT(%rbx), %eax
        xorl    %ecx, %ecx
        subl    CURRENT_COUNT(%rbx), %ecx
        addl    %ecx, %eax                      # what passed from one to the other
        testl   %eax, %eax
        jle     check_failed
        movl    $0, APIC_INITIAL_COUNT(%rbx)
        STEP    3                               # other sizes
        movl    $-1, %ecx
        movb    APIC_TPR(%rbx), %cl
        cmpl    $0xffffff50, %ecx
        REQUIRE_EQUAL
        movw    APIC_TPR(%rbx), %cx
        cmpl    $0xffff0050, %ecx
        REQUIRE_EQUAL
        movb    $0x77, APIC_TPR(%rbx)           # KVM takes writes of 32 bits alone
        movw    $0x77, APIC_TPR(%rbx)
        REQUIRE_TPR 0x50
        movdqu  APIC_TPR(%rbx), %xmm0           # 8 bytes are more than a register
        movd    %xmm0, %ecx
        testl   %ecx, %ecx
        REQUIRE_EQUAL
        movq    APIC_VERSION(%rbx), %rcx
        testq   %rcx, %rcx
        REQUIRE_EQUAL
        movq    $0x77, APIC_TPR(%rbx)
        movl    APIC_VERSION + 1(%rbx), %ecx    # and so is what ends behind the first four
        testl   %ecx, %ecx
        REQUIRE_EQUAL
        movzwl  APIC_VERSION + 3(%rbx), %ecx
        testl   %ecx, %ecx
        REQUIRE_EQUAL
        movzwl  APIC_VERSION + 1(%rbx), %ecx
        cmpl    $0x600, %ecx
        REQUIRE_EQUAL
        movl    $0x77, APIC_TPR + 1(%rbx)
        movl    $0x77, APIC_TPR - 1(%rbx)
        orl     $0x77, APIC_TPR + 2(%rbx)
        REQUIRE_TPR 0x50
        movl    0xffe(%rbx), %ecx               # half in the page, half where nothing is
        cmpl    $0xffff0000, %ecx
        REQUIRE_EQUAL
        STEP    4                               # strings: out of the page, element by element, and into it
        leaq    APIC_TPR(%rbx), %rsi
        leaq    words(%rip), %rdi
        movl    $WORDS, %ecx
        rep movsl
        testl   %ecx, %ecx
        REQUIRE_EQUAL
        cmpl    $0x50, words(%rip)
        REQUIRE_EQUAL
        movl    $0x60, words(%rip)
        leaq    words(%rip), %rsi
        leaq    APIC_TPR(%rbx), %rdi
        movl    $1, %ecx
        rep movsl
        REQUIRE_TPR 0x60
        movl    $0x70, %eax
        leaq    APIC_TPR(%rbx), %rdi
        movl    $3, %ecx
        rep stosl
        REQUIRE_TPR 0x70
        leaq    APIC_TPR + 12(%rbx), %rdx
        cmpq    %rdx, %rdi
        REQUIRE_EQUAL
        leaq    APIC_TPR(%rbx), %rdi
        movl    $2, %ecx
        repe scasl                              # the second one is not EAX
        je      check_failed
        testl   %ecx, %ecx
        REQUIRE_EQUAL
        STEP    5                               # a stack in it
        leaq    APIC_TPR(%rbx), %rsp
        popq    %rcx                            # 8 bytes are more than a register
        testl   %ecx, %ecx
        REQUIRE_EQUAL
        leaq    APIC_TPR + 8(%rbx), %rax
        cmpq    %rax, %rsp
        REQUIRE_EQUAL
        movq    %rbp, %rsp
        pushq   APIC_TPR(%rbx)
        popq    %rcx
        testl   %ecx, %ecx
        REQUIRE_EQUAL
        leaq    APIC_TPR + 8(%rbx), %rsp
        pushq   %rbx
        movq    %rbp, %rsp
        REQUIRE_TPR 0x70
        cmpq    %rbp, %rsp
        REQUIRE_EQUAL
        STEP    6                               # a fault beside it: nothing is written, nothing moves
        movl    $ABSENT_PAGE, %esi
        leaq    APIC_TPR(%rbx), %rdi
        FAULTS  PAGE_FAULT, 0, movsl
        REQUIRE ABSENT_PAGE, seen_cr2(%rip)
        REQUIRE_TPR 0x70
        cmpl    $ABSENT_PAGE, %esi
        REQUIRE_EQUAL
        STEP    7                               # no code is there
        movq    $after_call, resume(%rip)
        call    *%rbx
after_call:
        movq    %rbp, %rsp
        REQUIRE INVALID_OPCODE, seen_vector(%rip)
        cmpq    %rbx, seen_rip(%rip)
        REQUIRE_EQUAL
        STEP    8                               # CPL 3: the supervisor's page first, then the user's own
        GO_USER 2
        FAULTS  PAGE_FAULT, PRESENT+USER, movl APIC_TPR(%rbx),%ecx
        FAULTS  PAGE_FAULT, PRESENT+USER+WRITE, movl %ecx,APIC_TPR(%rbx)
        GO_BACK
        movq    %cr3, %rdi
        movq    (%rdi), %rdi
        andq    $~0xfff, %rdi
        orb     $USER, 8 * DEVICES(%rdi)
        movq    8 * DEVICES(%rdi), %rdi
        andq    $~0xfff, %rdi
        orb     $USER, ((APIC >> 21) & 0x1ff) * 8(%rdi)
        movq    %cr3, %rax
        movq    %rax, %cr3
        GO_USER 2
        movl    $0x10, %ecx
        xchgl   %ecx, APIC_TPR(%rbx)
        cmpl    $0x70, %ecx
        REQUIRE_EQUAL
        GO_BACK
        REQUIRE_TPR 0x10
        STEP    9                               # a read-only page
        movq    %cr3, %rdi
        movq    (%rdi), %rdi
        andq    $~0xfff, %rdi
        movq    8 * DEVICES(%rdi), %rdi
        andq    $~0xfff, %rdi
        andb    $~WRITABLE, ((APIC >> 21) & 0x1ff) * 8(%rdi)
        movq    %cr3, %rax
        movq    %rax, %cr3
        FAULTS  PAGE_FAULT, PRESENT+WRITE, movl %ecx,APIC_TPR(%rbx)
        FAULTS  PAGE_FAULT, PRESENT+WRITE, lock incl APIC_TPR(%rbx)
        REQUIRE_TPR 0x10
        DONE    "page"

        .pushsection .bss
        .balign 16
words:  .space  4 * WORDS
        .popsection

        USER_LIBRARY
        CHECK_LIBRARY
