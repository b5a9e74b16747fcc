# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot modules and an image's symbols: where they lie, and how a guest finds them."""

import shutil
import struct
import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from tests.machine.guests.images.test_multiboot2 import tags
from tests.support.images import MIB, elf32, elf64, multiboot, multiboot2, zero_ended
from vlapic.errors import ImageError, UsageError
from vlapic.machine.guests.images.modules import ModuleFile
from vlapic.machine.guests.loader import load

KERNEL = elf32(multiboot() + b"\x90" * 0x1800)
FORMS = {"multiboot": KERNEL, "elf32": elf32(b"\x90" * 9), "elf64": elf64(b"\x90" * 9)}


def modules_of(guest):
    """The modules that multiboot's boot information lists: contents and text."""
    memory, info = guest.memory, guest.first.rbx
    (flags,) = struct.unpack_from("<I", memory, info)
    assert flags & 1 << 3
    count, at = struct.unpack_from("<II", memory, info + 20)
    found = []
    for _ in range(count):
        start, end, text, reserved = struct.unpack_from("<4I", memory, at)
        assert (start % 0x1000, reserved) == (0, 0)
        found.append((start, bytes(memory[start:end]), zero_ended(memory, text)))
        at += 16
    return found


def files(folder, *contents):
    paths = [folder / f"module{number}" for number in range(len(contents))]
    for path, data in zip(paths, contents, strict=True):
        path.write_bytes(data)
    return paths


@pytest.mark.parametrize("form", FORMS)
def test_modules_lie_page_aligned_behind_the_image_in_their_order(form, tmp_path):
    paths = files(tmp_path, b"first" * 1000, b"", b"last")
    guest = load(FORMS[form], 4 * MIB, modules=paths)
    first = MIB + (0x2000 if form == "multiboot" else 0x1000)
    assert modules_of(guest) == [
        (first, b"first" * 1000, b"module0"),
        (first + 0x2000, b"", b"module1"),
        (first + 0x2000, b"last", b"module2"),
    ]


def test_an_image_below_1_mib_has_its_modules_above(tmp_path):
    guest = load(elf32(b"\x90" * 9, address=0x8000), modules=files(tmp_path, b"x"))
    assert modules_of(guest) == [(MIB, b"x", b"module0")]


def test_a_text_is_a_file_and_what_is_said_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ModuleFile.of("a/b c  d") == (Path("a/b"), "c  d")
    assert ModuleFile.of("a/b c  d").text == b"b c  d"
    assert ModuleFile.of("a/b") == (Path("a/b"), "")
    assert ModuleFile.of("a ") == (Path("a "), "")
    Path("my file").write_bytes(b"")
    assert ModuleFile.of("my file") == ModuleFile.of(Path("my file")) == (Path("my file"), "")
    assert ModuleFile.of("my file x") == (Path("my"), "file x")


def test_modules_that_cannot_be_are_refused(tmp_path):
    (path,) = files(tmp_path, bytes(MIB))

    def refused(*modules, error=ImageError):
        with pytest.raises(error) as caught:
            load(KERNEL, 2 * MIB, modules=modules)
        return str(caught.value)

    assert refused(path, path) == (
        f"the image: with the module {str(path)!r} needs memory up to 0x202000, the guest has 0x200000;"
        " try --memory 3"
    )
    gone = tmp_path / "gone"
    assert refused(f"{gone} x") == (
        f"{gone}: no such file; expected a boot module; its name ends at the first space"
    )
    assert refused(tmp_path) == f"{tmp_path}: Is a directory; expected a readable boot module"
    assert refused("/dev/zero") == (
        "/dev/zero: has more than 256 MiB; expected less of a boot module; try to split it"
    )
    assert "has a zero; expected none" in refused(f"{path} a\0b", error=UsageError)
    assert refused(*[f"/dev/null {'x' * 1000}"] * 200, error=UsageError).endswith(
        "with the command line and the texts of 200 boot modules; expected at most 131056; try fewer or"
        " shorter ones"
    )


def test_a_module_does_not_begin_where_the_boot_information_is(tmp_path):
    guest = load(KERNEL, append="x" * 50_000, modules=[f"/dev/null {'y' * 60_000}"])
    assert modules_of(guest)[0][2] == b"null " + b"y" * 60_000
    assert 0x8_0000 < guest.first.rbx < 0x9_0000


# -- symbols --

HEADERS = {
    1: ".long 0x1badb002, 0, -0x1badb002",
    2: ".long 0xe85250d6, 0, 24, -(0xe85250d6 + 24), 0, 8",
}
SOURCE = """
        .globl  start, a_name
        .text
        .balign 8
        {header}
start:  hlt
a_name: hlt
"""


def linked(folder, bits, version):
    """An image with a symbol table, by an assembler and a linker that are not ours."""
    if not all(map(shutil.which, ("as", "ld"))):
        pytest.skip("needs GNU as and ld (binutils)")
    (folder / "k.S").write_text(SOURCE.format(header=HEADERS[version]))
    emulation = {32: "elf_i386", 64: "elf_x86_64"}[bits]
    subprocess.run(["as", f"--{bits}", "k.S", "-o", "k.o"], cwd=folder, check=True)
    command = ["ld", "-n", "-static", "-m", emulation, "-Ttext", "0x100000", "-e", "start", "k.o", "-o", "k"]
    subprocess.run(command, cwd=folder, check=True)
    return (folder / "k").read_bytes()


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("version", [1, 2])
def test_a_guest_can_name_its_functions(bits, version, tmp_path):
    data = linked(tmp_path, bits, version)
    guest = load(data, 2 * MIB, modules=["/dev/null"])
    memory, info = guest.memory, guest.first.rbx
    if version == 1:
        assert struct.unpack_from("<I", memory, info)[0] & 1 << 5
        count, size, at, names = struct.unpack_from("<4I", memory, info + 28)
        headers = bytes(memory[at : at + count * size])
    else:
        (tag,) = tags(guest)[9]
        count, size, names = struct.unpack_from("<3I", tag)
        headers = tag[12:]
    theirs = ELFFile(BytesIO(data))
    assert (count, size, names) == (theirs.num_sections(), theirs["e_shentsize"], theirs["e_shstrndx"])
    assert len(headers) == count * size
    form = struct.Struct("<10I" if bits == 32 else "<IIQQQQIIQQ")
    for number, section in enumerate(theirs.iter_sections()):
        _, kind, _, address, _, length, *_ = form.unpack_from(headers, number * size)
        assert length == section["sh_size"]
        if kind and length:
            assert bytes(memory[address : address + length]) == section.data()
    symbols: Any = theirs.get_section_by_name(".symtab")
    assert symbols.get_symbol_by_name("a_name")[0]["st_value"] == guest.first.rip + 1


def test_symbols_are_left_out_where_there_is_no_room(tmp_path):
    data = linked(tmp_path, 64, 1)
    full = files(tmp_path, bytes(MIB - 0x1000))
    guest = load(data, 2 * MIB, modules=full)
    assert not struct.unpack_from("<I", guest.memory, guest.first.rbx)[0] & 1 << 5
    # Version 2 has the headers in the boot information, which may be full.
    (tmp_path / "two").mkdir()
    data = linked(tmp_path / "two", 64, 2)
    texts = [f"/dev/null {'x' * 50_000}"] * 2 + [f"/dev/null {'x' * 30_500}"]
    assert 9 not in tags(load(data, 2 * MIB, modules=texts))


def test_section_headers_that_make_no_sense_are_none():
    data = bytearray(elf32(bytes(4) + multiboot2() + b"code"))
    struct.pack_into("<I", data, 32, 52)  # e_shoff
    for size, count, names in ((40, 9999, 0), (41, 1, 0), (40, 1, 1), (40, 0, 0)):
        struct.pack_into("<3H", data, 46, size, count, names)
        assert 9 not in tags(load(bytes(data)))
