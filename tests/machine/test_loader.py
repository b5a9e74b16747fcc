"""Guest images: what is refused, in which words, and what a guest finds when it starts."""

import struct

import pytest

from vlapic.errors import ImageError
from vlapic.machine.loader import DEFAULT_MEMORY, HEADER, MAGIC, MIB, Results, load


def image(address=MIB, entry=32, bss=4096, results=64, reserved=bytes(8), body=bytes(64)):
    return HEADER.pack(MAGIC, address, entry, bss, results, reserved) + body


def refused(*arguments, **keywords):
    with pytest.raises(ImageError) as caught:
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
    assert refused(b"") == (
        "the image: the file is empty; expected a flat image of vlapic; try a built-in guest"
    )


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x7fELF\x02\x01\x01", "an ELF file"),
        (b"\x1f\x8b\x08\x00", "a gzip file"),
        (b"\xfd7zXZ\x00", "an xz file"),
        (b"BZh91AY", "a bzip2 file"),
        (b"\x28\xb5\x2f\xfd\x00", "a zstd file"),
        (b"PK\x03\x04", "a zip file"),
        (b"#!/bin/sh\n", "a script"),
        (b"MZ\x90\x00", "a PE file"),
        (bytes(0x202) + b"HdrS" + bytes(100), "a Linux kernel"),
        (b"MZ" + bytes(0x200) + b"HdrS" + bytes(100), "a Linux kernel"),
        (b"Dear reader,\n", "text"),
        (bytes(100), "zeros"),
        (b"\x01\x02\x03\x04\x05\x06\x07\x08\x09", "unknown data (01 02 03 04 05 06 07 08 ...)"),
    ],
)
def test_what_a_foreign_file_looks_like_is_said(data, what):
    assert refused(data) == (
        f"the image: looks like {what}; expected a flat image that begins with VLAPIC64;"
        " try a built-in guest, see: vlapic run --list"
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
    assert refused(image(bss=32 * MIB)) == (
        "the image: needs memory up to 0x2100060, the guest has 0x1000000; try --memory 34"
    )
    assert refused(image(address=0xFFFF_FF00)).startswith("the image: needs memory up to 0x100000f60")


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
    assert refused(image(), memory_bytes) == (
        f"{memory_bytes} bytes of guest memory; expected whole pages, 2 MiB to 3072 MiB; try 16 MiB"
    )
