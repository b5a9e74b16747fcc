# SPDX-License-Identifier: GPL-2.0-or-later
"""MSRs give what KVM's give, whatever CPUID says."""

import re

import pytest

from tests.docs.processor_page import BETWEEN, PAGE, with_tables
from tests.support.machines import Run
from vlapic.apic.registers import GeneralProtection
from vlapic.machine.engines.contract import Cpuid, ReadMsr, WriteMsr
from vlapic.machine.engines.scripted import ScriptedFault
from vlapic.machine.engines.unicorn.msrs import NATIVE_MSRS
from vlapic.machine.msrs import ABSENT, APIC_ROWS, CPU_ROWS, MSRS, ROWS, Msrs

ALL_ONES = 2**64 - 1
MISC_ENABLE, FEATURE_CONTROL, DEBUGCTL, HWCR = 0x1A0, 0x3A, 0x1D9, 0xC001_0015
FIX64K, DEF_TYPE, PHYS_BASE, PHYS_MASK = 0x250, 0x2FF, 0x20E, 0x20F
MC0_CTL, MC0_STATUS, MC31_MISC = 0x400, 0x401, 0x47F


@pytest.mark.parametrize(
    ("msr", "value"),
    [
        *((msr, 0) for msr in (0x17, 0x2A, 0x199, 0x606, 0xC1, 0x186, 0x17A, 0x250, 0x26F, 0x2FF, 0x47F)),
        (0x2C, 1 << 24),
        (0x8B, 1 << 32),
        (0xCD, 3),
        (0xCE, 1 << 31),
        (0xFE, 0x508),
        (0x179, 32),
        (0x198, 4 << 40 | 1000),
        (0xC001_001B, 0x2000_0000),
    ],
)
def test_a_read_gives_what_it_gives_in_kvm(msr, value):
    assert Msrs().read(msr) == value


@pytest.mark.parametrize(
    ("msr", "written", "read"),
    [
        (0x8B, 0, 1 << 32),
        (0xC1, ALL_ONES, 0),
        (0x186, ALL_ONES, 0),
        (0x17A, ALL_ONES, ALL_ONES),
        (0x1FC, 5, 5),
        (MISC_ENABLE, 0x4_00C5_1889, 0x4_00C5_1809),
        (DEBUGCTL, 3, 0),
        (HWCR, 1 << 24 | 1 << 18 | 0x148, 1 << 24 | 1 << 18),
        (PHYS_BASE, 0xFF_0000_0006, 0xFF_0000_0006),
        (PHYS_MASK, 0xFF_FFFF_F800, 0xFF_FFFF_F800),
        (FIX64K, 0x0605_0401_0006_0606, 0x0605_0401_0006_0606),
        (DEF_TYPE, 0xC06, 0xC06),
        (MC0_CTL, ALL_ONES ^ 1 << 10, ALL_ONES ^ 1 << 10),
        (MC0_STATUS, 0, 0),
        (MC31_MISC, 9, 9),
        (0xC001_0058, 0, 0),
        (0xC001_1022, 77, 0),
    ],
)
def test_a_write_keeps_what_it_keeps_in_kvm(msr, written, read):
    msrs = Msrs()
    msrs.write(msr, written)
    assert msrs.read(msr) == read


@pytest.mark.parametrize(
    ("msr", "value"),
    [
        *((msr, 0) for msr in (0x17, 0x2C, 0x34, 0xCD, 0xCE, 0xFE, 0x179, 0x198, 0x199, 0x1DB, 0x606)),
        (0x140, 2),
        (FEATURE_CONTROL, 4),
        (MISC_ENABLE, 0),
        (DEBUGCTL, 4),
        (HWCR, 1),
        *((PHYS_BASE, value) for value in (2, 3, 7, 8, 0xFF, 0x106, 1 << 40)),
        *((PHYS_MASK, value) for value in (1, 0x400, 1 << 40)),
        *((FIX64K, kind << 56) for kind in (2, 3, 7, 8)),
        *((DEF_TYPE, value) for value in (2, 3, 7, 0x100, 0x1000)),
        (MC0_CTL, 1),
        (MC0_STATUS, 1),
        (0xC001_0058, 1),
    ],
)
def test_a_write_is_gp_where_it_is_in_kvm(msr, value):
    msrs = Msrs()
    before = msrs.read(msr)
    with pytest.raises(GeneralProtection):
        msrs.write(msr, value)
    assert msrs.read(msr) == before


def test_feature_control_is_locked_once():
    msrs = Msrs()
    msrs.write(FEATURE_CONTROL, 0)
    msrs.write(FEATURE_CONTROL, 1)
    assert msrs.read(FEATURE_CONTROL) == 1
    with pytest.raises(GeneralProtection):
        msrs.write(FEATURE_CONTROL, 1)


@pytest.mark.parametrize("msr", [0x79, 0xC001_0020])
def test_an_update_of_the_microcode_is_ignored_and_not_read(msr):
    msrs = Msrs()
    msrs.write(msr, 0x1234)
    with pytest.raises(GeneralProtection):
        msrs.read(msr)


def test_no_number_stands_in_two_rows_or_is_another_parts():
    assert len(MSRS) == sum(row.repeat for row in ROWS)
    assert not MSRS.keys() & (NATIVE_MSRS | {0x10, 0x1B, 0x3B, 0x6E0, *range(0x800, 0x900)})


def numbers(told):
    """The numbers in words of a row: "0x1 to 0x3, 0x7"."""
    found = set()
    for part in told.numbers.split(", "):
        first, *last = (int(number, 16) for number in re.findall(r"0x\w+", part))
        found |= set(range(first, (last or [first])[0] + 1))
    return found


def test_the_rows_of_the_cpu_are_those_that_it_keeps_to_itself():
    assert set().union(*map(numbers, CPU_ROWS)) == NATIVE_MSRS


def test_every_msr_of_every_row_is_there_in_a_guest_and_what_is_absent_faults():
    there = [msr for msr, row in MSRS.items() if row.reset is not None]
    there += [msr for told in APIC_ROWS[:4] for msr in numbers(told)]
    absent = [msr for told in ABSENT for msr in numbers(told)] + [0x10A, 0x17B, 0x280, 0x38F, 0x480]
    seen = {}

    def guest(cpu):
        for msr in (*there, *absent):
            try:
                seen[msr] = yield ReadMsr(0, msr)
            except ScriptedFault:
                seen[msr] = None
        yield cpu.out(0xF4, 0)

    Run(guest)
    assert [msr for msr in there if seen[msr] is None] == []
    assert [msr for msr in absent if seen[msr] is not None] == []


def test_cpuid_faults_outside_cpl_0_once_the_guest_asks_for_it():
    seen = []

    def guest(cpu):
        for user in (False, True):
            seen.append((yield Cpuid(0, 0x4000_0000, 0, user))[0])
        yield WriteMsr(0, 0x140, 1)
        seen.append((yield Cpuid(0, 0x4000_0000, 0))[0])
        try:
            yield Cpuid(0, 0x4000_0000, 0, True)
        except ScriptedFault:
            seen.append("#GP")
        yield cpu.out(0xF4, 0)

    Run(guest)
    assert seen == [0x4000_0000] * 3 + ["#GP"]


def test_the_pages_tables_are_the_rows():
    # Out of date? python -m tests.docs.processor_page
    text = PAGE.read_text()
    assert with_tables(text) == text
    assert len(BETWEEN.findall(text)) == 4
    old = text.replace("| 0xfe | IA32_MTRRCAP |", "| 0xff | IA32_MTRRCAP |")
    assert old != text
    assert with_tables(old) == text
