# SPDX-License-Identifier: GPL-2.0-or-later
# boot: what a multiboot image is told (Multiboot Specification 0.6.96, "Boot information format"; boot2.S is the
# same by version 2) and what firmware leaves below 1 MiB (ACPI Specification, "Root System Description Pointer";
# MultiProcessor Specification 1.4, "MP Floating Pointer Structure"). It prints all of it, a line each.
#
# Not of the flat form: the addresses in a multiboot header say where everything goes.

        .ifndef VERSION
        .set    VERSION, 1
        .endif

        .set    CONSOLE, 0x3f8
        .set    EXIT_PORT, 0xf4
        .set    BIOS_AREA, 0xe0000
        .set    BIOS_AREA_END, 0x100000
        .set    RSDP_BYTES, 20
        .set    RSDP_RSDT, 16
        .set    TABLE_HEADER, 36
        .set    MP_BYTES, 16
        .set    MP_TABLE, 4
        .set    MP_ENTRIES, 34

        .text
        .globl  image
image:
        .if     VERSION == 1
        .set    MAGIC, 0x1badb002
        .set    FLAGS, 1 << 16 | 1 << 2 | 1 << 1 | 1 << 0       # addresses, a video mode, memory, modules
        .set    BOOT_MAGIC, 0x2badb002
        .long   MAGIC, FLAGS, -(MAGIC + FLAGS)
        .long   image, image, image_end, memory_end, entry
        .long   0, 1024, 768, 32
        .else
        .set    MAGIC, 0xe85250d6
        .set    BOOT_MAGIC, 0x36d76289
        .set    OPTIONAL, 1
        .long   MAGIC, 0, header_end - image, -(MAGIC + header_end - image)
        .short  1, 0                    # information request: all that is told
        .long   2f - 1f + 8
1:      .long   1, 2, 3, 4, 6, 14, 15
2:      .balign 8
        .short  2, 0                    # addresses
        .long   24, image, image, image_end, memory_end
        .short  3, 0                    # entry address
        .long   12, entry
        .balign 8
        .short  5, 0                    # a framebuffer
        .long   20, 1024, 768, 32
        .balign 8
        .short  6, 0                    # modules on pages
        .long   8
        .short  4711, OPTIONAL          # a tag that no loader knows
        .long   8
        .short  0, 0
        .long   8
header_end:
        .endif

        .code32
entry:  movl    $stack, %esp
        cmpl    $BOOT_MAGIC, %eax
        jne     failed
        movl    %ebx, %ebp
        .if     VERSION == 1
        movl    $command_line_is, %esi
        movl    16(%ebp), %edi
        call    put_line
        movl    $loader_is, %esi
        movl    64(%ebp), %edi
        call    put_line
        movl    $memory_is, %esi
        call    put
        movl    4(%ebp), %eax
        call    put_number
        movl    8(%ebp), %eax
        call    put_number
        call    put_newline
        movl    48(%ebp), %ebx                  # memory map
        movl    44(%ebp), %edi
        addl    %ebx, %edi
1:      cmpl    %edi, %ebx
        jae     2f
        movl    4(%ebx), %eax
        movl    12(%ebx), %ecx
        movl    20(%ebx), %edx
        call    put_range
        addl    (%ebx), %ebx
        addl    $4, %ebx
        jmp     1b
2:      movl    20(%ebp), %edi                  # modules
        movl    24(%ebp), %ebx
3:      subl    $1, %edi
        js      tables
        movl    (%ebx), %eax
        movl    4(%ebx), %ecx
        movl    8(%ebx), %edx
        call    put_module
        addl    $16, %ebx
        jmp     3b
        .else
        addl    $8, %ebp
next_tag:
        movl    (%ebp), %eax
        cmpl    $1, %eax
        je      1f
        cmpl    $2, %eax
        je      2f
        cmpl    $3, %eax
        je      3f
        cmpl    $4, %eax
        je      4f
        cmpl    $6, %eax
        je      6f
        testl   %eax, %eax
        jz      tables
behind_tag:
        movl    4(%ebp), %eax
        addl    $7, %eax
        andl    $~7, %eax
        addl    %eax, %ebp
        jmp     next_tag
1:      movl    $command_line_is, %esi
        leal    8(%ebp), %edi
        call    put_line
        jmp     behind_tag
2:      movl    $loader_is, %esi
        leal    8(%ebp), %edi
        call    put_line
        jmp     behind_tag
3:      movl    8(%ebp), %eax
        movl    12(%ebp), %ecx
        leal    16(%ebp), %edx
        call    put_module
        jmp     behind_tag
4:      movl    $memory_is, %esi
        call    put
        movl    8(%ebp), %eax
        call    put_number
        movl    12(%ebp), %eax
        call    put_number
        call    put_newline
        jmp     behind_tag
6:      leal    16(%ebp), %ebx
        movl    4(%ebp), %edi
        addl    %ebp, %edi
7:      cmpl    %edi, %ebx
        jae     behind_tag
        movl    (%ebx), %eax
        movl    8(%ebx), %ecx
        movl    16(%ebx), %edx
        call    put_range
        addl    8(%ebp), %ebx
        jmp     7b
        .endif

# ACPI: the tables that the RSDT lists.
tables: movl    $BIOS_AREA, %ebx
1:      cmpl    $0x20445352, (%ebx)             # "RSD "
        jne     2f
        cmpl    $0x20525450, 4(%ebx)            # "PTR "
        je      3f
2:      addl    $16, %ebx
        cmpl    $BIOS_AREA_END, %ebx
        jb      1b
        jmp     failed
3:      movl    %ebx, %eax
        movl    $RSDP_BYTES, %ecx
        call    check_sum
        movl    $acpi_is, %esi
        call    put
        movl    RSDP_RSDT(%ebx), %ebx
        movl    4(%ebx), %edi
        addl    %ebx, %edi
        addl    $TABLE_HEADER, %ebx
4:      cmpl    %edi, %ebx
        jae     5f
        movl    (%ebx), %eax
        movl    4(%eax), %ecx
        call    check_sum
        movl    $' ', %eax
        call    put_byte
        movl    (%ebx), %esi
        movl    $4, %ecx
        call    put_bytes
        addl    $4, %ebx
        jmp     4b
5:      call    put_newline

# MP tables: how many entries there are.
        movl    $BIOS_AREA, %ebx
1:      cmpl    $0x5f504d5f, (%ebx)             # "_MP_"
        je      2f
        addl    $16, %ebx
        cmpl    $BIOS_AREA_END, %ebx
        jb      1b
        jmp     failed
2:      movl    %ebx, %eax
        movl    $MP_BYTES, %ecx
        call    check_sum
        movl    MP_TABLE(%ebx), %ebx
        movl    %ebx, %eax
        movzwl  4(%ebx), %ecx
        call    check_sum
        movl    $mp_is, %esi
        call    put
        movzwl  MP_ENTRIES(%ebx), %eax
        call    put_number
        call    put_newline
        xorl    %eax, %eax
        jmp     report
failed: movl    $1, %eax
report: movl    $EXIT_PORT, %edx
        outl    %eax, %dx
        cli
        hlt

# ECX bytes at EAX add up to 0.
check_sum:
        xorl    %edx, %edx
1:      addb    (%eax), %dl
        incl    %eax
        loop    1b
        testb   %dl, %dl
        jnz     failed
        ret

# A module: EAX and ECX its start and end, EDX its text.
put_module:
        testl   $0xfff, %eax
        jnz     failed
        pushl   %edi
        pushl   %ecx
        pushl   %eax
        movl    $module_is, %esi
        call    put
        movl    %edx, %esi
        call    put
        movl    $says, %esi
        call    put
        popl    %esi
        popl    %ecx
        subl    %esi, %ecx
        jz      1f
        call    put_bytes
1:      call    put_newline
        popl    %edi
        ret

# A line of the memory map: EAX where, ECX how long, EDX its type.
put_range:
        pushl   %eax
        movl    $range_is, %esi
        call    put
        popl    %eax
        call    put_number
        movl    %ecx, %eax
        call    put_number
        movl    %edx, %eax
        call    put_number
        jmp     put_newline

# The text at ESI, that at EDI, a newline.
put_line:
        call    put
        movl    %edi, %esi
        call    put
put_newline:
        movl    $'\n', %eax
put_byte:
        pushl   %edx
        movl    $CONSOLE, %edx
        outb    %al, %dx
        popl    %edx
        ret

put:    lodsb
        testb   %al, %al
        jz      1f
        call    put_byte
        jmp     put
1:      ret

# ECX bytes at ESI, one at least.
put_bytes:
        lodsb
        call    put_byte
        loop    put_bytes
        ret

# A space and EAX in hexadecimal digits.
put_number:
        pushl   %ecx
        pushl   %eax
        movl    $' ', %eax
        call    put_byte
        popl    %eax
        movl    $8, %ecx
1:      roll    $4, %eax
        pushl   %eax
        andl    $0xf, %eax
        movb    digits(%eax), %al
        call    put_byte
        popl    %eax
        loop    1b
        popl    %ecx
        ret

digits: .ascii  "0123456789abcdef"
command_line_is:
        .asciz  "command line: "
loader_is:
        .asciz  "loader: "
memory_is:
        .asciz  "memory:"
range_is:
        .asciz  "range:"
module_is:
        .asciz  "module: "
says:   .asciz  " says "
acpi_is:
        .asciz  "ACPI:"
mp_is:  .asciz  "MP entries:"
image_end:

        .bss
        .space  0x1000
stack:
memory_end:
