# SPDX-License-Identifier: GPL-2.0-or-later
# paging: pages of 4 KiB, 2 MiB and 1 GiB; present, writable, write protection (CR0.WP), no-execute, reserved
# bits; accessed and dirty; INVLPG (SDM vol. 3A "4-Level Paging and 5-Level Paging"). What is for the user is
# `ring3`'s.
#
# Three windows behind the identity map show the first bytes of memory from `frames` on, or all of it.

        .include "checks/check.S"

        .set    WINDOW_1G, 1 << 39              # one of each size: PML4 entries 1, 2 and 3
        .set    WINDOW_2M, 2 << 39
        .set    WINDOW_4K, 3 << 39

        .set    PRESENT, 1
        .set    WRITABLE, 2
        .set    ACCESSED, 0x20
        .set    DIRTY, 0x40
        .set    LARGE, 0x80
        .set    NO_EXECUTE, 1 << 63
        .set    RESERVED_2M, 1 << 13            # below a page of 2 MiB

        .set    WRITE, 2                        # bits of an error code
        .set    RESERVED, 8
        .set    FETCH, 0x10

        .set    CR0_WP, 1 << 16
        .set    MARK, 0x600df00d
        .set    OTHER_MARK, 0x0ddba115

# An entry of a table; RAX is lost.
        .macro  SET_ENTRY table, value
        movabsq $\value, %rax
        movq    %rax, \table
        .endm

# The page at the 4 KiB window: SET_ENTRY and INVLPG.
        .macro  SET_4K value
        SET_ENTRY table_4k, \value
        invlpg  (%rbp)
        .endm

# A call of what is at RBP faults there.
        .macro  GO_FAULTS error
        movq    $5f, resume
        movq    %rsp, %r8
        call    *%rbp
        jmp     check_failed
5:      movq    %r8, %rsp
        REQUIRE PAGE_FAULT, seen_vector
        REQUIRE \error, seen_error
        cmpq    %rbp, seen_rip
        REQUIRE_EQUAL
        cmpq    %rbp, seen_cr2
        REQUIRE_EQUAL
        .endm

        .text
        HEADER

entry:  START_CHECK
        movq    %cr3, %rbx
        SET_ENTRY 8(%rbx), table_3_1g+PRESENT+WRITABLE
        SET_ENTRY 16(%rbx), table_3_2m+PRESENT+WRITABLE
        SET_ENTRY 24(%rbx), table_3_4k+PRESENT+WRITABLE
        SET_ENTRY table_3_1g, PRESENT+WRITABLE+LARGE
        SET_ENTRY table_3_2m, table_2_2m+PRESENT+WRITABLE
        SET_ENTRY table_2_2m, PRESENT+WRITABLE+LARGE
        SET_ENTRY table_3_4k, table_2_4k+PRESENT+WRITABLE
        SET_ENTRY table_2_4k, table_4k+PRESENT+WRITABLE
        SET_ENTRY table_4k, frames+PRESENT+WRITABLE
        movq    $MARK, frames
        movq    $OTHER_MARK, frames + 0x1000

        STEP    1                               # one mark, seen at every size
        movabsq $WINDOW_1G+frames, %rdi
        REQUIRE MARK, (%rdi)
        STEP    2
        movabsq $WINDOW_2M+frames, %rdi
        REQUIRE MARK, (%rdi)
        STEP    3
        movabsq $WINDOW_4K, %rbp
        REQUIRE MARK, (%rbp)
        STEP    4                               # and a write through one by the others
        movq    $MARK + 1, (%rbp)
        REQUIRE MARK+1, (%rdi)
        REQUIRE MARK+1, frames
        STEP    5                               # accessed and dirty
        movq    table_4k, %rax
        andl    $ACCESSED + DIRTY, %eax
        cmpl    $ACCESSED + DIRTY, %eax
        REQUIRE_EQUAL
        SET_4K  frames+PRESENT+WRITABLE
        movq    (%rbp), %rax
        movq    table_4k, %rax
        andl    $ACCESSED + DIRTY, %eax
        cmpl    $ACCESSED, %eax
        REQUIRE_EQUAL

        STEP    6                               # another frame, once INVLPG has been there
        SET_4K  frames+0x1000+PRESENT+WRITABLE
        REQUIRE OTHER_MARK, (%rbp)
        STEP    7                               # not present, at each level
        SET_4K  frames
        FAULTS  PAGE_FAULT, 0, movq (%rbp), %rcx
        cmpq    %rbp, seen_cr2
        REQUIRE_EQUAL
        FAULTS  PAGE_FAULT, WRITE, movq %rcx, (%rbp)
        SET_4K  frames+PRESENT+WRITABLE
        REQUIRE MARK+1, (%rbp)
        movq    $0, table_2_4k
        invlpg  (%rbp)
        FAULTS  PAGE_FAULT, 0, movq (%rbp), %rcx
        SET_ENTRY table_2_4k, table_4k+PRESENT+WRITABLE
        movq    $0, table_3_4k
        invlpg  (%rbp)
        FAULTS  PAGE_FAULT, 0, movq (%rbp), %rcx
        SET_ENTRY table_3_4k, table_2_4k+PRESENT+WRITABLE
        REQUIRE MARK+1, (%rbp)

        STEP    8                               # read only: so it is with WP
        SET_4K  frames+PRESENT
        movq    (%rbp), %rcx
        FAULTS  PAGE_FAULT, PRESENT+WRITE, movq %rcx, (%rbp)
        STEP    9                               # and not without
        movq    %cr0, %rax
        andq    $~CR0_WP, %rax
        movq    %rax, %cr0
        movq    $MARK + 2, (%rbp)
        REQUIRE MARK+2, frames
        orq     $CR0_WP, %rax
        movq    %rax, %cr0
        FAULTS  PAGE_FAULT, PRESENT+WRITE, movq %rcx, (%rbp)
        STEP    10                              # read only by the level above
        SET_4K  frames+PRESENT+WRITABLE
        SET_ENTRY table_2_4k, table_4k+PRESENT
        invlpg  (%rbp)
        FAULTS  PAGE_FAULT, PRESENT+WRITE, movq %rcx, (%rbp)
        SET_ENTRY table_2_4k, table_4k+PRESENT+WRITABLE

        STEP    11                              # code may be run in it, unless it must not
        SET_4K  frames+PRESENT+WRITABLE
        movb    $0xc3, (%rbp)                   # RET
        call    *%rbp
        SET_4K  frames+PRESENT+WRITABLE+NO_EXECUTE
        movq    (%rbp), %rcx
        GO_FAULTS PRESENT+FETCH
        STEP    12                              # nor where there is nothing
        SET_4K  frames+WRITABLE
        GO_FAULTS FETCH
        SET_4K  frames+PRESENT+WRITABLE

        STEP    13                              # a reserved bit
        SET_ENTRY table_2_2m, PRESENT+WRITABLE+LARGE+RESERVED_2M
        movabsq $WINDOW_2M, %rdi
        invlpg  (%rdi)
        FAULTS  PAGE_FAULT, PRESENT+RESERVED, movq (%rdi), %rcx
        STEP    14                              # a page across a border: the second half is not there
        leaq    0xffc(%rbp), %rdi
        FAULTS  PAGE_FAULT, 0, movq (%rdi), %rcx
        leaq    0x1000(%rbp), %rax
        cmpq    %rax, seen_cr2
        REQUIRE_EQUAL
        DONE    "paging"

        .pushsection .bss
        .balign 4096
table_3_1g:
        .space  4096
table_3_2m:
        .space  4096
table_2_2m:
        .space  4096
table_3_4k:
        .space  4096
table_2_4k:
        .space  4096
table_4k:
        .space  4096
frames: .space  2 * 4096
        .popsection

        CHECK_LIBRARY
