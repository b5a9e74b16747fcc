# SPDX-License-Identifier: GPL-2.0-or-later
"""Exits that are handled in the middle of a run: the guest goes on without having stopped.

KVM's EXIT_FASTPATH_REENTER_GUEST. Unicorn calls a hook before an RDMSR or WRMSR, and a callback at an access
to device memory. There the exit is made, exact to the instruction, and handed to `fastpath`. What comes
back is when, and up to where, the guest goes on: the count's zero and limit are moved, and Unicorn is let go.
Where the guest is not to go on, or a limit has been reached, Unicorn is stopped *before* the instruction, as
for any other exit, and what has been answered is carried out then.

Hook and callback are machine code (`fastpath.S`), which comes here at once with what it knows
(:meth:`FastpathCore._on_exit`), and asks about the rest (:meth:`FastpathCore._on_site`,
:meth:`FastpathCore._on_access`). The hook of blocks comes here where a window may have opened
(:meth:`FastpathCore._on_window`). Without machine code nothing is offered.

What is injected meanwhile is delivered on the way on, if that is the common way into a handler and does not
begin behind an access to memory; else Unicorn is stopped for it.

An instruction alone in its block is always left for: single steps, shadows and RFLAGS.RF make such blocks,
and end behind them.
"""

from __future__ import annotations

from typing import Any

from vlapic.machine.engines import contract as exits
from vlapic.machine.engines.contract import Fastpath
from vlapic.machine.engines.unicorn.binding import (
    EMU_STOP_ADDRESS,
    REG_WRITE_ADDRESS,
    BlockCallback,
    ExitCallback,
    address_of,
)
from vlapic.machine.engines.unicorn.blocks import (
    AT_HANDLED,
    AT_LEFT,
    AT_NEXT,
    AT_RIP,
    AT_SITE,
    COUNT,
    LIMIT,
    NOT_STOPPED,
    ON_EXIT,
    ON_WINDOW,
    OPENED,
    ROW,
    SPIN,
    STOPPED,
    WINDOW,
    WRITE_REGISTER,
)
from vlapic.machine.engines.unicorn.core import Core
from vlapic.machine.engines.unicorn.decode import WINDOW_FLAG
from vlapic.machine.engines.unicorn.events import FLAG_IF, Event, TripleFault
from vlapic.machine.engines.unicorn.known_sites import (
    FASTPATH_KINDS,
    READ_MEMORY,
    READ_MSR,
    WRITE_MEMORY,
    WRITE_MSR,
)
from vlapic.machine.engines.unicorn.layout import HF2_NMI, HF_CPL, HF_CS64, HF_INHIBIT_IRQ
from vlapic.machine.engines.unicorn.msrs import NATIVE_MSRS, UNICORN_IGNORES
from vlapic.machine.engines.unicorn.paging import PAGE
from vlapic.machine.engines.unicorn.state import HFLAGS_QUAD, MSR_ACCESS, RFLAGS_QUAD
from vlapic.machine.engines.unicorn.whole_access import Access

#: Instructions run without a look at Python's signals, at most.
SLICE = 20_000_000
#: Hidden flags against an NMI: one is being handled, or a shadow is open.
NO_NMI = HF2_NMI << 32 | HF_INHIBIT_IRQ
_U32, _U64 = 2**32 - 1, 2**64 - 1
_exit = tuple.__new__  # a NamedTuple's own is twice as slow


class FastpathCore(Core):
    """A CPU that offers exits on the fast path.

    Attributes:
        _standing: whether an exit is being handled in the middle of a run.
    """

    _fastpath: Fastpath | None = None
    _standing = False
    _completed = False  # the exit has been answered
    _answer: exits.Answer = None  # with this
    _fault_at_once: Event | None = None  # or with a fault
    _enters: int | None = None  # the vector injected meanwhile
    # Of the last exit that Unicorn was stopped at: the access, None for another; whether it leaves the run.
    _handled_access: Access | None = None
    _leaves = False
    # How far the run goes: count, host TSC, and which windows are asked for.
    _limit = 0
    _preemption: int | None = None
    _window = _nmi_window = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """As :class:`~vlapic.machine.engines.unicorn.core.Core`."""
        super().__init__(*arguments, **options)
        self._exit_callback = ExitCallback(self._on_exit)
        self._counter[ON_EXIT] = address_of(self._exit_callback)
        self._counter[WRITE_REGISTER] = REG_WRITE_ADDRESS
        self._window_callback = BlockCallback(self._on_window)

    @property
    def fastpath(self) -> Fastpath | None:
        """See :class:`~vlapic.machine.engines.contract.CpuEngine`."""
        return self._fastpath

    @fastpath.setter
    def fastpath(self, handler: Fastpath | None) -> None:
        self._fastpath = handler
        self._blocks.known_sites.forget()
        self._devices.places.forget()
        self._counter[ON_WINDOW] = EMU_STOP_ADDRESS if handler is None else address_of(self._window_callback)

    def _go_from(self, entry: exits.Reentry, count: int) -> int:
        """The guest goes on so, with `count` instructions retired; the count to stop it at."""
        now, until, preemption, window, nmi_window = entry
        cycles = self._cycles_per_insn
        self._time.zero_tsc = now - cycles * count
        until_first = preemption is None or (until is not None and until < preemption)
        end = until if until_first else preemption
        limit = count + SLICE if end is None else count - (now - end) // cycles
        if until is None and limit > count + SLICE:
            limit = count + SLICE
        self._limit, self._preemption = limit, preemption
        if window or nmi_window or self._window or self._nmi_window:
            self._window, self._nmi_window = window, nmi_window
            self._counter[WINDOW] = window or nmi_window
            self._counter[OPENED] = 0
        return limit

    # -- called in a run --

    def _on_exit(self, kind: int, count: int, where: int, size: int, value: int) -> int:
        """Have an exit handled, and go on behind it or stop Unicorn.

        Args:
            kind: READ_MSR and so on.
            count: instructions retired before it.
            where: the MSR, or the address.
            size: bytes of memory.
            value: what is written.

        Returns:
            What is read; of a write to an MSR, whether the guest has gone to a handler.
        """
        counter, handle = self._counter, self._fastpath
        assert handle is not None
        now = self._time.zero_tsc + self._cycles_per_insn * count
        left: exits.Exit
        if kind == WRITE_MSR:
            left = _exit(exits.WriteMsr, (now, where, value))
        elif kind == WRITE_MEMORY:
            left = _exit(exits.WriteMemory, (now, where, size, value))
        elif kind == READ_MEMORY:
            left = _exit(exits.ReadMemory, (now, where, size))
        else:
            left = _exit(exits.ReadMsr, (now, where))
        self.instructions = count
        self._standing, self._completed = True, False
        try:
            reentry = handle(left)
        except BaseException:
            self._blocks.stop(AT_HANDLED)
            raise
        finally:
            self._standing = False
        behind = count + 1
        if (
            reentry is None
            or (limit := self._go_from(reentry, behind)) <= behind
            or (
                (enters := self._enters is not None)
                and not (kind == WRITE_MSR and self._enter(counter[AT_NEXT]))
            )
        ):
            self._leaves = reentry is None
            self._handled_access = None
            if kind in (READ_MEMORY, WRITE_MEMORY):
                self._handled_access = Access(where, size, value if kind == WRITE_MEMORY else None)
            self._blocks.stop(AT_HANDLED)
            return 0
        due = self._stores.due
        counter[LIMIT] = limit if limit < due else due
        if enters:  # it has: the block is left behind the instruction
            counter[COUNT] = behind
            self._look_at_window()
            return 1
        if (self._window or self._nmi_window) and self._opens_window():
            counter[OPENED] = 1
            counter[LIMIT] = 0
        answer = self._answer
        assert answer is None or isinstance(answer, int)
        return answer or 0

    def _on_site(self, _cpu: int, address: int, _size: int, _data: int) -> None:
        """The CPU is at an RDMSR or WRMSR that machine code does not know here, or leaves alone."""
        counter, state = self._counter, self._state
        left = self._blocks.know_site(address) if state.live and self._fastpath is not None else None
        rax, rcx, rdx, hflags = MSR_ACCESS.unpack_from(state.view)
        msr = rcx & _U32
        if left is None or hflags & HF_CPL or msr in NATIVE_MSRS:
            self._blocks.stop(AT_SITE)
            return
        self._retry_no_more()
        site, count = self._blocks.sites[address], counter[COUNT] - left
        kind = FASTPATH_KINDS[site.kind]
        self._stand_at(address, site.length)
        answer = self._on_exit(kind, count, msr, 0, (rdx & _U32) << 32 | rax & _U32)
        if counter[STOPPED] or (kind == WRITE_MSR and (answer or msr in UNICORN_IGNORES)):
            return
        if kind == READ_MSR:
            state.set_pair(answer & _U32, answer >> 32)
        # Leave the block behind an instruction that was carried out by hand.
        counter[COUNT] = count + 1
        self._processor.skip(site.length)

    def _on_access(self, address: int, size: int, value: int | None) -> int | None:
        """The CPU is at an access that machine code does not know, or leaves alone."""
        places, counter, state = self._devices.places, self._counter, self._state
        if self._fastpath is None or places.here is None:
            return None
        place = places.known.get(places.here[0])
        if place is None or place.row != counter[ROW]:
            places.asked = places.here[0]
            return None
        quads = state.quads
        whence = place.displacement + quads[place.base] * place.once + quads[place.other] * place.scale
        if size != place.size or (whence ^ address) & PAGE - 1:
            return None  # one of several: not aligned, or wider than a bus access
        self._retry_no_more()
        self._stand_at(place.address, place.length)
        kind, written = (READ_MEMORY, 0) if value is None else (WRITE_MEMORY, value)
        return self._on_exit(kind, counter[COUNT] - place.left, address, size, written)

    def _on_window(self, _cpu: int, address: int, _size: int, _data: int) -> None:
        """A window that was asked for may have opened, before a block; a stop has been noted."""
        counter = self._counter
        count = counter[COUNT]
        now = self._time.zero_tsc + self._cycles_per_insn * count
        left = None
        if count < self._limit and self._again is None and self._state.live:
            left = self._open_window(now)
        cpu, handle = self._processor.cpu, self._fastpath
        if left is None or handle is None:
            cpu.stop()
            return
        self._on_met(address, 1)  # what stands there has been translated, and may never run
        self._stand_at(address, 0)
        counter[STOPPED] = AT_LEFT
        self.instructions = count
        self._standing = True
        try:
            reentry = handle(left)
        finally:
            self._standing = False
        if (
            reentry is None
            or (limit := self._go_from(reentry, count)) <= count
            or not self._enter(counter[AT_RIP])
        ):
            self._leaves = reentry is None
            cpu.stop()
            return
        counter[STOPPED] = NOT_STOPPED
        counter[LIMIT] = min(limit, self._stores.due)
        counter[SPIN] = counter[ROW] = 0
        self._look_at_window()

    def _open_window(self, now: int) -> exits.NmiWindow | exits.InterruptWindow | None:
        """In a hook between two instructions: the window that was asked for and is open."""
        quads = self._state.quads
        hidden = quads[HFLAGS_QUAD]
        if self._nmi_window and not hidden & NO_NMI:
            return exits.NmiWindow(now)
        if self._window and quads[RFLAGS_QUAD] & FLAG_IF and not hidden & HF_INHIBIT_IRQ:
            return exits.InterruptWindow(now)
        return None

    def _look_at_window(self) -> None:
        """A handler is entered: stop before its first block if a window is open there (a trap gate's)."""
        if (self._window or self._nmi_window) and self._open_window(0) is not None:
            self._counter[OPENED] = 1
            self._counter[LIMIT] = 0

    def _enter(self, rip: int) -> bool:
        """In a hook: go on at `rip`, or in the handler of what was injected; False: that takes a stop."""
        if self._enters is None:
            self._processor.cpu.jump(rip)
            return True
        if not self._processor.interrupt_at_once(self._enters, rip):
            return False
        self._enters = None
        return True

    def _stand_at(self, address: int, length: int) -> None:
        """The guest is at an instruction at a linear address, in 32 or 64-bit code."""
        state, counter = self._state, self._counter
        mask = _U64 if state.hflags() & HF_CS64 else _U32
        rip = address - state.cs_base() & mask
        counter[AT_RIP], counter[AT_NEXT] = rip, rip + length & mask

    def _opens_window(self) -> bool:
        """Whether the block that runs now may open an interrupt window at its end."""
        block = self._blocks.last
        return block is not None and bool(block.flags & WINDOW_FLAG)

    def _find_state(self, address: int) -> None:
        super()._find_state(address)
        if self._state.live:
            self._devices.places.look_at(address)

    # -- behind a run --

    def _handled(self, now: int) -> exits.Exit | None:
        access = self._handled_access
        if self._counter[STOPPED] == AT_LEFT:
            pass
        elif access is not None:
            assert self._answer is None or isinstance(self._answer, int)
            self._devices.keep(access, self._answer or 0)
            self._again = self._processor.rip, self._counter[COUNT]
            self._counter[COUNT] += 1
            self.instructions += 1
        elif self._fault_at_once is not None:
            fault, self._fault_at_once = self._fault_at_once, None
            self._pending = self._deliver(fault, 0)
        else:
            self._pending = self._retire(self._blocks.sites[self._processor.address], self._answer)
        if self._enters is not None:
            vector, self._enters = self._enters, None
            self._interrupt(vector)
        return exits.Handled(now) if self._leaves else None

    def _interrupt(self, vector: int) -> None:
        """Go to the guest's handler, behind whatever has been answered."""
        if self._again is not None:
            self._settle()
        try:
            self._processor.interrupt(vector)
        except TripleFault as fault:
            self._pending = exits.Shutdown(0, str(fault))
