# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulated CPU: Unicorn under an unmodified guest, in exact virtual time.

Implements :class:`vlapic.machine.engines.contract.CpuEngine`. A guest instruction costs `cycles_per_insn`
host TSC cycles, and nothing else takes time: same guest, same answers, same bytes. Time is exact to the
instruction wherever the guest can see it (RDTSC, an exit); a fault of the guest takes none, unless no
instruction retires between it and the one before. Timers and interrupts from outside come between blocks.

What Unicorn lacks is done around it: counting (`blocks.py`), the instructions that leave the guest
(`instructions.py`), device memory (`device_memory.py`), delivery of interrupts and exceptions (`gates.py`),
code that other CPUs overwrite (`shared_code.py`).

Left out: SMI, task gates, virtual-8086 mode, data breakpoints and DR7.GD (Unicorn knows neither), 5-level
paging, SMAP and what else CPUID does not tell of. Writes by Python to guest memory after the first run do not
reach code that has been translated. A store that changes the block it stands in counts what the block ran
before it twice.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

from vlapic.errors import EngineError
from vlapic.machine.engines import contract as exits
from vlapic.machine.engines.unicorn.blocks import AT_NEXT, AT_RIP, COUNT, WINDOW
from vlapic.machine.engines.unicorn.events import FLAG_IF, NMI, Event
from vlapic.machine.engines.unicorn.fastpath import NO_NMI, SLICE, FastpathCore
from vlapic.machine.engines.unicorn.layout import HF_INHIBIT_IRQ
from vlapic.machine.engines.unicorn.processor import Processor
from vlapic.machine.engines.unicorn.state import HFLAGS_QUAD, RFLAGS_QUAD

if TYPE_CHECKING:
    from vlapic.machine.guests.loader import LoadedGuest


class _Closed:
    """What is left of a CPU's parts when it is closed: a use is an error, not a crash."""

    def __init__(self, processor: Processor) -> None:
        self.rip = processor.rip
        self.interrupts_enabled = processor.interrupts_enabled

    def __getattr__(self, name: str) -> NoReturn:
        raise EngineError("the emulated CPU is closed; make another one to run on")


class UnicornEngine(FastpathCore):
    """One emulated CPU. Use it as a context manager, or :meth:`close` it."""

    def close(self) -> None:
        """Free the CPU and its machine code, not the guest's memory; more than once does no harm.

        The CPU can still be asked where it stands, and nothing else.
        """
        if self._closed:
            return
        self._closed = True
        self._processor.cpu.close()
        self._blocks.close()
        self._processor = self._devices = self._instructions = _Closed(self._processor)  # type: ignore[assignment]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- between runs --

    @property
    def rip(self) -> int:
        """The guest's instruction pointer."""
        if self._standing:
            return self._counter[AT_NEXT if self._completed else AT_RIP]
        if self._again is not None:
            self._settle()
        return self._processor.rip

    @property
    def interrupts_enabled(self) -> bool:
        """RFLAGS.IF."""
        if self._standing:
            return bool(self._state.quads[RFLAGS_QUAD] & FLAG_IF)
        self._settle()
        return self._processor.interrupts_enabled

    @property
    def interruptible(self) -> bool:
        """Whether an interrupt can be injected now: IF is set and no shadow of STI or MOV SS is open."""
        if self._standing:
            quads = self._state.quads
            return bool(quads[RFLAGS_QUAD] & FLAG_IF) and not quads[HFLAGS_QUAD] & HF_INHIBIT_IRQ
        if self._again is not None:
            self._settle()
        return self._again is None and self._pending is None and self._processor.takes_interrupts()

    @property
    def nmi_blocked(self) -> bool:
        """Whether an NMI has to wait: one is handled (until an IRET has completed), or a shadow is open."""
        if self._standing:
            return bool(self._state.quads[HFLAGS_QUAD] & NO_NMI)
        if self._again is not None:
            self._settle()
        return self._again is not None or self._pending is not None or not self._processor.takes_nmi()

    def inject_interrupt(self, vector: int) -> None:
        """Deliver a vector through the guest's IDT, ahead of the next instruction; while `interruptible`."""
        if self._standing:
            self._enters = vector
        else:
            self._interrupt(vector)

    def inject_nmi(self) -> None:
        """Deliver vector 2 through the guest's IDT before its next instruction; while not `nmi_blocked`."""
        if not self._standing:
            self._settle()
        self._processor.block_nmi()
        self.inject_interrupt(NMI)

    def inject_exception(self, vector: int, error_code: int | None = None) -> None:
        """Fault the instruction of the last exit instead of completing it."""
        self._exit = None
        if self._standing:
            self._fault_at_once = Event(vector, error_code)
            return
        self._devices.asked = None
        self._retry_no_more()
        self._pending = self._deliver(Event(vector, error_code), 0)

    def complete(self, answer: exits.Answer = None) -> None:
        """Carry out the access of the last exit, with what it read. The instruction retires now."""
        site, self._exit = self._exit, None
        if self._standing:
            self._answer, self._completed = answer, True
            self.instructions += 1
        elif site is not None:
            self._pending = self._retire(site, answer)
        else:
            assert answer is None or isinstance(answer, int)
            self._devices.answer(answer or 0)
            if self._again is None:
                self._again = self._processor.rip, self._counter[COUNT]
                self._counter[COUNT] += 1
                self.instructions += 1

    def reset(self) -> None:
        """INIT: put the CPU's state back; it waits for :meth:`startup`, and is not to be run before."""
        self._exit = self._pending = self._devices.asked = None
        self._retry_no_more()
        self._processor.reset()
        self._remapped()

    def startup(self, page: int) -> None:
        """SIPI: start a CPU that waits, in real mode at CS = `page` << 8 (0 to 255), IP = 0."""
        assert self._processor.waits, "a SIPI starts a CPU that waits for one"
        self._processor.startup(page)

    # -- running --

    @property
    def host_tsc(self) -> int:
        return self._time.zero_tsc + self._cycles_per_insn * self._counter[COUNT]

    def run(
        self,
        now: int,
        until: int | None = None,
        preemption: int | None = None,
        window: bool = False,
        nmi_window: bool = False,
    ) -> exits.Exit:
        """Run the guest from host TSC `now` until it exits, as `CpuEngine` says."""
        counter = self._counter
        processor = self._processor
        assert not processor.waits, "a CPU that waits for SIPI was run"
        if self._sharers.last != self._number and self._shared.others_wrote():
            self._forget_translated()
        limit = self._go_from((now, until, preemption, window, nmi_window), counter[COUNT])
        if limit <= counter[COUNT]:
            return self._at_limit(now)
        takes_nmi = nmi_window and not self.nmi_blocked  # this may bring up a pending exit
        is_open = window and self.interruptible
        if self._pending is not None:
            left, self._pending = self._pending, None
            return left._replace(host_tsc=now)
        if takes_nmi:
            return exits.NmiWindow(now)
        if is_open:
            return exits.InterruptWindow(now)

        cycles, time, stores = self._cycles_per_insn, self._time, self._stores
        while True:
            wanted = counter[WINDOW]
            if counter[COUNT] >= stores.due:
                stores.open(counter[COUNT])
            # Where a shadow holds the window shut, one instruction opens it.
            until = counter[COUNT] + 1 if wanted and processor.in_shadow() else stores.due
            self._stalled = False
            left_now = self._step(min(self._limit, until))
            if left_now is not None:
                return left_now
            count = counter[COUNT]
            if self._stalled:  # time goes on where no instruction retires: a handler that faults at once
                time.zero_tsc += cycles
                self._limit -= 1
            now = time.zero_tsc + cycles * count
            if count >= self._limit:
                return self._at_limit(now)
            if self._pending is not None:
                left, self._pending = self._pending, None
                return left._replace(host_tsc=now)
            if counter[WINDOW] and self._again is None:
                if self._nmi_window and processor.takes_nmi():
                    return exits.NmiWindow(now)
                if self._window and processor.takes_interrupts():
                    return exits.InterruptWindow(now)

    def _at_limit(self, now: int) -> exits.Exit:
        if self._preemption is not None and now >= self._preemption:
            return exits.PreemptionTimer(now)
        return exits.ExternalInterrupt(now)


def cpus_of(guest: LoadedGuest, cycles_per_insn: int) -> exits.MakeCpu:
    """The engine "emulated"; all CPUs have the guest's memory."""
    return lambda index, tsc: UnicornEngine(guest.memory, tsc, cycles_per_insn, first=guest.first)


__all__ = ["SLICE", "UnicornEngine", "cpus_of"]

assert sys.byteorder == "little", "guest memory is shared with a little-endian guest"
