# SPDX-License-Identifier: GPL-2.0-or-later
# protected: what a multiboot image finds (Multiboot Specification 0.6.96, "Machine state"), 32-bit protected mode
# with its interrupts, exceptions, 4 MiB pages and CPL 3, and the way to 64-bit mode.
#
# Not of the flat form: the address fields of a multiboot header say where everything goes.

        .include "checks/check.S"
        .include "checks/check_32.S"

        .set    MULTIBOOT_MAGIC, 0x1badb002
        .set    MULTIBOOT_FLAGS, 1 << 16 | 1 << 1       # address fields, memory information
        .set    BOOT_MAGIC, 0x2badb002
        .set    INFO_WANTED, 1 << 0 | 1 << 2 | 1 << 6   # memory, command line, memory map
        .set    INFO_UPPER, 8
        .set    INFO_COMMAND_LINE, 16
        .set    INFO_MAP_LENGTH, 44
        .set    INFO_MAP, 48
        .set    MAP_LENGTH, 12                          # of a range, behind its size
        .set    MAP_TYPE, 20
        .set    AVAILABLE, 1

        .set    DATA, 0x10
        .set    TSS_32, 0x30
        .set    ABSENT, 0x38
        .set    NO_SELECTOR, 0x60

        .set    FREE_VECTOR, 0x50
        .set    SELF_VECTOR, 0x51
        .set    ICR_SELF, 0x44000                       # fixed, to itself
        .set    IN_IDT, 2
        .set    DPL_3, 0x60
        .set    IF, 0x200

        .set    PRESENT, 1
        .set    WRITABLE, 2
        .set    USER, 4
        .set    LARGE, 0x80
        .set    WRITE, 2
        .set    NOT_MAPPED, 12 << 20
        .set    SUPERVISOR_PAGE, 8 << 20

        .set    CR0_PG, 0x80000000
        .set    CR4_PSE, 0x10
        .set    CR4_PAE, 0x20
        .set    MSR_EFER, 0xc0000080
        .set    EFER_LME, 0x100

        .text
        .globl  image
image:  .long   MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)
        .long   image, image, image_end, memory_end, entry

        .code32
entry:  movl    $stack, %esp
        STEP_32 1                               # what the boot loader hands over
        movl    %ebx, information
        cmpl    $BOOT_MAGIC, %eax
        jne     check_failed_32
        movl    (%ebx), %eax
        andl    $INFO_WANTED, %eax
        cmpl    $INFO_WANTED, %eax
        jne     check_failed_32
        pushfl
        popl    %eax
        testl   $IF, %eax
        jnz     check_failed_32
        movl    %cr0, %eax
        andl    $CR0_PG | 1, %eax
        cmpl    $1, %eax
        jne     check_failed_32
        movl    INFO_MAP(%ebx), %esi            # RAM of the map, KiB above 1 MiB
        movl    INFO_MAP_LENGTH(%ebx), %ecx
        addl    %esi, %ecx
1:      cmpl    %ecx, %esi
        jae     2f
        cmpl    $AVAILABLE, MAP_TYPE(%esi)
        jne     3f
        movl    MAP_LENGTH(%esi), %eax
        shrl    $10, %eax
        cmpl    INFO_UPPER(%ebx), %eax
        jne     3f
        movl    %eax, kib_in_map
3:      addl    (%esi), %esi
        addl    $4, %esi
        jmp     1b
2:      movl    INFO_UPPER(%ebx), %eax
        cmpl    kib_in_map, %eax
        jne     check_failed_32

        STEP_32 2                               # segments and gates of its own
        lgdt    gdtr
        ljmp    $CODE_32, $1f
1:      movl    $DATA, %eax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $idt, %edi
        movl    $fault_32_0, %edx
        movl    $32, %ecx
1:      movl    %edx, %eax
        WRITE_GATE_32
        addl    $GATE_32_BYTES, %edi
        addl    $FAULT_STUB, %edx
        loop    1b
        SET_GATE_32 SELF_VECTOR, interrupt_32
        SET_GATE_32 BACK_VECTOR, back_32
        orb     $DPL_3, idt + BACK_VECTOR * GATE_32_BYTES + 5
        SET_GATE_32 FREE_VECTOR, back_32
        andb    $0x7f, idt + FREE_VECTOR * GATE_32_BYTES + 5
        lidt    idtr
        movl    $tss, %eax
        movw    %ax, gdt + TSS_32 + 2
        shrl    $16, %eax
        movb    %al, gdt + TSS_32 + 4
        movb    %ah, gdt + TSS_32 + 7
        movl    $stack, tss + 4
        movl    $DATA, tss + 8
        movw    $0x68, tss + 0x66               # no map of ports
        movl    $TSS_32, %eax
        ltr     %ax

        STEP_32 3                               # exceptions
        FAULTS_32 INVALID_OPCODE, 0, ud2
        xorl    %ecx, %ecx
        FAULTS_32 0, 0, divl %ecx
        movl    $NO_SELECTOR, %ecx
        FAULTS_32 GENERAL_PROTECTION, NO_SELECTOR, movw %cx,%es
        movl    $ABSENT, %ecx
        FAULTS_32 NOT_PRESENT, ABSENT, movw %cx,%es
        FAULTS_32 STACK_FAULT, ABSENT, movw %cx,%ss
        FAULTS_32 NOT_PRESENT, FREE_VECTOR*8+IN_IDT, int $FREE_VECTOR
        movl    $2f, resume
        int3
2:      REQUIRE_32 BREAKPOINT, seen_vector
        REQUIRE_32 2b, seen_rip

        STEP_32 4                               # an interrupt
        movl    $APIC, %ebx
        movl    $ENABLED, APIC_SPURIOUS(%ebx)
        movl    $ICR_SELF + SELF_VECTOR, APIC_ICR(%ebx)
        sti
        nop
        cli
        REQUIRE_32 1, arrived
        REQUIRE_32 CODE_32, seen_cs

        STEP_32 5                               # 4 MiB pages, mapped onto themselves
        movl    $directory, %edi
        movl    $PRESENT | WRITABLE | LARGE | USER, %eax
        movl    $1024, %ecx
1:      stosl
        addl    $4 << 20, %eax
        loop    1b
        movl    $0, directory + (NOT_MAPPED >> 22) * 4
        andb    $~USER, directory + (SUPERVISOR_PAGE >> 22) * 4
        movl    $directory, %eax
        movl    %eax, %cr3
        movl    $CR4_PSE, %eax
        movl    %eax, %cr4
        movl    %cr0, %eax
        orl     $CR0_PG, %eax
        movl    %eax, %cr0
        FAULTS_32 PAGE_FAULT, 0, movl NOT_MAPPED+4,%eax
        REQUIRE_32 NOT_MAPPED+4, seen_cr2
        FAULTS_32 PAGE_FAULT, WRITE, movl %eax,NOT_MAPPED+8
        REQUIRE_32 NOT_MAPPED+8, seen_cr2

        STEP_32 6                               # CPL 3
        movl    $0, arrived
        movl    $ICR_SELF + SELF_VECTOR, APIC_ICR(%ebx)
        GO_USER_32 IF+2
        REQUIRE_32 1, arrived
        REQUIRE_32 USER_CODE_32, seen_cs
        REQUIRE_32 user_stack, seen_rsp
        FAULTS_32 GENERAL_PROTECTION, 0, cli
        FAULTS_32 GENERAL_PROTECTION, FREE_VECTOR*8+IN_IDT, int $FREE_VECTOR
        FAULTS_32 PAGE_FAULT, PRESENT+USER, movl SUPERVISOR_PAGE,%eax
        FAULTS_32 PAGE_FAULT, USER+WRITE, movl %eax,NOT_MAPPED
        GO_BACK_32
        movw    %cs, %ax
        cmpw    $CODE_32, %ax
        jne     check_failed_32

        STEP_32 7                               # on to 64-bit mode
        movl    %cr0, %eax
        andl    $~CR0_PG, %eax
        movl    %eax, %cr0
        movl    $CR4_PAE, %eax
        movl    %eax, %cr4
        movl    $pml4, %eax
        movl    $pdpt + PRESENT + WRITABLE, (%eax)
        movl    $pages + PRESENT + WRITABLE, pdpt
        movl    $PRESENT | WRITABLE | LARGE, pages      # 2 MiB: enough
        movl    %eax, %cr3
        movl    $MSR_EFER, %ecx
        rdmsr
        orl     $EFER_LME, %eax
        wrmsr
        movl    %cr0, %eax
        orl     $CR0_PG, %eax
        movl    %eax, %cr0
        ljmp    $CODE_SELECTOR, $entry_64

        .code64
entry_64:
        movl    %esp, %esp
        START_CHECK
        FAULTS  INVALID_OPCODE, 0, ud2
        movabsq $1 << 63, %rbx
        FAULTS  GENERAL_PROTECTION, 0, movq (%rbx),%rcx
        PRINT   "protected: "
        movl    information(%rip), %ebx
        movl    INFO_UPPER(%rbx), %eax
        call    print_number
        PRINT   " KiB, command line: "
        movl    INFO_COMMAND_LINE(%rbx), %esi
        call    print
        PRINT   "\n"
        DONE    "protected"

        .code32
interrupt_32:
        pushl   %eax
        movl    8(%esp), %eax
        movl    %eax, seen_cs
        movl    16(%esp), %eax
        movl    %eax, seen_rsp
        movl    $0, APIC_EOI(%ebx)
        incl    arrived
        popl    %eax
        iretl

        .code64

        .balign 8
gdtr:   .word   gdt_end - gdt - 1
        .quad   gdt
gdt:    .quad   0
        .quad   0x00af9b000000ffff              # 64-bit code
        .quad   0x00cf93000000ffff              # data
        .quad   0x00cf9b000000ffff              # 32-bit code
        .quad   0x00cffb000000ffff              # the user's
        .quad   0x00cff3000000ffff              # the user's data
        .quad   0x0000890000000067              # the TSS, its address written above
        .quad   0x00cf13000000ffff              # data that is not present
gdt_end:

        .pushsection .bss
        .balign 4096
directory:
        .space  4096
pml4:   .space  4096
pdpt:   .space  4096
pages:  .space  4096
        .space  4096
stack:
        .space  1024
user_stack:
        .space  8
tss:    .space  0x68
information:
        .space  8
kib_in_map:
        .space  8
        .popsection

        CHECK_LIBRARY_32
        CHECK_LIBRARY
