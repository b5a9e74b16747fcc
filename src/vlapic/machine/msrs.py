# SPDX-License-Identifier: GPL-2.0-or-later
"""The model-specific registers of a guest, as a table: what a read gives, what a write does.

Follows `kvm/x86.c: kvm_get_msr_common, kvm_set_msr_common, get_msr_mce, set_msr_mce`, `kvm/mtrr.c:
kvm_mtrr_set_msr` and `kvm/vmx/vmx.c: vmx_get_msr, vmx_set_msr` of Linux v6.19, with the CPUID that `cpuid.py`
gives. What KVM has whatever CPUID says is here, AMD's registers that it answers on Intel's processors among
them, because kernels read them without asking first.

`ROWS` are the machine's own. They keep what is written to them, over INIT too, and that is all: memory has
one type, there is no machine check and no performance counter. Only MISC_FEATURES_ENABLES does something:
CPUID faults outside CPL 0. `APIC_ROWS` tells of the local APIC's and the TSC's, `CPU_ROWS` of those that the
emulated CPU keeps to itself, `ABSENT` of what is #GP here and not in KVM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from vlapic.apic.registers import GeneralProtection
from vlapic.machine.cpuid import PHYSICAL_ADDRESS_BITS
from vlapic.tsc import U64

MSR_IA32_TSC, MSR_IA32_TSC_ADJUST = 0x10, 0x3B
MSR_MISC_FEATURES_ENABLES = 0x140

_MTRR_TYPES = frozenset({0, 1, 4, 5, 6})
#: Variable MTRRs, and banks of machine checks (`KVM_NR_VAR_MTRR`, `KVM_MAX_MCE_BANKS`).
_VARIABLE_MTRRS, _MC_BANKS = 8, 32
_PHYSICAL = (1 << PHYSICAL_ADDRESS_BITS) - 1
_PMU_READ_ONLY = 3 << 11  # IA32_MISC_ENABLE: no BTS, no PEBS


class Msr(NamedTuple):
    """A register, or several of one kind.

    Attributes:
        number: of the first.
        name: as the SDM or the AMD64 manual has it.
        reset: the value at power-up; None: a read is #GP.
        keeps: bits that a write sets and clears; None: a write is #GP.
        drops: bits that a write may have set, to no effect. Any other bit is #GP.
        allows: what else must hold of (value now, value written), or a write is #GP.
        rule: the same in words.
        repeat, step: how many there are, and how far apart their numbers are.
    """

    number: int
    name: str
    reset: int | None = 0
    keeps: int | None = None
    drops: int = 0
    allows: Callable[[int, int], bool] | None = None
    rule: str = ""
    repeat: int = 1
    step: int = 1

    def numbers(self) -> range:
        """The number of each."""
        return range(self.number, self.number + self.repeat * self.step, self.step)


def _mtrr_type(now: int, value: int) -> bool:
    return value & 0xFF in _MTRR_TYPES


def _mtrr_types(now: int, value: int) -> bool:
    return _MTRR_TYPES.issuperset(value.to_bytes(8, "little"))


def _mc_control(now: int, value: int) -> bool:
    return value == 0 or value | 1 << 10 | 1 == U64


def _not_locked(now: int, value: int) -> bool:
    return not now & 1


def _pmu_bits_as_they_are(now: int, value: int) -> bool:
    return not (now ^ value) & _PMU_READ_ONLY


_TYPE = "its type is 0, 1, 4, 5 or 6"
_TYPES = "each byte is 0, 1, 4, 5 or 6"

ROWS = (
    Msr(0x0, "IA32_P5_MC_ADDR"),
    Msr(0x1, "IA32_P5_MC_TYPE"),
    Msr(0x17, "IA32_PLATFORM_ID"),
    Msr(0x2A, "EBL_CR_POWERON"),
    Msr(0x2C, "EBC_FREQUENCY_ID", 1 << 24),
    Msr(0x34, "SMI_COUNT"),
    Msr(0x3A, "IA32_FEATURE_CONTROL", 0, 1, 0, _not_locked, "until it is locked (bit 0)"),
    Msr(0x79, "IA32_BIOS_UPDT_TRIG", None, 0, U64),
    Msr(0x8B, "IA32_BIOS_SIGN_ID", 1 << 32, 0, U64),
    Msr(0xC1, "IA32_PMC0, 1", 0, 0, U64, repeat=2),
    Msr(0xCD, "FSB_FREQ", 3),
    Msr(0xCE, "PLATFORM_INFO", 1 << 31),
    Msr(0xFE, "IA32_MTRRCAP", 0x500 | _VARIABLE_MTRRS),
    Msr(0x11E, "BBL_CR_CTL3", 0xBE70_2111, 0, U64),
    Msr(MSR_MISC_FEATURES_ENABLES, "MISC_FEATURES_ENABLES", 0, 1),
    Msr(0x179, "IA32_MCG_CAP", _MC_BANKS),
    Msr(0x17A, "IA32_MCG_STATUS", 0, U64),
    Msr(0x186, "IA32_PERFEVTSEL0, 1", 0, 0, U64, repeat=2),
    Msr(0x198, "IA32_PERF_STATUS", 4 << 40 | 1000),
    Msr(0x199, "IA32_PERF_CTL"),
    Msr(
        0x1A0,
        "IA32_MISC_ENABLE",
        0x1801,
        U64 & ~(_PMU_READ_ONLY | 1 << 7),
        _PMU_READ_ONLY | 1 << 7,
        _pmu_bits_as_they_are,
        "bits 11 and 12 are as they are",
    ),
    Msr(0x1D9, "IA32_DEBUGCTL", 0, 0, 3),
    Msr(0x1DB, "LASTBRANCHFROMIP to LASTINTTOIP", repeat=4),
    Msr(0x1FC, "POWER_CTL", 0, U64),
    Msr(0x200, "IA32_MTRR_PHYSBASE0 to 7", 0, _PHYSICAL & ~0xF00, 0, _mtrr_type, _TYPE, _VARIABLE_MTRRS, 2),
    Msr(0x201, "IA32_MTRR_PHYSMASK0 to 7", 0, _PHYSICAL & ~0x7FF, repeat=_VARIABLE_MTRRS, step=2),
    Msr(0x250, "IA32_MTRR_FIX64K_00000", 0, U64, 0, _mtrr_types, _TYPES),
    Msr(0x258, "IA32_MTRR_FIX16K_80000, A0000", 0, U64, 0, _mtrr_types, _TYPES, 2),
    Msr(0x268, "IA32_MTRR_FIX4K_C0000 to F8000", 0, U64, 0, _mtrr_types, _TYPES, 8),
    Msr(0x2FF, "IA32_MTRR_DEF_TYPE", 0, 0xCFF, 0, _mtrr_type, _TYPE),
    Msr(
        0x400,
        "IA32_MC0_CTL to IA32_MC31_CTL",
        0,
        U64,
        0,
        _mc_control,
        "0, or all ones but for bits 0 and 10",
        _MC_BANKS,
        4,
    ),
    Msr(0x401, "IA32_MC0_STATUS to IA32_MC31_STATUS", 0, 0, repeat=_MC_BANKS, step=4),
    Msr(0x402, "IA32_MC0_ADDR to IA32_MC31_ADDR", 0, U64, repeat=_MC_BANKS, step=4),
    Msr(0x403, "IA32_MC0_MISC to IA32_MC31_MISC", 0, U64, repeat=_MC_BANKS, step=4),
    Msr(0x606, "RAPL_POWER_UNIT"),
    Msr(0x611, "PKG_ENERGY_STATUS"),
    Msr(0x619, "DRAM_ENERGY_STATUS"),
    Msr(0x639, "PP0_ENERGY_STATUS"),
    Msr(0x641, "PP1_ENERGY_STATUS"),
    Msr(0xC001_0000, "K7_EVNTSEL0 to 3", 0, 0, U64, repeat=4),
    Msr(0xC001_0004, "K7_PERFCTR0 to 3", 0, 0, U64, repeat=4),
    Msr(0xC001_0010, "SYSCFG"),
    Msr(0xC001_0015, "HWCR", 0, 1 << 18 | 1 << 24, 0x148),
    Msr(0xC001_001B, "K7_CLK_CTL", 0x2000_0000, 0, U64),
    Msr(0xC001_001F, "NB_CFG", 0, 0, U64),
    Msr(0xC001_0020, "PATCH_LOADER", None, 0, U64),
    Msr(0xC001_0055, "INT_PENDING_MSG"),
    Msr(0xC001_0058, "MMIO_CONF_BASE", 0, 0),
    Msr(0xC001_0112, "TSEG_ADDR"),
    Msr(0xC001_0113, "TSEG_MASK"),
    Msr(0xC001_0117, "VM_HSAVE_PA", 0, 0, U64),
    Msr(0xC001_1022, "DC_CFG", 0, 0, U64),
    Msr(0xC001_1023, "TW_CFG", 0, 0, U64),
    Msr(0xC001_102A, "BU_CFG2", 0, 0, U64),
    Msr(0xC001_102C, "EX_CFG", 0, 0, U64),
)

#: Each of `ROWS` by the number of each of its registers.
MSRS = {number: row for row in ROWS for number in row.numbers()}


class Told(NamedTuple):
    """Registers that are another part's, for the page: their numbers, names, and what is to be known."""

    numbers: str
    names: str
    what: str


APIC_ROWS = (
    Told("0x10", "IA32_TIME_STAMP_COUNTER", "the guest's TSC; a write moves it and IA32_TSC_ADJUST"),
    Told("0x1b", "IA32_APIC_BASE", "the local APIC's mode and address"),
    Told("0x3b", "IA32_TSC_ADJUST", "a write moves the TSC"),
    Told("0x6e0", "IA32_TSC_DEADLINE", "the timer's deadline; 0 outside TSC-deadline mode"),
    Told("0x800 to 0x8ff", "x2APIC", "the local APIC's registers in x2APIC mode, else #GP"),
)

CPU_ROWS = (
    Told("0x174", "IA32_SYSENTER_CS", ""),
    Told("0x175, 0x176", "IA32_SYSENTER_ESP, EIP", "a canonical address"),
    Told("0x277", "IA32_PAT", "0x7040600070406 at power-up; each byte is 0, 1, 4, 5, 6 or 7"),
    Told("0xc0000080", "IA32_EFER", "SCE, LME, LMA and NXE; LME as it is while paging is on"),
    Told("0xc0000081", "IA32_STAR", ""),
    Told("0xc0000082, 0xc0000083", "IA32_LSTAR, CSTAR", "a canonical address"),
    Told("0xc0000084", "IA32_FMASK", "32 bits"),
    Told("0xc0000100 to 0xc0000102", "IA32_FS_BASE, GS_BASE, KERNEL_GS_BASE", "a canonical address"),
    Told("0xc0000103", "IA32_TSC_AUX", "32 bits"),
)

ABSENT = (
    Told(
        "0x11, 0x12, 0x4b564d00, 0x4b564d01",
        "KVM's clock",
        "CPUID names another hypervisor; a guest reads the TSC, whose frequency CPUID gives",
    ),
    Told(
        "0x4b564d02 to 0x4b564d07",
        "KVM's asynchronous page faults, steal time, EOI in memory, halt polling",
        "CPUID does not name them, and the machine does nothing of the kind",
    ),
)


class Msrs:
    """The values of one vCPU's `ROWS`."""

    def __init__(self) -> None:
        self._values: dict[int, int] = {}

    def read(self, msr: int) -> int:
        """RDMSR of one of `MSRS`.

        Raises:
            GeneralProtection: it can only be written.
        """
        reset = MSRS[msr].reset
        if reset is None:
            raise GeneralProtection
        return self._values.get(msr, reset)

    def write(self, msr: int, value: int) -> None:
        """WRMSR of one of `MSRS`.

        Raises:
            GeneralProtection: it can only be read, or `value` (64 bits) is one that it does not take.
        """
        row = MSRS[msr]
        now = self._values.get(msr, row.reset or 0)
        if row.keeps is None or value & ~(row.keeps | row.drops):
            raise GeneralProtection
        if row.allows is not None and not row.allows(now, value):
            raise GeneralProtection
        self._values[msr] = value & row.keeps | now & ~row.keeps

    @property
    def cpuid_faults(self) -> bool:
        """Whether CPUID is #GP outside CPL 0 (`kvm/cpuid.c: kvm_emulate_cpuid`)."""
        return bool(self._values.get(MSR_MISC_FEATURES_ENABLES, 0) & 1)
