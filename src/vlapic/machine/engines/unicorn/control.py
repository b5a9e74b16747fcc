# SPDX-License-Identifier: GPL-2.0-or-later
"""MOV to CR0 and CR4, with the checks of SDM vol. 2 "MOV—Move to/from Control Registers".

Unicorn takes any value. Written by register number, it does what follows from a legal one: it switches
paging, and 64-bit mode with it.
"""

from __future__ import annotations

from collections.abc import Callable

from unicorn import x86_const as x86

from vlapic.machine.engines.unicorn.binding import Cpu, Registers
from vlapic.machine.engines.unicorn.layout import HF_CS64
from vlapic.machine.engines.unicorn.paging import CR0_PG, CR4_PAE, EFER_LMA

CR0_PE, CR0_ET = 1 << 0, 1 << 4
_CR0_NW, _CR0_CD = 1 << 29, 1 << 30
_CR0_KNOWN = 0xE005_003F
#: VME, PVI, TSD, DE, PSE, PAE, MCE, PGE, PCE, OSFXSR, OSXMMEXCPT: what CPUID does not say is reserved.
_CR4_KNOWN = 0x7FF
_EFER_LME = 1 << 8


class Control:
    """The control registers of one CPU."""

    def __init__(self, cpu: Cpu, remapped: Callable[[], None]) -> None:
        """Write a CPU's registers; `remapped` is called when addresses may stand for something else."""
        self._state = cpu.state
        self._remapped = remapped
        self._cr0 = Registers(cpu, (x86.UC_X86_REG_CR0,))
        self._cr4 = Registers(cpu, (x86.UC_X86_REG_CR4,))

    def write_cr0(self, value: int) -> bool:
        """MOV CR0; False if the value is one that makes it #GP."""
        state, before = self._state, self._state.cr(0)
        efer = state.efer()
        if (
            value >> 32
            or (value & CR0_PG and not value & CR0_PE)
            or (value & _CR0_NW and not value & _CR0_CD)
        ):
            return False
        is_64 = bool(state.hflags() & HF_CS64)
        if (value ^ before) & CR0_PG:
            if is_64:
                return False
            if value & CR0_PG and efer & _EFER_LME and not state.cr(4) & CR4_PAE:
                return False
        self._cr0.write(value & _CR0_KNOWN | CR0_ET)
        self._remapped()
        return True

    def write_cr4(self, value: int) -> bool:
        """MOV CR4; False if the value is one that makes it #GP."""
        if value & ~_CR4_KNOWN or (self._state.efer() & EFER_LMA and not value & CR4_PAE):
            return False
        self._cr4.write(value)
        self._remapped()
        return True
