# SPDX-License-Identifier: GPL-2.0-or-later
"""SYSCALL and SYSENTER, which Unicorn leaves to hooks: they enter the kernel by MSRs, without a table.

Follows SDM vol. 2 and, for SYSCALL outside 64-bit mode, AMD's manual vol. 3: in compatibility mode it goes to
CSTAR, whatever CPUID says of the vendor. Their ways back, SYSRET and SYSEXIT, Unicorn does itself.
"""

from __future__ import annotations

from vlapic.machine.engines.unicorn.events import FLAG_IF, FLAG_RF, FLAG_VM, GP, UD
from vlapic.machine.engines.unicorn.layout import HF_CS64, HF_LMA, HF_PE
from vlapic.machine.engines.unicorn.msrs import (
    EFER_SCE,
    MSR_CSTAR,
    MSR_LSTAR,
    MSR_SFMASK,
    MSR_STAR,
    MSR_SYSENTER_CS,
    MSR_SYSENTER_EIP,
    MSR_SYSENTER_ESP,
    OwnMsrs,
)
from vlapic.machine.engines.unicorn.state import CpuState, Segment, Stand

_RCX, _RSP, _R11 = 1, 4, 11
_FLAT, _U32 = 0xFFFF_FFFF, 0xFFFF_FFFF
_CODE_64, _CODE_32, _DATA = 0x00AF_9B00, 0x00CF_9B00, 0x00CF_9300


class SystemCalls:
    """One CPU's entries by MSRs. Each gives RIP afterwards, or the negated vector of the fault it is."""

    def __init__(self, state: CpuState, msrs: OwnMsrs) -> None:
        self._state = state
        self._msrs = msrs

    def syscall(self, stand: Stand, after: int) -> int:
        """SYSCALL; `after` is RIP behind it."""
        state, msrs = self._state, self._msrs
        if not state.efer() & EFER_SCE or not stand.hflags & HF_PE:
            return -UD
        star = msrs.read(MSR_STAR)
        flags = state.rflags()
        if stand.hflags & HF_LMA:
            state.set_register(_RCX, after)
            state.set_register(_R11, flags & ~FLAG_RF)
            target = msrs.read(MSR_LSTAR if stand.hflags & HF_CS64 else MSR_CSTAR)
            flags &= ~msrs.read(MSR_SFMASK) & ~FLAG_RF
            code = _CODE_64
        else:
            state.set_register(_RCX, after & _U32)
            target = star & _U32
            flags &= ~(FLAG_IF | FLAG_VM | FLAG_RF)
            code = _CODE_32
        self._load(star >> 32 & 0xFFFC, code)
        state.set_rflags(flags)
        return target

    def sysenter(self, stand: Stand) -> int:
        """SYSENTER."""
        state, msrs = self._state, self._msrs
        selector = msrs.read(MSR_SYSENTER_CS) & 0xFFFC
        if not selector or not stand.hflags & HF_PE:
            return -GP
        long_mode = stand.hflags & HF_LMA
        mask = 2**64 - 1 if long_mode else _U32
        state.set_register(_RSP, msrs.read(MSR_SYSENTER_ESP) & mask)
        self._load(selector, _CODE_64 if long_mode else _CODE_32)
        state.set_rflags(state.rflags() & ~(FLAG_IF | FLAG_VM | FLAG_RF))
        return msrs.read(MSR_SYSENTER_EIP) & mask

    def _load(self, selector: int, code: int) -> None:
        stack = Segment(selector + 8 & 0xFFFF, 0, _FLAT, _DATA)
        self._state.load_segments({"cs": Segment(selector, 0, _FLAT, code), "ss": stack})
