# SPDX-License-Identifier: GPL-2.0-or-later
"""The modes a PC's CPU goes through: real, protected, long, and back; system calls; its own registers."""

import struct

import pytest

from tests.machine.engines.unicorn.test_exceptions import use_tss
from tests.support.bare_unicorn import (
    CODE_32,
    CODE_64,
    DATA_32,
    DIRECTORIES,
    ENTRY,
    FLAT_GDT,
    PDPT,
    PML4,
    REAL_PAGE,
    SCRATCH,
    STACK_TOP,
    STACKS,
    code,
)
from vlapic.machine.engines import contract as e

REAL_START = REAL_PAGE << 12


def test_protected_mode_starts_flat_at_cpl_0_with_interrupts_off(boot):
    guest = boot(
        code(
            """
    89 25 00 00 20 00  mov %esp, 0x200000
    9c                 pushf
    8f 05 04 00 20 00  pop 0x200004
    0f 20 c0           mov %cr0, %eax
    a3 08 00 20 00     mov %eax, 0x200008
    8c 0d 0c 00 20 00  mov %cs, 0x20000c
    8c 15 10 00 20 00  mov %ss, 0x200010
    65 a3 14 00 20 00  mov %eax, %gs:0x200014
    f4                 hlt
    """
        ),
        bits=32,
    )
    assert guest.run() == e.Hlt(9)
    stack, flags, cr0, cs, ss, kept = guest.words(SCRATCH, 6)
    assert (stack, flags, cr0, cs & 3, ss & 3, kept) == (STACK_TOP, 2, 0x11, 0, 0, 0x11)


def test_a_stop_in_32_bit_code_counts_and_stands_as_in_64(boot):
    guest = boot(
        code(
            """
            90              nop
            b9 1b 00 00 00  mov $0x1b, %ecx
            0f 32           rdmsr
            0f 31           rdtsc
            a3 00 00 20 00  mov %eax, 0x200000
            e6 80           outb %al, $0x80
            a1 20 00 e0 fe  mov 0xfee00020, %eax
            f4              hlt
            """
        ),
        bits=32,
    )
    assert guest.run() == e.ReadMsr(2, 0x1B)
    assert (guest.engine.rip, guest.engine.instructions) == (ENTRY + 6, 2)
    guest.engine.complete(5)
    guest.now = 10
    assert guest.run() == e.WritePort(12, 0x80, 1, 10)
    guest.engine.complete()
    guest.now = 13
    assert guest.run() == e.ReadMemory(13, 0xFEE0_0020, 4)
    guest.engine.complete(7)
    guest.now = 14
    assert guest.run() == e.Hlt(15)
    assert guest.u32(SCRATCH) == 10
    assert guest.engine.instructions == 8


def test_a_sipi_starts_real_mode_at_its_page_and_on_to_protected_mode(boot):
    guest = boot(
        code(
            """
            8c c8                          mov %cs, %ax
            8e d8                          mov %ax, %ds
            8e d0                          mov %ax, %ss
            bc 00 01                       mov $0x100, %sp
            e8 1c 00                       call 2f
            0f 20 c0                       mov %cr0, %eax
            66 83 c8 01                    or $1, %eax
            0f 22 c0                       mov %eax, %cr0
            2e 67 66 0f 01 15 50 00 00 00  data32 addr32 lgdt %cs:0x50
            66 ea 00 00 11 00 08 00        ljmpl $8, $0x110000
            a3 60 00                       2: mov %ax, 0x60
            c3                             ret
            """
        )
        + bytes(64),
        bits=16,
    )
    guest.put(REAL_START + 0x50, struct.pack("<HI", 23, FLAT_GDT))
    guest.put(
        0x11_0000,
        code(
            """
            b8 10 00 00 00                 mov $0x10, %eax
            8e d8                          mov %eax, %ds
            c7 05 00 00 20 00 34 12 00 00  movl $0x1234, 0x200000
            f4                             hlt
            """
        ),
    )
    assert isinstance(guest.run(), e.Hlt)
    assert guest.u32(SCRATCH) == 0x1234
    assert guest.memory[REAL_START + 0x60 : REAL_START + 0x62] == b"\x00\x10"
    assert guest.engine.instructions == 16


def test_a_string_goes_to_a_port_from_a_real_mode_segment(boot):
    guest = boot(
        code(
            """
        b8 00 10  mov $0x1000, %ax
        8e d8     mov %ax, %ds
        be 40 00  mov $0x40, %si
        b9 02 00  mov $2, %cx
        ba f8 03  mov $0x3f8, %dx
        f3 6e     rep outsb
        f4        hlt
        """
        ),
        bits=16,
    )
    guest.put(0x1_0040, b"ok")
    said = b""
    while isinstance(left := guest.run(), e.WritePort):
        assert guest.engine.rip == 14
        said += bytes([left.value])
        guest.engine.complete()
    assert said == b"ok"
    assert isinstance(left, e.Hlt)


def test_init_forgets_what_the_cpu_was_doing_and_sipi_starts_it_again(boot):
    guest = boot(
        code(
            """
            0f 30  wrmsr
            f4     hlt
            """
        )
    )
    guest.put(
        0x5000,
        code(
            """
        0f 20 c0        mov %cr0, %eax
        2e 66 a3 00 01  mov %eax, %cs:0x100
        f4              hlt
        """
        ),
    )
    assert isinstance(guest.run(), e.WriteMsr)
    guest.engine.reset()
    assert not guest.engine.interrupts_enabled
    guest.engine.startup(5)
    assert guest.engine.rip == 0
    assert guest.run() == e.Hlt(3)
    assert guest.u32(0x5100) == 0x6000_0010
    assert guest.engine.instructions == 3


def long_mode_tables(guest):
    """Page tables, and a GDT of 32-bit code (8), data (0x10) and 64-bit code (0x18)."""
    guest.put(PML4, struct.pack("<Q", PDPT | 3))
    guest.put(PDPT, struct.pack("<Q", DIRECTORIES | 3))
    guest.put(DIRECTORIES, struct.pack("<512Q", *(page << 21 | 0x83 for page in range(512))))
    guest.put(FLAT_GDT, struct.pack("<4Q", 0, CODE_32, DATA_32, CODE_64))
    guest.put(0x8018, struct.pack("<HI", 31, FLAT_GDT))


ENTER_LONG_MODE = code(
    """
        0f 01 15 18 80 00 00  lgdt 0x8018
        b8 20 00 00 00        mov $0x20, %eax
        0f 22 e0              mov %eax, %cr4
        b8 00 10 00 00        mov $0x1000, %eax
        0f 22 d8              mov %eax, %cr3
        b9 80 00 00 c0        mov $0xc0000080, %ecx
        31 d2                 xor %edx, %edx
        b8 00 01 00 00        mov $0x100, %eax
        0f 30                 wrmsr
        b8 11 00 00 80        mov $0x80000011, %eax
        0f 22 c0              mov %eax, %cr0
        ea 00 00 11 00 18 00  ljmp $0x18, $0x110000
        """
)


def test_32_bit_code_enters_long_mode_and_comes_back(boot):
    guest = boot(ENTER_LONG_MODE, bits=32)
    long_mode_tables(guest)
    guest.put(
        0x11_0000,
        code(
            """
    48 b8 88 77 66 55 44 33 22 11  mov $0x1122334455667788, %rax
    48 89 04 25 00 00 20 00        mov %rax, 0x200000
    b9 80 00 00 c0                 mov $0xc0000080, %ecx
    0f 32                          rdmsr
    48 89 04 25 08 00 20 00        mov %rax, 0x200008
    6a 08                          push $8
    68 00 20 11 00                 push $0x112000
    48 cb                          lretq
    """
        ),
    )
    guest.put(
        0x11_2000,
        code(
            """
        b8 11 00 00 00  mov $0x11, %eax
        0f 22 c0        mov %eax, %cr0
        0f 32           rdmsr
        a3 10 00 20 00  mov %eax, 0x200010
        f4              hlt
        """
        ),
    )
    assert guest.run() == e.Hlt(25)
    assert guest.quads(SCRATCH, 3) == (0x1122_3344_5566_7788, 0x500, 0x100)


def test_the_same_bytes_at_one_address_are_counted_as_the_code_they_are(boot):
    both = 0x11_4000
    # 32-bit code: dec, dec, hlt, jmp *%ebx; 64-bit code: dec, hlt, jmp *%rbx.
    program = bytes.fromhex("48 ff c8 f4 ff e3")
    start = code(
        """
        bb 2c 00 10 00  mov $0x10002c, %ebx
        b9 00 40 11 00  mov $0x114000, %ecx
        ff e1           jmp *%ecx
        """
    )
    guest = boot(start + ENTER_LONG_MODE, bits=32)
    long_mode_tables(guest)
    guest.put(both, program)
    guest.put(
        0x11_0000,
        code(
            """
        bb 00 10 11 00  mov $0x111000, %ebx
        b9 00 40 11 00  mov $0x114000, %ecx
        ff e1           jmp *%rcx
        """
        ),
    )
    guest.put(
        0x11_1000,
        code(
            """
        6a 08           push $8
        68 00 20 11 00  push $0x112000
        48 cb           lretq
        """
        ),
    )
    guest.put(
        0x11_2000,
        code(
            """
        bb 00 00 11 00  mov $0x110000, %ebx
        b9 00 40 11 00  mov $0x114000, %ecx
        ff e1           jmp *%ecx
        """
        ),
    )
    counts = []
    for _ in range(3):
        assert isinstance(guest.run(), e.Hlt)
        assert guest.engine.rip == both + 4
        counts.append(guest.engine.instructions)
    assert counts == [3 + 3, 6 + 1 + 12 + 3 + 2, 24 + 1 + 3 + 3 + 3]


def test_a_hypercall_in_32_bit_code_has_32_bits(boot):
    guest = boot(
        code(
            """
        b8 ff ff ff ff  mov $-1, %eax
        bb 02 00 00 00  mov $2, %ebx
        b9 03 00 00 00  mov $3, %ecx
        ba 04 00 00 00  mov $4, %edx
        be 05 00 00 00  mov $5, %esi
        0f 01 c1        vmcall
        a3 00 00 20 00  mov %eax, 0x200000
        0f 01 d9        vmmcall
        f4              hlt
        """
        ),
        bits=32,
    )
    assert guest.run() == e.Hypercall(5, 0xFFFF_FFFF, (2, 3, 4, 5))
    guest.engine.complete(-1000)
    assert guest.run() == e.Hypercall(6, 2**32 - 1000, (2, 3, 4, 5))
    guest.engine.complete(0)
    assert isinstance(guest.run(), e.Hlt)
    assert guest.u32(SCRATCH) == 2**32 - 1000


@pytest.mark.parametrize(
    ("register", "value"),
    [(4, 0xFFFF_FFFF), (4, 0x1000), (4, 0), (0, 0x8000_0000), (0, 0x2000_0011 | 1 << 31), (0, 1 << 32)],
)
def test_a_control_register_takes_no_reserved_value(boot, register, value):
    move = {0: "0f 22 c0", 4: "0f 22 e0"}[register]
    guest = boot(
        code(
            """
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            48 8b 04 25 00 00 20 00  mov 0x200000, %rax
            """
        )
        + bytes.fromhex(move)
    )
    guest.put(SCRATCH, value.to_bytes(8, "little"))
    handler = guest.handler(13, b"\xf4")
    assert guest.run() == e.Hlt(3)
    assert guest.engine.rip == handler + 1


def test_smsw_writes_all_of_a_32_bit_register(boot):
    guest = boot(
        code(
            """
            b8 ff ff ff ff  mov $-1, %eax
            0f 01 e0        smsw %eax
            a3 00 00 20 00  mov %eax, 0x200000
            f4              hlt
            """
        ),
        bits=32,
    )
    guest.run()
    assert guest.u32(SCRATCH) == 0x11


# -- system calls --


def test_syscall_goes_to_lstar_with_masked_flags_and_sysret_comes_back(boot):
    guest = boot(
        code(
            """
            b9 80 00 00 c0  mov $0xc0000080, %ecx
            b8 01 05 00 00  mov $0x501, %eax
            31 d2           xor %edx, %edx
            0f 30           wrmsr
            b9 81 00 00 c0  mov $0xc0000081, %ecx
            ba 08 00 20 00  mov $0x00200008, %edx
            31 c0           xor %eax, %eax
            0f 30           wrmsr
            b9 82 00 00 c0  mov $0xc0000082, %ecx
            b8 00 00 11 00  mov $0x110000, %eax
            31 d2           xor %edx, %edx
            0f 30           wrmsr
            b9 84 00 00 c0  mov $0xc0000084, %ecx
            b8 01 00 00 00  mov $0x1, %eax
            0f 30           wrmsr
            f9              stc
            0f 05           syscall
            f4              hlt
            """
        )
    )
    guest.put(
        0x11_0000,
        code(
            """
        48 89 0c 25 00 00 20 00  mov %rcx, 0x200000
        4c 89 1c 25 08 00 20 00  mov %r11, 0x200008
        9c                       pushf
        8f 04 25 10 00 20 00     pop 0x200010
        8c 0c 25 18 00 20 00     mov %cs, 0x200018
        8c 14 25 1a 00 20 00     mov %ss, 0x20001a
        f4                       hlt
        """
        ),
    )
    assert isinstance(guest.run(), e.Hlt)
    back, before, flags = guest.quads(SCRATCH, 3)
    assert (back, before, flags) == (ENTRY + 57, 0x47, 0x46)
    assert guest.u32(SCRATCH + 0x18) == 0x0010_0008
    assert guest.engine.instructions == 17 + 7


def test_syscall_without_efer_sce_is_ud(boot):
    guest = boot(
        code(
            """
        0f 01 1c 25 00 80 00 00  lidt 0x8000
        b9 80 00 00 c0           mov $0xc0000080, %ecx
        b8 00 05 00 00           mov $0x500, %eax
        31 d2                    xor %edx, %edx
        0f 30                    wrmsr
        0f 05                    syscall
        """
        )
    )
    handler = guest.handler(6, b"\xf4")
    guest.run()
    assert guest.engine.rip == handler + 1


def test_sysenter_takes_its_stack_and_address_from_msrs(boot):
    guest = boot(
        code(
            """
        0f 01 15 18 80 00 00  lgdt 0x8018
        0f 01 1d 00 80 00 00  lidt 0x8000
        31 d2                 xor %edx, %edx
        b9 74 01 00 00        mov $0x174, %ecx
        b8 08 00 00 00        mov $8, %eax
        0f 30                 wrmsr
        41                    inc %ecx
        b8 00 00 18 00        mov $0x180000, %eax
        0f 30                 wrmsr
        41                    inc %ecx
        b8 00 00 11 00        mov $0x110000, %eax
        0f 30                 wrmsr
        fb                    sti
        0f 34                 sysenter
        """
        ),
        bits=32,
    )
    guest.put(
        0x11_0000,
        code(
            """
            89 25 00 00 20 00  mov %esp, 0x200000
            f4                 hlt
            """
        ),
    )
    guest.run()
    assert guest.u32(SCRATCH) == STACKS
    assert not guest.engine.interrupts_enabled


# -- the CPU's own MSRs --


def test_the_base_of_gs_survives_a_way_to_user_code_and_back(boot):
    guest = boot(
        code(
            """
        0f 01 14 25 10 80 00 00  lgdt 0x8010
        0f 01 1c 25 00 80 00 00  lidt 0x8000
        b8 18 00 00 00           mov $0x18, %eax
        0f 00 d8                 ltr %ax
        b8 10 00 00 00           mov $0x10, %eax
        8e e8                    mov %eax, %gs
        b9 01 01 00 c0           mov $0xc0000101, %ecx
        b8 00 00 20 00           mov $0x200000, %eax
        31 d2                    xor %edx, %edx
        0f 30                    wrmsr
        6a 2b                    push $0x2b
        68 00 00 1f 00           push $0x1f0000
        6a 02                    push $2
        6a 33                    push $0x33
        68 00 80 11 00           push $0x118000
        48 cf                    iretq
        """
        )
    )
    use_tss(guest, rsp0=STACKS)
    for entry in (PML4, PDPT, DIRECTORIES):
        guest.memory[entry] |= 4
    guest.put(0x11_8000, bytes.fromhex("cd 30"))
    guest.handler(
        0x30,
        code(
            """
        65 c7 04 25 08 00 00 00 07 00 00 00  movl $7, %gs:8
        f4                                   hlt
        """
        ),
        dpl=3,
    )
    guest.run()
    assert guest.u32(SCRATCH + 8) == 7
