# SPDX-License-Identifier: GPL-2.0-or-later
"""PVH: a note names the entry; what the guest is told is read back by the ABI's structures."""

import struct

import pytest

from tests.support.guest_runs import GuestRun
from tests.support.images import I386, MIB, X86_64, multiboot, zero_ended
from vlapic.errors import ImageError
from vlapic.machine.engines.contract import CpuMode
from vlapic.machine.guests.loader import load

NOTE, LOAD = 4, 1
PHYS32_ENTRY = 18


def note(name, kind, says):
    padded = [data + bytes(-len(data) % 4) for data in (name, says)]
    return struct.pack("<III", len(name), len(says), kind) + padded[0] + padded[1]


def elf_with_notes(notes, code=b"\x90" * 64, bits=64, entry=MIB):
    """An ELF executable at 1 MiB whose notes lie behind its code."""
    header, part, machine = (52, 32, I386) if bits == 32 else (64, 56, X86_64)
    at = header + 2 * part
    parts = b""
    for kind, offset, data in ((LOAD, at, code + notes), (NOTE, at + len(code), notes)):
        address, size = MIB + offset - at, len(data)
        if bits == 32:
            parts += struct.pack("<8I", kind, offset, address, address, size, size, 5, 4)
        else:
            parts += struct.pack("<IIQQQQQQ", kind, 5, offset, address, address, size, size, 4)
    front = b"\x7fELF" + bytes((bits // 32, 1, 1)) + bytes(9)
    layout = "<HHIIIIIHHHHHH" if bits == 32 else "<HHIQQQIHHHHHH"
    fields = (2, machine, 1, entry, header, 0, 0, header, part, 2, 0, 0, 0)
    return front + struct.pack(layout, *fields) + parts + code + notes


def entry_note(address, size=8):
    return note(b"Xen\0", PHYS32_ENTRY, address.to_bytes(size, "little"))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("size", [4, 8])
def test_the_note_names_the_entry_in_protected_mode(bits, size):
    others = note(b"GNU\0", PHYS32_ENTRY, bytes(20)) + note(b"Xen\0", 6, b"linux\0")
    guest = load(elf_with_notes(others + entry_note(MIB + 9, size), bits=bits))
    first = guest.first
    assert (guest.form, first.mode, first.rip) == (f"PVH ELF{bits}", CpuMode.PROTECTED, MIB + 9)
    assert first.rax == 0


def test_without_the_note_it_is_a_plain_executable():
    guest = load(elf_with_notes(note(b"Xen\0", 6, b"linux\0")))
    assert (guest.form, guest.first.mode) == ("ELF64", CpuMode.LONG)


def test_a_multiboot_header_wins_over_the_note():
    guest = load(elf_with_notes(entry_note(MIB + 9), code=multiboot() + bytes(20)))
    assert (guest.form, guest.first.rip) == ("multiboot ELF64", MIB)


def test_the_start_info_tells_command_line_modules_map_and_rsdp(tmp_path):
    image, module = tmp_path / "vmlinux", tmp_path / "initrd"
    image.write_bytes(elf_with_notes(entry_note(MIB)))
    module.write_bytes(b"abc")
    guest = load(image, 64 * MIB, append="quiet", modules=[f"{module} x"])
    memory, at = guest.memory, guest.first.rbx
    magic, version, flags, count, modules, line, rsdp, ranges, entries, _ = struct.unpack_from(
        "<4I4QII", memory, at
    )
    assert (magic, version, flags, count, at % 8) == (0x336EC578, 1, 0, 1, 0)
    assert zero_ended(memory, line) == b"quiet"
    start, size, text, reserved = struct.unpack_from("<4Q", memory, modules)
    assert (bytes(memory[start : start + size]), zero_ended(memory, text), reserved) == (
        b"abc",
        b"initrd x",
        0,
    )
    assert memory[rsdp : rsdp + 8] == b"RSD PTR "
    lines = [struct.unpack_from("<QQII", memory, ranges + 24 * number) for number in range(entries)]
    assert lines[0] == (0, 0x9_FC00, 1, 0)
    assert (MIB, 63 * MIB, 1, 0) in lines
    assert (0xF_0000, 0x1_0000, 2, 0) in lines


def test_no_modules_are_no_list():
    guest = load(elf_with_notes(entry_note(MIB)))
    assert struct.unpack_from("<IQ", guest.memory, guest.first.rbx + 12) == (0, 0)


def test_its_code_runs():
    """MOV EAX, [EBX]; OUT 0xf4, AL; HLT: what it reports is the first byte of the magic number."""
    run = GuestRun(elf_with_notes(entry_note(MIB), code=bytes.fromhex("8b03 e6f4 f4")))
    assert run.value == 0x78


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (b"\1\2", "has 2 bytes and names 0x201"),
        ((1 << 32).to_bytes(8, "little"), "has 8 bytes and names 0x100000000"),
    ],
)
def test_a_note_without_an_address_of_32_bits_is_refused(says, words):
    with pytest.raises(ImageError) as caught:
        load(elf_with_notes(note(b"Xen\0", PHYS32_ENTRY, says)))
    assert str(caught.value) == (
        f"the image: its note for a PVH entry {words}; expected 4 or 8 with an address below 4 GiB;"
        " try to link it again"
    )


def test_notes_that_are_cut_off_are_none():
    whole = entry_note(MIB + 9)
    for size in range(len(whole)):
        assert load(elf_with_notes(whole[:size])).form == "ELF64"
    absurd = struct.pack("<III", 0xFFFF_FFFF, 8, PHYS32_ENTRY) + bytes(40)
    assert load(elf_with_notes(absurd)).form == "ELF64"
