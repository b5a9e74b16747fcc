# SPDX-License-Identifier: GPL-2.0-or-later
# The counting of guest instructions, as machine code for x86-64 Linux (System V calling convention).
#
# Unicorn's translator calls a lone BLOCK hook straight from the code it generates, before each block of
# guest instructions, so these few instructions are the whole price of counting. blocks.py holds the
# assembled bytes, says what every field means, and has the same rules in Python; a test assembles this
# file and compares.
#
# A hook is called with rdi = engine, rsi = guest address, edx = bytes, rcx = the counter, and, from code that
# Unicorn generates, rbp = the CPU's state. It keeps the stack as it found it and leaves by `ret` or by a tail
# call with the same rdi, so nothing needs saving.

        .set    COUNT, 0        # the counter: fields of 8 bytes (blocks.py)
        .set    LIMIT, 8
        .set    STOPPED, 16
        .set    SPIN, 24
        .set    ROW, 32
        .set    WINDOW, 40
        .set    OPENED, 48
        .set    TABLE, 56
        .set    UNKNOWN, 64
        .set    EMU_STOP, 72
        .set    STATE, 80
        .set    ON_WINDOW, 160

        .set    RFLAGS, 136     # in the state (layout.py)
        .set    RF, 1           # of its third byte
        .set    HFLAGS, 176
        .set    MODE, 0x8010    # the two of them that tell 16, 32 and 64-bit code
        .set    MODE_SHIFT, 44  # to bits in which addresses do not differ

        .set    ROWS, 1 << 16
        .set    ROW_BITS, 5     # a row of the table has 32 bytes
        .set    R_KEY, 0
        .set    R_SIZE, 8
        .set    R_KIND, 12
        .set    R_HEAD, 16
        .set    R_LAP, 24
        .set    R_COUNT, 28
        .set    KIND_WINDOW, 1

        .set    AT_LIMIT, 1
        .set    AT_WINDOW, 2
        .set    AT_SITE, 6

        .text

# Offset 0: the BLOCK hook.
count_block:
        movq    COUNT(%rcx), %rax
        cmpq    LIMIT(%rcx), %rax       # also met when a stop was asked for: then the limit is 0
        jae     stop

        testb   $RF, RFLAGS + 2(%rbp)
        jnz     unknown
        movl    HFLAGS(%rbp), %r11d     # the key: the address with the mode, 0 for 64-bit code
        andl    $MODE, %r11d
        xorl    $MODE, %r11d
        shlq    $MODE_SHIFT, %r11
        xorq    %rsi, %r11
        movzwl  %si, %r9d               # the row: address % ROWS, or one that follows
        movl    %edx, %edx
1:      movq    %r9, %r10
        shlq    $ROW_BITS, %r10
        addq    TABLE(%rcx), %r10
        cmpq    %r11, R_KEY(%r10)
        jne     2f
        movq    R_SIZE(%r10), %r8       # its size, and 0 for a block that is charged and nothing more
        xorq    %rdx, %r8
        orq     SPIN(%rcx), %r8
        jnz     3f
        movl    R_COUNT(%r10), %r8d     # charge the block
        addq    %r8, %rax
        movq    %rax, COUNT(%rcx)
        movq    %r10, ROW(%rcx)
        ret

3:      cmpl    %edx, R_SIZE(%r10)
        je      special
2:      incl    %r9d
        andl    $ROWS - 1, %r9d
        cmpl    $0, R_SIZE(%r10)
        jne     1b
unknown:                                # an empty row: a block not met before; or RF is set
        movq    %rbp, STATE(%rcx)
        jmp     *UNKNOWN(%rcx)

# A block of a loop that only waits, or that may open the interrupt window; or the block after such a loop.
special:
        movq    R_HEAD(%r10), %r11
        testq   %r11, %r11
        jz      6f
        cmpq    %rsi, %r11
        je      5f
        cmpq    SPIN(%rcx), %r11        # a later block of the loop: the lap goes on, if it began at the head
        je      7f
        xorl    %r11d, %r11d
        jmp     6f
5:      cmpq    SPIN(%rcx), %r11        # its head: one lap is run, all the others are the same
        jne     6f
        movq    %rax, %r8
        movq    LIMIT(%rcx), %rax       # the laps that end below the limit; the last is run
        decq    %rax
        subq    %r8, %rax
        xorl    %edx, %edx
        movl    R_LAP(%r10), %r9d
        divq    %r9
        imulq   %r9, %rax
        addq    %r8, %rax
        jmp     7f
6:      movq    %r11, SPIN(%rcx)
7:      movl    R_COUNT(%r10), %r8d     # charge the block
        addq    %r8, %rax
        movq    %rax, COUNT(%rcx)
        movq    %r10, ROW(%rcx)
        testl   $KIND_WINDOW, R_KIND(%r10)
        jz      8f
        cmpq    $0, WINDOW(%rcx)
        je      8f
        movq    $1, OPENED(%rcx)        # stop before the next block
        movq    $0, LIMIT(%rcx)
8:      ret

stop:   cmpq    $0, STOPPED(%rcx)       # somebody has asked for a stop: this block must not run
        jne     2f
        cmpq    $0, OPENED(%rcx)
        jne     1f
        movq    $AT_LIMIT, STOPPED(%rcx)
2:      jmp     *EMU_STOP(%rcx)
1:      movq    $AT_WINDOW, STOPPED(%rcx)
        jmp     *ON_WINDOW(%rcx)        # stops as well, or finds a way on

# The CODE hook of an exiting instruction (blocks.py: SITE_OFFSET).
        .balign 16
stop_at_site:
        cmpq    $0, STOPPED(%rcx)
        jne     9f
        movq    $AT_SITE, STOPPED(%rcx)
        movq    $0, LIMIT(%rcx)
        jmp     *EMU_STOP(%rcx)
9:      ret

# compare_code(rdi = rows of 24 bytes: code, copy, number of 8-byte words; rsi = number of rows): the number of
# rows that are the same, up to the first that is not.
        .balign 16
compare_code:
        xorl    %eax, %eax
1:      cmpq    %rsi, %rax
        jae     4f
        movq    (%rdi), %r8
        movq    8(%rdi), %r9
        movq    16(%rdi), %rcx
2:      movq    -8(%r8,%rcx,8), %rdx
        cmpq    -8(%r9,%rcx,8), %rdx
        jne     4f
        decq    %rcx
        jnz     2b
        addq    $24, %rdi
        incq    %rax
        jmp     1b
4:      ret
