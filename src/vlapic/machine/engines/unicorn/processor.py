# SPDX-License-Identifier: GPL-2.0-or-later
"""The CPU between two runs: where it stands, what it starts with, and how it enters a handler.

Keeps RIP as it is for the guest; Unicorn's own RIP is only right while it runs.
"""

from __future__ import annotations

from mmap import mmap

from unicorn import x86_const as x86

from vlapic.machine.engines.contract import CpuMode, FirstState
from vlapic.machine.engines.unicorn.binding import Cpu, Registers
from vlapic.machine.engines.unicorn.control import CR0_ET, CR0_PE
from vlapic.machine.engines.unicorn.decode import decoder
from vlapic.machine.engines.unicorn.events import DB, FLAG_IF, FLAG_RF, Event
from vlapic.machine.engines.unicorn.fast_entry import FastEntry
from vlapic.machine.engines.unicorn.gates import deliver
from vlapic.machine.engines.unicorn.layout import HF2_NMI, HF_CS32, HF_CS64, HF_INHIBIT_IRQ, HF_TF
from vlapic.machine.engines.unicorn.paging import CR0_PG, EFER_LMA, PAGE, PageFault, Paging
from vlapic.machine.engines.unicorn.state import Segment, Stand

# What a guest of 64-bit code starts with: PG, WP, NE, MP; OSXMMEXCPT, OSFXSR, PAE; NXE, LMA, LME, SCE.
_LONG = CR0_PG | 1 << 16 | 0x33, 0x620, 0xD01
_RESET_CR0 = 0x6000_0000 | CR0_ET
_FLAT = 0xFFFF_FFFF
_CODE_SELECTOR, _DATA_SELECTOR = 0x08, 0x10
# Bits 63 to 32 of descriptors, without the address: 64-bit code, 32-bit code, data; real mode's, LDT, TSS.
_CODE_64, _CODE_32, _DATA = 0x00AF_9B00, 0x00CF_9B00, 0x00CF_9300
_REAL_CODE, _REAL_DATA, _LDT, _TSS = 0x9B00, 0x9300, 0x8200, 0x8B00
_DATA_SEGMENTS = ("ds", "es", "ss", "fs", "gs")
_EDX_AT_RESET = 0x0005_0654
_RSP = 4
_MAX_INSTRUCTION = 15
_IRETS = ("iret", "iretd", "iretq")
_DR6_BS = 1 << 14
_DR6_AT_RESET, _DR7_AT_RESET = 0xFFFF_0FF0, 0x400


def following(stand: Stand, rip: int, length: int) -> int:
    """RIP behind an instruction, in the size of code that the CPU is in."""
    rip += length
    if not stand.hflags & HF_CS64:
        rip &= 0xFFFF_FFFF if stand.hflags & HF_CS32 else 0xFFFF
    return rip


class Processor:
    """One CPU with its memory.

    Attributes:
        rip: the guest's, between runs.
        eflags: the guest's, between runs; without arithmetic flags and DF.
        stand: the registers where the CPU stopped.
        ram_address: of its memory, on the host.
        shadow_possible: whether STI or MOV SS may have been the instruction before.
        waits: INIT has come, SIPI has not.
        trapped: the last run ended in the #DB that it was begun for (:meth:`begin_trap`).
    """

    def __init__(self, memory: mmap, first: FirstState) -> None:
        self.cpu = Cpu()
        self.state = self.cpu.state
        self.ram_address = self.cpu.map_ram(0, memory)
        self.paging = Paging(memory)
        self.shadow_possible = False
        self.waits = False
        self._dr6 = 0  # the guest's, while Unicorn traps
        self.trapped = False
        self._general = self._registers(
            *("RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI"),
            *(f"R{n}" for n in range(8, 16)),
            "RFLAGS",
        )
        self._control = self._registers("CR0", "CR4", "CR3")
        self._cr0 = self._registers("CR0")
        self._start_at(first)
        self._fast = FastEntry(self.state, self.paging, memory)
        self._look(first.rip)

    def _look(self, rip: int | None = None) -> None:
        """See where the CPU stands; at `rip`, if Unicorn does not know."""
        stand = self.stand = self.state.stand()
        self.eflags = stand.eflags
        self.rip = stand.rip if rip is None else rip

    def _registers(self, *names: str) -> Registers:
        return Registers(self.cpu, [getattr(x86, f"UC_X86_REG_{name}") for name in names])

    # -- states to start from --

    def _start_at(self, first: FirstState) -> None:
        self._set_general(rax=first.rax, rbx=first.rbx, rsp=first.rsp, rsi=first.rsi, rdi=first.rdi)
        self.state.load_table("idt", 0, 0)
        self.state.load_table("gdt", first.gdt_base, first.gdt_limit)
        if first.mode is CpuMode.LONG:
            cr0, cr4, efer = _LONG
            self._set_mode(cr0, first.cr3, cr4, efer)
            code = _CODE_64
        else:
            self._set_mode(CR0_PE | CR0_ET, 0, 0, 0)
            code = _CODE_32
        data = dict.fromkeys(_DATA_SEGMENTS, Segment(_DATA_SELECTOR, 0, _FLAT, _DATA))
        self.state.load_segments({"cs": Segment(_CODE_SELECTOR, 0, _FLAT, code), **data})

    def _set_general(
        self, rax: int = 0, rdx: int = 0, rbx: int = 0, rsp: int = 0, rsi: int = 0, rdi: int = 0
    ) -> None:
        self._general.write(rax, 0, rdx, rbx, rsp, 0, rsi, rdi, *(0,) * 8, 2)

    def _set_mode(self, cr0: int, cr3: int, cr4: int, efer: int) -> None:
        """Put the CPU in a mode, from whichever it is in; segments are to be loaded next."""
        self.state.set_efer(efer & ~EFER_LMA)
        self.state.change_hflags(HF_CS64)
        self._control.write(cr0 & ~CR0_PG, cr4, cr3)
        self._cr0.write(cr0)
        self.cpu.forget_pages()

    def reset(self) -> None:
        """INIT: the state of SDM vol. 3A "Processor State After Reset", without what INIT leaves alone."""
        state = self.state
        self._set_mode(_RESET_CR0, 0, 0, 0)
        self._set_general(rdx=_EDX_AT_RESET)
        data = dict.fromkeys(_DATA_SEGMENTS, Segment(0, 0, 0xFFFF, _REAL_DATA))
        tables = {"ldt": Segment(0, 0, 0xFFFF, _LDT), "tr": Segment(0, 0, 0xFFFF, _TSS)}
        state.load_segments({"cs": Segment(0xF000, 0xFFFF_0000, 0xFFFF, _REAL_CODE), **data, **tables})
        for table in ("gdt", "idt"):
            state.load_table(table, 0, 0xFFFF)
        state.set_cr2(0)
        for number in range(4):
            state.set_dr(number, 0)
        state.set_dr(6, _DR6_AT_RESET)
        state.set_dr(7, _DR7_AT_RESET)
        state.block_nmi(False)
        state.change_hflags(HF_INHIBIT_IRQ)
        self.shadow_possible = False
        self.waits = True
        self._look(0xFFF0)

    def startup(self, page: int) -> None:
        """SIPI: begin at a page of the first MiB."""
        self.state.load_segments({"cs": Segment(page << 8, page << 12, 0xFFFF, _REAL_CODE)})
        self.waits = False
        self._look(0)

    # -- running --

    def run(self) -> int:
        """Run from `rip` until something stops the CPU; Unicorn's error number, 0 for none."""
        try:
            return self.cpu.start(self.rip)
        finally:
            stand = self.stand = self.state.stand()
            self.rip, self.eflags = stand.rip, stand.eflags

    @property
    def address(self) -> int:
        """Where the CPU stands, as a linear address."""
        return self.rip + self.stand.cs_base

    def advance(self, length: int) -> None:
        """Go on behind an instruction that was carried out by hand."""
        self.rip = following(self.stand, self.rip, length)

    def skip(self, length: int) -> None:
        """In a hook of an instruction: go on behind it, which was carried out by hand."""
        stand = self.state.stand()
        self.cpu.jump(following(stand, stand.rip, length))

    def jump(self, rip: int) -> None:
        """Go on elsewhere, after registers were written by hand."""
        self._look(rip)

    # -- interrupts --

    @property
    def interrupts_enabled(self) -> bool:
        """RFLAGS.IF."""
        return bool(self.eflags & FLAG_IF)

    def takes_interrupts(self) -> bool:
        """Whether IF is set and no shadow is open."""
        return bool(self.eflags & FLAG_IF) and not self.in_shadow()

    def takes_nmi(self) -> bool:
        """Whether no NMI is being handled and no shadow is open."""
        return not self.state.hflags2() & HF2_NMI and not self.in_shadow()

    def block_nmi(self) -> None:
        """An NMI is about to be delivered: no other one until an IRET."""
        self.state.block_nmi(True)

    def note_single_step(self) -> None:
        """Tell in DR6 that the #DB to come is a single step's."""
        self.state.set_dr(6, self.state.dr(6) | _DR6_BS)

    def begin_trap(self) -> None:
        """Make Unicorn raise #DB behind the next instruction; the guest's RFLAGS.TF stays as it is."""
        dr6 = self._dr6 = self.state.dr(6)
        if dr6 & _DR6_BS:
            self.state.set_dr(6, dr6 & ~_DR6_BS)
        self.state.change_hflags(0, HF_TF)

    def end_trap(self) -> bool:
        """After a run: undo what :meth:`begin_trap` has done; whether it came to the #DB."""
        state = self.state
        dr6 = state.dr(6)
        if dr6 != self._dr6:
            state.set_dr(6, self._dr6)
        state.change_hflags(HF_TF)
        trapped = bool(dr6 & _DR6_BS)
        if trapped:
            state.take_exception()
        return trapped

    def in_shadow(self) -> bool:
        """Whether STI or MOV SS, the instruction before, holds interrupts off."""
        return self.shadow_possible and bool(self.state.hflags() & HF_INHIBIT_IRQ)

    def leave_shadow(self) -> None:
        """Something was completed by hand, or delivered: the shadow of what came before is over."""
        if self.shadow_possible:
            self.state.change_hflags(clear=HF_INHIBIT_IRQ)
            self.shadow_possible = False

    def open_shadow(self) -> None:
        """Make Unicorn run one instruction and look again, as it does in a shadow."""
        self.state.change_hflags(0, HF_INHIBIT_IRQ)
        self.shadow_possible = True

    def clear_resume(self) -> None:
        """An instruction was completed by hand: RFLAGS.RF is over."""
        self.eflags &= ~FLAG_RF
        self.state.set_stack(self.state.register(_RSP), self.eflags)

    def enter(self, event: Event) -> None:
        """Go to the guest's handler for an event.

        Raises:
            TripleFault: there is no way; nothing has changed but the shadow.
        """
        state = self.state
        self.leave_shadow()
        system = state.system()
        self.paging.use(system.cr0, system.cr3, system.cr4, system.efer)
        own_fault = not (event.external or event.software or event.vector == DB)
        if own_fault and state.hflags2() & HF2_NMI and self._stands_at_iret():
            state.block_nmi(False)
        entry = deliver(system, self.paging, event, self.rip, state.rflags())
        state.set_stack(entry.rsp, system.eflags & ~entry.clear)
        if entry.cr2 is not None:
            state.set_cr2(entry.cr2)
        if entry.cs is not None:
            state.load_segments({"cs": entry.cs} if entry.ss is None else {"cs": entry.cs, "ss": entry.ss})
        self._look(entry.rip)
        if event.external:
            self._fast.learn(event.vector, system, entry)

    def _stands_at_iret(self) -> bool:
        """Whether the instruction is an IRET; one that faults lets NMIs in again too.

        SDM vol. 3C "Changes to Instruction Behavior in VMX Non-Root Operation", "IRET". Unicorn waits for one
        that completes.
        """
        code = self.read_code(self.address, _MAX_INSTRUCTION)
        lines = decoder(self.code_bits(), False).disasm_lite(code, self.address, 1)
        return any(mnemonic in _IRETS for _, _, mnemonic, _ in lines)

    def interrupt(self, vector: int) -> None:
        """Go to the guest's handler for a vector from outside.

        Raises:
            TripleFault: as :meth:`enter`.
        """
        if self.shadow_possible:
            self.leave_shadow()
        entered = self._fast.enter(vector, self.rip)
        if entered is None:
            self.enter(Event(vector, external=True))
        else:
            self.rip, self.eflags = entered

    def interrupt_at_once(self, vector: int, rip: int) -> bool:
        """In a hook: go from `rip` to the guest's handler; False: nothing done, it is not the common way."""
        entered = self._fast.enter(vector, rip)
        if entered is None:
            return False
        self.cpu.jump(entered[0])
        return True

    # -- code --

    def code_bits(self) -> int:
        """The size of code the CPU is in: 64, 32 or 16."""
        flags = self.state.hflags()
        if flags & HF_CS64:
            return 64
        return 32 if flags & HF_CS32 else 16

    def read_code(self, address: int, size: int) -> bytes:
        """Guest bytes at a linear address, up to the first page that is not there."""
        state = self.state
        self.paging.use(state.cr(0), state.cr(3), state.cr(4), state.efer())
        code = b""
        while len(code) < size:
            at = address + len(code)
            try:
                code += self.paging.read(at, min(size - len(code), PAGE - at % PAGE))
            except PageFault:
                break
        return code

    def physical(self, address: int, size: int) -> list[tuple[int, int]]:
        """Where the code at a linear address stands in physical memory: (address, size), a page each."""
        state = self.state
        self.paging.use(state.cr(0), state.cr(3), state.cr(4), state.efer())
        parts = []
        while size > 0:
            length = min(size, PAGE - address % PAGE)
            try:
                parts.append((self.paging.translate(address), length))
            except PageFault:
                break
            address, size = address + length, size - length
        return parts
