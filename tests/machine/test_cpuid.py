"""CPUID says what the machine is."""

import pytest

from tests.machine.machines import Run
from vlapic.machine.cpuid import Processor, cpuid

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


def test_a_leaf_that_does_not_exist_is_zeros():
    assert cpuid(0x1234, 0, ONE) == (0, 0, 0, 0)
    assert cpuid(0x4000_0001, 0, ONE) == (0, 0, 0, 0)


def test_a_guest_reads_its_own_processor():
    seen = []

    def guest(cpu):
        from vlapic.machine.engine import Cpuid

        seen.append((yield Cpuid(0, 0x15, 0)))
        yield cpu.out(0xF4, 0)

    Run(guest, guest_khz=1_250_000)
    assert seen == [(4, 5, 1_000_000_000, 0)]
