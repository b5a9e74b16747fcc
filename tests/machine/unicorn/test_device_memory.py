"""Accesses to device memory: each is asked for once, with the count of its instruction."""

from tests.machine.unicorn.bare import ENTRY, SCRATCH, code
from vlapic.machine import engine as e


def test_a_device_is_read_once_with_the_count_of_the_instruction(boot):
    guest = boot(
        code(
            """
            ba 00 00 e0 fe           mov $0xfee00000, %edx
            90                       nop
            8b 82 90 03 00 00        mov 0x390(%rdx), %eax
            48 89 04 25 00 00 20 00  mov %rax, 0x200000
            f4                       hlt
            """
        )
    )
    assert guest.run() == e.ReadMemory(2, 0xFEE0_0390, 4)
    assert (guest.engine.rip, guest.engine.instructions) == (ENTRY + 6, 2)
    guest.engine.complete(0x8000_1234)
    assert guest.engine.instructions == 3
    guest.now += 1
    assert guest.run() == e.Hlt(5)
    assert guest.u64(SCRATCH) == 0x8000_1234
    assert guest.engine.instructions == 5


def test_a_device_is_written_once(boot):
    guest = boot(
        code(
            """
            ba 00 00 e0 fe                 mov $0xfee00000, %edx
            c7 82 f0 00 00 00 ff 01 00 00  movl $0x1ff, 0xf0(%rdx)
            c6 02 01                       movb $1, (%rdx)
            f4                             hlt
            """
        )
    )
    assert guest.run() == e.WriteMemory(1, 0xFEE0_00F0, 4, 0x1FF)
    guest.engine.complete()
    assert guest.run() == e.WriteMemory(1, 0xFEE0_0000, 1, 1)
    assert (guest.engine.rip, guest.engine.instructions) == (ENTRY + 15, 2)
    guest.engine.complete()
    assert guest.run() == e.Hlt(2)
    assert guest.engine.instructions == 4


def test_a_read_modify_write_reads_once_and_writes_once(boot):
    guest = boot(
        code(
            """
            ba 80 00 e0 fe           mov $0xfee00080, %edx
            90                       nop
            83 0a 05                 orl $5, (%rdx)
            0f 31                    rdtsc
            48 89 04 25 00 00 20 00  mov %rax, 0x200000
            f4                       hlt
            """
        )
    )
    assert guest.run() == e.ReadMemory(2, 0xFEE0_0080, 4)
    assert guest.engine.instructions == 2
    guest.engine.complete(0x30)
    assert guest.engine.instructions == 3
    assert guest.run() == e.WriteMemory(2, 0xFEE0_0080, 4, 0x35)
    assert (guest.engine.rip, guest.engine.instructions) == (ENTRY + 6, 3)
    guest.engine.complete()
    assert guest.engine.instructions == 3
    guest.now = 1000
    assert guest.run() == e.Hlt(1003)
    assert guest.u64(SCRATCH) == 1000
    assert guest.engine.instructions == 6


def test_the_same_access_in_a_loop_is_asked_for_each_time(boot):
    guest = boot(
        code(
            """
            ba 90 03 e0 fe          mov $0xfee00390, %edx
            83 3a 00                1: cmpl $0, (%rdx)
            75 fb                   jne 1b
            f4                      hlt
            """
        )
    )
    asked = []
    for value in (3, 2, 1, 0):
        left = guest.run()
        asked.append((left.host_tsc, guest.engine.instructions))
        assert left[1:] == (0xFEE0_0390, 4)
        guest.engine.complete(value)
        guest.now += 1
    assert asked == [(1, 1), (3, 3), (5, 5), (7, 7)]
    assert guest.run() == e.Hlt(10)
    assert guest.engine.instructions == 10


def test_a_string_move_reads_a_device_element_by_element(boot):
    guest = boot(
        code(
            """
            be 00 00 e0 fe          mov $0xfee00000, %esi
            bf 00 00 20 00          mov $0x200000, %edi
            b9 02 00 00 00          mov $2, %ecx
            f3 a5                   rep movsl
            f4                      hlt
            """
        )
    )
    for address, value in ((0xFEE0_0000, 0x1111_1111), (0xFEE0_0004, 0x2222_2222)):
        assert guest.run()[1:] == (address, 4)
        guest.engine.complete(value)
    assert isinstance(guest.run(), e.Hlt)
    assert guest.u64(SCRATCH) == 0x2222_2222_1111_1111


def test_a_push_from_a_device_reads_it_in_two_halves_and_pushes_once(boot):
    guest = boot(
        code(
            """
            ba 00 00 e0 fe           mov $0xfee00000, %edx
            bc 08 00 20 00           mov $0x200008, %esp
            ff 32                    push (%rdx)
            48 89 24 25 08 00 20 00  mov %rsp, 0x200008
            f4                       hlt
            """
        )
    )
    assert guest.run() == e.ReadMemory(2, 0xFEE0_0000, 4)
    guest.engine.complete(0x5566_7788)
    assert guest.run() == e.ReadMemory(2, 0xFEE0_0004, 4)
    guest.engine.complete(0x1122_3344)
    assert isinstance(guest.run(), e.Hlt)
    assert guest.quads(SCRATCH, 2) == (0x1122_3344_5566_7788, SCRATCH)
    assert guest.engine.instructions == 5


def test_an_interrupt_after_a_completed_access_comes_behind_its_instruction(boot):
    guest = boot(
        code(
            """
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            ba 00 00 e0 fe           mov $0xfee00000, %edx
            fb                       sti
            90                       nop
            8b 02                    mov (%rdx), %eax
            48 89 04 25 00 00 20 00  mov %rax, 0x200000
            f4                       hlt
            """
        )
    )
    guest.handler(
        0x40,
        code(
            """
            48 89 04 25 08 00 20 00  mov %rax, 0x200008
            58                       pop %rax
            48 89 04 25 10 00 20 00  mov %rax, 0x200010
            f4                       hlt
            """
        ),
    )
    assert guest.run() == e.ReadMemory(4, 0xFEE0_0000, 4)
    guest.engine.complete(77)
    assert guest.engine.interruptible
    assert (guest.engine.rip, guest.engine.instructions) == (ENTRY + 17, 5)
    guest.engine.inject_interrupt(0x40)
    guest.now += 1
    assert guest.run() == e.Hlt(9)
    assert guest.quads(SCRATCH, 3) == (0, 77, ENTRY + 17)
    assert guest.engine.instructions == 9


def test_no_interrupt_comes_between_a_read_and_a_write_of_one_instruction(boot):
    guest = boot(
        code(
            """
            0f 01 1c 25 00 80 00 00  lidt 0x8000
            ba 00 00 e0 fe           mov $0xfee00000, %edx
            fb                       sti
            90                       nop
            ff 02                    incl (%rdx)
            f4                       hlt
            """
        )
    )
    assert guest.run() == e.ReadMemory(4, 0xFEE0_0000, 4)
    guest.engine.complete(1)
    assert not guest.engine.interruptible
    assert guest.run() == e.WriteMemory(4, 0xFEE0_0000, 4, 2)
    guest.engine.complete()
    assert guest.engine.interruptible
    assert (guest.engine.rip, guest.engine.instructions) == (ENTRY + 17, 5)
    assert guest.run() == e.Hlt(5)


def test_where_nobody_answers_a_read_is_all_ones_and_a_write_is_lost(boot):
    guest = boot(
        code(
            """
            48 8b 04 25 00 00 80 00           mov 0x800000, %rax
            48 89 04 25 00 00 20 00           mov %rax, 0x200000
            c7 04 25 00 00 80 00 01 00 00 00  movl $1, 0x800000
            8b 04 25 00 00 80 00              mov 0x800000, %eax
            48 89 04 25 08 00 20 00           mov %rax, 0x200008
            48 8b 04 25 fe ff 3f 00           mov 0x3ffffe, %rax
            48 89 04 25 10 00 20 00           mov %rax, 0x200010
            f4                                hlt
            """
        )
    )
    assert isinstance(guest.run(), e.Hlt)
    assert guest.quads(SCRATCH, 3) == (2**64 - 1, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_0000)


def test_an_access_behind_one_of_a_helper_is_asked_for_once(boot):
    """What a helper reads (FLDENV) exits late, at the next instruction, which accesses something else."""
    guest = boot(
        code(
            """
            ba 00 00 e0 fe          mov $0xfee00000, %edx
            d9 22                   fldenv (%rdx)
            83 8a 80 00 00 00 05    orl $5, 0x80(%rdx)
            83 8a f0 00 00 00 05    orl $5, 0xf0(%rdx)
            f4                      hlt
            """
        )
    )
    seen = []
    while not isinstance(left := guest.run(), e.Hlt):
        seen.append(left[1:])
        guest.engine.complete(0 if isinstance(left, e.ReadMemory) else None)
        assert len(seen) < 20, seen
    assert seen[-4:] == [(0xFEE0_0080, 4), (0xFEE0_0080, 4, 5), (0xFEE0_00F0, 4), (0xFEE0_00F0, 4, 5)]
    assert guest.engine.instructions == 5
