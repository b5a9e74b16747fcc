# SPDX-License-Identifier: GPL-2.0-or-later
"""The register table, row by row: what the SDM's tables say, and what every access in every mode does."""

import pytest

from tests.support.apic_bench import Apic
from vlapic.apic import registers as r
from vlapic.apic.lapic import LocalApic

NO, RO, WO, RW = r.Access.NONE, r.Access.READ_ONLY, r.Access.WRITE_ONLY, r.Access.READ_WRITE

#: SDM vol. 3A "Local APIC Register Address Map" and "Local APIC Register Address Map Supported by x2APIC":
#: offset, MSR, access in xAPIC mode, in x2APIC mode, value after reset.
SDM = {
    "ID": (0x20, 0x802, RW, RO, 0),
    "VERSION": (0x30, 0x803, RO, RO, 0x01060014),
    "TPR": (0x80, 0x808, RW, RW, 0),
    "APR": (0x90, 0x809, RO, NO, 0),
    "PPR": (0xA0, 0x80A, RO, RO, 0),
    "EOI": (0xB0, 0x80B, WO, WO, 0),
    "LDR": (0xD0, 0x80D, RW, RO, 0),
    "DFR": (0xE0, 0x80E, RW, NO, 0xFFFFFFFF),
    "SVR": (0xF0, 0x80F, RW, RW, 0xFF),
    "ISR": (0x100, 0x810, RO, RO, 0),
    "TMR": (0x180, 0x818, RO, RO, 0),
    "IRR": (0x200, 0x820, RO, RO, 0),
    "ESR": (0x280, 0x828, RW, RW, 0),
    "CMCI": (0x2F0, 0x82F, RW, RW, 0x10000),
    "ICR": (0x300, 0x830, RW, RW, 0),
    "ICR2": (0x310, 0x831, RW, NO, 0),
    "LVTT": (0x320, 0x832, RW, RW, 0x10000),
    "THERMAL": (0x330, 0x833, RW, RW, 0x10000),
    "PERFORMANCE": (0x340, 0x834, RW, RW, 0x10000),
    "LINT0": (0x350, 0x835, RW, RW, 0x10000),
    "LINT1": (0x360, 0x836, RW, RW, 0x10000),
    "ERROR": (0x370, 0x837, RW, RW, 0x10000),
    "TMICT": (0x380, 0x838, RW, RW, 0),
    "TMCCT": (0x390, 0x839, RO, RO, 0),
    "TDCR": (0x3E0, 0x83E, RW, RW, 0),
    "SELF_IPI": (0x3F0, 0x83F, NO, WO, 0),
}
#: Bits that a write may set, from the figures of the SDM; read-only rows have none.
WRITABLE = {
    "ID": 0xFF000000, "TPR": 0xFF, "LDR": 0xFF000000, "DFR": 0xF0000000, "SVR": 0x13FF, "ICR": 0xFFFFEFFF,
    "ICR2": 0xFF000000, "CMCI": 0x107FF, "LVTT": 0x700FF, "THERMAL": 0x107FF, "PERFORMANCE": 0x107FF,
    "LINT0": 0x1A7FF, "LINT1": 0x1A7FF, "ERROR": 0x100FF, "TMICT": 0xFFFFFFFF, "TDCR": 0xB,
}  # fmt: skip

MODES = ("xapic", "x2apic")
EVERY_MODE = pytest.mark.parametrize("mode", MODES)
OFFSETS = [(row, row.offset + 16 * index) for row in r.REGISTERS for index in range(row.count)]
HOLES = sorted(set(range(0, 0x1000, 16)) - {offset for _, offset in OFFSETS})


def name_of(value):
    return value.name if isinstance(value, r.Register) else f"{value:x}" if isinstance(value, int) else value


EVERY_REGISTER = pytest.mark.parametrize(("row", "offset"), OFFSETS, ids=name_of)


def reset_in(row, mode):
    """The value after reset of APIC 0, as it reads in a mode: in x2APIC mode LDR tells the logical ID."""
    return 1 if (row.name, mode) == ("LDR", "x2apic") else row.reset


def access_in(row, mode):
    return row.access(x2apic=mode == "x2apic")


def test_the_rows_are_those_of_the_sdms_tables():
    assert {row.name: (row.offset, row.msr, row.xapic, row.x2apic, row.reset) for row in r.REGISTERS} == SDM


@pytest.mark.parametrize("name", WRITABLE)
def test_the_writable_bits_are_those_of_the_sdms_figures(name):
    (row,) = (row for row in r.REGISTERS if row.name == name)
    assert row.writable == WRITABLE[name]


def test_a_register_that_cannot_be_written_has_no_writable_bits():
    for row in r.REGISTERS:
        if not row.xapic.writable and not row.x2apic.writable:
            assert row.writable == 0
            assert row.write is None


def test_only_isr_tmr_and_irr_are_banks_and_no_two_rows_overlap():
    assert {row.name for row in r.REGISTERS if row.count > 1} == {"ISR", "TMR", "IRR"}
    assert len(r.expand()) == len(OFFSETS) == sum(row.count for row in r.REGISTERS)


def test_every_method_a_row_names_is_there():
    for row in r.REGISTERS:
        for method in (row.read, row.write):
            assert method is None or callable(getattr(LocalApic, method)), row


@EVERY_REGISTER
@EVERY_MODE
def test_a_readable_register_reads_its_reset_value_and_another_0_or_a_fault(row, offset, mode):
    apic = Apic(mode=mode, enabled=False)
    if access_in(row, mode).readable:
        assert apic.get(offset) == reset_in(row, mode)
    elif mode == "x2apic":
        with pytest.raises(r.GeneralProtection):
            apic.get(offset)
    else:
        assert apic.get(offset) == 0


#: ESR does not read back what was written.
READ_BACK = [
    (row, mode) for row in r.REGISTERS for mode in MODES if access_in(row, mode) is RW and row.name != "ESR"
]


@pytest.mark.parametrize(("row", "mode"), READ_BACK, ids=name_of)
def test_every_writable_bit_can_be_set_and_read_back(row, mode):
    offset = row.offset
    apic = Apic(mode=mode)
    always = 0x0FFF_FFFF if row.name == "DFR" else 0
    for bit in range(64 if mode == "x2apic" else 32):
        if row.writable_in(mode == "x2apic") >> bit & 1:
            apic.set(offset, 1 << bit)
            assert apic.get(offset) == 1 << bit | always, f"bit {bit}"
            if row.name == "SVR":
                apic.set(offset, 0x1FF)


@EVERY_REGISTER
def test_a_reserved_bit_is_dropped_in_xapic_mode(row, offset):
    apic = Apic()
    before = apic.get(offset)
    if not access_in(row, "xapic").writable:
        apic.set(offset, r.WHOLE)
        assert apic.get(offset) == before
        return
    apic.set(offset, r.WHOLE & ~row.writable)
    if row.xapic.readable:
        assert apic.get(offset) & ~row.writable & r.WHOLE == (r.DFR_RESERVED if row.name == "DFR" else 0)


@EVERY_REGISTER
def test_every_reserved_bit_faults_in_x2apic_mode_and_changes_nothing(row, offset):
    apic = Apic(mode="x2apic")
    before = apic.get(offset) if row.x2apic.readable else None
    writable = row.writable_in(True) if row.x2apic.writable else 0
    if not row.x2apic.writable:
        with pytest.raises(r.GeneralProtection):
            apic.set(offset, 0)
    for bit in range(64):
        if (writable | row.status) >> bit & 1 and row.x2apic.writable:
            continue
        with pytest.raises(r.GeneralProtection):
            apic.set(offset, 1 << bit)
    if row.x2apic.readable:
        assert apic.get(offset) == before
    assert (apic.sent, apic.ended) == ([], [])


@pytest.mark.parametrize("row", [row for row in r.REGISTERS if row.status], ids=name_of)
def test_a_status_bit_is_dropped_in_either_mode(row):
    for mode in MODES:
        apic = Apic(mode=mode)
        apic.set(row.offset, row.status)
        assert apic.get(row.offset) == 0


def test_the_status_bits_are_delivery_status_and_remote_irr():
    status = {row.name: row.status for row in r.REGISTERS if row.status}
    assert status == {
        "CMCI": 0x1000, "ICR": 0x1000, "LVTT": 0x1000, "THERMAL": 0x1000, "PERFORMANCE": 0x1000,
        "LINT0": 0x5000, "LINT1": 0x5000, "ERROR": 0x1000,
    }  # fmt: skip


@EVERY_REGISTER
def test_no_register_of_the_apic_answers_as_an_msr_outside_x2apic_mode(row, offset):
    for mode in ("xapic", "disabled"):
        lapic = Apic(mode=mode).lapic
        with pytest.raises(r.GeneralProtection):
            lapic.read_msr(0x800 + (offset >> 4))
        with pytest.raises(r.GeneralProtection):
            lapic.write_msr(0x800 + (offset >> 4), 0)


@pytest.mark.parametrize("offset", HOLES, ids=name_of)
def test_a_hole_reads_0_takes_no_write_and_is_an_error_in_xapic_mode(offset):
    for access in (lambda apic: apic.get(offset), lambda apic: apic.set(offset, r.WHOLE)):
        apic = Apic()
        assert not access(apic)
        apic.set(r.ESR, 0)
        assert apic.get(r.ESR) == r.ESR_ILLEGAL_REGISTER


@pytest.mark.parametrize("offset", HOLES, ids=name_of)
def test_a_hole_faults_in_x2apic_mode(offset):
    lapic = Apic(mode="x2apic").lapic
    with pytest.raises(r.GeneralProtection):
        lapic.read_msr(0x800 + (offset >> 4))
    with pytest.raises(r.GeneralProtection):
        lapic.write_msr(0x800 + (offset >> 4), 0)
    assert lapic.controller.errors == 0


@pytest.mark.parametrize("offset", [offset for row, offset in OFFSETS if row.xapic is not NO], ids=name_of)
def test_a_register_that_is_there_is_never_an_illegal_one(offset):
    apic = Apic()
    apic.get(offset)
    apic.set(offset, 0xF0)
    assert not apic.controller.errors & r.ESR_ILLEGAL_REGISTER


@pytest.mark.parametrize("offset", range(0x1000 - 0x3FF, 0x1000, 0x51))
def test_the_page_is_decoded_to_its_last_byte(offset):
    lapic = Apic().lapic
    assert lapic.decodes(r.APIC_BASE_DEFAULT + offset)
    assert not lapic.decodes(r.APIC_BASE_DEFAULT + 0x1000 + offset)
    assert not lapic.decodes(r.APIC_BASE_DEFAULT - 0x1000 + offset)


def test_parts_of_a_registers_first_four_bytes_can_be_read():
    apic = Apic()
    apic.set(r.LVT_LINT0, 0x18735)
    lapic = apic.lapic
    assert [lapic.read(r.LVT_LINT0 + at, 1) for at in range(4)] == [0x35, 0x87, 0x01, 0]
    assert [lapic.read(r.LVT_LINT0 + at, 2) for at in range(3)] == [0x8735, 0x0187, 0x0001]
    assert lapic.read(r.LVT_LINT0, 4) == 0x18735


@pytest.mark.parametrize(
    ("within", "size"), [(1, 4), (2, 4), (3, 2), (4, 1), (4, 4), (8, 4), (12, 4), (15, 1), (0, 8)]
)
def test_a_read_that_leaves_the_first_four_bytes_gives_0_and_is_no_error(within, size):
    apic = Apic()
    apic.set(r.LVT_LINT0, 0x18735)
    assert apic.lapic.read(r.LVT_LINT0 + within, size) == 0
    assert apic.controller.errors == 0


@pytest.mark.parametrize(
    ("within", "size"), [(0, 1), (0, 2), (0, 8), (1, 1), (2, 2), (4, 4), (8, 4), (12, 4)]
)
def test_a_write_that_is_not_of_the_whole_register_is_ignored(within, size):
    apic = Apic()
    apic.set(r.TPR, 0x35)
    apic.lapic.write(r.TPR + within, 0x77, size)
    assert apic.get(r.TPR) == 0x35
    assert apic.controller.errors == 0
