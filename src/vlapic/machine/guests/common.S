# SPDX-License-Identifier: GPL-2.0-or-later
# What the built-in guests share: the image header, an IDT, exception handlers, measuring and reporting.
#
# A guest starts as loader.py says: 64-bit mode, interrupts off, RDI = interrupts asked for, RSI =
# distance of the deadlines in TSC cycles, RSP = a stack, the first 4 GiB mapped one to one, the image at
# LOAD_ADDRESS.
#
# Registers kept by the guests: R12 = interrupts asked for, R13 = distance, R14 = the deadline that is armed;
# RBX = the local APIC's page where it is used.

        .set    LOAD_ADDRESS, 0x100000
        .set    CODE_SELECTOR, 0x08
        .set    TIMER_VECTOR, 0xe0
        .set    SERIAL_PORT, 0x3f8
        .set    EXIT_PORT, 0xf4

        .set    MSR_APIC_BASE, 0x1b
        .set    MSR_TSC_DEADLINE, 0x6e0
        .set    X2APIC_ENABLE, 1 << 10

# The local APIC's registers: offsets in its page; with x2APIC an MSR each.
        .set    APIC, 0xfee00000
        .set    APIC_EOI, 0xb0
        .set    APIC_SPURIOUS, 0xf0
        .set    APIC_IRR, 0x200
        .set    APIC_ICR, 0x300
        .set    APIC_ICR_HIGH, 0x310
        .set    APIC_LVT_TIMER, 0x320
        .set    APIC_INITIAL_COUNT, 0x380
        .set    APIC_DIVIDE, 0x3e0
        .set    MSR_EOI, 0x80b
        .set    MSR_SPURIOUS, 0x80f
        .set    MSR_ICR, 0x830
        .set    MSR_LVT_TIMER, 0x832

        .set    ENABLED, 0x1ff                  # spurious vector 0xff
        .set    PERIODIC, 1 << 17
        .set    TSC_DEADLINE, 1 << 18
        .set    DIVIDE_BY_1, 0xb

# What the guest reports.
        .set    ALL_GOOD, 0
        .set    SOME_EARLY, 1
        .set    WRONG_COUNT, 2
        .set    ONE_CPU, 3              # and two are needed
        .set    NO_SECOND_CPU, 4        # it is there, but does not start
        .set    STAGE, 16               # plus the stage that failed
        .set    EXCEPTION, 0x80         # plus the vector

# The image's first 32 bytes.
        .macro  HEADER
        .globl  image
image:  .ascii  "VLAPIC64"
        .long   LOAD_ADDRESS
        .long   entry - image
        .long   memory_end - image_end
        .long   results - image
        .quad   0
        .endm

# Read the TSC into RAX; RDX is lost.
        .macro  READ_TSC
        rdtsc
        shlq    $32, %rdx
        orq     %rdx, %rax
        .endm

# Arm the timer for R14 := TSC + R13; RAX, RCX and RDX are lost.
        .macro  ARM_DEADLINE
        READ_TSC
        addq    %r13, %rax
        ARM_AT
        .endm

# Arm the timer for R14 := RAX; RCX and RDX are lost.
        .macro  ARM_AT
        movq    %rax, %r14
        movq    %rax, %rdx
        shrq    $32, %rdx
        movl    $MSR_TSC_DEADLINE, %ecx
        wrmsr
        .endm

# The next pseudo-random number, in R15 and RAX; the upper bits are the good ones (Knuth's MMIX generator).
        .macro  RANDOM
        movabsq $6364136223846793005, %rax
        imulq   %r15, %rax
        movabsq $1442695040888963407, %r15
        addq    %rax, %r15
        movq    %r15, %rax
        .endm

# One gate of the IDT: RDI = its address, RAX = the handler; RAX is lost.
        .macro  WRITE_GATE
        movw    %ax, (%rdi)
        movw    $CODE_SELECTOR, 2(%rdi)
        movw    $0x8e00, 4(%rdi)        # present, DPL 0, interrupt gate
        shrq    $16, %rax
        movw    %ax, 6(%rdi)
        shrq    $16, %rax
        movl    %eax, 8(%rdi)
        movl    $0, 12(%rdi)
        .endm

# Keep what was asked for, make an IDT: vectors 0 to 31 report themselves, TIMER_VECTOR goes to
# timer_interrupt.
        .macro  SET_UP
        movq    %rdi, %r12
        movq    %rsi, %r13
        leaq    idt(%rip), %rdi
        leaq    exception_0(%rip), %rbx
        movl    $32, %ecx
1:      movq    %rbx, %rax
        WRITE_GATE
        addq    $16, %rdi
        addq    $EXCEPTION_STUB, %rbx
        decl    %ecx
        jnz     1b
        leaq    idt + TIMER_VECTOR * 16(%rip), %rdi
        leaq    timer_interrupt(%rip), %rax
        WRITE_GATE
        lidt    idtr(%rip)
        NO_RESULTS
        .endm

# Another gate of it; RAX and RDI are lost.
        .macro  SET_GATE vector, handler
        leaq    idt + (\vector) * 16(%rip), %rdi
        leaq    \handler(%rip), %rax
        WRITE_GATE
        .endm

# Local APIC on in its page, at RBX; timer as said.
        .macro  SET_UP_APIC lvt
        movl    $APIC, %ebx
        movl    $ENABLED, APIC_SPURIOUS(%rbx)
        movl    $\lvt, APIC_LVT_TIMER(%rbx)
        .endm

# Local APIC on in x2APIC mode; RAX, RCX and RDX are lost.
        .macro  SET_UP_X2APIC
        movl    $MSR_APIC_BASE, %ecx
        rdmsr
        orl     $X2APIC_ENABLE, %eax
        wrmsr
        xorl    %edx, %edx
        movl    $MSR_SPURIOUS, %ecx
        movl    $ENABLED, %eax
        wrmsr
        .endm

# The same; timer as said.
        .macro  SET_UP_X2APIC_TIMER lvt
        SET_UP_X2APIC
        movl    $MSR_LVT_TIMER, %ecx
        movl    $\lvt, %eax
        wrmsr
        .endm

# End of interrupt in x2APIC mode; RAX, RCX and RDX are lost.
        .macro  X2APIC_EOI
        xorl    %eax, %eax
        xorl    %edx, %edx
        movl    $MSR_EOI, %ecx
        wrmsr
        .endm

# The handler, up to its EOI: how late is it? Saves RAX, RCX and RDX, which LEAVE_HANDLER restores. Each CPU
# may have results of its own.
        .macro  ENTER_HANDLER base=results, at="(%rip)"
        pushq   %rdx
        pushq   %rax
        READ_TSC                        # first of all, what is measured
        pushq   %rcx
        subq    %r14, %rax              # lateness, negative if early
        MEASURED \base, "\at"
        .endm

# Count RAX, a lateness or another time in cycles.
        .macro  MEASURED base=results, at="(%rip)"
        incq    \base\at
        testq   %rax, %rax
        jns     1f
        incq    \base + 8\at
1:      cmpq    \base + 16\at, %rax
        jge     2f
        movq    %rax, \base + 16\at
2:      cmpq    \base + 24\at, %rax
        jle     3f
        movq    %rax, \base + 24\at
3:      addq    %rax, \base + 32\at
        .endm

# No value yet: the least is 2^63 - 1, the greatest -2^63. RAX is lost.
        .macro  NO_RESULTS base=results, at="(%rip)"
        movq    smallest(%rip), %rax
        movq    %rax, \base + 24\at
        notq    %rax
        movq    %rax, \base + 16\at
        .endm

        .macro  LEAVE_HANDLER
        movl    $1, arrived(%rip)
        popq    %rcx
        popq    %rax
        popq    %rdx
        iretq
        .endm

# Print a string; RAX, RDX and RSI are lost.
        .macro  PRINT text
        leaq    9f(%rip), %rsi
        call    print
        jmp     8f
9:      .asciz  "\text"
8:
        .endm

# Say "<name>: <count> interrupts", report, and be gone.
        .macro  FINISH name
        leaq    1f(%rip), %rsi
        call    print
        movq    results(%rip), %rax
        call    print_number
        leaq    2f(%rip), %rsi
        call    print
        movl    $WRONG_COUNT, %eax
        cmpq    %r12, results(%rip)
        jne     report
        movl    $SOME_EARLY, %eax
        cmpq    $0, results + 8(%rip)
        jne     report
        movl    $ALL_GOOD, %eax
        jmp     report
1:      .asciz  "\name: "
2:      .asciz  " interrupts\n"
        .endm

        .macro  LIBRARY
# Report EAX to the machine and stop for good.
report: movw    $EXIT_PORT, %dx
        outl    %eax, %dx
1:      cli
        hlt
        jmp     1b

# Print the string at RSI.
print:  movw    $SERIAL_PORT, %dx
1:      lodsb
        testb   %al, %al
        jz      2f
        outb    %al, %dx
        jmp     1b
2:      ret

# Print RAX in decimal.
print_number:
        leaq    digits_end(%rip), %rsi
        movl    $10, %ecx
1:      xorl    %edx, %edx
        divq    %rcx
        addb    $'0', %dl
        decq    %rsi
        movb    %dl, (%rsi)
        testq   %rax, %rax
        jnz     1b
        jmp     print

# An entry for each exception, all of one size.
        .set    EXCEPTION_STUB, 10
        .set    vector, 0
exception_0:
        .rept   32
        .byte   0xb8                    # movl $EXCEPTION + vector, %eax
        .long   EXCEPTION + vector
        .byte   0xe9                    # jmp report
        .long   report - . - 4
        .set    vector, vector + 1
        .endr

        .balign 8
smallest:
        .quad   1 << 63
idtr:   .word   256 * 16 - 1
        .quad   idt
        .balign 8
image_end:

# Memory beyond the image, zeroed by the loader.
        .bss
        .balign 16
idt:    .space  256 * 16
results:                                # count, early, min, max, sum
        .space  5 * 8
arrived:
        .space  8
second_results:                         # the same of a second CPU
        .space  6 * 8
digits: .space  24
digits_end:
        .space  8                       # the zero that ends the string
memory_end:
        .endm
