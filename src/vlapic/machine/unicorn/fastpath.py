"""Exits that are handled in the middle of a run: the guest goes on without having stopped.

KVM's EXIT_FASTPATH_REENTER_GUEST. Unicorn calls a hook before an RDMSR or WRMSR, and a callback at an access
to device memory. There the exit is made, exact to the instruction, and handed to `fastpath`. What comes
back is when, and up to where, the guest goes on: the count's zero and limit are moved, and Unicorn is let go.
Where the guest is not to go on, or a limit has been reached, Unicorn is stopped *before* the instruction, as
for any other exit, and what has been answered is carried out then.

An instruction alone in its block is always left for: single steps, shadows and RFLAGS.RF make such blocks,
and end behind them.
"""

from __future__ import annotations

from vlapic.machine import engine as exits
from vlapic.machine.unicorn.access_place import Place
from vlapic.machine.unicorn.blocks import (
    AT_HANDLED,
    AT_SITE,
    COUNT,
    LIMIT,
    OPENED,
    ROW,
    STOPPED,
    WINDOW,
)
from vlapic.machine.unicorn.core import Core
from vlapic.machine.unicorn.decode import WINDOW_FLAG, Kind, Site
from vlapic.machine.unicorn.device_memory import Access
from vlapic.machine.unicorn.events import Event
from vlapic.machine.unicorn.layout import HF_CPL
from vlapic.machine.unicorn.msrs import NATIVE_MSRS, UNICORN_IGNORES
from vlapic.machine.unicorn.paging import PAGE
from vlapic.machine.unicorn.processor import following
from vlapic.machine.unicorn.state import MSR_ACCESS

#: Instructions run without a look at Python's signals, at most.
SLICE = 20_000_000
_U32 = 2**32 - 1
_exit = tuple.__new__  # a NamedTuple's own is twice as slow


class FastpathCore(Core):
    """A CPU that offers exits on the fast path.

    Attributes:
        _standing: the instruction whose exit is being handled in the middle of a run, else None.
    """

    _standing: Site | Place | None = None
    _completed = False  # the exit has been answered
    _answer: exits.Answer = None  # with this
    _fault_at_once: Event | None = None  # or with a fault
    _handled_at: Site | Place | None = None  # the instruction of the last exit that Unicorn was stopped at
    _leaves = False  # that exit leaves the run
    _last_access: tuple[int, int, int | None] = 0, 0, None  # to device memory: address, size, value
    # How far the run goes: count, host TSC, and which windows are asked for.
    _limit = 0
    _preemption: int | None = None
    _window = _nmi_window = False

    def _go_from(
        self, now: int, until: int | None, preemption: int | None, window: bool, nmi_window: bool, count: int
    ) -> int:
        """The guest goes on at host TSC `now` with `count` instructions retired; the count to stop it at."""
        cycles = self._cycles_per_insn
        self._time.zero_tsc = now - cycles * count
        until_first = preemption is None or (until is not None and until < preemption)
        end = until if until_first else preemption
        limit = count + SLICE if end is None else count - (now - end) // cycles
        if until is None and limit > count + SLICE:
            limit = count + SLICE
        self._limit, self._preemption = limit, preemption
        self._window, self._nmi_window = window, nmi_window
        self._counter[WINDOW] = window or nmi_window
        return limit

    # -- called by Unicorn, in a run --

    def _on_site(self, _cpu: int, address: int, _size: int, _data: int) -> None:
        counter = self._counter
        if counter[STOPPED]:
            return
        known = self._blocks.known_sites.get(address)
        if known is None or known[0] != counter[ROW]:
            known = self._blocks.know_site(address)
        rax, rcx, rdx, hflags = MSR_ACCESS.unpack_from(self._state.view)
        msr = rcx & _U32
        if known is None or self.fastpath is None or hflags & HF_CPL or msr in NATIVE_MSRS:
            self._blocks.stop(AT_SITE)
            return
        _, left, site = known
        count = counter[COUNT] - left
        now = self._time.zero_tsc + self._cycles_per_insn * count
        if site.kind is Kind.WRMSR:
            write = _exit(exits.WriteMsr, (now, msr, (rdx & _U32) << 32 | rax & _U32))
            if self._goes_on(site, write, count) and msr not in UNICORN_IGNORES:
                self._skip(site, count)
        elif self._goes_on(site, _exit(exits.ReadMsr, (now, msr)), count):
            self._instructions.finish(site, self._answer)
            self._skip(site, count)

    def _skip(self, site: Site, count: int) -> None:
        """Leave the block behind an instruction that was carried out by hand."""
        self._counter[COUNT] = count + 1
        self._processor.skip(site.length)

    def _on_access(self, address: int, size: int, value: int | None) -> int | None:
        places, counter, state = self._devices.places, self._counter, self._state
        if self.fastpath is None or places.here is None:
            return None
        place = places.known.get(places.here[0])
        if place is None or place[0] != counter[ROW]:
            places.asked = places.here[0]
            return None
        _, left, _, _, whole, displacement, base, once, other, scale = place
        quads = state.quads
        whence = displacement + quads[base] * once + quads[other] * scale
        if size != whole or (whence ^ address) & PAGE - 1:
            return None  # one of several: not aligned, or wider than a bus access
        count = counter[COUNT] - left
        now = self._time.zero_tsc + self._cycles_per_insn * count
        self._last_access = address, size, value
        if value is None:
            goes_on = self._goes_on(place, _exit(exits.ReadMemory, (now, address, size)), count)
        else:
            goes_on = self._goes_on(place, _exit(exits.WriteMemory, (now, address, size, value)), count)
        answer = self._answer
        assert answer is None or isinstance(answer, int)
        return answer or 0 if goes_on else 0

    def _goes_on(self, standing: Site | Place, left: exits.Exit, count: int) -> bool:
        """Have an exit handled; whether the guest goes on behind it, else Unicorn has been stopped."""
        if self._again is not None:  # that one has retired
            self._retry_no_more()
        self.instructions = count
        self._standing, self._completed, self._answer = standing, False, None
        assert self.fastpath is not None
        try:
            reentry = self.fastpath(left)
        finally:
            self._standing = None
        if reentry is None or (limit := self._go_from(*reentry, count + 1)) <= count + 1:
            self._handled_at, self._leaves = standing, reentry is None
            self._blocks.stop(AT_HANDLED)
            return False
        counter = self._counter
        if (self._window or self._nmi_window) and self._opens_window():
            counter[OPENED] = 1
            counter[LIMIT] = 0
        else:
            counter[OPENED] = 0
            counter[LIMIT] = limit if limit - count < SLICE else count + SLICE
        return True

    def _opens_window(self) -> bool:
        """Whether the block that runs now may open an interrupt window at its end."""
        block = self._blocks.last
        return block is not None and bool(block.flags & WINDOW_FLAG)

    def _find_state(self, address: int) -> None:
        super()._find_state(address)
        self._devices.places.look_at(address)

    # -- behind a run --

    def _handled(self, now: int) -> exits.Exit | None:
        standing = self._handled_at
        if isinstance(standing, Place):
            assert self._answer is None or isinstance(self._answer, int)
            self._devices.keep(Access(*self._last_access), self._answer or 0)
            self._again = self._processor.rip, self._counter[COUNT]
            self._counter[COUNT] += 1
            self.instructions += 1
        elif self._fault_at_once is not None:
            fault, self._fault_at_once = self._fault_at_once, None
            self._pending = self._deliver(fault, 0)
        else:
            assert standing is not None
            self._pending = self._retire(standing, self._answer)
        return exits.Handled(now) if self._leaves else None

    # -- while an exit is handled in the middle of a run --

    def _rip_at_once(self) -> int:
        """The guest's RIP: at the instruction, or behind it once it has been completed."""
        standing, state = self._standing, self._processor.state
        assert standing is not None
        rip = standing.address - state.cs_base()
        return following(state.stand(), rip, standing.length) if self._completed else rip
