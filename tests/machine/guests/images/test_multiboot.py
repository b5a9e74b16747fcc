# SPDX-License-Identifier: GPL-2.0-or-later
"""The multiboot header: found as the specification says, and refused where it makes no sense."""

import pytest

from tests.support.images import DYN, MIB, X86_64, elf32, elf64, multiboot
from vlapic.errors import ImageError
from vlapic.machine.engines.contract import CpuMode
from vlapic.machine.guests.images.multiboot import find_header, read

ADDRESSES = 1 << 16


def read_multiboot(data):
    data = memoryview(data)
    return read(data, find_header(data))


def refused(data):
    with pytest.raises(ImageError) as caught:
        read_multiboot(data)
    return str(caught.value)


@pytest.mark.parametrize(("before", "found"), [(0, True), (4, True), (2, False), (8180, True), (8184, False)])
def test_a_header_lies_aligned_within_the_first_8192_bytes(before, found):
    assert (find_header(memoryview(bytes(before) + multiboot() + bytes(100))) is not None) == found


def test_a_header_whose_checksum_is_wrong_is_none():
    wrong = bytearray(multiboot())
    wrong[8] ^= 1
    assert find_header(memoryview(bytes(wrong))) is None
    assert find_header(memoryview(bytes(wrong) + multiboot())).offset == 12


def test_a_header_cut_off_is_none():
    assert find_header(memoryview(multiboot()[:11])) is None


@pytest.mark.parametrize("make", [elf32, elf64])
def test_an_elf_file_of_either_class_is_entered_in_protected_mode(make):
    image = read_multiboot(make(multiboot() + b"code"))
    assert (image.mode, image.entry) == (CpuMode.PROTECTED, MIB)


def test_modules_and_memory_information_may_be_asked_for():
    assert read_multiboot(elf32(multiboot(3) + b"code"))


@pytest.mark.parametrize("flags", [4, 7, ADDRESSES | 4])
def test_a_video_mode_is_a_note(flags):
    addresses = (MIB, MIB, 0, 0, MIB + 60) if flags & ADDRESSES else ()
    image = read_multiboot(
        elf32(multiboot(flags) + b"code") if not addresses else multiboot(flags, *addresses) + bytes(60)
    )
    assert image.notes == (
        "the multiboot header asks for a video mode; there is no display, the guest starts without",
    )
    assert read_multiboot(elf32(multiboot(3) + b"code")).notes == ()


def test_what_has_no_meaning_is_refused_where_it_is_insisted_on():
    assert refused(elf32(multiboot(0x8001) + b"code")) == (
        "its multiboot header insists on something without a meaning (bits 0x8000 of flags 0x8001); expected"
        " bits 0 to 2 at most; try it without"
    )
    assert read_multiboot(elf32(multiboot(0xFFFE_0000) + b"code"))


def test_an_image_that_relocates_itself_is_loaded_where_it_is_linked():
    image = read_multiboot(elf32(multiboot() + b"code", kind=DYN))
    assert (image.form, image.entry) == ("multiboot ELF32", MIB)


def test_multiboot_starts_32_bit_code_whatever_machine_the_file_is_for():
    assert read_multiboot(elf32(multiboot() + b"code", machine=X86_64)).mode is CpuMode.PROTECTED


def test_a_file_that_says_not_where_to_load_it_is_refused():
    assert refused(multiboot() + b"code") == (
        "its multiboot header has no address fields, and it is no ELF file; expected one or the other;"
        " try bit 16 of the header's flags"
    )


def kludge(header=MIB + 4, load=MIB, load_end=MIB + 40, zeros_end=MIB + 99, entry=MIB + 36, before=4):
    return bytes(before) + multiboot(ADDRESSES, header, load, load_end, zeros_end, entry) + b"codemore"


def test_the_address_fields_say_what_is_loaded_where():
    image = read_multiboot(kludge())
    (part,) = image.segments
    assert (part.address, bytes(part.data), part.size) == (MIB, kludge()[:40], 99)
    assert (image.entry, image.mode) == (MIB + 36, CpuMode.PROTECTED)


def test_loading_may_begin_behind_the_file_s_beginning():
    (part,) = read_multiboot(kludge(header=MIB, before=8)).segments
    assert bytes(part.data[:4]) == b"\x02\xb0\xad\x1b"


def test_no_end_means_the_whole_file_and_no_zeros():
    (part,) = read_multiboot(kludge(load_end=0, zeros_end=0)).segments
    assert (len(part.data), part.size) == (len(kludge()), len(kludge()))


def test_the_address_fields_win_over_elf():
    image = elf32(multiboot(ADDRESSES, 3 * MIB + 84, 3 * MIB, 0, 0, 3 * MIB + 120) + b"code")
    assert read_multiboot(image).segments[0].address == 3 * MIB


def test_address_fields_that_contradict_the_file_are_refused():
    assert refused(kludge(header=MIB + 8)) == (
        "its multiboot header lies at byte 4 of the file and at 0x100008 in memory, but loading begins at"
        " 0x100000; expected the header at most 4 bytes above that; try to link it again"
    )
    assert "but loading begins at 0x100005" in refused(kludge(load=MIB + 5))
    assert refused(kludge(load_end=MIB + 45)) == (
        "its multiboot header wants 45 bytes loaded, the file has 44; it may be cut off;"
        " try to build it again"
    )
    assert refused(kludge(load_end=MIB)) == (
        "its multiboot header ends what is loaded at 0x100000, and it begins at 0x100000;"
        " expected the end behind; try to link it again"
    )
    assert "at 0x100000, and it begins at 0x200000" in refused(
        kludge(load_end=MIB, header=2**21 + 4, load=2**21)
    )
    assert refused(kludge(zeros_end=MIB + 39)) == (
        "its multiboot header ends the zeros at 0x100027, before the data at 0x100028; expected them behind;"
        " try to link it again"
    )


def test_address_fields_cut_off_are_refused():
    assert refused(kludge()[:35]) == "35 bytes, cut off in its multiboot header; try to build it again"
