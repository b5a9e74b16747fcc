# SPDX-License-Identifier: GPL-2.0-or-later
# ticks: interrupts that devices make by themselves, as time goes on. The PIT through the 8259A and through the I/O
# APIC, the clock's three, an APIC that is off; the CPU sleeps in between. Time is taken by the TSC, whose frequency
# CPUID leaf 15H tells.

        .include "checks/check.S"

        .set    MASTER, 0x20
        .set    SLAVE, 0xa0
        .set    MASTER_VECTOR, 0x30
        .set    SLAVE_VECTOR, 0x38
        .set    PIC_EOI, 0x20
        .set    TICK_MASK, 0xfe                 # line 0 alone is open
        .set    CLOCK_MASK, 0xfb                # the cascade alone

        .set    PIT, 0x40
        .set    PIT_MODE, 0x43
        .set    PIT_HZ, 1193182
        .set    HZ, 1000
        .set    COUNT, PIT_HZ / HZ
        .set    TICKS, 5

        .set    RTC, 0x70
        .set    RTC_A, 0x0a
        .set    RTC_B, 0x0b
        .set    RTC_C, 0x0c
        .set    UPDATING, 0x80
        .set    PERIODIC_CAUSE, 0x40
        .set    UPDATE_CAUSE, 0x10

        .set    IOAPIC, 0xfec00000
        .set    IOAPIC_WINDOW, 0x10
        .set    TIMER_PIN, 0x10 + 2 * 2
        .set    PIN_VECTOR, 0x51
        .set    MASKED, 1 << 16
        .set    APIC_LINT0, 0x350
        .set    EXTERNAL, 0x700
        .set    BASE_ENABLE, 1 << 11
        .set    TSC_LEAF, 0x15

        .macro  PORT_OUT port, value
        movw    $\port, %dx
        movb    $\value, %al
        outb    %al, %dx
        .endm

        .macro  SET_CLOCK register, value
        PORT_OUT RTC, \register
        PORT_OUT RTC+1, \value
        .endm

# A register of the clock to AL.
        .macro  READ_CLOCK register
        PORT_OUT RTC, \register
        movw    $RTC+1, %dx
        inb     %dx, %al
        .endm

# Channel 0, both bytes.
        .macro  START_PIT mode
        PORT_OUT PIT_MODE, 0x30+2*\mode
        PORT_OUT PIT, COUNT&0xff
        PORT_OUT PIT, COUNT>>8
        .endm

# Sleep until so many interrupts have arrived.
        .macro  SLEEP_FOR number
        movl    $0, arrived(%rip)
1:      sti
        hlt
        cli
        cmpl    $\number, arrived(%rip)
        jb      1b
        .endm

# TICKS ticks of a PIT that has just been started take TICKS ms, and 500 us at most for all that is done.
        .macro  REQUIRE_TICKS
        READ_TSC
        movq    %rax, %rsi
        SLEEP_FOR TICKS
        READ_TSC
        subq    %rsi, %rax
        movl    $1000000, %ecx
        mulq    %rcx
        divq    tsc_hz(%rip)                    # in us
        cmpl    $TICKS * 1000 - 10, %eax
        jb      check_failed
        cmpl    $TICKS * 1000 + 500, %eax
        ja      check_failed
        .endm

        .text
        HEADER

entry:  START_CHECK
        SET_GATE MASTER_VECTOR, tick
        SET_GATE SLAVE_VECTOR, clock
        SET_GATE PIN_VECTOR, pin
        SET_UP_APIC TIMER_VECTOR + MASKED
        movl    $TSC_LEAF, %eax
        xorl    %ecx, %ecx
        pushq   %rbx
        cpuid                                   # TSC = crystal * EBX / EAX, crystal ECX
        movl    %eax, %esi
        movl    %ecx, %eax
        mulq    %rbx
        divq    %rsi
        movq    %rax, tsc_hz(%rip)
        popq    %rbx
        movl    $EXTERNAL, APIC_LINT0(%rbx)
        PORT_OUT MASTER, 0x11
        PORT_OUT MASTER+1, MASTER_VECTOR
        PORT_OUT MASTER+1, 4
        PORT_OUT MASTER+1, 1
        PORT_OUT SLAVE, 0x11
        PORT_OUT SLAVE+1, SLAVE_VECTOR
        PORT_OUT SLAVE+1, 2
        PORT_OUT SLAVE+1, 1
        PORT_OUT SLAVE+1, 0xfe
        PORT_OUT MASTER+1, TICK_MASK

        STEP    1                               # the PIT as a rate generator, through the 8259A and LINT0
        START_PIT 2
        REQUIRE_TICKS
        STEP    2                               # as a square wave
        START_PIT 3
        REQUIRE_TICKS
        STEP    3                               # once, each time that a count is written
        START_PIT 0
        SLEEP_FOR 1
        PORT_OUT PIT, COUNT&0xff
        PORT_OUT PIT, COUNT>>8
        SLEEP_FOR 1
        STEP    4                               # with the APIC off, and LINT0 masked before that
        movl    $MASKED, APIC_LINT0(%rbx)
        movl    $MSR_APIC_BASE, %ecx
        rdmsr
        andl    $~BASE_ENABLE, %eax
        wrmsr
        START_PIT 2
        REQUIRE_TICKS
        movl    $MSR_APIC_BASE, %ecx
        rdmsr
        orl     $BASE_ENABLE, %eax
        wrmsr
        PORT_OUT MASTER+1, 0xff
        STEP    5                               # the PIT through pin 2 of the I/O APIC
        movl    $IOAPIC, %ebp
        movl    $TIMER_PIN + 1, (%rbp)
        movl    $0, IOAPIC_WINDOW(%rbp)
        movl    $TIMER_PIN, (%rbp)
        movl    $PIN_VECTOR, IOAPIC_WINDOW(%rbp)
        START_PIT 2
        REQUIRE_TICKS
        movl    $TIMER_PIN, (%rbp)
        movl    $MASKED, IOAPIC_WINDOW(%rbp)
        START_PIT 0

        STEP    6                               # the clock, 1024 times a second, through both 8259As
        movl    $EXTERNAL, APIC_LINT0(%rbx)
        PORT_OUT MASTER+1, CLOCK_MASK
        READ_CLOCK RTC_C
        SET_CLOCK RTC_B, 0x02+PERIODIC_CAUSE
        SLEEP_FOR 10
        STEP    7                               # until it says that it is to be updated
2:      SLEEP_FOR 1
        READ_CLOCK RTC_A
        testb   $UPDATING, %al
        jz      2b
        STEP    8                               # the update, by its interrupt, and then no more
        SET_CLOCK RTC_B, 0x02+UPDATE_CAUSE
        SLEEP_FOR 1
        testb   $UPDATE_CAUSE, cause(%rip)
        jz      check_failed
        READ_CLOCK RTC_A
        testb   $UPDATING, %al
        jnz     check_failed
        DONE    "ticks"

tick:   pushq   %rax
        incl    arrived(%rip)
        movb    $PIC_EOI, %al
        outb    %al, $MASTER
        popq    %rax
        iretq
pin:    incl    arrived(%rip)
        movl    $0, APIC_EOI(%rbx)
        iretq
clock:  pushq   %rax
        pushq   %rdx
        READ_CLOCK RTC_C
        movb    %al, cause(%rip)
        incl    arrived(%rip)
        movb    $PIC_EOI, %al
        outb    %al, $SLAVE
        outb    %al, $MASTER
        popq    %rdx
        popq    %rax
        iretq
        .pushsection .bss
        .balign 8
tsc_hz: .space  8
cause:  .space  8
        .popsection

        CHECK_LIBRARY
