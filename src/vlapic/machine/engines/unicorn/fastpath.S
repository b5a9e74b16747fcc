# SPDX-License-Identifier: GPL-2.0-or-later
# Exits that Python handles in the middle of a run, as machine code for x86-64 Linux (System V calling convention).
#
# Unicorn calls these hooks before an instruction that exits, or in its access to device memory. They find out
# what can be known beforehand: whether the instruction is known in the block that runs, what it accesses, and
# how many instructions have retired. Then they call Python once, with numbers. What is not known is asked of
# Python, which teaches it. machine_code.py holds the assembled bytes; fastpath.py has the same rules in
# Python, and says what the fields mean; a test assembles this file and compares.

        .set    COUNT, 0        # the counter: fields of 8 bytes (blocks.py)
        .set    STOPPED, 16
        .set    SPIN, 24
        .set    ROW, 32
        .set    STATE, 80
        .set    KEPT, 88
        .set    HERE, 96
        .set    PLACES, 104
        .set    ON_EXIT, 112
        .set    ASK_SITE, 120
        .set    ASK_MEMORY, 128
        .set    WRITE_REGISTER, 136
        .set    AT_RIP, 144
        .set    AT_NEXT, 152
        .set    ANSWERS, 168
        .set    ANSWERED, 176
        .set    REPLAYED, 184

        .set    S_COUNTER, 0    # a site (blocks.py)
        .set    S_ROW, 8        # 0: not known
        .set    S_LEFT, 16
        .set    S_LENGTH, 24
        .set    S_KIND, 32

        .set    P_HERE, 0       # a place (access_place.py)
        .set    P_ROW, 8
        .set    P_LEFT, 16
        .set    P_ADDRESS, 24
        .set    P_LENGTH, 32
        .set    P_SIZE, 40
        .set    P_DISPLACEMENT, 48
        .set    P_BASE, 56
        .set    P_ONCE, 64
        .set    P_OTHER, 72
        .set    P_SCALE, 80
        .set    PLACE_BITS, 7   # a place's row has 128 bytes
        .set    PLACE_ROWS, 1 << 8

        .set    A_KIND, 0       # an access that has been answered (device_memory.py)
        .set    A_OFFSET, 8
        .set    A_SIZE, 16
        .set    A_VALUE, 24
        .set    A_ANSWER, 32
        .set    ANSWER_BITS, 6  # its row has 64 bytes

        .set    RAX, 0          # in the state (layout.py)
        .set    RCX, 8
        .set    RDX, 16
        .set    HFLAGS, 176
        .set    CPL, 3
        .set    CS64, 0x8000
        .set    CS_BASE, 216

        .set    READ_MSR, 0     # what is asked for: a kind
        .set    WRITE_MSR, 1
        .set    READ_MEMORY, 2
        .set    WRITE_MEMORY, 3

        .set    IA32_TSC_DEADLINE, 0x6e0
        .set    X2APIC, 8       # the x2APIC's MSRs, 0x800 to 0x8ff, without their last eight bits
        .set    DEVICES, 0xc0000000
        .set    PAGE, 4096
        .set    UC_X86_REG_RIP, 41

        .text

# Offset 0: the CODE hook of RDMSR and WRMSR: rdi = engine, rsi = guest address, edx = length, rcx = the site.
offer_site:
        movq    S_COUNTER(%rcx), %r10
        cmpq    $0, STOPPED(%r10)
        jne     9f
        movq    S_ROW(%rcx), %rax
        testq   %rax, %rax
        jz      ask_site
        cmpq    ROW(%r10), %rax         # the site may be in other blocks too
        jne     ask_site
        cmpq    $0, KEPT(%r10)
        jne     ask_site
        movq    STATE(%r10), %r9
        testb   $CPL, HFLAGS(%r9)
        jnz     ask_site
        movl    RCX(%r9), %eax          # only MSRs that are never the CPU's own, and that Unicorn ignores
        cmpl    $IA32_TSC_DEADLINE, %eax
        je      1f
        movl    %eax, %r11d
        shrl    $8, %r11d
        cmpl    $X2APIC, %r11d
        jne     ask_site
1:      subq    CS_BASE(%r9), %rsi
        movq    %rsi, AT_RIP(%r10)
        addq    S_LENGTH(%rcx), %rsi
        movq    %rsi, AT_NEXT(%r10)
        movq    COUNT(%r10), %rsi       # on_exit(kind, count, MSR, size, value)
        subq    S_LEFT(%rcx), %rsi
        movl    S_KIND(%rcx), %r11d
        movl    %eax, %edx
        xorl    %ecx, %ecx
        xorl    %r8d, %r8d
        cmpl    $READ_MSR, %r11d
        je      2f
        movl    RDX(%r9), %r8d
        shlq    $32, %r8
        movl    RAX(%r9), %eax
        orq     %rax, %r8
        movl    %r11d, %edi
        jmp     *ON_EXIT(%r10)          # Unicorn's own WRMSR, which comes next, does nothing

2:      pushq   %rbx
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %rsi
        movq    %r10, %rbx
        movq    %r9, %r12
        movq    %rdi, %r13
        movl    %r11d, %edi
        call    *ON_EXIT(%r10)
        popq    %rsi
        cmpq    $0, STOPPED(%rbx)
        jne     3f
        movl    %eax, %edx
        movq    %rdx, RAX(%r12)
        shrq    $32, %rax
        movq    %rax, RDX(%r12)
        incq    %rsi                    # the block is left behind the instruction
        movq    %rsi, COUNT(%rbx)
        movq    %r13, %rdi
        movl    $UC_X86_REG_RIP, %esi
        leaq    AT_NEXT(%rbx), %rdx
        pushq   %rax
        call    *WRITE_REGISTER(%rbx)
        popq    %rax
3:      popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbx
9:      ret

ask_site:
        jmp     *ASK_SITE(%r10)

# A write of device memory: rdi = engine, rsi = offset from DEVICES, edx = bytes, rcx = value, r8 = the counter.
        .balign 16
offer_write:
        movq    %r8, %r10
        movq    %rcx, %r8
        movl    $WRITE_MEMORY, %edi
        jmp     1f

# A read: rdi = engine, rsi = offset, edx = bytes, rcx = the counter. It gives the value.
        .balign 16
offer_read:
        movq    %rcx, %r10
        xorl    %r8d, %r8d
        movl    $READ_MEMORY, %edi
1:      movq    $0, SPIN(%r10)          # a loop that asks a device waits for more than memory
        cmpq    $0, STOPPED(%r10)
        jne     9f
        cmpq    $0, KEPT(%r10)
        jne     replay
        movq    HERE(%r10), %r9
        testq   %r9, %r9
        jz      ask_memory
        movq    (%r9), %r9              # the place's row: (here ^ here >> 8) % PLACE_ROWS
        movq    %r9, %r11
        shrq    $8, %r11
        xorq    %r9, %r11
        andl    $PLACE_ROWS - 1, %r11d
        shlq    $PLACE_BITS, %r11
        addq    PLACES(%r10), %r11
        cmpq    %r9, P_HERE(%r11)
        jne     ask_memory
        movq    P_ROW(%r11), %rax
        cmpq    ROW(%r10), %rax
        jne     ask_memory
        cmpl    %edx, P_SIZE(%r11)      # else it is one of several accesses of the instruction
        jne     ask_memory
        movq    STATE(%r10), %r9
        movq    P_BASE(%r11), %rax
        movq    (%r9,%rax,8), %rax
        imulq   P_ONCE(%r11), %rax
        movq    P_OTHER(%r11), %rcx
        movq    (%r9,%rcx,8), %rcx
        imulq   P_SCALE(%r11), %rcx
        addq    %rcx, %rax
        addq    P_DISPLACEMENT(%r11), %rax
        xorq    %rsi, %rax
        testl   $PAGE - 1, %eax
        jne     ask_memory
        movq    P_ADDRESS(%r11), %rax
        subq    CS_BASE(%r9), %rax
        movq    P_LENGTH(%r11), %rcx
        addq    %rax, %rcx
        testl   $CS64, HFLAGS(%r9)
        jnz     1f
        movl    %eax, %eax
        movl    %ecx, %ecx
1:      movq    %rax, AT_RIP(%r10)
        movq    %rcx, AT_NEXT(%r10)
        movl    %edx, %ecx              # on_exit(kind, count, address, size, value)
        movl    $DEVICES, %edx
        addq    %rsi, %rdx
        movq    COUNT(%r10), %rsi
        subq    P_LEFT(%r11), %rsi
        jmp     *ON_EXIT(%r10)

replay:                                 # the answers that are kept come in order
        movq    REPLAYED(%r10), %rax
        cmpq    ANSWERED(%r10), %rax
        jae     ask_memory
        movq    %rax, %r11
        shlq    $ANSWER_BITS, %r11
        addq    ANSWERS(%r10), %r11
        cmpl    %edi, A_KIND(%r11)
        jne     ask_memory
        cmpq    %rsi, A_OFFSET(%r11)
        jne     ask_memory
        cmpl    %edx, A_SIZE(%r11)
        jne     ask_memory
        cmpq    %r8, A_VALUE(%r11)
        jne     ask_memory
        incq    %rax
        movq    %rax, REPLAYED(%r10)
        movq    A_ANSWER(%r11), %rax
        ret

ask_memory:                             # ask(kind, offset, size, value)
        movq    %r8, %rcx
        jmp     *ASK_MEMORY(%r10)
9:      xorl    %eax, %eax
        ret
