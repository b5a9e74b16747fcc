# SPDX-License-Identifier: GPL-2.0-or-later
"""What firmware leaves: tables with right checksums that say what the machine is, and a PC's memory map."""

import shutil
import struct
import subprocess
from itertools import pairwise

import pytest

from tests.support.boards import Recorder
from tests.support.firmware import AREA, Acpi, MpTables
from tests.support.images import MIB, elf32, elf64, multiboot
from tests.support.machines import boot_scripted, halting, scripted
from vlapic.machine.cpuid import Processor, cpuid
from vlapic.machine.devices import ioapic
from vlapic.machine.guests.images import acpi, firmware, mp_tables
from vlapic.machine.guests.loader import load
from vlapic.machine.guests.programs import PROGRAMS

CPUS = pytest.mark.parametrize("cpus", [1, 2, 8])
FORMS = {
    "multiboot": elf32(multiboot() + b"\x90" * 20),
    "elf32": elf32(b"\x90" * 20),
    "elf64": elf64(b"\x90" * 20),
    "flat": PROGRAMS["deadline"].image(),
}


def memory(cpus=1):
    return load(FORMS["multiboot"], cpus=cpus).memory


def io_apic_id(cpus):
    """What a guest reads of the board's I/O APIC."""
    board = Recorder().board
    board.describe(cpus=cpus, memory_bytes=128 * MIB)
    board.memory.write(ioapic.BASE + ioapic.IOREGSEL, 4, ioapic.ID)
    return board.memory.read(ioapic.BASE + ioapic.IOWIN, 4) >> 24


@pytest.mark.parametrize("form", FORMS)
def test_every_guest_finds_acpi_and_mp_tables(form):
    found = load(FORMS[form], cpus=2).memory
    assert Acpi(found).rsdp
    assert MpTables(found).entries
    assert bytes(found[AREA:MIB]) == bytes(memory(2)[AREA:MIB])


@CPUS
def test_acpi_lists_each_processor_the_io_apic_and_the_timer_s_pin(cpus):
    tables = Acpi(memory(cpus))
    assert struct.unpack_from("<II", tables.tables[b"APIC"], 36) == (0xFEE0_0000, 1)  # 8259As too
    assert tables.interrupt_controllers() == [
        *((0, struct.pack("<BBI", number, number, 1)) for number in range(cpus)),
        (1, struct.pack("<BBII", io_apic_id(cpus), 0, 0xFEC0_0000, 0)),
        (2, struct.pack("<BBIH", 0, 0, 2, 0)),
        (4, struct.pack("<BHB", 0xFF, 0, 1)),
    ]


def test_processors_that_8_bits_cannot_name_have_x2apic_entries():
    tables = acpi.build(firmware.TABLES, [0, 254, 255, 1000])
    entries = Acpi(bytes(firmware.TABLES) + tables).interrupt_controllers()
    assert [kind for kind, _ in entries] == [0, 0, 9, 9, 1, 2, 4, 0xA]
    assert struct.unpack("<HIII", entries[3][1]) == (0, 1000, 1, 3)
    assert struct.unpack("<HIB3x", entries[-1][1]) == (0, 0xFFFF_FFFF, 1)
    processors = MpTables(bytes(firmware.TABLES) + mp_tables.build(firmware.TABLES, [0, 254, 255])).of(0)
    assert [entry[0] for entry in processors] == [0, 254]


def test_acpi_says_how_the_machine_is_switched_off():
    r"""`Name (\_S5, Package (4) {5, 5, 0, 0})`: NameOp, PackageOp, its length, four elements."""
    assert Acpi(memory()).tables[b"DSDT"][36:] == bytes.fromhex("08 5f53355f 12 08 04 0a05 0a05 00 00")


def test_acpi_s_fixed_hardware_is_at_the_ports_of_qemu_s_chipset():
    tables = Acpi(memory())
    fadt = tables.tables[b"FACP"]
    assert (len(fadt), fadt[8]) == (244, 4)
    blocks = struct.unpack_from("<8I", fadt, 56)  # PM1a and b event, control; PM2 control, timer, GPE0, GPE1
    assert blocks == (0x600, 0, 0x604, 0, 0, 0x608, 0, 0)
    assert tuple(fadt[88:92]) == (4, 2, 0, 4)
    for offset, port, bits in ((148, 0x600, 32), (172, 0x604, 16), (208, 0x608, 32), (116, 0xCF9, 8)):
        space, width, shift, _, address = struct.unpack_from("<BBBBQ", fadt, offset)
        assert (space, width, shift, address) == (1, bits, 0, port)
    assert fadt[128] == 0x0F
    assert struct.unpack_from("<H", fadt, 46) == (9,)
    assert struct.unpack_from("<H", fadt, 109) == (0b101,)  # ISA devices, no VGA, no keyboard to look for
    (features,) = struct.unpack_from("<I", fadt, 112)
    assert [bit for bit in range(32) if features >> bit & 1] == [0, 2, 4, 5, 6, 10]
    assert struct.unpack_from("<Q", fadt, 140) == (tables.dsdt_at,)
    assert tables.facs_at % 64 == 0
    assert tables.tables[b"FACS"][:8] == struct.pack("<4sI", b"FACS", 64)


@CPUS
def test_mp_tables_list_processors_io_apic_and_lines(cpus):
    tables = MpTables(memory(cpus))
    assert tables.local_apic == 0xFEE0_0000
    signature, _, _, features = cpuid(1, 0, Processor(0, cpus, 2_500_000, True))
    assert tables.of(0) == [
        struct.pack("<BBBII8x", number, 0x14, 1 if number else 3, signature, features)
        for number in range(cpus)
    ]
    assert tables.of(1) == [b"\0ISA   "]
    assert tables.of(2) == [struct.pack("<BBBI", io_apic_id(cpus), 0x20, 1, 0xFEC0_0000)]
    pins = {0: 2} | {line: line for line in (1, *range(3, 16))}
    assert tables.of(3) == [
        struct.pack("<BHBBBB", 0, 0, 0, line, io_apic_id(cpus), pin) for line, pin in pins.items()
    ]
    assert tables.of(4) == [
        struct.pack("<BHBBBB", 3, 0, 0, 0, 0, 0),  # ExtINT at the first processor's LINT0
        struct.pack("<BHBBBB", 1, 0, 0, 0, 0xFF, 1),  # NMI at everyone's LINT1
    ]


@CPUS
def test_the_tables_lines_are_those_of_the_board(cpus):
    """A line that rises comes out of the I/O APIC at the pin that the tables name."""
    for kind, _, _, line, _, pin in (struct.unpack("<BHBBBB", each) for each in MpTables(memory(cpus)).of(3)):
        recorder = Recorder()
        recorder.board.ioapic.entries[pin] = 0x30 + pin  # fixed, edge, unmasked
        recorder.board.set_line(line, False)  # the PIT's output is high after reset
        recorder.board.set_line(line, True)
        assert (kind, [message.vector for message in recorder.messages]) == (0, [0x30 + pin])


def test_the_processors_apic_ids_are_those_of_the_machine():
    (vm,) = boot_scripted(scripted(*[halting(1)] * 4)).vms
    ids = [vcpu.lapic.apic_id for vcpu in vm.vcpus]
    assert [entry[0] for entry in MpTables(memory(4)).of(0)] == ids


def test_the_io_apic_s_id_is_no_processor_s():
    assert [io_apic_id(cpus) for cpus in (1, 2, 8, 14)] == [1, 2, 8, 14]
    assert io_apic_id(15) == 0  # 4 bits, of which all ones mean all


def test_the_map_has_no_line_for_what_a_pc_has_no_ram_at():
    ranges = firmware.memory_map(64 * MIB, 0x9_FC00)
    assert ranges == tuple(sorted(ranges))
    assert all(first.end <= second.start for first, second in pairwise(ranges))
    assert not any(each.start < 0xF_0000 and each.end > 0xA_0000 for each in ranges)
    assert sum(each.end - each.start for each in ranges if each.available) == 63 * MIB + 0x9_FC00


@pytest.mark.parametrize(
    ("size", "ebda"), [(0, 0x9_FC00), (1008, 0x9_FC00), (1009, 0x9_F800), (60_000, 0x9_1400)]
)
def test_the_ebda_grows_down_by_whole_kib(size, ebda):
    assert firmware.ebda_for(size) == ebda
    assert firmware.information_in(ebda) + size <= firmware.EBDA_END


def test_intel_s_compiler_reads_the_tables(tmp_path):
    """A reader that is not ours, and complains about wrong checksums and lengths."""
    if not shutil.which("iasl"):
        pytest.skip("needs iasl (Debian: acpica-tools)")
    for signature, data in Acpi(memory(2)).tables.items():
        name = tmp_path / f"{signature.decode()}.dat"
        name.write_bytes(data)
        done = subprocess.run(["iasl", "-d", name.name], cwd=tmp_path, capture_output=True, encoding="utf-8")
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert "warning" not in said.lower()
        assert "error" not in said.lower()
    assert "Name (_S5, Package (0x04)" in (tmp_path / "DSDT.dsl").read_text()
