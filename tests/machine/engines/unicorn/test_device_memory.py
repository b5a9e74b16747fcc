# SPDX-License-Identifier: GPL-2.0-or-later
"""Accesses to device memory: each is asked for once, with the count of its instruction."""

from typing import Any

import pytest

from tests.support.bare_unicorn import ENTRY, SCRATCH, code
from vlapic.machine.engines import contract as e
from vlapic.machine.engines.unicorn import blocks, device_memory
from vlapic.machine.engines.unicorn.device_memory import DeviceMemory


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


def test_a_push_from_a_device_reads_it_once_and_pushes_once(boot):
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
    assert guest.run() == e.ReadMemory(2, 0xFEE0_0000, 8)
    guest.engine.complete(0x1122_3344_5566_7788)
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


PAGE = 0xFEE0_0000
VALUE = 0x8877_6655_4433_2211


def ways_to_read():
    """The instruction that reads at RDX + 0, its size; where it reads."""
    for move, size in (("66 8b 02", 2), ("8b 02", 4), ("48 8b 02", 8), ("f3 0f 7e 02", 8)):
        for offset in (0, 1, 2, 3, 4, 5, 7, 0x31, 0xFF8):
            yield pytest.param(move, size, PAGE + offset, id=f"{size} bytes at {offset:#x}: {move}")


@pytest.mark.parametrize(("move", "size", "address"), list(ways_to_read()))
def test_a_read_is_asked_for_as_the_instruction_has_it_aligned_or_not(boot, move, size, address):
    guest = boot(b"\xba" + address.to_bytes(4, "little") + bytes.fromhex("31 c0" + move + "90 f4"))
    if move.startswith("f3"):  # movq (%rdx), %xmm0; movq %xmm0, %rax
        guest.put(ENTRY + 7, bytes.fromhex(move + "66 48 0f 7e c0 f4"))
    guest.put(ENTRY + 7 + len(bytes.fromhex(move)) + (5 if move.startswith("f3") else 0), code(STORE_RAX))
    assert guest.run() == e.ReadMemory(2, address, size)
    assert (guest.engine.rip, guest.engine.instructions) == (ENTRY + 7, 2)
    guest.engine.complete(VALUE & (1 << 8 * size) - 1)
    assert isinstance(guest.run(), e.Hlt)
    assert guest.u64(SCRATCH) == VALUE & (1 << 8 * size) - 1


STORE_RAX = """
    48 89 04 25 00 00 20 00  mov %rax, 0x200000
    f4                       hlt
"""


def ways_to_write():
    """The instruction that writes RAX at RDX + 0, its size; where it writes."""
    for move, size in (("88 02", 1), ("66 89 02", 2), ("89 02", 4), ("48 89 02", 8)):
        for offset in (0, 1, 2, 3, 4, 5, 7, 0x31, 0xFF8):
            yield pytest.param(move, size, PAGE + offset, id=f"{size} bytes at {offset:#x}")


@pytest.mark.parametrize(("move", "size", "address"), list(ways_to_write()))
def test_a_write_is_asked_for_as_the_instruction_has_it_aligned_or_not(boot, move, size, address):
    program = b"\xba" + address.to_bytes(4, "little") + b"\x48\xb8" + VALUE.to_bytes(8, "little")
    guest = boot(program + bytes.fromhex(move + "90 f4"))
    assert guest.run() == e.WriteMemory(2, address, size, VALUE & (1 << 8 * size) - 1)
    assert (guest.engine.rip, guest.engine.instructions) == (ENTRY + 15, 2)
    guest.engine.complete()
    assert guest.engine.instructions == 3
    assert guest.run() == e.Hlt(4)
    assert guest.engine.instructions == 5


@pytest.mark.parametrize(("move", "size"), [("66 8b 02", 2), ("8b 02", 4), ("48 8b 02", 8)])
@pytest.mark.parametrize("behind", range(1, 8))
def test_a_read_across_pages_is_a_piece_for_each(boot, move, size, behind):
    if behind >= size:
        return
    address = PAGE + 0x1000 - size + behind
    program = b"\xba" + address.to_bytes(4, "little") + bytes.fromhex("31 c0" + move) + code(STORE_RAX)
    guest = boot(program)
    assert guest.run()[1:] == (address, size - behind)
    guest.engine.complete(VALUE & (1 << 8 * (size - behind)) - 1)
    assert guest.run()[1:] == (PAGE + 0x1000, behind)
    guest.engine.complete(VALUE >> 8 * (size - behind) & (1 << 8 * behind) - 1)
    assert isinstance(guest.run(), e.Hlt)
    assert guest.u64(SCRATCH) == VALUE & (1 << 8 * size) - 1


def test_a_write_across_pages_is_a_piece_for_each(boot):
    guest = boot(
        code(
            """
            ba fd 0f e0 fe                 mov $0xfee00ffd, %edx
            c7 02 44 33 22 11              movl $0x11223344, (%rdx)
            f4                             hlt
            """
        )
    )
    assert guest.run() == e.WriteMemory(1, 0xFEE0_0FFD, 3, 0x22_3344)
    guest.engine.complete()
    assert guest.run()[1:] == (0xFEE0_1000, 1, 0x11)
    guest.engine.complete()
    assert isinstance(guest.run(), e.Hlt)
    assert guest.engine.instructions == 3


def test_a_move_of_16_bytes_is_two_of_8(boot):
    guest = boot(
        code(
            """
            ba 01 00 e0 fe                 mov $0xfee00001, %edx
            f3 0f 6f 02                    movdqu (%rdx), %xmm0
            f3 0f 7f 42 40                 movdqu %xmm0, 0x40(%rdx)
            f4                             hlt
            """
        )
    )
    assert guest.run()[1:] == (PAGE + 1, 8)
    guest.engine.complete(VALUE)
    assert guest.run()[1:] == (PAGE + 9, 8)
    guest.engine.complete(5)
    assert guest.run()[1:] == (PAGE + 0x41, 8, VALUE)
    guest.engine.complete()
    assert guest.run()[1:] == (PAGE + 0x49, 8, 5)
    guest.engine.complete()
    assert isinstance(guest.run(), e.Hlt)
    assert guest.engine.instructions == 4


def test_a_string_move_inside_of_the_page_tells_reads_from_writes(boot):
    guest = boot(
        code(
            """
            be 02 00 e0 fe                 mov $0xfee00002, %esi
            bf 05 00 e0 fe                 mov $0xfee00005, %edi
            48 a5                          movsq
            f4                             hlt
            """
        )
    )
    assert guest.run()[1:] == (PAGE + 2, 8)
    guest.engine.complete(VALUE)
    assert guest.run()[1:] == (PAGE + 5, 8, VALUE)
    guest.engine.complete()
    assert isinstance(guest.run(), e.Hlt)


def test_a_write_whose_parts_are_looked_at_does_not_take_part_in_what_an_interrupt_does(boot):
    """The guest is stopped in between at every count there is: nothing is lost and nothing comes twice."""
    for until in range(2, 8):
        guest = boot(
            code(
                """
                ba 01 00 e0 fe                 mov $0xfee00001, %edx
                c7 02 44 33 22 11              movl $0x11223344, (%rdx)
                c6 02 55                       movb $0x55, (%rdx)
                f4                             hlt
                """
            )
        )
        seen = []
        while not isinstance(left := guest.run(until), e.Hlt):
            if isinstance(left, e.WriteMemory):
                seen.append(left[1:])
                guest.engine.complete()
            else:
                until += 1
        assert seen == [(PAGE + 1, 4, 0x1122_3344), (PAGE + 1, 1, 0x55)]


@pytest.mark.parametrize(
    ("stack", "instruction", "access"),
    [
        (0, "58", (PAGE, 8)),  # pop %rax
        (1, "66 58", (PAGE + 1, 2)),  # pop %ax
        (1, "c3", (PAGE + 1, 8)),  # ret
        (8, "50", (PAGE, 8, 0)),  # push %rax
        (9, "e8 00 00 00 00", (PAGE + 1, 8, ENTRY + 12)),  # call
        (3, "66 50", (PAGE + 1, 2, 0)),  # push %ax
    ],
)
def test_a_stack_in_device_memory_is_accessed_as_the_instruction_has_it(boot, stack, instruction, access):
    program = b"\xbc" + (PAGE + stack).to_bytes(4, "little") + bytes.fromhex("31 c0" + instruction)
    guest = boot(program + b"\xf4")
    assert guest.run()[1:] == access
    guest.engine.complete(ENTRY + 7 + len(bytes.fromhex(instruction)) if len(access) == 2 else None)
    assert isinstance(guest.run(), e.Hlt)
    assert guest.engine.instructions == 4


@pytest.mark.parametrize("offset", [0, 1, 4])
def test_8_bytes_are_read_once_and_written_once_by_one_instruction(boot, offset):
    """mov $..., %edx; lock addq $1, (%rdx); hlt."""
    guest = boot(b"\xba" + (PAGE + offset).to_bytes(4, "little") + bytes.fromhex("f0 48 83 02 01 f4"))
    assert guest.run()[1:] == (PAGE + offset, 8)
    guest.engine.complete(VALUE)
    assert guest.run()[1:] == (PAGE + offset, 8, VALUE + 1)
    guest.engine.complete()
    assert isinstance(guest.run(), e.Hlt)
    assert guest.engine.instructions == 3


def play_32(boot, program, answer):
    """The accesses of a 32-bit guest with its stack in device memory, each answered by its address."""
    guest = boot(bytes.fromhex("bc 21 00 e0 fe bd 43 00 e0 fe" + program + "f4"), bits=32)
    seen = []
    while not isinstance(left := guest.run(), e.Hlt):
        seen.append(left[1:])
        guest.engine.complete(answer(left.address) if isinstance(left, e.ReadMemory) else None)
    return guest, seen


def test_many_words_on_a_stack_in_device_memory_are_a_word_each(boot):
    """mov $0xfee00021, %esp; mov $0xfee00043, %ebp."""
    stack, frame = PAGE + 0x21, PAGE + 0x43
    guest, seen = play_32(boot, "60", lambda address: 0)  # pusha
    values = (0, 0, 0, 0, stack, frame, 0, 0)
    pushed = [(stack - 4 * number, 4, value) for number, value in enumerate(values, 1)]
    assert seen == pushed[::-1]
    guest, seen = play_32(boot, "61", lambda address: address)  # popa
    assert {address for address, _ in seen} >= {stack + 4 * number for number in range(8) if number != 3}
    assert all((address - stack) % 4 == 0 and size == 4 for address, size in seen)
    assert guest.engine._state.register(0) == stack + 28
    guest, seen = play_32(boot, "c8 00 00 03", lambda address: address)  # enter $0, $3
    expected: list[Any] = [(stack - 4, 4, frame)]
    for level in (1, 2):
        expected += [(frame - 4 * level, 4), (stack - 4 - 4 * level, 4, frame - 4 * level)]
    assert seen == [*expected, (stack - 16, 4, stack - 4)]
    assert guest.engine.instructions == 4


@pytest.mark.parametrize("stack", [PAGE + 0x800, PAGE + 0x801])
def test_an_instruction_of_many_accesses_asks_python_about_each_of_them_once(
    boot, native, monkeypatch, stack
):
    """An ENTER of 31 levels: what has been answered is answered again by machine code, each time it runs."""
    asked = []
    whole = DeviceMemory._access
    monkeypatch.setattr(DeviceMemory, "_access", lambda *call: asked.append(call) or whole(*call))
    # mov $stack, %esp; mov $stack + 0x400, %ebp; enter $0, $31; hlt
    program = b"\xbc" + stack.to_bytes(4, "little") + b"\xbd" + (stack + 0x400).to_bytes(4, "little")
    guest = boot(program + bytes.fromhex("c8 00 00 1f f4"), bits=32)
    seen = []
    while not isinstance(left := guest.run(), e.Hlt):
        seen.append(left[1:])
        guest.engine.complete(left.address if isinstance(left, e.ReadMemory) else None)
    expected: list[tuple[int, ...]] = [(stack - 4, 4, stack + 0x400)]
    for level in range(1, 31):
        frame = stack + 0x400 - 4 * level
        expected += [(frame, 4), (stack - 4 - 4 * level, 4, frame)]
    assert seen == [*expected, (stack - 128, 4, stack - 4)]
    assert guest.engine.instructions == 4
    assert (len(asked) <= 4 * len(seen)) is native  # a write of 4 bytes may be one of each byte


def test_more_answers_than_machine_code_has_room_for_are_given_by_python(boot, monkeypatch):
    monkeypatch.setattr(device_memory, "_ANSWER_ROWS", 3)
    _, seen = play_32(boot, "61", lambda address: address)  # popa
    assert seen == [(PAGE + 0x21 + 4 * number, 4) for number in range(8) if number != 3]


def test_a_slide_of_accesses_is_not_translated_anew_behind_each(boot, monkeypatch):
    """A block of hundreds of instructions that all access a device: behind each a new block begins."""
    sizes = []

    def decode(code, address, size, *more):
        sizes.append(size)
        return decode_block(code, address, size, *more)

    decode_block = vars(blocks)["decode"]
    monkeypatch.setattr(blocks, "decode", decode)
    slides = 1000
    # mov $0xfed00000, %eax; add %al, (%rax), many times; hlt
    guest = boot(bytes.fromhex("b8 00 00 d0 fe") + bytes(2 * slides) + b"\xf4")
    seen = []
    while not isinstance(left := guest.run(), e.Hlt):
        seen.append(left[1:])
        guest.engine.complete(len(seen) & 0xFF if isinstance(left, e.ReadMemory) else None)
    assert seen == [
        access
        for number in range(1, 2 * slides, 2)
        for access in ((0xFED0_0000, 1), (0xFED0_0000, 1, number & 0xFF))
    ]
    assert guest.engine.instructions == slides + 2
    assert sum(sizes) < 2 * device_memory._CREDIT + 2 * device_memory._EARNED * len(seen)
