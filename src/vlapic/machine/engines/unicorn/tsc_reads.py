# SPDX-License-Identifier: GPL-2.0-or-later
"""RDTSC and RDTSCP: the guest's TSC, exact to the instruction in the middle of a block.

Unicorn asks in a callback before it runs one, with RIP right. Where CR4.TSD forbids the instruction it is
left to Unicorn, which faults it.
"""

from __future__ import annotations

from unicorn import unicorn_const as uc
from unicorn import x86_const as x86

from vlapic.machine.engines.unicorn.binding import Cpu, InstructionCallback
from vlapic.machine.engines.unicorn.blocks import Blocks
from vlapic.machine.engines.unicorn.layout import HF_CPL
from vlapic.machine.engines.unicorn.msrs import MSR_TSC_AUX
from vlapic.tsc import GuestTsc

_CR4_TSD = 1 << 2
_RCX = 1


class TscReads:
    """Answers one CPU's RDTSC and RDTSCP.

    Attributes:
        zero_tsc: host TSC at instruction 0, were they all as long.
    """

    def __init__(self, cpu: Cpu, blocks: Blocks, tsc: GuestTsc, cycles_per_insn: int) -> None:
        self._cpu = cpu
        self._state = cpu.state
        self._blocks = blocks
        self._tsc = tsc
        self._cycles_per_insn = cycles_per_insn
        self.zero_tsc = 0
        for instruction, callback in (
            (x86.UC_X86_INS_RDTSC, self._on_rdtsc),
            (x86.UC_X86_INS_RDTSCP, self._on_rdtscp),
        ):
            cpu.hook(uc.UC_HOOK_INSN, InstructionCallback(callback), instruction=instruction)

    def _on_rdtsc(self, _cpu: int, _data: int) -> int:
        state = self._state
        stand = state.stand()
        if stand.hflags & HF_CPL and state.cr(4) & _CR4_TSD:
            return 0
        count = self._blocks.count_at(stand.cs_base + stand.rip)
        value = self._tsc.at(self.zero_tsc + self._cycles_per_insn * count)
        state.set_pair(value & 0xFFFF_FFFF, value >> 32)
        return 1

    def _on_rdtscp(self, _cpu: int, _data: int) -> int:
        if not self._on_rdtsc(_cpu, _data):
            return 0
        self._state.set_register(_RCX, self._cpu.read_msr(MSR_TSC_AUX))
        return 1
