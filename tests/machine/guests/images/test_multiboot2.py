# SPDX-License-Identifier: GPL-2.0-or-later
"""Multiboot 2: the header's tags, where an image that can be moved is put, and what it is told."""

import struct

import pytest

from tests.support.images import DYN, MIB, elf, elf32, elf64, multiboot, multiboot2
from vlapic.errors import ImageError
from vlapic.machine.engines.contract import CpuMode
from vlapic.machine.guests.images.image import Protocol
from vlapic.machine.guests.images.multiboot2 import find_header, read
from vlapic.machine.guests.loader import load

REQUEST, ADDRESS, ENTRY, CONSOLE, FRAMEBUFFER, MODULE_ALIGN, EFI, RELOCATABLE = 1, 2, 3, 4, 5, 6, 7, 10
OPTIONAL = 1


def words(*numbers):
    return struct.pack(f"<{len(numbers)}I", *numbers)


def elf_with(*all_tags, make=elf32, **more):
    """An ELF file with a header at a multiple of 8 in the file, and code behind it."""
    before = 4 if make is elf32 else 0
    return make(bytes(before) + multiboot2(*all_tags, **more) + b"code")


def read_multiboot2(data):
    data = memoryview(data)
    return read(data, find_header(data))


def refused(data):
    with pytest.raises(ImageError) as caught:
        read_multiboot2(data)
    return str(caught.value)


def tags(guest):
    """The boot information's tags, by type; each begins on a multiple of 8."""
    memory, at = guest.memory, guest.first.rbx
    total, zero = struct.unpack_from("<II", memory, at)
    assert (at % 8, zero, total % 8) == (0, 0, 0)
    end, at, found = at + total, at + 8, {}
    while True:
        kind, size = struct.unpack_from("<II", memory, at)
        found.setdefault(kind, []).append(bytes(memory[at + 8 : at + size]))
        at += (size + 7) // 8 * 8
        if kind == 0:
            assert at == end
            return found


@pytest.mark.parametrize(
    ("before", "found"), [(0, True), (8, True), (4, False), (32768 - 16, True), (32768 - 8, False)]
)
def test_a_header_lies_aligned_within_the_first_32768_bytes(before, found):
    assert (find_header(memoryview(bytes(before) + multiboot2() + bytes(100))) is not None) == found


def test_a_header_that_does_not_add_up_or_is_for_another_cpu_is_none():
    wrong = bytearray(multiboot2())
    wrong[12] ^= 1
    assert find_header(memoryview(bytes(wrong))) is None
    assert find_header(memoryview(multiboot2(architecture=4))) is None  # MIPS
    assert find_header(memoryview(multiboot2()[:15])) is None


@pytest.mark.parametrize("make", [elf32, elf64])
def test_an_elf_file_of_either_class_is_entered_in_protected_mode(make):
    image = read_multiboot2(elf_with(make=make))
    assert (image.mode, image.entry, image.protocol, image.notes) == (
        CpuMode.PROTECTED,
        MIB,
        Protocol.MULTIBOOT_2,
        (),
    )


def test_the_entry_address_tag_wins_over_elf():
    assert read_multiboot2(elf_with((ENTRY, words(MIB + 3)))).entry == MIB + 3


def by_addresses(header, load, load_end, zeros_end, *more, before=8):
    return (
        bytes(before)
        + multiboot2((ADDRESS, words(header, load, load_end, zeros_end)), (ENTRY, words(MIB + 80)), *more)
        + b"codemore"
    )


@pytest.mark.parametrize("load", [MIB, 0xFFFF_FFFF])
def test_the_address_tag_says_what_is_loaded_where(load):
    data = by_addresses(MIB + 8, load, 0, MIB + 999)
    image = read_multiboot2(data)
    (part,) = image.segments
    assert (part.address, bytes(part.data), part.size) == (MIB, data, 999)
    assert (image.form, image.entry) == ("multiboot2 image", MIB + 80)


def test_addresses_that_contradict_the_file_are_refused():
    assert "lies at byte 8 of the file and at 0x100009" in refused(by_addresses(MIB + 9, MIB, 0, 0))
    assert "and the file is to be loaded from its beginning" in refused(by_addresses(4, 0xFFFF_FFFF, 0, 0))
    assert refused(multiboot2((ADDRESS, words(MIB, MIB, 0, 0)))) == (
        "its multiboot2 header has an address tag (2) and no entry address tag (3); expected both or neither;"
        " try to add one"
    )
    assert "has no address tag, and it is no ELF file" in refused(multiboot2((ENTRY, words(MIB))))


def test_what_is_not_there_is_a_note_if_it_is_insisted_on():
    def notes(*all_tags):
        return read_multiboot2(elf_with(*all_tags)).notes

    wants = "the multiboot2 header asks for {}; there is none, the guest starts without"
    assert notes((FRAMEBUFFER, words(80, 25, 0))) == (wants.format("a framebuffer"),)
    assert notes((CONSOLE, words(3))) == (wants.format("a console that it can draw on"),)
    assert notes((REQUEST, words(1, 5, 15))) == (wants.format("BIOS boot device (type 5)"),)
    optional = [(kind, words(5, 7, 8), OPTIONAL) for kind in (REQUEST, CONSOLE, FRAMEBUFFER, 99)]
    assert notes(*optional, (CONSOLE, words(2)), (MODULE_ALIGN, b""), (EFI, b"")) == ()


def test_what_no_loader_could_know_is_refused_if_it_is_insisted_on():
    assert refused(elf_with((11, b""))) == (
        "its multiboot2 header insists on a tag of type 11; expected types up to 10, or one that is optional"
        " (bit 0 of its flags); try it without"
    )
    assert refused(elf_with((REQUEST, words(22)))) == (
        "its multiboot2 header insists on boot information of type 22; expected types up to 21; try a request"
        " that is optional (bit 0 of its flags)"
    )


def test_tags_that_do_not_fit_are_refused():
    assert refused(multiboot2(length=4000)) == (
        "its multiboot2 header of 4000 bytes at byte 0 does not fit into the file of 24; it may be cut off;"
        " try to build it again"
    )
    assert "of 8 bytes at byte 0 does not fit" in refused(multiboot2(length=8))
    assert refused(elf_with((ENTRY, b""))) == (
        "its multiboot2 header has a tag of type 3 of 8 bytes, where 12 or more are needed and 16 are left;"
        " try to build it again"
    )
    endless = bytearray(multiboot2((99, b"", OPTIONAL)))
    struct.pack_into("<I", endless, 20, 0)
    assert "a tag of type 99 of 0 bytes" in refused(bytes(endless))


# -- images that can be moved --


def movable(lowest, highest, align, preference, kind=DYN, at=MIB):
    header = bytes(4) + multiboot2((RELOCATABLE, words(lowest, highest, align, preference)))
    code = header + bytes(100 - len(header))
    return elf(32, [(at, code), (at + 0x1000, b"data", 0x1000)], at + 50, kind=kind)


@pytest.mark.parametrize(
    ("preference", "linked", "base"),
    [
        (0, 2 * MIB, 2 * MIB),  # where it is linked
        (0, 0, MIB),  # as low as it may
        (1, 2 * MIB, MIB),
        (2, 2 * MIB, 4 * MIB - 0x2000),
        (7, 2 * MIB, 2 * MIB),  # means nothing
    ],
)
def test_an_image_that_can_be_moved_is_put_where_it_says(preference, linked, base):
    guest = load(movable(0, 4 * MIB, 0x1000, preference, at=linked), 8 * MIB)
    assert guest.first.rip == base + 50
    assert bytes(guest.memory[base + 0x1000 : base + 0x1004]) == b"data"
    assert tags(guest)[21] == [words(base)]


def test_an_image_is_moved_within_the_memory_that_there_is():
    assert load(movable(0, 0xFFFF_FFFF, 0x10_0000, 2), 8 * MIB).first.rip == 7 * MIB + 50
    assert load(movable(3 * MIB + 1, 0xFFFF_FFFF, 0, 1), 8 * MIB).first.rip == 3 * MIB + 1 + 50


def test_an_image_without_a_place_is_refused():
    with pytest.raises(ImageError) as caught:
        load(movable(9 * MIB, 16 * MIB, 0x1000, 0), 8 * MIB)
    assert str(caught.value) == (
        "the image: its 0x2000 bytes may lie from 0x900000 to 0x1000000, aligned to 0x1000; the guest has no"
        " such place from 0x100000 to 0x800000; try --memory 10, or link it with other limits"
    )


# -- what it is told --


def test_the_registers_and_tags_are_those_of_the_specification(tmp_path):
    path, module = tmp_path / "kernel", tmp_path / "initrd"
    path.write_bytes(elf_with(make=elf64))
    module.write_bytes(b"abc")
    guest = load(path, 64 * MIB, append="a b", modules=[f"{module} c"], cpus=3)
    assert (guest.first.rax, guest.first.mode) == (0x36D76289, CpuMode.PROTECTED)
    found = tags(guest)
    assert list(found) == [1, 2, 3, 4, 6, 14, 15, 0]
    assert found[1] == [b"kernel a b\0"]
    assert found[2] == [b"vlapic\0"]
    assert found[3] == [words(2 * MIB // 2 + 0x1000, 2 * MIB // 2 + 0x1003) + b"initrd c\0"]
    assert found[4] == [words(639, 63 << 10)]
    size, version = struct.unpack_from("<II", found[6][0])
    assert (size, version) == (24, 0)
    ranges = list(struct.iter_unpack("<QQII", found[6][0][8:]))
    assert ranges[0] == (0, 0x9_FC00, 1, 0)
    assert (MIB, 63 * MIB, 1, 0) in ranges
    assert found[15][0] == bytes(guest.memory[0xF_0000:0xF_0024])
    assert found[14][0] == found[15][0][:20]
    assert found[15][0][:8] == b"RSD PTR "


def test_version_1_wins_where_an_image_has_both():
    guest = load(elf32(bytes(4) + multiboot2() + multiboot() + b"code"))
    assert (guest.form, guest.first.rax) == ("multiboot ELF32", 0x2BADB002)
