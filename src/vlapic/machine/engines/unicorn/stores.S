# SPDX-License-Identifier: GPL-2.0-or-later
# Stores at full speed (stores.py), as machine code for x86-64 Linux (System V calling convention).

        .set    ADDR_READ, 0            # an entry of Unicorn's TLB (QEMU's CPUTLBEntry)
        .set    ADDR_WRITE, 8
        .set    PADDR, 24
        .set    ENTRY_BITS, 6
        .set    FLAGS, 0xfff
        .set    NOTDIRTY, 0x400
        .set    PAGE_BITS, 12
        .set    CROWDED, 63             # bits of what is returned
        .set    OPENED, 32

        .text

# open_stores(rdi = TLBs: mask and table of each, rsi = their number, rdx = a bit for each page of RAM, set where
# code is, rcx = number of pages): how many entries there are; from bit 32 on how many were opened; in bit 63
# whether more than three quarters of a table are in use.
open_stores:
        pushq   %rbx
        xorl    %eax, %eax
1:      testq   %rsi, %rsi
        jz      5f
        movq    (%rdi), %r8
        movq    8(%rdi), %r9
        shrq    $ENTRY_BITS, %r8
        incq    %r8
        addq    %r8, %rax
        leaq    (%r8,%r8,2), %rbx       # three quarters, less one for each in use
        shrq    $2, %rbx
2:      cmpq    $-1, ADDR_READ(%r9)
        je      3f
        decq    %rbx
        movq    ADDR_WRITE(%r9), %r10
        movl    %r10d, %r11d
        andl    $FLAGS, %r11d
        cmpl    $NOTDIRTY, %r11d        # that one alone: an entry of RAM
        jne     3f
        movq    PADDR(%r9), %r11
        shrq    $PAGE_BITS, %r11
        cmpq    %rcx, %r11
        jae     3f
        btq     %r11, (%rdx)
        jc      3f
        xorq    $NOTDIRTY, %r10
        movq    %r10, ADDR_WRITE(%r9)
        movq    $1 << OPENED, %r11
        addq    %r11, %rax
3:      addq    $1 << ENTRY_BITS, %r9
        decq    %r8
        jnz     2b
        testq   %rbx, %rbx
        jns     4f
        btsq    $CROWDED, %rax
4:      addq    $16, %rdi
        decq    %rsi
        jmp     1b
5:      popq    %rbx
        ret
