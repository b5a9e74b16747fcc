# SPDX-License-Identifier: GPL-2.0-or-later
# cpus: two to eight CPUs. Each is started by INIT and a start-up interrupt; locked additions to one word; an
# interrupt and an NMI to all others at once, the latter out of HLT with interrupts off; code that one changes
# and the others run.
#
# The first CPU raises `phase`; each of the others does what the phase asks for and counts itself in `done`.

        .include "checks/check.S"
        .include "smp.S"

        .set    MAX_CPUS, 8
        .set    STACK_BYTES, 512
        .set    ADDITIONS, 1000

        .set    TO_OTHERS, 3 << 18
        .set    HELLO, 0x51
        .set    NMI, 2

        .set    ADD, 1
        .set    SLEEP, 2
        .set    SLEEP_DEEPLY, 3
        .set    CALL, 4
        .set    CALL_AGAIN, 5

        .macro  SEND_TO_TARGET command
        movl    target(%rip), %eax
        shll    $24, %eax
        movl    %eax, APIC_ICR_HIGH(%rbx)
        movl    $\command, APIC_ICR(%rbx)
7:      testl   $ICR_BUSY, APIC_ICR(%rbx)
        jnz     7b
        .endm

        .macro  BEGIN_PHASE number
        movl    $0, done(%rip)
        movl    $\number, phase(%rip)
        .endm

# Wait until \place is as many as the others are.
        .macro  AWAIT place
        movl    others(%rip), %eax
1:      pause
        cmpl    %eax, \place(%rip)
        jne     1b
        .endm

# What the others do in one phase.
        .macro  IN_PHASE number
        cmpl    $\number, %r15d
        jne     5f
        .endm

        .macro  END_PHASE
        lock incl done(%rip)
        jmp     next_phase
5:
        .endm

        .text
        HEADER

entry:  START_CHECK
        SET_GATE HELLO, hello
        SET_GATE NMI, nmi
        REQUIRE_TWO_CPUS "cpus"
        cmpb    $MAX_CPUS, %al
        ja      check_failed
        movzbl  %al, %eax
        decl    %eax
        movl    %eax, others(%rip)
        SET_UP_APIC TIMER_VECTOR + 0x10000      # masked

        STEP    1                               # all are there, each with an ID of its own
        movl    $1, target(%rip)
start:  movl    $0, second_started(%rip)
        START_SECOND_CPU SEND_TO_TARGET
        movl    target(%rip), %eax
        cmpl    %eax, second_started(%rip)
        REQUIRE_EQUAL
        incl    target(%rip)
        cmpl    others(%rip), %eax
        jb      start

        STEP    2                               # together
        BEGIN_PHASE ADD
        call    add_up
        AWAIT   done
        movl    others(%rip), %eax
        incl    %eax
        imull   $ADDITIONS, %eax
        cmpl    %eax, sum(%rip)
        REQUIRE_EQUAL

        STEP    3                               # an interrupt for all others
        BEGIN_PHASE SLEEP
        movl    $TO_OTHERS + ICR_FIXED + HELLO, APIC_ICR(%rbx)
        AWAIT   done
        AWAIT   hellos
        STEP    4                               # an NMI for them
        BEGIN_PHASE SLEEP_DEEPLY
        movl    $TO_OTHERS + ICR_NMI, APIC_ICR(%rbx)
        AWAIT   done
        AWAIT   nmis

        STEP    5                               # code that all have run, and then it is another
        BEGIN_PHASE CALL
        AWAIT   done
        movl    others(%rip), %eax
        cmpl    %eax, sum_of_calls(%rip)
        REQUIRE_EQUAL
        movl    $0x10, changing + 1(%rip)
        BEGIN_PHASE CALL_AGAIN
        AWAIT   done
        movl    others(%rip), %eax
        imull   $0x11, %eax
        cmpl    %eax, sum_of_calls(%rip)
        REQUIRE_EQUAL
        DONE    "cpus"

# -- the others --

second_cpu:
        movl    $1, %eax
        cpuid
        shrl    $24, %ebx                       # its APIC ID
        movl    %ebx, %eax
        movl    $STACK_BYTES, %ecx
        mulq    %rcx
        leaq    stacks + STACK_BYTES(%rip), %rsp
        addq    %rax, %rsp
        movl    %ebx, %ebp
        SET_UP_APIC TIMER_VECTOR + 0x10000      # masked
        xorl    %r15d, %r15d
        movl    %ebp, second_started(%rip)
next_phase:
        pause
        cmpl    phase(%rip), %r15d
        je      next_phase
        movl    phase(%rip), %r15d

        IN_PHASE ADD
        call    add_up
        END_PHASE
        IN_PHASE SLEEP
2:      sti                                     # it may have come already
        cli
        cmpl    $0, woken(, %rbp, 4)
        jne     3f
        sti
        hlt
        jmp     2b
3:      END_PHASE
        IN_PHASE SLEEP_DEEPLY
2:      cmpl    $0, woken_deeply(, %rbp, 4)     # from here to HLT it may come too, and then wake nobody:
        jne     3f                              # the handler sees to that
about_to_halt:
        hlt
        jmp     2b
3:      END_PHASE
        IN_PHASE CALL
        call    changing
        lock addl %eax, sum_of_calls(%rip)
        END_PHASE
        IN_PHASE CALL_AGAIN
        pushq   %rbx
        cpuid                                   # serializing, as it must be
        popq    %rbx
        call    changing
        lock addl %eax, sum_of_calls(%rip)
        END_PHASE
        jmp     next_phase

# On all.
add_up: movl    $ADDITIONS, %ecx
1:      lock incl sum(%rip)
        decl    %ecx
        jnz     1b
        ret

# RBP is the CPU's number.
hello:  lock incl hellos(%rip)
        movl    $1, woken(, %rbp, 4)
        movl    $0, APIC_EOI(%rbx)
        iretq

nmi:    lock incl nmis(%rip)
        movl    $1, woken_deeply(, %rbp, 4)
        cmpq    $about_to_halt, (%rsp)
        jne     1f
        incq    (%rsp)                          # HLT is one byte
1:      iretq

        .balign 64
changing:
        movl    $1, %eax
        ret

        .pushsection .bss
        .balign 16
stacks: .space  MAX_CPUS * STACK_BYTES
others: .space  4
target: .space  4
phase:  .space  4
done:   .space  4
sum:    .space  4
sum_of_calls:
        .space  4
hellos: .space  4
nmis:   .space  4
woken:  .space  MAX_CPUS * 4
woken_deeply:
        .space  MAX_CPUS * 4
        .popsection

        SMP_LIBRARY
        CHECK_LIBRARY
