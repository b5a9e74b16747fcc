# SPDX-License-Identifier: GPL-2.0-or-later
# devices: what guests expect around the CPU of a PC. The serial port, two 8259As, the PIT, the clock, an I/O APIC,
# fw_cfg, the exit port; and where nothing is, all ones.

        .include "checks/check.S"

        .set    SERIAL_IER, SERIAL_PORT + 1
        .set    SERIAL_IIR, SERIAL_PORT + 2
        .set    SERIAL_LSR, SERIAL_PORT + 5
        .set    SERIAL_SCRATCH, SERIAL_PORT + 7
        .set    LSR_SENT, 0x60
        .set    IER_TRANSMITTER, 2
        .set    IIR_TRANSMITTER, 2

        .set    MASTER, 0x20
        .set    SLAVE, 0xa0
        .set    MASTER_VECTOR, 0x30
        .set    SLAVE_VECTOR, 0x38
        .set    SERIAL_LINE, 4
        .set    PIC_EOI, 0x20

        .set    PIT, 0x40
        .set    PIT_MODE, 0x43
        .set    RATE_GENERATOR, 0x34            # channel 0, both bytes, mode 2
        .set    LATCH, 0
        .set    PIT_COUNT, 2000

        .set    RTC, 0x70
        .set    RTC_VALID, 0x0d

        .set    IOAPIC, 0xfec00000
        .set    IOAPIC_WINDOW, 0x10
        .set    IOAPIC_VERSION, 1
        .set    IOAPIC_PINS, 24
        .set    IOAPIC_PIN_0, 0x10
        .set    MASKED, 1 << 16
        .set    SERIAL_PIN, 4
        .set    PIN_VECTOR, 0x51

        .set    FW_CFG_SELECTOR, 0x510
        .set    FW_CFG_DATA, 0x511
        .set    FW_CFG_CPUS, 5
        .set    APIC_LINT0, 0x350
        .set    EXTERNAL, 0x700
        .set    EMPTY_PORT, 0x1234
        .set    EMPTY_MEMORY, 0xd0000000

        .macro  PORT_OUT port, value
        movw    $\port, %dx
        movb    $\value, %al
        outb    %al, %dx
        .endm

        .macro  PORT_IN port
        movw    $\port, %dx
        inb     %dx, %al
        .endm

        .macro  SET_PIN pin, value
        movl    $IOAPIC_PIN_0 + 2 * \pin, (%rbp)
        movl    $\value, IOAPIC_WINDOW(%rbp)
        .endm

# Channel 0's count to ECX.
        .macro  READ_PIT
        PORT_OUT PIT_MODE, LATCH
        PORT_IN PIT
        movzbl  %al, %ecx
        inb     %dx, %al
        movb    %al, %ch
        .endm

# It has sent all, and is asked to say so.
        .macro  INTERRUPT_OF_SERIAL
        PORT_OUT SERIAL_IER, IER_TRANSMITTER
        sti
1:      hlt
        cmpl    $0, arrived(%rip)
        je      1b
        cli
        movl    $0, arrived(%rip)
        PORT_IN SERIAL_IIR
        andb    $0x0f, %al
        cmpb    $IIR_TRANSMITTER, %al
        REQUIRE_EQUAL
        PORT_OUT SERIAL_IER, 0
        .endm

        .text
        HEADER

entry:  START_CHECK
        SET_GATE MASTER_VECTOR+SERIAL_LINE, pic_interrupt
        SET_GATE PIN_VECTOR, pin_interrupt
        SET_UP_APIC TIMER_VECTOR + MASKED
        movl    $IOAPIC, %ebp

        STEP    1                               # the serial port
        PORT_IN SERIAL_LSR
        andb    $LSR_SENT, %al
        cmpb    $LSR_SENT, %al
        REQUIRE_EQUAL
        PORT_OUT SERIAL_SCRATCH, 0x5a
        PORT_IN SERIAL_SCRATCH
        cmpb    $0x5a, %al
        REQUIRE_EQUAL

        STEP    2                               # the 8259As
        PORT_OUT MASTER, 0x11
        PORT_OUT MASTER+1, MASTER_VECTOR
        PORT_OUT MASTER+1, 4
        PORT_OUT MASTER+1, 1
        PORT_OUT SLAVE, 0x11
        PORT_OUT SLAVE+1, SLAVE_VECTOR
        PORT_OUT SLAVE+1, 2
        PORT_OUT SLAVE+1, 1
        PORT_OUT SLAVE+1, 0xff
        PORT_OUT MASTER+1, 0xfb
        PORT_IN MASTER+1
        cmpb    $0xfb, %al
        REQUIRE_EQUAL
        STEP    3                               # the PIT counts down
        PORT_OUT PIT_MODE, RATE_GENERATOR
        PORT_OUT PIT, PIT_COUNT&0xff
        PORT_OUT PIT, PIT_COUNT>>8
        READ_PIT
        movl    %ecx, %esi
        READ_PIT
        cmpl    %esi, %ecx
        je      check_failed
        cmpl    $PIT_COUNT, %ecx
        ja      check_failed
        STEP    4                               # the serial port interrupts through the 8259A and LINT0
        movl    $EXTERNAL, APIC_LINT0(%rbx)
        PORT_OUT MASTER+1, 0xef
        INTERRUPT_OF_SERIAL
        PORT_OUT MASTER+1, 0xff
        movl    $MASKED, APIC_LINT0(%rbx)

        STEP    5                               # the I/O APIC
        movl    $IOAPIC_VERSION, (%rbp)
        movl    IOAPIC_WINDOW(%rbp), %eax
        shrl    $16, %eax
        cmpb    $IOAPIC_PINS - 1, %al
        REQUIRE_EQUAL
        movl    $IOAPIC_PIN_0 + 2 * SERIAL_PIN, (%rbp)
        testl   $MASKED, IOAPIC_WINDOW(%rbp)
        jz      check_failed
        STEP    6                               # the serial port through it
        SET_PIN SERIAL_PIN, PIN_VECTOR
        INTERRUPT_OF_SERIAL
        SET_PIN SERIAL_PIN, MASKED

        STEP    7                               # the clock's battery is good
        PORT_OUT RTC, RTC_VALID
        PORT_IN RTC+1
        testb   $0x80, %al
        jz      check_failed
        STEP    8                               # fw_cfg: its signature, how many CPUs
        movw    $FW_CFG_SELECTOR, %dx
        xorl    %eax, %eax
        outw    %ax, %dx
        movw    $FW_CFG_DATA, %dx
        xorl    %esi, %esi
        movl    $4, %ecx
1:      shll    $8, %esi
        inb     %dx, %al
        movzbl  %al, %eax
        orl     %eax, %esi
        loop    1b
        cmpl    $0x51454d55, %esi               # "QEMU"
        REQUIRE_EQUAL
        movw    $FW_CFG_SELECTOR, %dx
        movw    $FW_CFG_CPUS, %ax
        outw    %ax, %dx
        PORT_IN FW_CFG_DATA
        testb   %al, %al
        jz      check_failed
        STEP    9                               # nothing: all ones, and writes are lost
        PORT_OUT EMPTY_PORT, 0
        inb     %dx, %al
        cmpb    $0xff, %al
        REQUIRE_EQUAL
        inl     %dx, %eax
        cmpl    $-1, %eax
        REQUIRE_EQUAL
        movl    $EMPTY_MEMORY, %ecx
        movl    $0, (%rcx)
        cmpl    $-1, (%rcx)
        REQUIRE_EQUAL
        STEP    10                              # but the exit port is there
        PORT_IN EXIT_PORT
        testb   %al, %al
        REQUIRE_EQUAL
        DONE    "devices"

pic_interrupt:
        pushq   %rax
        movb    $PIC_EOI, %al
        outb    %al, $MASTER
        jmp     1f
pin_interrupt:
        pushq   %rax
        movl    $0, APIC_EOI(%rbx)
1:      movl    $1, arrived(%rip)
        popq    %rax
        iretq

        CHECK_LIBRARY
