"""The emulated CPU: Unicorn under an unmodified guest, in exact virtual time.

Implements :class:`vlapic.machine.engine.CpuEngine`. A guest instruction costs `cycles_per_insn` host TSC
cycles, and nothing else takes time: same guest, same answers, same bytes. Time is exact to the instruction
wherever the guest can see it (RDTSC, an exit); a fault of the guest takes none, unless no instruction
retires between it and the one before. Timers and interrupts from outside come between blocks.

What Unicorn lacks is done around it: counting (`blocks.py`), the instructions that leave the guest
(`instructions.py`), device memory (`device_memory.py`), delivery of interrupts and exceptions
(`exceptions.py`).

Left out: code outside 64-bit mode (a guest that leaves it shuts down), single-step traps over an
instruction that exited, NMI and SMI. Writes by Python to guest memory after the first run do not reach
code that has been translated. A store that changes the block it stands in counts what the block ran
before it twice.
"""

from __future__ import annotations

import sys
from mmap import mmap
from types import TracebackType
from typing import NoReturn, Self

from unicorn import unicorn_const as uc
from unicorn import x86_const as x86

from vlapic.errors import EngineError
from vlapic.machine import engine as exits
from vlapic.machine.engine import FirstState
from vlapic.machine.loader import MAX_MEMORY
from vlapic.machine.unicorn.binding import InstructionCallback, InterruptCallback, Registers, check
from vlapic.machine.unicorn.blocks import (
    AT_EXCEPTION,
    AT_LIMIT,
    AT_MEMORY,
    AT_NEW_SITES,
    AT_SITE,
    AT_WINDOW,
    COUNT,
    NOT_STOPPED,
    STOPPED,
    WINDOW,
    Blocks,
    native_counting,
)
from vlapic.machine.unicorn.decode import SHADOW_FLAG, Site
from vlapic.machine.unicorn.device_memory import DeviceMemory
from vlapic.machine.unicorn.exceptions import DB, FLAG_IF, PF, UD, WITH_ERROR_CODE, Event, TripleFault
from vlapic.machine.unicorn.instructions import MSR_TSC_AUX, Fault, Instructions
from vlapic.machine.unicorn.processor import LeftLongMode, Processor
from vlapic.tsc import GuestTsc

#: Instructions run without a look at Python's signals, at most.
SLICE = 20_000_000

#: Errors of uc_emu_start that say: no instruction. Where there is no RAM the bus reads all ones: none.
_NO_INSTRUCTION = (uc.UC_ERR_INSN_INVALID, uc.UC_ERR_FETCH_UNMAPPED, uc.UC_ERR_FETCH_PROT)


class _Closed:
    """What is left of a CPU's parts when it is closed: a use is an error, not a crash."""

    def __init__(self, processor: Processor) -> None:
        self.rip = processor.rip
        self.rflags = processor.rflags

    def __getattr__(self, name: str) -> NoReturn:
        raise EngineError("the emulated CPU is closed; make another one to run on")


class UnicornEngine:
    """One emulated CPU. Use it as a context manager, or :meth:`close` it.

    Attributes:
        instructions: retired since the start, see :class:`~vlapic.machine.engine.CpuEngine`. An iteration
            of a REP string instruction counts as one, and so does the look that finds RCX at 0.
    """

    def __init__(
        self,
        memory: mmap,
        tsc: GuestTsc,
        cycles_per_insn: int = 1,
        *,
        first: FirstState,
        fast_spin: bool = True,
        native: bool | None = None,
    ) -> None:
        """Make a CPU that stands at a guest's first instruction.

        Args:
            memory: guest RAM from physical 0, whole pages, up to 3 GiB. It stays in use until :meth:`close`.
            tsc: what RDTSC reads at a host TSC value.
            cycles_per_insn: host TSC cycles a guest instruction takes, at least 1.
            first: the registers to start with.
            fast_spin: jump over the laps of loops that only wait; changes nothing but the speed.
            native: count with machine code; None: where it runs. Changes nothing but the speed.

        Raises:
            EngineError: Unicorn is another version, or has no memory left.
        """
        if cycles_per_insn < 1:
            raise EngineError(f"an instruction takes {cycles_per_insn} cycles; expected 1 or more")
        if len(memory) > MAX_MEMORY:
            raise EngineError(f"{len(memory)} bytes of guest memory; expected {MAX_MEMORY} at most")
        self.instructions = 0
        self._tsc = tsc
        self._cycles_per_insn = cycles_per_insn
        self._zero_tsc = 0  # host TSC at instruction 0, were they all as long
        self._exit: Site | None = None  # the instruction to complete; None: none, or an access to memory
        self._again: tuple[int, int] | None = None  # RIP and count of an instruction that is run again
        self._pending: exits.Exit | None = None  # came up outside run(); for the next one
        self._closed = False
        self._vector = 0  # of the exception that stopped the CPU
        self._faulted_at = -1  # count at the last exception
        self._stalled = False  # no instruction has retired between the last two

        self._processor = Processor(memory, first)
        cpu, paging = self._processor.cpu, self._processor.paging
        self._blocks = Blocks(
            cpu,
            self._processor.read_code,
            self._processor.code_bits,
            paging.flush,
            native_counting() if native is None else native,
            fast_spin,
        )
        self._counter = self._blocks.counter
        self._devices = DeviceMemory(cpu, self._blocks, len(memory))
        self._instructions = Instructions(cpu, paging)
        self._rip_now = Registers(cpu, (x86.UC_X86_REG_RIP,))
        self._rdx_rax = Registers(cpu, (x86.UC_X86_REG_RDX, x86.UC_X86_REG_RAX))
        self._rcx = Registers(cpu, (x86.UC_X86_REG_RCX,))
        cpu.hook(uc.UC_HOOK_INTR, InterruptCallback(self._on_exception))
        for instruction, callback in (
            (x86.UC_X86_INS_RDTSC, self._on_rdtsc),
            (x86.UC_X86_INS_RDTSCP, self._on_rdtscp),
        ):
            cpu.hook(uc.UC_HOOK_INSN, InstructionCallback(callback), instruction=instruction)

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
        self._settle()
        return self._processor.rip

    @property
    def interrupts_enabled(self) -> bool:
        """RFLAGS.IF."""
        self._settle()
        return bool(self._processor.rflags & FLAG_IF)

    @property
    def interruptible(self) -> bool:
        """Whether an interrupt can be injected now: IF is set and no shadow of STI or MOV SS is open."""
        self._settle()
        return self._again is None and self._pending is None and self._processor.takes_interrupts()

    def inject_interrupt(self, vector: int) -> None:
        """Deliver a vector through the guest's IDT, ahead of the next instruction; while `interruptible`."""
        self._settle()
        self._pending = self._deliver(Event(vector, None, 0, True), 0)

    def inject_exception(self, vector: int, error_code: int | None = None) -> None:
        """Fault the instruction of the last exit instead of completing it."""
        self._exit = None
        self._devices.asked = None
        self._retry_no_more()
        self._pending = self._deliver(Event(vector, error_code), 0)

    def complete(self, answer: exits.Answer = None) -> None:
        """Carry out the access of the last exit, with what it read. The instruction retires now."""
        site, self._exit = self._exit, None
        if site is not None:
            self._retire(site, answer)
        else:
            assert answer is None or isinstance(answer, int)
            self._devices.answer(answer or 0)
            if self._again is None:
                self._again = self._processor.rip, self._counter[COUNT]
                self._counter[COUNT] += 1
                self.instructions += 1

    def _retire(self, site: Site, answer: exits.Answer) -> None:
        self._processor.rip = self._instructions.finish(site, answer)
        self._counter[COUNT] += 1
        self.instructions += 1
        self._processor.leave_shadow()

    def _retry_no_more(self) -> None:
        self._again = None
        self._devices.forget()

    def _settle(self) -> None:
        """Finish the instruction whose accesses have been answered.

        It may make another access, or fault for good: that exit is kept for run().
        """
        if self._again is None or self._devices.asked is not None or self._pending is not None:
            return
        self._processor.open_shadow()
        counter = self._counter
        counter[WINDOW] = 0
        while self._again is not None and self._pending is None:
            self._pending = self._step(counter[COUNT])
            self._processor.shadow_possible = True

    # -- running --

    @property
    def nmi_blocked(self) -> bool:
        """Whether an NMI has to wait."""
        self._settle()
        return self._again is not None or self._pending is not None or self._processor.in_shadow()

    def inject_nmi(self) -> None:
        """Deliver vector 2 through the guest's IDT, ahead of the next instruction."""
        self._settle()
        self._pending = self._deliver(Event(2, None, 0, True), 0)

    def reset(self) -> None:
        """INIT: the CPU waits."""

    def startup(self, page: int) -> None:
        """SIPI: not for this CPU yet."""
        raise EngineError(f"this CPU does not start in real mode (page {page:#x})")

    def run(
        self,
        now: int,
        until: int | None = None,
        preemption: int | None = None,
        window: bool = False,
        nmi_window: bool = False,
    ) -> exits.Exit:
        """Run the guest from host TSC `now` until it exits; see :class:`~vlapic.machine.engine.CpuEngine`."""
        counter = self._counter
        cycles = self._cycles_per_insn
        self._zero_tsc = now - cycles * counter[COUNT]
        if preemption is not None and now >= preemption:
            return exits.PreemptionTimer(now)
        if until is not None and now >= until:
            return exits.ExternalInterrupt(now)
        is_open = window and self.interruptible  # this may bring up a pending exit
        if self._pending is not None:
            left, self._pending = self._pending, None
            return left._replace(host_tsc=now)
        if is_open:
            return exits.InterruptWindow(now)

        end = until if preemption is None else preemption if until is None else min(until, preemption)
        limit = counter[COUNT] + (SLICE if end is None else -(-(end - now) // cycles))
        if until is None:
            limit = min(limit, counter[COUNT] + SLICE)
        counter[WINDOW] = window
        while True:
            # Where a shadow holds the window shut, one instruction opens it.
            ahead = 1 if window and self._processor.in_shadow() else SLICE
            self._stalled = False
            left_now = self._step(min(limit, counter[COUNT] + ahead))
            if left_now is not None:
                return left_now
            count = counter[COUNT]
            if self._stalled:  # time goes on where no instruction retires: a handler that faults at once
                self._zero_tsc += cycles
                limit -= 1
            now = self._zero_tsc + cycles * count
            if count >= limit:
                if preemption is not None and now >= preemption:
                    return exits.PreemptionTimer(now)
                return exits.ExternalInterrupt(now)
            if window and self._again is None and self._processor.takes_interrupts():
                return exits.InterruptWindow(now)

    def _step(self, limit: int) -> exits.Exit | None:
        """Start the CPU once and deal with why it stopped; None: the guest can go on."""
        counter = self._counter
        left_long_mode = False
        try:
            self._start(limit)
        except LeftLongMode:
            left_long_mode = True
        stopped = counter[STOPPED]
        now = self._zero_tsc + self._cycles_per_insn * counter[COUNT]
        if stopped == AT_SITE:
            return self._leave(self._blocks.sites[self._processor.rip], now)
        if stopped in (AT_LIMIT, AT_WINDOW):
            return None
        if stopped == AT_MEMORY:
            asked = self._devices.asked
            assert asked is not None
            if asked.value is None:
                return exits.ReadMemory(now, asked.address, asked.size)
            return exits.WriteMemory(now, asked.address, asked.size, asked.value)
        if stopped == AT_NEW_SITES:
            self._blocks.hook_new_sites()
            return None
        if stopped == AT_EXCEPTION:
            return self._fault(self._exception(), now)
        if left_long_mode:
            rip = self._processor.rip
            return exits.Shutdown(now, f"the guest left 64-bit mode at rip {rip:#x}; this CPU has no other")
        return exits.Hlt(now)

    def _start(self, limit: int) -> None:
        """Run until something stops the CPU; count and shadow are right afterwards, whatever it was."""
        counter, processor = self._counter, self._processor
        self._blocks.start(limit)
        if self._again is not None:
            counter[COUNT] -= 1
            self._devices.replay()
        try:
            error = processor.run()
        except BaseException:  # Ctrl-C for one: what has run until then can still be asked for
            self._take_stock()
            raise
        if error in _NO_INSTRUCTION:
            counter[STOPPED] = AT_EXCEPTION
            self._vector = UD
        elif error:
            check(error, f"go on at rip {processor.rip:#x}")
        self._take_stock()

    def _take_stock(self) -> None:
        """The CPU has stopped: take back what was charged and not run, and see where that leaves it."""
        counter, processor = self._counter, self._processor
        stopped, last = counter[STOPPED], self._blocks.last
        if last is not None:
            # Between blocks, the last one tells; inside of one: a block in a shadow has one instruction.
            between = NOT_STOPPED < stopped <= AT_NEW_SITES
            processor.shadow_possible = bool(last.flags & SHADOW_FLAG) if between else last.count == 1
            if not between and (stopped != AT_EXCEPTION or self._vector != DB):
                counter[COUNT] -= last.left_at(processor.rip)
        if self._again is not None:
            same = self._again == (processor.rip, counter[COUNT])
            counter[COUNT] += same
            if not same or stopped == AT_EXCEPTION:
                self._retry_no_more()
        self.instructions = counter[COUNT]

    def _leave(self, site: Site, now: int) -> exits.Exit | None:
        """The CPU stands at an instruction that leaves the guest."""
        try:
            left = self._instructions.leave(site, now, *self._processor.operands)
        except Fault as fault:
            return self._fault(fault.event, now)
        if left is None or isinstance(left, int):
            self._retire(site, left)
            return None
        self._exit = site
        return left

    # -- exceptions --

    def _exception(self) -> Event:
        """The exception that stopped the CPU."""
        vector, processor = self._vector, self._processor
        error_code, is_int = processor.cpu.take_exception()
        if is_int:
            last = self._blocks.last
            at = last.starts[-1] if last is not None else processor.rip
            if vector == UD and processor.rip == at:  # Unicorn leaves RIP before INT 6
                processor.rip = at + 2
                self._counter[COUNT] += 1
                self.instructions += 1
            return Event(vector, software=processor.rip - at)
        if vector == PF:
            return Event(vector, error_code, cr2=processor.cr2())
        return Event(vector, error_code if vector in WITH_ERROR_CODE else None)

    def _fault(self, event: Event, now: int) -> exits.Exit | None:
        """Deliver an exception of the guest's own."""
        self._stalled = self._counter[COUNT] == self._faulted_at
        self._faulted_at = self._counter[COUNT]
        return self._deliver(event, now)

    def _deliver(self, event: Event, now: int) -> exits.Exit | None:
        """Enter the guest's handler; Shutdown if there is no way."""
        try:
            self._processor.enter(event)
        except TripleFault as fault:
            return exits.Shutdown(now, str(fault))
        return None

    # -- called by Unicorn, in a run --

    def _on_exception(self, _cpu: int, vector: int, _data: int) -> None:
        if not self._counter[STOPPED]:
            self._vector = vector
        self._blocks.stop(AT_EXCEPTION)

    def _on_rdtsc(self, _cpu: int, _data: int) -> int:
        count = self._blocks.count_at(self._rip_now.read()[0])
        value = self._tsc.at(self._zero_tsc + self._cycles_per_insn * count)
        self._rdx_rax.write(value >> 32, value & 0xFFFF_FFFF)
        return 1

    def _on_rdtscp(self, _cpu: int, _data: int) -> int:
        self._rcx.write(self._processor.cpu.read_msr(MSR_TSC_AUX))
        return self._on_rdtsc(_cpu, _data)


__all__ = ["SLICE", "UnicornEngine"]

assert sys.byteorder == "little", "guest memory is shared with a little-endian guest"
