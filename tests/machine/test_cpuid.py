# SPDX-License-Identifier: GPL-2.0-or-later
"""CPUID says what the machine is."""

import pytest

from tests.support.machines import Run
from vlapic.machine.cpuid import FEATURES, Processor, cpuid

ONE = Processor(0, 1, 2_500_000, True)


def test_the_vendor_is_in_ebx_edx_ecx():
    _, ebx, ecx, edx = cpuid(0, 0, ONE)
    assert b"".join(each.to_bytes(4, "little") for each in (ebx, edx, ecx)) == b"GenuineIntel"


@pytest.mark.parametrize("bit", [21, 24, 31])
def test_x2apic_tsc_deadline_and_a_hypervisor_are_there(bit):
    assert cpuid(1, 0, ONE)[2] >> bit & 1


@pytest.mark.parametrize("enabled", [True, False])
def test_the_apic_bit_follows_the_apic_base(enabled):
    assert cpuid(1, 0, ONE._replace(apic_enabled=enabled))[3] >> 9 & 1 == enabled


@pytest.mark.parametrize("khz", [1_000_000, 2_500_000, 2_399_999, 400_000, 1])
def test_leaf_15_gives_the_tsc_frequency_and_the_timers_clock(khz):
    denominator, numerator, crystal, _ = cpuid(0x15, 0, ONE._replace(tsc_khz=khz))
    assert crystal == 1_000_000_000
    assert crystal * numerator == khz * 1000 * denominator


@pytest.mark.parametrize(("cpus", "shift"), [(1, 0), (2, 1), (3, 2), (4, 2), (8, 3)])
def test_every_processor_is_a_core_of_one_package(cpus, shift):
    processor = Processor(cpus - 1, cpus, 1_000_000, True)
    assert cpuid(0xB, 0, processor) == (0, 1, 0x100, cpus - 1)
    assert cpuid(0xB, 1, processor) == (shift, cpus, 0x201, cpus - 1)
    assert cpuid(0xB, 2, processor)[:2] == (0, 0)
    assert cpuid(1, 0, processor)[1] >> 16 == (cpus - 1) << 8 | cpus


@pytest.mark.parametrize("leaf", [3, 5, 0xA, 0xD, 0x14, 0x8000_0005])
def test_a_leaf_that_does_not_exist_is_zeros(leaf):
    assert cpuid(leaf, 0, ONE) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "leaf", [0x16, 0x1234, 0x3FFF_FFFF, 0x4000_0001, 0x8000_0009, 0xC000_0000, 2**32 - 1]
)
def test_a_leaf_above_the_highest_gives_what_the_highest_basic_one_gives(leaf):
    assert cpuid(leaf, 0, ONE) == cpuid(0x15, 0, ONE) != (0, 0, 0, 0)


def bits(leaf, register):
    return cpuid(leaf, 0, ONE)[("eax", "ebx", "ecx", "edx").index(register)]


#: The x86-64 psABI's levels, "Micro-Architecture Levels"; OSFXSR is the system's to set.
V1 = {"cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse", "sse2"}
V2 = {"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"}
#: arch/x86/include/asm/required-features.h of Linux v6.1, 64 bits.
LINUX = {"fpu", "pse", "msr", "pae", "cx8", "pge", "fxsr", "cmov", "sse", "sse2", "lm"}


@pytest.mark.parametrize("names", [V1, V2, LINUX], ids=["x86-64-v1", "x86-64-v2", "Linux"])
def test_all_features_of_a_baseline_are_there(names):
    assert names <= {each.name for each in FEATURES}
    assert all(bits(each.leaf, each.register) >> each.bit & 1 for each in FEATURES)


def test_no_bit_is_set_that_has_no_name():
    for leaf, register in {(each.leaf, each.register) for each in FEATURES}:
        known = sum(1 << each.bit for each in FEATURES if (each.leaf, each.register) == (leaf, register))
        assert bits(leaf, register) == known, (hex(leaf), register)


@pytest.mark.parametrize("cpus", [1, 2, 3, 8, 64, 255, 300])
def test_leaves_agree_about_the_number_of_processors(cpus):
    processor = ONE._replace(apic_id=cpus - 1, cpus=cpus)
    shift, count, _, apic_id = cpuid(0xB, 1, processor)
    ebx = cpuid(1, 0, processor)[1]
    assert (count, apic_id) == (cpus, cpus - 1)
    assert (ebx >> 16 & 0xFF, ebx >> 24) == (min(cpus, 255), cpus - 1 & 0xFF)
    for subleaf, sharing in enumerate((1, 1, 1, 1 << shift)):
        eax = cpuid(4, subleaf, processor)[0]
        assert (eax >> 14 & 0xFFF) + 1 == sharing
        assert (eax >> 26) + 1 == min(1 << shift, 64)


def test_the_caches_are_those_of_leaf_4_in_every_leaf():
    sizes = []
    while cpuid(4, len(sizes), ONE)[0] & 0x1F:
        _, ebx, ecx, _ = cpuid(4, len(sizes), ONE)
        sizes.append(((ebx >> 22) + 1) * ((ebx >> 12 & 0x3FF) + 1) * ((ebx & 0xFFF) + 1) * (ecx + 1))
    assert sizes == [32 << 10, 32 << 10, 1 << 20, 1408 << 10]
    assert cpuid(2, 0, ONE) == (0xFF01, 0, 0, 0)
    assert cpuid(0x8000_0006, 0, ONE)[2] == 1024 << 16 | 8 << 12 | 64


def test_every_register_is_of_32_bits():
    for leaf in (*range(0x16), *range(0x8000_0000, 0x8000_0009), 0x4000_0000):
        for processor in (ONE, Processor(1000, 1001, 5_000_000, False)):
            assert all(0 <= value < 1 << 32 for value in cpuid(leaf, 1, processor))


def test_the_processor_has_a_name():
    name = b"".join(
        value.to_bytes(4, "little") for leaf in (2, 3, 4) for value in cpuid(0x8000_0000 + leaf, 0, ONE)
    )
    assert name.rstrip(b"\0") == b"vlapic virtual processor"


def test_a_guest_reads_its_own_processor():
    seen = []

    def guest(cpu):
        from vlapic.machine.engines.contract import Cpuid

        seen.append((yield Cpuid(0, 0x15, 0)))
        yield cpu.out(0xF4, 0)

    Run(guest, guest_khz=1_250_000)
    assert seen == [(4, 5, 1_000_000_000, 0)]
