# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF executables: what is loaded where, and what is refused in which words."""

import shutil
import struct
import subprocess
from io import BytesIO

import pytest
from elftools.elf.elffile import ELFFile

from tests.support.images import DYN, MIB, X86_64, elf, elf32, elf64
from vlapic.errors import ImageError
from vlapic.machine.engines.contract import CpuMode
from vlapic.machine.guests.images.elf import read

BOTH = pytest.mark.parametrize("bits", [32, 64])


def read_elf(data):
    return read(memoryview(data))


def refused(data):
    with pytest.raises(ImageError) as caught:
        read_elf(data)
    return str(caught.value)


def patched(data, at, layout, value):
    out = bytearray(data)
    struct.pack_into(layout, out, at, value)
    return bytes(out)


@BOTH
def test_segments_are_loaded_at_their_physical_addresses(bits):
    image = read_elf(elf(bits, [(MIB, b"code"), (2 * MIB, b"data", 4096)], MIB + 1))
    assert [(part.address, bytes(part.data), part.size) for part in image.segments] == [
        (MIB, b"code", 4),
        (2 * MIB, b"data", 4096),
    ]
    assert image.entry == MIB + 1


def test_the_machine_tells_the_mode():
    assert read_elf(elf32(b"x")).mode is CpuMode.PROTECTED
    assert read_elf(elf64(b"x")).mode is CpuMode.LONG
    x32 = read_elf(elf32(b"x", machine=X86_64))
    assert (x32.mode, x32.form) == (CpuMode.LONG, "ELF32 of 64-bit code")


@BOTH
def test_a_virtual_entry_point_moves_with_its_segment(bits):
    image = read_elf(elf(bits, [(MIB, b"code", 4, 0xC010_0000)], 0xC010_0002))
    assert image.entry == MIB + 2


@BOTH
def test_segments_that_take_no_memory_are_nothing(bits):
    image = read_elf(elf(bits, [(MIB, b"code"), (0, b"")], MIB))
    assert len(image.segments) == 1


def test_what_a_linker_makes_is_what_pyelftools_reads(tmp_path):
    if not all(map(shutil.which, ("as", "ld"))):
        pytest.skip("needs GNU as and ld (binutils)")
    (tmp_path / "a.S").write_text(".globl _start\n.text\nnop\n_start: hlt\n.data\n.long 7\n.bss\n.space 99\n")
    subprocess.run(["as", "--64", "a.S", "-o", "a.o"], cwd=tmp_path, check=True)
    subprocess.run(["ld", "-static", "a.o", "-o", "a"], cwd=tmp_path, check=True)
    data = (tmp_path / "a").read_bytes()
    image, other = read_elf(data), ELFFile(BytesIO(data))
    loads = [part for part in other.iter_segments() if part["p_type"] == "PT_LOAD"]
    assert image.entry == other["e_entry"]
    assert [(part.address, bytes(part.data), part.size) for part in image.segments] == [
        (part["p_paddr"], part.data(), part["p_memsz"]) for part in loads
    ]


@BOTH
def test_a_file_cut_off_anywhere_is_refused(bits):
    data = elf(bits, [(MIB, b"some code")], MIB)
    for size in range(4, len(data)):
        assert "cut off" in refused(data[:size])


def test_other_machines_are_refused():
    assert refused(elf32(b"x", machine=40)) == (
        "ELF32 for machine 40; expected 3, i386, or 62, x86-64; try a compiler for x86"
    )
    assert refused(elf64(b"x", machine=183)) == (
        "ELF64 for machine 183; expected 62, x86-64; try a compiler for x86"
    )


def test_another_byte_order_is_refused():
    assert refused(elf32(b"x", ident=b"\x02\x01")) == (
        "its ELF header is of class 1, byte order 2, version 1; expected class 1 or 2, byte order 1,"
        " version 1; try an executable for x86"
    )


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (1, "an object file (ET_REL); expected a linked executable; try ld -static"),
        (DYN, "position-independent or a shared object (ET_DYN)"),
        (4, "a core dump (ET_CORE); expected an executable"),
        (77, "of type 77; expected an executable"),
    ],
)
def test_what_is_no_fixed_executable_is_refused(kind, words):
    assert f"ELF64 that is {words}" in refused(elf64(b"x", kind=kind))


@pytest.mark.parametrize("kind", [2, 3])
def test_a_dynamic_executable_is_refused(kind):
    assert refused(elf64(b"x", type_of=kind)) == (
        "ELF64 that is linked dynamically (program header 0); expected a static executable;"
        " try to link it with -static -no-pie"
    )


@BOTH
def test_an_executable_without_segments_is_refused(bits):
    words = "none of which puts anything into memory; expected a segment of type PT_LOAD"
    assert f"ELF{bits} with 0 program headers, {words}" in refused(elf(bits, [], MIB))
    assert f"ELF{bits} with 1 program headers, {words}" in refused(elf(bits, [(MIB, b"")], MIB))


def test_more_bytes_in_the_file_than_in_memory_are_refused():
    assert refused(elf(64, [(MIB, b"code", 3)], MIB)) == (
        "segment 0 has 4 bytes in the file, 3 in memory; expected no more than in memory;"
        " try to build it again"
    )


def test_program_headers_of_another_size_are_refused():
    assert "program headers of 57 bytes, expected 56" in refused(patched(elf64(b"x"), 54, "<H", 57))


def test_absurd_numbers_are_refused():
    assert "65535 program headers" in refused(patched(elf64(b"x"), 56, "<H", 0xFFFF))
    assert "the file has 121" in refused(patched(elf64(b"x"), 32, "<Q", (1 << 64) - 1))
    assert "segment 0 is cut off" in refused(patched(elf64(b"x"), 64 + 8, "<Q", 1 << 63))
