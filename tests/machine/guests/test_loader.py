# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest images: what is refused, in which words, and what a guest finds when it starts."""

import os
import struct
from pathlib import Path

import pytest

from tests.support.images import elf, elf32, elf64, multiboot, zero_ended
from vlapic.errors import ImageError, UsageError
from vlapic.machine.engines.contract import CpuMode
from vlapic.machine.guests.loader import DEFAULT_MEMORY, HEADER, MAGIC, MAX_IMAGE, MIB, Results, load


def image(address=MIB, entry=32, bss=4096, results=64, reserved=bytes(8), body=bytes(64)):
    return HEADER.pack(MAGIC, address, entry, bss, results, reserved) + body


def refused(*arguments, error=ImageError, **keywords):
    with pytest.raises(error) as caught:
        load(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_image_lies_where_it_wants_with_its_header():
    guest = load(image(body=b"\xf4" * 64), interrupts=7, delta_cycles=9)
    assert len(guest.memory) == DEFAULT_MEMORY
    assert guest.memory[MIB : MIB + 8] == MAGIC
    assert guest.memory[MIB + 32 : MIB + 97] == b"\xf4" * 64 + b"\0"
    first = guest.first
    assert (first.rip, first.rdi, first.rsi) == (MIB + 32, 7, 9)
    assert first.rsp % 16 == 0
    assert 0 < first.rsp < MIB


def test_the_first_4_gib_are_mapped_onto_themselves():
    guest = load(image())
    for address in (0, 0x12_3456, 0xFEE0_0000, 0xFFFF_FFFF):
        table = guest.first.cr3
        for shift in (39, 30):
            (entry,) = struct.unpack_from("<Q", guest.memory, table + (address >> shift & 511) * 8)
            assert entry & 0x83 == 3
            table = entry & ~0xFFF
        (entry,) = struct.unpack_from("<Q", guest.memory, table + (address >> 21 & 511) * 8)
        assert entry & 0xFFF == 0x83
        assert entry & ~0xFFF == address & ~(2 * MIB - 1)


def test_the_gdt_is_flat():
    guest = load(image())
    assert guest.first.gdt_limit == 23
    gdt = struct.unpack_from("<3Q", guest.memory, guest.first.gdt_base)
    assert gdt == (0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)


def test_results_are_read_where_the_header_says():
    guest = load(image())
    struct.pack_into("<QQqqq", guest.memory, MIB + 64, 1, 2, -3, 4, -5)
    assert guest.results() == Results(1, 2, -3, 4, -5)


def test_an_image_is_read_from_a_file(tmp_path):
    path = tmp_path / "guest.bin"
    path.write_bytes(image())
    assert load(path).first == load(image()).first


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "gone.bin"
    assert refused(path) == (
        f"{path}: no such file; expected a guest image or a built-in guest's name; see: vlapic run --list"
    )


def test_a_directory_is_no_image(tmp_path):
    assert refused(tmp_path) == f"{tmp_path}: Is a directory; expected a readable guest image"


def test_an_empty_file_is_no_image():
    assert refused(b"") == ("the image: the file is empty; expected a guest image; try a built-in guest")


BUILT_IN = "a built-in guest, see: vlapic run --list"
UNPACKED = "what is packed in it"
VMLINUX = "the vmlinux that is packed in it, as scripts/extract-vmlinux takes it out"


@pytest.mark.parametrize(
    ("data", "what", "advice"),
    [
        (b"\x1f\x8b\x08\x00", "a gzip file", UNPACKED),
        (b"\xfd7zXZ\x00", "an xz file", UNPACKED),
        (b"BZh91AY", "a bzip2 file", UNPACKED),
        (b"\x28\xb5\x2f\xfd\x00", "a zstd file", UNPACKED),
        (b"PK\x03\x04", "a zip file", UNPACKED),
        (b"#!/bin/sh\n", "a script", BUILT_IN),
        (b"MZ\x90\x00", "a PE file", BUILT_IN),
        (bytes(0x202) + b"HdrS" + bytes(100), "a Linux kernel", VMLINUX),
        (b"MZ" + bytes(0x200) + b"HdrS" + bytes(100), "a Linux kernel", VMLINUX),
        (b"Dear reader,\n", "text", BUILT_IN),
        (bytes(100), "zeros", BUILT_IN),
        (b"\x01\x02\x03\x04\x05\x06\x07\x08\x09", "unknown data (01 02 03 04 05 06 07 08 ...)", BUILT_IN),
    ],
)
def test_what_a_foreign_file_looks_like_is_said(data, what, advice):
    assert refused(data) == (
        f"the image: looks like {what}; expected a multiboot image, an ELF executable, or a flat image that"
        f" begins with VLAPIC64; try {advice}"
    )


def test_a_header_cut_off_is_noticed():
    assert refused(image()[:20]) == (
        "the image: 20 bytes, cut off in its header of 32; try to build it again"
    )


def test_a_header_of_another_version_is_noticed():
    assert refused(image(reserved=b"\1" + bytes(7))) == (
        "the image: the header's last 8 bytes are 0100000000000000, expected zeros;"
        " try an image built for this version"
    )


def test_an_image_does_not_lie_over_the_page_tables():
    assert refused(image(address=0x1000)) == (
        "the image: wants to be loaded at 0x1000, where the page tables are; link it at 0x100000 or above"
    )


def test_an_image_too_large_for_memory_says_how_much_it_needs():
    assert refused(image(bss=32 * MIB), 16 * MIB) == (
        "the image: needs memory up to 0x2100060, the guest has 0x1000000; try --memory 34"
    )
    assert load(image(bss=32 * MIB), 34 * MIB)
    assert refused(image(address=0xFFFF_FF00)) == (
        "the image: needs memory up to 0x100000f60, the guest has 0x8000000; 3072 MiB is the most;"
        " try to link it lower"
    )


@pytest.mark.parametrize("entry", [0, 31, 96, 0xFFFF_FFFF])
def test_an_entry_point_outside_the_image_is_refused(entry):
    assert refused(image(entry=entry)) == (
        f"the image: the entry point is at {entry:#x}, expected 0x20 to 0x5f, inside the image and"
        " behind its header"
    )


def test_results_outside_the_guests_memory_are_refused():
    assert refused(image(results=0x1039)) == (
        "the image: the results area is at 0x1039, expected 40 bytes below 0x1060"
    )


@pytest.mark.parametrize("memory_bytes", [0, MIB, 16 * MIB + 1, 1 << 32])
def test_memory_is_whole_pages_within_reason(memory_bytes):
    assert refused(image(), memory_bytes, error=UsageError) == (
        f"{memory_bytes} bytes of guest memory; expected whole pages, 2 MiB to 3072 MiB; try 128 MiB"
    )


# -- multiboot and ELF in the guest's memory --


def test_a_multiboot_image_starts_in_protected_mode_with_its_magic_number():
    guest = load(elf32(multiboot() + b"\x90" * 20, entry=MIB + 12), interrupts=7, delta_cycles=9)
    first = guest.first
    assert (guest.form, first.mode, first.rip) == ("multiboot ELF32", CpuMode.PROTECTED, MIB + 12)
    assert (first.rax, first.rdi, first.rsi, first.cr3) == (0x2BADB002, 0, 0, 0)
    assert guest.memory[MIB : MIB + 12] == multiboot()
    assert guest.results() is None


def test_the_boot_information_tells_memory_map_and_command_line(tmp_path):
    path = tmp_path / "my.flat"
    path.write_bytes(elf32(multiboot() + b"\x90" * 20, entry=MIB + 12))
    guest = load(path, 64 * MIB, append="one  two")
    memory, info = guest.memory, guest.first.rbx
    flags, lower_kib, upper_kib = struct.unpack_from("<3I", memory, info)
    assert flags == 1 << 0 | 1 << 2 | 1 << 6 | 1 << 9
    assert (lower_kib, upper_kib) == (639, 63 * 1024)
    (line, modules) = struct.unpack_from("<2I", memory, info + 16)
    assert zero_ended(memory, line) == guest.command_line == b"my.flat one  two"
    assert modules == 0
    map_bytes, at = struct.unpack_from("<2I", memory, info + 44)
    ranges = []
    while map_bytes:
        size, base, length, kind = struct.unpack_from("<IQQI", memory, at)
        ranges.append((base, base + length, kind))
        at, map_bytes = at + size + 4, map_bytes - size - 4
    assert ranges == [
        (0, 0x9_FC00, 1),
        (0x9_FC00, 0xA_0000, 2),
        (0xF_0000, MIB, 2),
        (MIB, 64 * MIB, 1),
        (0xFEC0_0000, 0xFEC0_1000, 2),
        (0xFEE0_0000, 0xFEE0_1000, 2),
    ]
    assert zero_ended(memory, struct.unpack_from("<I", memory, info + 64)[0]) == b"vlapic"


def test_the_boot_information_lies_where_the_map_has_no_ram():
    guest = load(image(), append="x" * 60_000)
    at = guest.first.rbx
    assert at == 0x9_1410  # the EBDA has grown
    assert guest.memory[0x9_1400] == (0xA_0000 - 0x9_1400) >> 10
    (kib,) = struct.unpack_from("<H", guest.memory, 0x413)
    assert kib << 10 == 0x9_1400 == struct.unpack_from("<I", guest.memory, at + 4)[0] << 10
    end = guest.memory.find(b"x\0", at)
    assert at + 60_000 < end < 0xA_0000


def test_every_form_is_told_the_same_boot_information():
    firsts = [load(data).first for data in (image(), elf64(b"\x90" * 64), elf32(b"\x90" * 64))]
    assert [(first.rax, first.rbx) for first in firsts] == [(0x2BADB002, 0x9_FC10)] * 3


def test_an_elf64_starts_like_a_flat_image():
    guest = load(elf64(b"\x90" * 64, entry=MIB + 5), interrupts=7, delta_cycles=9)
    flat = load(image(), interrupts=7, delta_cycles=9)
    first = guest.first
    assert (first.mode, first.rip, first.rdi, first.rsi) == (CpuMode.LONG, MIB + 5, 7, 9)
    for same in ("rsp", "cr3", "gdt_base", "gdt_limit"):
        assert getattr(first, same) == getattr(flat.first, same)
    assert guest.memory[0x1000:0x8000] == flat.memory[0x1000:0x8000]


def test_an_elf32_starts_in_protected_mode():
    guest = load(elf32(b"\x90" * 64))
    assert (guest.form, guest.first.mode, guest.first.rip) == ("ELF32", CpuMode.PROTECTED, MIB)


def test_protected_mode_needs_no_tables_so_low_memory_is_free():
    guest = load(elf32(multiboot() + b"\x90" * 0x1000, address=0x8000, entry=0x8020))
    assert guest.first.rip == 0x8020
    assert not any(guest.memory[:0x400] + guest.memory[0x500:0x8000])


@pytest.mark.parametrize("data", [image(), elf32(b"\x90" * 64)])
def test_the_bios_data_area_says_where_low_memory_ends(data):
    memory = load(data).memory
    (serial_port,) = struct.unpack_from("<H", memory, 0x400)
    (segment_behind,) = struct.unpack_from("<H", memory, 0x40E)
    (kib,) = struct.unpack_from("<H", memory, 0x413)
    assert (serial_port, segment_behind << 4, kib << 10) == (0x3F8, 0x9_FC00, 0x9_FC00)
    assert memory[0x9_FC00] == 1  # KiB


def test_an_image_that_wants_the_bios_data_area_has_it():
    guest = load(elf(32, [(0x3F0, b"\x90" * 32, 0x200)], 0x3F0))
    assert guest.memory[0x3F0:0x600] == b"\x90" * 32 + bytes(0x1F0)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        (0x1000, "where the page tables are"),
        (0x7010, "where the page tables are"),
        (0x7_FFC0, "where the stack is"),
        (0x9_FFFF - 63, "where the boot information is"),
        (0x9_FFFF, "where a PC has no RAM for programs"),
        (0xF_FFFF, "where a PC has no RAM for programs"),
    ],
)
def test_a_64_bit_segment_over_the_loader_s_tables_is_refused(address, why):
    assert refused(elf64(b"\x90" * 64, address=address)) == (
        f"the image: wants to be loaded at {address:#x} to {address + 63:#x}, {why};"
        " link it at 0x100000 or above"
    )


def test_a_segment_over_the_boot_information_is_refused():
    below = 0x9_FC00 - 64
    assert load(elf32(b"\x90" * 64, address=below)).first.rip == below
    assert refused(elf32(b"\x90" * 64, address=below + 1)) == (
        "the image: wants to be loaded at 0x9fbc1 to 0x9fc00, where the boot information is;"
        " link it at 0x100000 or above"
    )
    # A longer command line, and it begins lower.
    assert "where the boot information is" in refused(elf32(b"\x90" * 64, address=below), append="x" * 1000)


def test_the_command_line_begins_with_the_image_s_name(tmp_path):
    path = tmp_path / "guest.bin"
    path.write_bytes(image())
    assert load(path).command_line == b"guest.bin"
    assert load(path, append="-x 1").command_line == b"guest.bin -x 1"
    assert load(image(), append="a=\u00e9").command_line == b"guest a=\xc3\xa9"


def test_a_command_line_that_is_no_text_reaches_the_guest_as_it_was_typed():
    assert load(image(), append=os.fsdecode(b"\xff")).command_line == b"guest \xff"


@pytest.mark.parametrize("append", ["x" * 61_434, "a\0b"])
def test_a_command_line_too_long_or_with_zeros_is_refused(append):
    message = refused(image(), append=append, error=UsageError)
    assert message == (
        f"a command line of {6 + len(append)} bytes, {append.count(chr(0))} of them zero; expected at most"
        " 61439, none of them zero; try another --append"
    )
    assert load(image(), append="x" * 61_433)


def test_a_file_without_end_is_given_up():
    assert refused(Path("/dev/zero")) == (
        f"/dev/zero: has more than {MAX_IMAGE // MIB} MiB; expected less; try strip"
    )
