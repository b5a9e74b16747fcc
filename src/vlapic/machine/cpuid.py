"""CPUID as a table: what the guest's processor says it is (SDM vol. 2A "CPUID")."""

from __future__ import annotations

import struct

Registers = tuple[int, int, int, int]

_VENDOR_EBX, _VENDOR_EDX, _VENDOR_ECX = struct.unpack("<3I", b"GenuineIntel")
# Leaf 1: family 6, model 0x55 (Skylake server), stepping 4.
_SIGNATURE = 0x0005_0654
_1_ECX = 1 << 0 | 1 << 21 | 1 << 23 | 1 << 24 | 1 << 31  # SSE3, x2APIC, POPCNT, TSC-deadline, hypervisor
_1_EDX = (
    # FPU, PSE, TSC, MSR, PAE, CX8, APIC, PGE, CMOV, PAT, CLFLUSH, FXSR, SSE, SSE2
    1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 13
    | 1 << 15 | 1 << 16 | 1 << 19 | 1 << 24 | 1 << 25 | 1 << 26
)  # fmt: skip
_ARAT = 1 << 2
_EXTENDED_1_ECX = 1 << 0  # LAHF in 64-bit mode
_EXTENDED_1_EDX = (
    1 << 11 | 1 << 20 | 1 << 26 | 1 << 27 | 1 << 29
)  # SYSCALL, NX, 1 GiB pages, RDTSCP, long mode
_INVARIANT_TSC = 1 << 8
_TSC_ADJUST = 1 << 1
_MAX_BASIC, _MAX_EXTENDED = 7, 0x8000_0008
_ADDRESS_BITS = 40 | 48 << 8


def cpuid(leaf: int, subleaf: int, apic_id: int) -> Registers:
    """EAX, EBX, ECX, EDX of a leaf; zeros for one that does not exist.

    Args:
        leaf, subleaf: EAX and ECX of the instruction, 32 bits.
        apic_id: the vCPU's initial APIC ID.
    """
    table: dict[int, Registers] = {
        0x0000_0000: (_MAX_BASIC, _VENDOR_EBX, _VENDOR_ECX, _VENDOR_EDX),
        0x0000_0001: (_SIGNATURE, apic_id << 24 | 1 << 16 | 8 << 8, _1_ECX, _1_EDX),
        0x0000_0006: (_ARAT, 0, 0, 0),
        0x0000_0007: (0, 0 if subleaf else _TSC_ADJUST, 0, 0),
        0x4000_0000: (0x4000_0000, *struct.unpack("<3I", b"vlapicvlapic")),
        0x8000_0000: (_MAX_EXTENDED, 0, 0, 0),
        0x8000_0001: (0, 0, _EXTENDED_1_ECX, _EXTENDED_1_EDX),
        0x8000_0007: (0, 0, 0, _INVARIANT_TSC),
        0x8000_0008: (_ADDRESS_BITS, 0, 0, 0),
    }
    return table.get(leaf, (0, 0, 0, 0))
