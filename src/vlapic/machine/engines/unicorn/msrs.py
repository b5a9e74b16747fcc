# SPDX-License-Identifier: GPL-2.0-or-later
"""The model-specific registers that are the CPU's alone and never reach the machine.

RDMSR and WRMSR after SDM vol. 4, with the checks that Unicorn leaves out.
"""

from __future__ import annotations

from collections.abc import Callable

from vlapic.machine.engines.unicorn.binding import Cpu
from vlapic.machine.engines.unicorn.paging import CR0_PG, EFER_LMA, EFER_NXE, is_canonical

MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP, MSR_PAT = 0x174, 0x175, 0x176, 0x277
MSR_EFER = 0xC000_0080
MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_SFMASK = 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084
MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_TSC_AUX = 0xC000_0100, 0xC000_0101, 0xC000_0102, 0xC000_0103

#: MSRs that never reach the machine: Unicorn has them.
NATIVE_MSRS = frozenset(
    {
        *(MSR_EFER, MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_SFMASK),
        *(MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_TSC_AUX),
        *(MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP, MSR_PAT),
    }
)
#: MSRs that Unicorn's own WRMSR ignores, so that it can be let to: the deadline, and the x2APIC's.
UNICORN_IGNORES = frozenset({0x6E0, *range(0x800, 0x900)})
_ADDRESSES = frozenset(
    {MSR_LSTAR, MSR_CSTAR, MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP}
)
_32_BITS = frozenset({MSR_TSC_AUX, MSR_SFMASK})
EFER_SCE, _EFER_LME = 1 << 0, 1 << 8
_PAT_TYPES = frozenset({0, 1, 4, 5, 6, 7})
_PAT_AT_RESET = 0x0007_0406_0007_0406


class OwnMsrs:
    """One CPU's own MSRs."""

    def __init__(self, cpu: Cpu, remapped: Callable[[], None]) -> None:
        """Use a CPU's MSRs; `remapped` is called when addresses may stand for something else."""
        self._cpu = cpu
        self._remapped = remapped
        cpu.write_msr(MSR_PAT, _PAT_AT_RESET)

    def read(self, msr: int) -> int:
        """RDMSR of one of NATIVE_MSRS."""
        return self._cpu.state.efer() if msr == MSR_EFER else self._cpu.read_msr(msr)

    def write(self, msr: int, value: int) -> bool:
        """WRMSR of one of NATIVE_MSRS; False if the value is one that makes it #GP."""
        if msr == MSR_EFER:
            return self._write_efer(value)
        if msr in _ADDRESSES and not is_canonical(value):
            return False
        if msr in _32_BITS and value >> 32:
            return False
        if msr == MSR_PAT and not _PAT_TYPES.issuperset(value.to_bytes(8, "little")):
            return False
        self._cpu.write_msr(msr, value)
        if msr in (MSR_FS_BASE, MSR_GS_BASE):
            self._cpu.state.keep_base("fs" if msr == MSR_FS_BASE else "gs")
        return True

    def _write_efer(self, value: int) -> bool:
        state = self._cpu.state
        now = state.efer()
        if value & ~(EFER_SCE | _EFER_LME | EFER_LMA | EFER_NXE):
            return False
        if (value ^ now) & _EFER_LME and state.cr(0) & CR0_PG:
            return False
        state.set_efer(value & ~EFER_LMA | now & EFER_LMA)
        if (value ^ now) & EFER_NXE:
            self._cpu.forget_pages()
            self._remapped()
        return True
