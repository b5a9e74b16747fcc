# scaled: two CPUs whose TSCs may have different frequencies. Each takes N timer interrupts in TSC-deadline
# mode by its own TSC, asleep in HLT in between, and says how late they were; the distance is the same number of
# cycles for both. The local APICs are used through their page.
#
# A CPU's results are at R11, and with them the flag that its handler sets.

        .include "common.S"
        .include "count.S"
        .include "smp.S"

        .set    ARRIVED, 40             # behind the results

# Say "scaled: CPU <number>, <count> interrupts" and, if it is known, at which TSC frequency.
        .macro  SAY number, area, hz
        PRINT   "scaled: CPU \number, "
        movq    \area(%rip), %rax
        call    print_number
        PRINT   " interrupts"
        movq    \hz(%rip), %rax
        testq   %rax, %rax
        jz      1f
        PRINT   ", TSC "
        movq    \hz(%rip), %rax
        xorl    %edx, %edx
        movl    $1000, %ecx
        divq    %rcx
        call    print_number
        PRINT   " kHz"
1:      PRINT   "\n"
        .endm

        .text
        HEADER

entry:  SET_UP
        REQUIRE_TWO_CPUS "scaled"
        NO_RESULTS second_results
        READ_TSC_HZ
        movq    %rax, first_hz(%rip)
        movl    $APIC, %ebx
        movl    $ENABLED, APIC_SPURIOUS(%rbx)
        movq    %r12, asked(%rip)
        movq    %r13, distance(%rip)
        START_SECOND_CPU SEND_BY_PAGE

        leaq    results(%rip), %r11
        call    take_interrupts
wait:   cmpl    $0, second_done(%rip)
        je      wait

        SAY     0, results, first_hz
        SAY     1, second_results, second_hz
        movl    $WRONG_COUNT, %eax
        cmpq    %r12, results(%rip)
        jne     report
        cmpq    %r12, second_results(%rip)
        jne     report
        movl    $SOME_EARLY, %eax
        cmpq    $0, results + 8(%rip)
        jne     report
        cmpq    $0, second_results + 8(%rip)
        jne     report
        movl    $ALL_GOOD, %eax
        jmp     report

second_cpu:
        READ_TSC_HZ
        movq    %rax, second_hz(%rip)
        movq    asked(%rip), %r12
        movq    distance(%rip), %r13
        movl    $1, second_started(%rip)
        leaq    second_results(%rip), %r11
        call    take_interrupts
        movl    $1, second_done(%rip)
1:      cli
        hlt
        jmp     1b

# On either CPU: R12 interrupts, R13 cycles apart.
take_interrupts:
        SET_UP_APIC TSC_DEADLINE | TIMER_VECTOR
        mfence                          # before the first WRMSR of a deadline (SDM)
        movq    %r12, %rbp
        testq   %rbp, %rbp
        jz      2f
again:  movl    $0, ARRIVED(%r11)
        ARM_DEADLINE
sleep:  sti
        hlt
        cli
        cmpl    $0, ARRIVED(%r11)
        je      sleep
        decq    %rbp
        jnz     again
2:      ret

timer_interrupt:
        ENTER_HANDLER 0, "(%r11)"
        movl    $0, APIC_EOI(%rbx)
        movl    $1, ARRIVED(%r11)
        popq    %rcx
        popq    %rax
        popq    %rdx
        iretq

        .pushsection .bss
        .balign 8
first_hz:
        .space  8
second_hz:
        .space  8
asked:  .space  8
distance:
        .space  8
second_done:
        .space  8
        .popsection

        SMP_LIBRARY
        LIBRARY
