# SPDX-License-Identifier: GPL-2.0-or-later
"""CPUID as a table: what the guest's processor says it is (SDM vol. 2A "CPUID").

A Skylake server as far as Unicorn executes it: x86-64-v2 of the x86-64 psABI and no more. A feature is told
of only if the emulated CPU has it; the guest `checks/features` executes each that is an instruction set.

Left out: AVX and what builds on XSAVE, RDRAND (its numbers are not the seed's), MONITOR, MTRRs and machine
checks (their MSRs keep what is written, to no effect: `msrs.py`), performance counters.
"""

from __future__ import annotations

import struct
from math import gcd
from typing import NamedTuple

Registers = tuple[int, int, int, int]

#: The crystal clock is the APIC timer's bus clock: 1 GHz.
CRYSTAL_HZ = 1_000_000_000
#: Of a physical and of a linear address.
PHYSICAL_ADDRESS_BITS, LINEAR_ADDRESS_BITS = 40, 48
#: The highest leaves.
MAX_BASIC, MAX_HYPERVISOR, MAX_EXTENDED = 0x15, 0x4000_0000, 0x8000_0008

_VENDOR_EBX, _VENDOR_EDX, _VENDOR_ECX = struct.unpack("<3I", b"GenuineIntel")
_HYPERVISOR = struct.unpack("<3I", b"vlapicvlapic")
_BRAND = struct.unpack("<12I", b"vlapic virtual processor".ljust(48, b"\0"))
# Leaf 1: family 6, model 0x55 (Skylake server), stepping 4.
_SIGNATURE = 0x0005_0654
_LINE_BYTES = 64
_APIC = 1 << 9
_SMT_LEVEL, _CORE_LEVEL = 1 << 8, 2 << 8
#: Leaf 2: what is to be known of caches is in leaf 4.
_SEE_LEAF_4 = 0xFF01


class Feature(NamedTuple):
    """A bit that is set.

    Attributes:
        name: as Linux' /proc/cpuinfo has it.
        executes: it stands for instructions, each of which the check guest executes.
    """

    leaf: int
    register: str
    bit: int
    name: str
    executes: bool = False


FEATURES = (
    Feature(0x1, "edx", 0, "fpu", True),
    Feature(0x1, "edx", 3, "pse"),
    Feature(0x1, "edx", 4, "tsc", True),
    Feature(0x1, "edx", 5, "msr", True),
    Feature(0x1, "edx", 6, "pae"),
    Feature(0x1, "edx", 8, "cx8", True),
    Feature(0x1, "edx", 9, "apic"),
    Feature(0x1, "edx", 11, "sep"),
    Feature(0x1, "edx", 13, "pge"),
    Feature(0x1, "edx", 15, "cmov", True),
    Feature(0x1, "edx", 16, "pat"),
    Feature(0x1, "edx", 19, "clflush", True),
    Feature(0x1, "edx", 23, "mmx", True),
    Feature(0x1, "edx", 24, "fxsr", True),
    Feature(0x1, "edx", 25, "sse", True),
    Feature(0x1, "edx", 26, "sse2", True),
    Feature(0x1, "edx", 28, "ht"),
    Feature(0x1, "ecx", 0, "pni", True),
    Feature(0x1, "ecx", 9, "ssse3", True),
    Feature(0x1, "ecx", 13, "cx16", True),
    Feature(0x1, "ecx", 19, "sse4_1", True),
    Feature(0x1, "ecx", 20, "sse4_2", True),
    Feature(0x1, "ecx", 21, "x2apic"),
    Feature(0x1, "ecx", 23, "popcnt", True),
    Feature(0x1, "ecx", 24, "tsc_deadline_timer"),
    Feature(0x1, "ecx", 31, "hypervisor"),
    Feature(0x6, "eax", 2, "arat"),
    Feature(0x7, "ebx", 1, "tsc_adjust"),
    Feature(0x8000_0001, "edx", 11, "syscall"),
    Feature(0x8000_0001, "edx", 20, "nx"),
    Feature(0x8000_0001, "edx", 26, "pdpe1gb"),
    Feature(0x8000_0001, "edx", 27, "rdtscp", True),
    Feature(0x8000_0001, "edx", 29, "lm"),
    Feature(0x8000_0001, "ecx", 0, "lahf_lm", True),
    Feature(0x8000_0007, "edx", 8, "constant_tsc"),
)


class Cache(NamedTuple):
    """A cache, as leaf 4 has it; lines of 64 bytes."""

    kind: int
    level: int
    ways: int
    sets: int
    shared: bool


CACHES = (
    Cache(kind=1, level=1, ways=8, sets=64, shared=False),
    Cache(kind=2, level=1, ways=8, sets=64, shared=False),
    Cache(kind=3, level=2, ways=16, sets=1024, shared=False),
    Cache(kind=3, level=3, ways=11, sets=2048, shared=True),
)
#: Leaf 0x80000006 tells of the level 2 cache too: its KiB, and a code for 16 ways.
_LEVEL_2_KIB, _16_WAYS = 1024, 8


class Processor(NamedTuple):
    """What CPUID depends on.

    Attributes:
        apic_id: initial APIC ID.
        cpus: processors of the machine, which are the cores of one package.
        tsc_khz: frequency of this processor's TSC.
        apic_enabled: IA32_APIC_BASE's enable bit, which CPUID.1:EDX.APIC follows.
    """

    apic_id: int
    cpus: int
    tsc_khz: int
    apic_enabled: bool


def _bits(leaf: int, register: str) -> int:
    return sum(1 << each.bit for each in FEATURES if (each.leaf, each.register) == (leaf, register))


_1_ECX, _1_EDX = _bits(1, "ecx"), _bits(1, "edx")
_6_EAX, _7_EBX = _bits(6, "eax"), _bits(7, "ebx")
_EXTENDED_1_ECX, _EXTENDED_1_EDX = _bits(0x8000_0001, "ecx"), _bits(0x8000_0001, "edx")
_EXTENDED_7_EDX = _bits(0x8000_0007, "edx")


def cpuid(leaf: int, subleaf: int, processor: Processor) -> Registers:
    """EAX, EBX, ECX, EDX of a leaf.

    A leaf above the highest of its range gives what the highest basic one does, as Intel's processors and
    `kvm/cpuid.c: get_out_of_range_cpuid_entry` have it; one below that does not exist gives zeros.

    Args:
        leaf, subleaf: EAX and ECX of the instruction, 32 bits.
    """
    if not (
        leaf <= MAX_BASIC or 0x4000_0000 <= leaf <= MAX_HYPERVISOR or 0x8000_0000 <= leaf <= MAX_EXTENDED
    ):
        leaf = MAX_BASIC
    if leaf == 0x4:
        return _cache(subleaf, processor)
    if leaf == 0xB:
        return _topology(subleaf, processor)
    apic_id, cpus, tsc_khz, apic_enabled = processor
    common = gcd(tsc_khz, CRYSTAL_HZ // 1000)
    table: dict[int, Registers] = {
        0x0000_0000: (MAX_BASIC, _VENDOR_EBX, _VENDOR_ECX, _VENDOR_EDX),
        0x0000_0001: (
            _SIGNATURE,
            (apic_id & 0xFF) << 24 | min(cpus, 0xFF) << 16 | _LINE_BYTES // 8 << 8,
            _1_ECX,
            _1_EDX if apic_enabled else _1_EDX & ~_APIC,
        ),
        0x0000_0002: (_SEE_LEAF_4, 0, 0, 0),
        0x0000_0006: (_6_EAX, 0, 0, 0),
        0x0000_0007: (0, 0 if subleaf else _7_EBX, 0, 0),
        # TSC frequency = crystal * EBX / EAX, in lowest terms: some guests multiply in 32 bits.
        0x0000_0015: (CRYSTAL_HZ // 1000 // common, tsc_khz // common, CRYSTAL_HZ, 0),
        0x4000_0000: (MAX_HYPERVISOR, *_HYPERVISOR),
        0x8000_0000: (MAX_EXTENDED, 0, 0, 0),
        0x8000_0001: (0, 0, _EXTENDED_1_ECX, _EXTENDED_1_EDX),
        0x8000_0002: _BRAND[0:4],
        0x8000_0003: _BRAND[4:8],
        0x8000_0004: _BRAND[8:12],
        0x8000_0006: (0, 0, _LEVEL_2_KIB << 16 | _16_WAYS << 12 | _LINE_BYTES, 0),
        0x8000_0007: (0, 0, 0, _EXTENDED_7_EDX),
        0x8000_0008: (PHYSICAL_ADDRESS_BITS | LINEAR_ADDRESS_BITS << 8, 0, 0, 0),
    }
    return table.get(leaf, (0, 0, 0, 0))


def _core_bits(processor: Processor) -> int:
    """How many bits of the APIC ID number the cores."""
    return (processor.cpus - 1).bit_length()


def _cache(subleaf: int, processor: Processor) -> Registers:
    """Leaf 4: a cache; zeros behind the last."""
    if subleaf >= len(CACHES):
        return 0, 0, 0, 0
    kind, level, ways, sets, shared = CACHES[subleaf]
    ids = 1 << _core_bits(processor)
    sharing = min(ids, 1 << 12) if shared else 1
    self_initializing = 1 << 8
    eax = kind | level << 5 | self_initializing | (sharing - 1) << 14 | (min(ids, 1 << 6) - 1) << 26
    return eax, (ways - 1) << 22 | _LINE_BYTES - 1, sets - 1, 0


def _topology(subleaf: int, processor: Processor) -> Registers:
    """Leaf 0xB: cores of one thread each, in one package."""
    if subleaf == 0:
        return 0, 1, subleaf | _SMT_LEVEL, processor.apic_id
    if subleaf == 1:
        return _core_bits(processor), processor.cpus, subleaf | _CORE_LEVEL, processor.apic_id
    return 0, 0, subleaf & 0xFF, processor.apic_id
