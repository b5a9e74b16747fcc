"""CPUID as a table: what the guest's processor says it is (SDM vol. 2A "CPUID")."""

from __future__ import annotations

import struct
from math import gcd
from typing import NamedTuple

Registers = tuple[int, int, int, int]

#: The crystal clock is the APIC timer's bus clock: 1 GHz.
CRYSTAL_HZ = 1_000_000_000

_VENDOR_EBX, _VENDOR_EDX, _VENDOR_ECX = struct.unpack("<3I", b"GenuineIntel")
# Leaf 1: family 6, model 0x55 (Skylake server), stepping 4.
_SIGNATURE = 0x0005_0654
_CLFLUSH_BYTES = 64
_APIC = 1 << 9
_1_ECX = 1 << 0 | 1 << 13 | 1 << 21 | 1 << 23 | 1 << 24 | 1 << 31
# SSE3, CMPXCHG16B, x2APIC, POPCNT, TSC-deadline, hypervisor
_1_EDX = (
    # FPU, PSE, TSC, MSR, PAE, CX8, SEP, PGE, CMOV, PAT, CLFLUSH, FXSR, SSE, SSE2, HTT
    1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 11 | 1 << 13
    | 1 << 15 | 1 << 16 | 1 << 19 | 1 << 24 | 1 << 25 | 1 << 26 | 1 << 28
)  # fmt: skip
_ARAT = 1 << 2
_TSC_ADJUST = 1 << 1
_EXTENDED_1_ECX = 1 << 0  # LAHF in 64-bit mode
_EXTENDED_1_EDX = (
    1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29
)  # SYSCALL, NX, 1 GiB pages, RDTSCP, long mode
_INVARIANT_TSC = 1 << 8
_MAX_BASIC, _MAX_EXTENDED = 0x15, 0x8000_0008
_ADDRESS_BITS = 40 | 48 << 8
_THREADS, _CORES = 1 << 8, 2 << 8


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


def cpuid(leaf: int, subleaf: int, processor: Processor) -> Registers:
    """EAX, EBX, ECX, EDX of a leaf; zeros for one that does not exist.

    Args:
        leaf, subleaf: EAX and ECX of the instruction, 32 bits.
    """
    if leaf == 0xB:
        return _topology(subleaf, processor)
    apic_id, cpus, tsc_khz, apic_enabled = processor
    common = gcd(tsc_khz, CRYSTAL_HZ // 1000)
    table: dict[int, Registers] = {
        0x0000_0000: (_MAX_BASIC, _VENDOR_EBX, _VENDOR_ECX, _VENDOR_EDX),
        0x0000_0001: (
            _SIGNATURE,
            apic_id << 24 | cpus << 16 | _CLFLUSH_BYTES // 8 << 8,
            _1_ECX,
            _1_EDX | (_APIC if apic_enabled else 0),
        ),
        0x0000_0006: (_ARAT, 0, 0, 0),
        0x0000_0007: (0, 0 if subleaf else _TSC_ADJUST, 0, 0),
        # TSC frequency = crystal * EBX / EAX, in lowest terms: some guests multiply in 32 bits.
        0x0000_0015: (CRYSTAL_HZ // 1000 // common, tsc_khz // common, CRYSTAL_HZ, 0),
        0x4000_0000: (0x4000_0000, *struct.unpack("<3I", b"vlapicvlapic")),
        0x8000_0000: (_MAX_EXTENDED, 0, 0, 0),
        0x8000_0001: (0, 0, _EXTENDED_1_ECX, _EXTENDED_1_EDX),
        0x8000_0007: (0, 0, 0, _INVARIANT_TSC),
        0x8000_0008: (_ADDRESS_BITS, 0, 0, 0),
    }
    return table.get(leaf, (0, 0, 0, 0))


def _topology(subleaf: int, processor: Processor) -> Registers:
    """Leaf 0xB: cores of one thread each, in one package."""
    if subleaf == 0:
        return 0, 1, subleaf | _THREADS, processor.apic_id
    if subleaf == 1:
        return (processor.cpus - 1).bit_length(), processor.cpus, subleaf | _CORES, processor.apic_id
    return 0, 0, subleaf & 0xFF, processor.apic_id
