# SPDX-License-Identifier: GPL-2.0-or-later
# A second CPU: is there one, and how it is brought to 64-bit code (SDM vol. 3A "MP Initialization Protocol").
#
# It is the one of APIC ID 1. It gets INIT and a start-up interrupt, begins in real mode at TRAMPOLINE, goes on
# with the first CPU's page tables and IDT and a stack of its own, and comes to second_cpu with interrupts off.

        .set    FW_CFG_SELECTOR, 0x510
        .set    FW_CFG_DATA, 0x511
        .set    FW_CFG_CPUS, 5

        .set    TRAMPOLINE, 0x8000      # a page below 1 MiB that is free
        .set    TRAMPOLINE_CODE, 0x18   # 32-bit code in its GDT; the others are those of the first CPU's
        .set    DATA_SELECTOR, 0x10

        .set    SECOND_ID, 1
        .set    ICR_FIXED, 0x4000       # plus the vector
        .set    ICR_NMI, 0x4400
        .set    ICR_INIT, 0x4500
        .set    ICR_STARTUP, 0x4600     # plus the page
        .set    ICR_BUSY, 1 << 12

        .set    CR0_PE, 1
        .set    CR0_NO_CACHE, 0x60000000
        .set    CR0_PG, 0x80000000
        .set    CR4_PAE, 0x20
        .set    MSR_EFER, 0xc0000080
        .set    EFER_LME, 0x100

        .set    INIT_LAPS, 10000
        .set    STARTUP_LAPS, 100000000     # longer than any slice of a CPU that the two may share

# Report if there is one CPU only; RAX, RDX and RSI are lost.
        .macro  REQUIRE_TWO_CPUS name
        movw    $FW_CFG_SELECTOR, %dx
        movw    $FW_CFG_CPUS, %ax
        outw    %ax, %dx
        movw    $FW_CFG_DATA, %dx
        inb     %dx, %al                # the lower byte is enough
        cmpb    $2, %al
        jae     1f
        PRINT   "\name: needs two CPUs\n"
        movl    $ONE_CPU, %eax
        jmp     report
1:
        .endm

# Send the second CPU an interrupt, through the page at RBX; RAX is lost.
        .macro  SEND_BY_PAGE command
        movl    $SECOND_ID << 24, APIC_ICR_HIGH(%rbx)
        movl    $\command, APIC_ICR(%rbx)
7:      testl   $ICR_BUSY, APIC_ICR(%rbx)
        jnz     7b
        .endm

# The same in x2APIC mode; RAX, RCX and RDX are lost.
        .macro  SEND_BY_MSR command
        movl    $SECOND_ID, %edx
        movl    $\command, %eax
        movl    $MSR_ICR, %ecx
        wrmsr
        .endm

# Start the second CPU; SEND is one of the two above. RAX, RCX, RDX, RSI and RDI are lost.
        .macro  START_SECOND_CPU send
        leaq    trampoline(%rip), %rsi
        movl    $TRAMPOLINE, %edi
        movl    $trampoline_end - trampoline, %ecx
        rep movsb
        movq    %cr3, %rax
        movl    %eax, TRAMPOLINE + trampoline_cr3 - trampoline
        \send   ICR_INIT
        movl    $INIT_LAPS, %ecx
1:      pause
        decl    %ecx
        jnz     1b
        \send   ICR_STARTUP + (TRAMPOLINE >> 12)
        call    await_second_cpu
        jne     2f
        \send   ICR_STARTUP + (TRAMPOLINE >> 12)
        call    await_second_cpu
        jne     2f
        PRINT   "the second CPU does not start\n"
        movl    $NO_SECOND_CPU, %eax
        jmp     report
2:
        .endm

        .macro  SMP_LIBRARY
# Wait a while for the second CPU; ZF is set if it has not come.
await_second_cpu:
        movl    $STARTUP_LAPS, %ecx
1:      cmpl    $0, second_started(%rip)
        jne     2f
        pause
        decl    %ecx
        jnz     1b
2:      ret

# Copied to TRAMPOLINE. CS is its segment, the instruction pointer 0.
        .balign 16
        .code16
trampoline:
        cli
        movw    %cs, %ax
        movw    %ax, %ds
        lgdtl   trampoline_gdtr - trampoline
        movl    %cr0, %eax
        andl    $~CR0_NO_CACHE, %eax
        orl     $CR0_PE, %eax
        movl    %eax, %cr0
        ljmpl   $TRAMPOLINE_CODE, $TRAMPOLINE + trampoline_32 - trampoline
        .code32
trampoline_32:
        movw    $DATA_SELECTOR, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $CR4_PAE, %eax
        movl    %eax, %cr4
        movl    TRAMPOLINE + trampoline_cr3 - trampoline, %eax
        movl    %eax, %cr3
        movl    $MSR_EFER, %ecx
        rdmsr
        orl     $EFER_LME, %eax
        wrmsr
        movl    %cr0, %eax
        orl     $CR0_PG, %eax
        movl    %eax, %cr0
        ljmp    $CODE_SELECTOR, $TRAMPOLINE + trampoline_64 - trampoline
        .code64
trampoline_64:
        movl    $second_stack, %esp
        lidt    idtr
        movl    $second_cpu, %eax
        jmp     *%rax
        .balign 8
trampoline_gdt:
        .quad   0
        .quad   0x00af9b000000ffff      # 64-bit code
        .quad   0x00cf93000000ffff      # data
        .quad   0x00cf9b000000ffff      # 32-bit code
trampoline_gdtr:
        .word   trampoline_gdtr - trampoline_gdt - 1
        .long   TRAMPOLINE + trampoline_gdt - trampoline
        .balign 4
trampoline_cr3:
        .long   0
trampoline_end:

        .pushsection .bss
        .balign 16
        .space  4096
second_stack:
second_started:                         # not 0 once it has begun and is ready
        .space  8
        .popsection
        .endm
