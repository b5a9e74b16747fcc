# SPDX-License-Identifier: GPL-2.0-or-later
"""A CPU's state as Unicorn holds it: the registers in one piece of memory, and what has no register number.

The shadow of STI and MOV SS, NMI blocking, the cached descriptors of segments, the error code of an
exception: none of them can be had by register number. They are read and written here, at the offsets of
`layout.py`: in the CPU's own memory, where machine code has found it (`blocks.S`), else in the copy that
`uc_context_save` makes and `uc_context_restore` puts back.

Everything here is right while the CPU stands; in a callback, the general registers and RIP are.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from typing import NamedTuple

from vlapic.machine.engines.unicorn import layout as at

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_SEGMENT = struct.Struct("<I4xQII")  # SegmentCache: selector, base, limit, flags
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr", "gdt", "idt")

_RAX, _RDX = 0, 2
FLAG_DF = 1 << 10
ARITHMETIC = 0x8D5  # OF, SF, ZF, AF, PF, CF: kept elsewhere while instructions run
#: Flags that the state's RFLAGS has between runs; in a hook, it may have them as they were at another hook.
ELSEWHERE = ARITHMETIC | FLAG_DF
CC_OP_EFLAGS = 1  # all of them are in cc_src

# Bits of a segment's flags: bits 63 to 32 of its descriptor.
DESC_L = 1 << 21
DESC_B = 1 << 22
_DPL_3 = 3 << 13


class Segment(NamedTuple):
    """A segment register with its cached descriptor; `flags` are the descriptor's bits 63 to 32."""

    selector: int
    base: int
    limit: int
    flags: int


class Stand(NamedTuple):
    """Where a CPU stopped. `eflags` is RFLAGS between runs; in a hook without ELSEWHERE."""

    rax: int
    rcx: int
    rdx: int
    rip: int
    eflags: int
    hflags: int
    cs: int
    cs_base: int


class System(NamedTuple):
    """The registers that a delivery reads; `eflags` as in :class:`Stand`."""

    rsp: int
    eflags: int
    hflags: int
    cs: int
    ss: int
    ss_base: int
    ss_flags: int
    ldt: int
    ldt_base: int
    ldt_limit: int
    tr: int
    tss_base: int
    tss_limit: int
    tss_flags: int
    gdt_base: int
    gdt_limit: int
    idt_base: int
    idt_limit: int
    cr0: int
    cr3: int
    cr4: int
    efer: int


def reader(fields: dict[int, str]) -> struct.Struct:
    """A structure that reads fields (offset: format) from a state and passes over what lies between."""
    layout, end = "<", 0
    for offset, form in sorted(fields.items()):
        layout += f"{offset - end}x{form}"
        end = offset + struct.calcsize(f"<{form}")
    return struct.Struct(layout)


def place(name: str) -> int:
    return at.SEGMENTS + at.SEGMENT_BYTES * SEGMENTS.index(name)


_CS = place("cs")
_CS_BASE = _CS + 8
#: RFLAGS, and both words of hidden flags, the second in the high half, in :attr:`CpuState.quads`.
RFLAGS_QUAD, HFLAGS_QUAD = at.RFLAGS // 8, at.HFLAGS // 8
_STAND = reader({at.RAX: "3Q", at.RIP: "2Q", at.HFLAGS: "I", _CS: "I4xQ"})
#: RAX, RCX, RDX and the hidden flags.
MSR_ACCESS = reader({at.RAX: "3Q", at.HFLAGS: "I"})
_SYSTEM = reader(
    {
        at.RSP: "Q",
        at.RFLAGS: "Q",
        at.HFLAGS: "I",
        _CS: "I",
        place("ss"): "I4xQ4xI",
        place("ldt"): "I4xQI",
        place("tr"): "I4xQII",
        place("gdt") + 8: "QI",
        place("idt") + 8: "QI",
        at.CR0: "Q",
        at.CR0 + 3 * 8: "2Q",
        at.EFER: "Q",
    }
)


def _nothing() -> None:
    """The CPU's own memory needs no copying."""


class CpuState:
    """One CPU's state.

    Attributes:
        live: the CPU's own memory is read and written; else a copy of it.
        view: that memory; a copy is right after a read here only.
        quads: its beginning in 64-bit units: the general registers by their numbers, RIP, flags.
    """

    def __init__(
        self,
        layout: at.Layout,
        copy: tuple[int, int],
        save: Callable[[], None],
        restore: Callable[[], None],
        compute_rflags: Callable[[], int],
    ) -> None:
        """Use the copy.

        Args:
            copy: address and bytes of a saved context.
            save, restore: fill the copy, put it back.
            compute_rflags: RFLAGS, the slow way.
        """
        self.live = False
        self._layout = layout
        self._load, self._store = save, restore
        self._compute_rflags = compute_rflags
        address, size = copy
        self._size = size - layout.state
        self.view = self._look_at(address + layout.state)
        self.quads = self.view[: at.SEGMENTS // 8 * 8].cast("Q")

    def _look_at(self, address: int) -> memoryview:
        return memoryview((ctypes.c_char * self._size).from_address(address)).cast("B")

    def use(self, address: int) -> None:
        """From now on use the CPU's own memory, which begins at an address. It is checked first."""
        self._load()
        own = self._look_at(address)
        if own[: at.HFLAGS] == self.view[: at.HFLAGS]:
            self.view = own
            self.quads = own[: at.SEGMENTS // 8 * 8].cast("Q")
            self._load = self._store = _nothing
            self.live = True

    # -- read --

    def stand(self) -> Stand:
        """Where the CPU is."""
        self._load()
        return tuple.__new__(Stand, _STAND.unpack_from(self.view))

    def system(self) -> System:
        """What a delivery needs to know."""
        self._load()
        return tuple.__new__(System, _SYSTEM.unpack_from(self.view))

    def rflags(self) -> int:
        """All of RFLAGS."""
        self._load()
        view = self.view
        if _U32.unpack_from(view, at.CC_OP)[0] != CC_OP_EFLAGS:
            return self._compute_rflags()
        (eflags,) = _U64.unpack_from(view, at.RFLAGS)
        (arithmetic,) = _U64.unpack_from(view, at.CC_SRC)
        down = _U32.unpack_from(view, at.DF)[0] != 1
        return int(eflags) & ~ELSEWHERE | int(arithmetic) & ARITHMETIC | (FLAG_DF if down else 0) | 2

    def hflags(self) -> int:
        """QEMU's hidden flags."""
        self._load()
        return int(_U32.unpack_from(self.view, at.HFLAGS)[0])

    def hflags2(self) -> int:
        """QEMU's other hidden flags; in a callback too."""
        self._load()
        return int(_U32.unpack_from(self.view, at.HFLAGS2)[0])

    def register(self, number: int) -> int:
        """A general register by its number, 0 (RAX) to 15."""
        self._load()
        return self.quads[number]

    def segment(self, name: str) -> Segment:
        """A segment register, LDTR or TR."""
        self._load()
        return Segment(*_SEGMENT.unpack_from(self.view, place(name)))

    def rip(self) -> int:
        """RIP; in a callback of an instruction too."""
        self._load()
        return int(_U64.unpack_from(self.view, at.RIP)[0])

    def cs_base(self) -> int:
        """Where CS begins."""
        self._load()
        return int(_U64.unpack_from(self.view, _CS_BASE)[0])

    def efer(self) -> int:
        """IA32_EFER."""
        self._load()
        return int(_U64.unpack_from(self.view, at.EFER)[0])

    def cr(self, number: int) -> int:
        """CR0, CR2, CR3 or CR4."""
        self._load()
        return int(_U64.unpack_from(self.view, at.CR0 + number * 8)[0])

    def dr(self, number: int) -> int:
        """DR0 to DR7."""
        self._load()
        return int(_U64.unpack_from(self.view, self._layout.dr + number * 8)[0])

    def resumes(self) -> bool:
        """Whether RF is set and no shadow makes Unicorn run one instruction alone."""
        self._load()
        rf = _U64.unpack_from(self.view, at.RFLAGS)[0] & 1 << 16
        return bool(rf) and not _U32.unpack_from(self.view, at.HFLAGS)[0] & at.HF_INHIBIT_IRQ

    # -- write --

    def set_register(self, number: int, value: int) -> None:
        """Write a general register."""
        self._load()
        self.quads[number] = value
        self._store()

    def set_pair(self, low: int, high: int) -> None:
        """Write RAX and RDX."""
        self._load()
        self.quads[_RAX], self.quads[_RDX] = low, high
        self._store()

    def set_stack(self, rsp: int, eflags: int) -> None:
        """Write RSP and RFLAGS, the latter as it was read; in a hook ELSEWHERE stay."""
        self._load()
        _U64.pack_into(self.view, at.RSP, rsp)
        _U64.pack_into(self.view, at.RFLAGS, eflags)
        self._store()

    def set_rflags(self, rflags: int) -> None:
        """Write all of RFLAGS, between runs."""
        self._load()
        view = self.view
        _U64.pack_into(view, at.RFLAGS, rflags)
        _U64.pack_into(view, at.CC_SRC, rflags & ARITHMETIC)
        _U32.pack_into(view, at.CC_OP, CC_OP_EFLAGS)
        _U32.pack_into(view, at.DF, 0xFFFF_FFFF if rflags & FLAG_DF else 1)
        self._store()

    def set_cr2(self, address: int) -> None:
        self._load()
        _U64.pack_into(self.view, at.CR0 + 2 * 8, address)
        self._store()

    def set_efer(self, value: int) -> None:
        """Write IA32_EFER, with LMA as it is said."""
        self._load()
        _U64.pack_into(self.view, at.EFER, value)
        flags = int(_U32.unpack_from(self.view, at.HFLAGS)[0]) & ~at.HF_LMA
        _U32.pack_into(self.view, at.HFLAGS, flags | (at.HF_LMA if value & 1 << 10 else 0))
        self._store()

    def set_dr(self, number: int, value: int) -> None:
        """Write DR0 to DR7; breakpoints are set only by the guest's own MOV."""
        self._load()
        _U64.pack_into(self.view, self._layout.dr + number * 8, value)
        self._store()

    def change_hflags(self, clear: int, setting: int = 0) -> None:
        """Clear some of the hidden flags, then set others."""
        self._load()
        (flags,) = _U32.unpack_from(self.view, at.HFLAGS)
        if (flags & ~clear | setting) != flags:
            _U32.pack_into(self.view, at.HFLAGS, flags & ~clear | setting)
            self._store()

    def block_nmi(self, blocked: bool) -> None:
        """NMIs are blocked, as after an NMI; the CPU itself unblocks them when an IRET has completed."""
        self._load()
        (flags,) = _U32.unpack_from(self.view, at.HFLAGS2)
        flags = flags | at.HF2_NMI if blocked else flags & ~at.HF2_NMI
        _U32.pack_into(self.view, at.HFLAGS2, flags)
        self._store()

    def load_segments(self, segments: dict[str, Segment]) -> None:
        """Write segment registers with their cached descriptors, and the hidden flags that follow from them.

        The privilege level is CS's RPL; in real mode 0.
        """
        self._load()
        view = self.view
        for name, segment in segments.items():
            _SEGMENT.pack_into(view, place(name), *segment)
        flags = _U32.unpack_from(view, at.HFLAGS)[0] & ~(
            at.HF_CPL | at.HF_CS32 | at.HF_SS32 | at.HF_ADDSEG | at.HF_CS64
        )
        cs, ss, ds, es = (
            Segment(*_SEGMENT.unpack_from(view, place(name))) for name in ("cs", "ss", "ds", "es")
        )
        if flags & at.HF_PE:
            flags |= cs.selector & at.HF_CPL
        if flags & at.HF_LMA and cs.flags & DESC_L:
            flags |= at.HF_CS64 | at.HF_CS32 | at.HF_SS32
        else:
            flags |= at.HF_CS32 if cs.flags & DESC_B else 0
            flags |= at.HF_SS32 if ss.flags & DESC_B else 0
            if not flags & at.HF_PE or not flags & at.HF_CS32 or ds.base or es.base or ss.base:
                flags |= at.HF_ADDSEG
        _U32.pack_into(view, at.HFLAGS, flags)
        self._store()

    def keep_base(self, name: str) -> None:
        """Let FS's or GS's base survive an IRET to user code: its cached descriptor gets the user's level.

        Unicorn empties a segment register that user code could not have loaded, with its base; a CPU keeps
        the base in 64-bit mode.
        """
        self._load()
        segment = Segment(*_SEGMENT.unpack_from(self.view, place(name)))
        _SEGMENT.pack_into(self.view, place(name), *segment[:3], segment.flags | _DPL_3)
        self._store()

    def load_table(self, name: str, base: int, limit: int) -> None:
        """Write GDTR or IDTR."""
        self._load()
        _SEGMENT.pack_into(self.view, place(name), 0, base, limit, 0)
        self._store()

    def take_exception(self) -> tuple[int, bool]:
        """Error code of the exception being reported, and whether an INT instruction made it.

        Forgets the exception as well: Unicorn never does, and would make the next one a double fault.
        """
        self._load()
        view, layout = self.view, self._layout
        (error_code,) = _U32.unpack_from(view, layout.error_code)
        (is_int,) = _U32.unpack_from(view, layout.is_int)
        if _U32.unpack_from(view, layout.old_exception)[0] != 0xFFFF_FFFF:
            _U32.pack_into(view, layout.old_exception, 0xFFFF_FFFF)
            self._store()
        return int(error_code), bool(is_int)
