"""The CPU between two runs: where it stands, what it starts with, and how it enters a handler.

Keeps RIP and RFLAGS as they are for the guest; Unicorn's own RIP is only right while it runs.
"""

from __future__ import annotations

from mmap import mmap

from unicorn import x86_const as x86

from vlapic.machine.engine import FirstState
from vlapic.machine.loader import CODE_SELECTOR, DATA_SELECTOR
from vlapic.machine.unicorn import layout as hidden
from vlapic.machine.unicorn.binding import Cpu, Registers
from vlapic.machine.unicorn.exceptions import FLAG_IF, Entry, Event, State, deliver
from vlapic.machine.unicorn.instructions import MSR_EFER
from vlapic.machine.unicorn.paging import PAGE, PageFault, Paging

_CR0 = 0x8001_0033  # PG, WP, NE, ET, MP, PE
_CR0_WP = 1 << 16
_CR4 = 0x620  # OSXMMEXCPT, OSFXSR, PAE
_EFER = 0xD01  # NXE, LMA, LME, SCE
_FLAT = 0xFFFF_FFFF
_CODE_FLAGS, _DATA_FLAGS = 0x00AF_9B00, 0x00CF_9300  # bits 63 to 32 of a descriptor, without its address
_LONG_MODE = hidden.HF_CS64 | hidden.HF_CS32 | hidden.HF_SS32


class LeftLongMode(Exception):
    """The guest switched 64-bit mode off."""


class Processor:
    """One CPU with its memory.

    Attributes:
        rip, rflags: the guest's, between runs.
        operands: RFLAGS, RAX, RCX, RDX and CS where the CPU stopped.
        shadow_possible: whether STI or MOV SS may have been the instruction before.
    """

    def __init__(self, memory: mmap, first: FirstState) -> None:
        self.cpu = Cpu()
        self.cpu.map_ram(0, memory)
        self.paging = Paging(memory)
        self.rip = first.rip
        self.rflags = 2
        self.operands: list[int] = []
        self.shadow_possible = False
        self._stand = self._registers("RIP", "RFLAGS", "RAX", "RCX", "RDX", "CS")
        self._state = self._registers("RSP", "RFLAGS", "CS", "SS", "CR0", "CR3", "IDTR", "GDTR", "TR")
        self._stack = self._registers("RSP", "RFLAGS")
        self._pages = self._registers("CR0", "CR3")
        self._cr2 = self._registers("CR2")
        self._start_at(first)

    def _registers(self, *names: str) -> Registers:
        return Registers(self.cpu, [getattr(x86, f"UC_X86_REG_{name}") for name in names])

    def _start_at(self, first: FirstState) -> None:
        self._registers("CR4", "CR3").write(_CR4, first.cr3)
        self.cpu.write_msr(MSR_EFER, _EFER)
        gdtr, idtr = (0, first.gdt_base, first.gdt_limit), (0, 0, 0)
        self._registers("CR0", "GDTR", "IDTR").write(_CR0, *gdtr, *idtr)
        data = dict.fromkeys(("ds", "es", "ss", "fs", "gs"), (DATA_SELECTOR, 0, _FLAT, _DATA_FLAGS))
        code = (CODE_SELECTOR, 0, _FLAT, _CODE_FLAGS)
        self.cpu.load_segments({"cs": code, **data}, hidden.HF_CPL | hidden.HF_ADDSEG, _LONG_MODE)
        self._registers("RSP", "RDI", "RSI").write(first.rsp, first.rdi, first.rsi)

    def run(self) -> int:
        """Run from `rip` until something stops the CPU; Unicorn's error number, 0 for none."""
        try:
            return self.cpu.start(self.rip)
        finally:
            self.rip, *self.operands = self._stand.read()
            self.rflags = self.operands[0]

    # -- interrupts --

    def takes_interrupts(self) -> bool:
        """Whether IF is set and no shadow is open."""
        return bool(self.rflags & FLAG_IF) and not self.in_shadow()

    def in_shadow(self) -> bool:
        """Whether STI or MOV SS, the instruction before, holds interrupts off."""
        return self.shadow_possible and bool(self.cpu.hflags() & hidden.HF_INHIBIT_IRQ)

    def leave_shadow(self) -> None:
        """Something was completed by hand, or delivered: the shadow of what came before is over."""
        if self.shadow_possible:
            self.cpu.change_hflags(clear=hidden.HF_INHIBIT_IRQ)
            self.shadow_possible = False

    def open_shadow(self) -> None:
        """Make Unicorn run one instruction and look again, as it does in a shadow."""
        self.cpu.change_hflags(0, hidden.HF_INHIBIT_IRQ)

    def cr2(self) -> int:
        """The address of the last page fault."""
        return self._cr2.read()[0]

    def enter(self, event: Event) -> None:
        """Go to the guest's handler for an event.

        Raises:
            TripleFault: there is no way; nothing has changed but the shadow.
        """
        state = State(self.rip, *self._state.read())
        self.paging.use(state.cr3, bool(state.cr0 & _CR0_WP))
        self.leave_shadow()
        entry = deliver(state, self.paging, event)
        self._stack.write(entry.rsp, entry.rflags)
        if entry.cr2 is not None:
            self._cr2.write(entry.cr2)
        if entry.descriptor is not None:
            self._load_code_segment(entry, entry.descriptor, state.ss)
        self.rip, self.rflags = entry.rip, entry.rflags

    def _load_code_segment(self, entry: Entry, descriptor: int, ss_before: int) -> None:
        """Enter another code segment, of another privilege level perhaps."""
        cpl = entry.cs & 3
        segments = {"cs": (entry.cs, 0, _FLAT, descriptor >> 32 & 0xFF_FF00)}
        if entry.ss != ss_before:
            segments["ss"] = (entry.ss, 0, _FLAT, _DATA_FLAGS | cpl << 13)
        self.cpu.load_segments(segments, hidden.HF_CPL | hidden.HF_ADDSEG, _LONG_MODE | cpl)

    # -- code --

    def code_bits(self) -> int:
        """The size of code the CPU is in: 64, 32 or 16.

        Raises:
            LeftLongMode: neither 64-bit mode nor its compatibility mode.
        """
        flags = self.cpu.hflags()
        if not flags & hidden.HF_LMA:
            raise LeftLongMode
        if flags & hidden.HF_CS64:
            return 64
        return 32 if flags & hidden.HF_CS32 else 16

    def read_code(self, address: int, size: int) -> bytes:
        """Guest bytes at a virtual address, up to the first page that is not there."""
        cr0, cr3 = self._pages.read()
        self.paging.use(cr3, bool(cr0 & _CR0_WP))
        code = b""
        while len(code) < size:
            at = address + len(code)
            try:
                code += self.paging.read(at, min(size - len(code), PAGE - at % PAGE))
            except PageFault:
                break
        return code
