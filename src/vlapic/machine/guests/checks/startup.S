# SPDX-License-Identifier: GPL-2.0-or-later
# startup: INIT and start-up messages at a CPU that is in the middle of something: running, in HLT with interrupts off,
# in the handler of an NMI. INIT stops it there, a start-up message starts it anew; one that it does not wait for
# is lost (SDM vol. 3A "MP Initialization Protocol Algorithm", "Processor State After Reset").

        .include "checks/check.S"
        .include "smp.S"

        .set    NMI, 2
        .set    APIC_TPR, 0x80
        .set    WAIT_LAPS, 5000

        .set    COUNT, 1                        # what the second CPU is to do: count laps,
        .set    SLEEP, 2                        # HLT with interrupts off,
        .set    STAY_IN_NMI, 3                  # spin in the handler of its NMI

# Let pass what time a message may take; RCX is lost.
        .macro  WAIT_A_LITTLE
        movl    $WAIT_LAPS, %ecx
6:      pause
        decl    %ecx
        jnz     6b
        .endm

        .macro  START_ANEW
        movl    $0, second_started(%rip)
        START_SECOND_CPU SEND_BY_PAGE
        .endm

# The second CPU counts on, or it does not.
        .macro  REQUIRE_COUNTING jump
        movl    laps(%rip), %eax
        WAIT_A_LITTLE
        cmpl    %eax, laps(%rip)
        \jump   check_failed
        .endm

        .text
        HEADER

entry:  START_CHECK
        SET_GATE NMI, nmi
        REQUIRE_TWO_CPUS "startup"
        SET_UP_APIC TIMER_VECTOR + 0x10000      # masked

        STEP    1                               # it runs: a start-up message is lost
        movl    $COUNT, task(%rip)
        START_ANEW
        REQUIRE 1, starts(%rip)
        REQUIRE_COUNTING je
        SEND_BY_PAGE ICR_STARTUP + (TRAMPOLINE >> 12)
        WAIT_A_LITTLE
        REQUIRE 1, starts(%rip)
        REQUIRE_COUNTING je
        STEP    2                               # INIT stops it, and nothing else happens: an NMI wakes nobody
        SEND_BY_PAGE ICR_INIT
        WAIT_A_LITTLE
        REQUIRE_COUNTING jne
        STEP    3                               # it begins anew, once, its APIC as after a reset
        START_ANEW
        REQUIRE 2, starts(%rip)
        SEND_BY_PAGE ICR_STARTUP + (TRAMPOLINE >> 12)
        WAIT_A_LITTLE
        REQUIRE 2, starts(%rip)
        REQUIRE 0, tpr_at_start(%rip)
        REQUIRE 1, id_at_start(%rip)
        REQUIRE 0, cr2_at_start(%rip)
        STEP    4                               # out of HLT with interrupts off
        movl    $SLEEP, task(%rip)
        SEND_BY_PAGE ICR_INIT
        START_ANEW
        REQUIRE_COUNTING jne
        START_ANEW
        REQUIRE 4, starts(%rip)
        STEP    5                               # out of an NMI's handler: the next NMI comes
        movl    $STAY_IN_NMI, task(%rip)
        START_ANEW
        SEND_BY_PAGE ICR_NMI
        WAIT_A_LITTLE
        REQUIRE 1, nmis(%rip)
        SEND_BY_PAGE ICR_NMI                    # blocked
        WAIT_A_LITTLE
        REQUIRE 1, nmis(%rip)
        START_ANEW
        SEND_BY_PAGE ICR_NMI
        WAIT_A_LITTLE
        cmpq    $2, nmis(%rip)
        jb      check_failed
        STEP    6                               # INIT to a CPU that waits already, twice; then it starts
        SEND_BY_PAGE ICR_INIT
        SEND_BY_PAGE ICR_INIT
        movl    $COUNT, task(%rip)
        START_ANEW
        REQUIRE_COUNTING je
        DONE    "startup"

# -- the second --

second_cpu:
        movl    $APIC, %ebx
        movl    APIC_TPR(%rbx), %eax
        movq    %rax, tpr_at_start(%rip)
        movl    $0x50, APIC_TPR(%rbx)           # for the next time
        movl    0x20(%rbx), %eax
        shrl    $24, %eax
        movq    %rax, id_at_start(%rip)
        movq    %cr2, %rax
        movq    %rax, cr2_at_start(%rip)
        movl    $0x1234, %eax
        movq    %rax, %cr2
        movl    $ENABLED, APIC_SPURIOUS(%rbx)
        incq    starts(%rip)
        movl    $1, second_started(%rip)
        cmpl    $SLEEP, task(%rip)
        je      2f
1:      incl    laps(%rip)
        jmp     1b
2:      hlt
        jmp     1b

nmi:    incq    nmis(%rip)
        cmpl    $STAY_IN_NMI, task(%rip)
        je      nmi_stays
        iretq
nmi_stays:
        incl    laps(%rip)
        jmp     nmi_stays

        .pushsection .bss
        .balign 8
task:   .space  8
laps:   .space  8
starts: .space  8
nmis:   .space  8
tpr_at_start:
        .space  8
id_at_start:
        .space  8
cr2_at_start:
        .space  8
        .popsection

        SMP_LIBRARY
        CHECK_LIBRARY
