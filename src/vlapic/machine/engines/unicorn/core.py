# SPDX-License-Identifier: GPL-2.0-or-later
"""One emulated CPU, run from stop to stop: why Unicorn stopped, what it means, where it leaves the count.

A run ends at a limit, before a block whose exiting instructions are not hooked yet, at one of these, at an
access to device memory, at an exception, or behind HLT. Each is brought to one of two ends here: an exit for
the machine, or nothing, and the guest can go on.
"""

from __future__ import annotations

from functools import partial
from mmap import mmap

from unicorn import unicorn_const as uc

from vlapic.errors import EngineError
from vlapic.machine.engines import contract as exits
from vlapic.machine.engines.contract import FirstState
from vlapic.machine.engines.unicorn.binding import InterruptCallback, check
from vlapic.machine.engines.unicorn.blocks import (
    AT_EXCEPTION,
    AT_HANDLED,
    AT_LEFT,
    AT_LIMIT,
    AT_MEMORY,
    AT_NEW_SITES,
    AT_RESUME,
    AT_SITE,
    AT_WINDOW,
    COUNT,
    LIMIT,
    NOT_STOPPED,
    ROW,
    STATE,
    STOPPED,
    WINDOW,
    Blocks,
)
from vlapic.machine.engines.unicorn.control import Control
from vlapic.machine.engines.unicorn.decode import SHADOW_FLAG, Kind, Site
from vlapic.machine.engines.unicorn.device_memory import DeviceMemory
from vlapic.machine.engines.unicorn.events import (
    DB,
    FLAG_IF,
    FLAG_RF,
    FLAG_TF,
    PF,
    UD,
    WITH_ERROR_CODE,
    Event,
    TripleFault,
)
from vlapic.machine.engines.unicorn.instructions import Fault, Instructions, Jump
from vlapic.machine.engines.unicorn.layout import HF_INHIBIT_IRQ
from vlapic.machine.engines.unicorn.machine_code import native_counting
from vlapic.machine.engines.unicorn.msrs import OwnMsrs
from vlapic.machine.engines.unicorn.paging import PAGE
from vlapic.machine.engines.unicorn.processor import Processor
from vlapic.machine.engines.unicorn.shared_code import SharedCode
from vlapic.machine.engines.unicorn.stores import Stores
from vlapic.machine.engines.unicorn.tsc_reads import TscReads
from vlapic.machine.engines.unicorn.whole_access import LONGEST, WholeAccesses
from vlapic.machine.guests.loader import MAX_MEMORY
from vlapic.tsc import GuestTsc

_STI = b"\xfb"
#: Errors of uc_emu_start that say: no instruction. Where there is no RAM the bus reads all ones: none.
_NO_INSTRUCTION = (uc.UC_ERR_INSN_INVALID, uc.UC_ERR_FETCH_UNMAPPED, uc.UC_ERR_FETCH_PROT)


class Core:
    """A CPU with all that is around it.

    Attributes:
        instructions: retired since the start, see :class:`~vlapic.machine.engines.contract.CpuEngine`. An
            iteration of a REP string instruction counts as one, and so does the look that finds RCX at 0.
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
                Several CPUs may have it.
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
        self._cycles_per_insn = cycles_per_insn
        self._exit: Site | None = None  # the instruction to complete; None: none, or an access to memory
        self._again: tuple[int, int] | None = None  # RIP and count of an instruction that is run again
        self._pending: exits.Exit | None = None  # came up outside run(); for the next one
        self._closed = False
        self._vector = 0  # of the exception that stopped the CPU
        self._faulted_at = -1  # count at the last exception
        self._stalled = False  # no instruction has retired between the last two

        self._processor = Processor(memory, first)
        cpu, paging = self._processor.cpu, self._processor.paging
        self._state = cpu.state
        self._blocks = Blocks(
            cpu,
            self._processor.read_code,
            self._processor.code_bits,
            self._processor.state.resumes,
            lambda: bool(self._state.hflags() & HF_INHIBIT_IRQ),
            paging.flush,
            self._on_met,
            self._on_translated,
            self._on_site,
            native_counting() if native is None else native,
            fast_spin,
        )
        self._counter = self._blocks.counter
        cpu.on_failure = partial(self._blocks.stop, AT_HANDLED)
        self._devices = DeviceMemory(cpu, self._blocks, len(memory), self._on_access)
        self._whole = WholeAccesses(cpu.state.register, lambda name: cpu.state.segment(name).base)
        # Where a write stands whose parts are collected when it runs: RIP and count.
        self._collecting: tuple[int, int] | None = None
        msrs, control = OwnMsrs(cpu, self._remapped), Control(cpu, self._remapped)
        self._instructions = Instructions(cpu.state, paging, msrs, control)
        self._time = TscReads(cpu, self._blocks, tsc, cycles_per_insn)
        self._shared = SharedCode(memory, self._processor.ram_address, self._blocks.machine_code)
        self._stores = Stores(cpu, len(memory), self._blocks.machine_code)
        self._code_pages: set[int] = set()  # linear: whose physical ones are known to hold code
        self._sharers, self._number = self._shared.sharers, self._shared.number
        self._state_is_found = not self._blocks.machine_code
        cpu.hook(uc.UC_HOOK_INTR, InterruptCallback(self._on_exception))

    # -- running --

    def _settle(self) -> None:
        """Finish the instruction whose accesses have been answered.

        It may make another access, or fault for good: that exit is kept for run().
        """
        if self._again is None or self._devices.asked is not None or self._pending is not None:
            return
        self._processor.open_shadow()
        counter = self._counter
        wanted, counter[WINDOW] = counter[WINDOW], 0
        while self._again is not None and self._pending is None:
            self._pending = self._step(counter[COUNT])
            self._processor.shadow_possible = True
        counter[WINDOW] = wanted

    def _retry_no_more(self) -> None:
        self._again = None
        self._devices.forget()

    def _step(self, limit: int) -> exits.Exit | None:
        """Start the CPU once and deal with why it stopped; None: the guest can go on."""
        counter = self._counter
        self._start(limit)
        stopped = counter[STOPPED]
        now = self._time.zero_tsc + self._cycles_per_insn * counter[COUNT]
        if stopped == AT_SITE:
            return self._leave(self._blocks.sites[self._processor.address], now)
        if stopped in (AT_LIMIT, AT_WINDOW):
            return self._behind_ss() if self._blocks.loaded_ss else None
        if stopped in (AT_HANDLED, AT_LEFT):
            return self._handled(now)
        if stopped == AT_MEMORY:
            asked = self._devices.asked
            assert asked is not None
            last, address = self._blocks.last, self._processor.address
            if last is not None:
                self._devices.stopped_in(last)
                self._devices.places.learn(last, counter[ROW], address)
                if not self._devices.is_whole:
                    whole = self._whole.of(asked, last, address, self._devices.has_made)
                    if whole is not None and not self._devices.widen(whole):
                        self._collecting = self._processor.rip, counter[COUNT]
                        return self._step(max(limit, counter[COUNT] + 1))
                    asked = self._devices.asked
                    assert asked is not None
            if asked.value is None:
                return exits.ReadMemory(now, asked.address, asked.size)
            return exits.WriteMemory(now, asked.address, asked.size, asked.value)
        if stopped == AT_NEW_SITES:
            self._blocks.hook_new_sites()
            return None
        if stopped == AT_RESUME:
            self._processor.open_shadow()
            return None
        if stopped == AT_EXCEPTION:
            if self._processor.trapped:
                self._processor.trapped = False
                return None
            event = self._exception()
            if not event.software and self._vector in (PF, UD) and self._ran_ahead():
                self._processor.open_shadow()
                return None
            return self._fault(event, now)
        if self._processor.eflags & FLAG_TF:
            return self._trap()
        return exits.Hlt(now)

    def _behind_ss(self) -> exits.Exit | None:
        """Behind a load of SS: see to the shadow that Unicorn leaves out when two kinds follow each other.

        STI behind STI has no shadow of its own, nor has a load of SS behind another; but either has one
        behind the other (`kvm/x86.c: toggle_interruptibility`). Unicorn gives it to the first alone.
        """
        blocks, processor, counter = self._blocks, self._processor, self._counter
        if blocks.behind_sti:
            processor.open_shadow()
            return None
        if processor.eflags & FLAG_IF or processor.read_code(processor.address, 1) != _STI:
            return None
        count = counter[COUNT]
        wanted, counter[WINDOW] = counter[WINDOW], 0  # it is not open where Unicorn has it
        left = self._step(count + 1)
        counter[WINDOW] = wanted
        last = blocks.last
        if left is None and counter[COUNT] == count + 1 and last is not None and last.ends_in_sti:
            processor.open_shadow()
        return left

    def _start(self, limit: int) -> None:
        """Run until something stops the CPU; count and shadow are right afterwards, whatever it was."""
        counter, processor = self._counter, self._processor
        traps = self._devices.credit < 0 and self._begin_alone(limit)
        if self._collecting is not None:
            if self._collecting != (processor.rip, counter[COUNT]):
                self._devices.collect_no_more()
            self._collecting = None
        self._blocks.start(limit)
        if self._again is not None:
            counter[COUNT] -= 1
            self._devices.replay()
        try:
            error = processor.run()
        except BaseException:  # Ctrl-C for one: what has run until then can still be asked for
            if traps:
                processor.end_trap()
            self._take_stock()
            raise
        if traps:
            processor.trapped = processor.end_trap() and counter[STOPPED] == AT_EXCEPTION
        if error in _NO_INSTRUCTION:
            counter[STOPPED] = AT_EXCEPTION
            self._vector = UD
        elif error:
            check(error, f"go on at rip {processor.rip:#x}")
        self._take_stock()

    def _begin_alone(self, limit: int) -> bool:
        """Have the CPU trap behind the next instruction, if it accesses memory; whether it is to.

        Behind each instruction that was stopped at an access Unicorn translates the block that begins there,
        hundreds of instructions, to run or just to stop before it. Where each of them accesses a device, each
        is translated hundreds of times. An instruction that traps is a block of its own, and nothing is
        translated behind it. (The limit is not to count where no block of the guest's begins.)
        """
        processor, counter = self._processor, self._counter
        if self._again is None and self._collecting is None and limit <= counter[COUNT] + 1:
            return False
        if processor.eflags & (FLAG_TF | FLAG_RF):
            return False
        address = processor.address
        code = processor.read_code(address, LONGEST)
        if not self._whole.may_run_alone(code, address, processor.code_bits()):
            return False
        processor.begin_trap()
        return True

    def _take_stock(self) -> None:
        """The CPU has stopped: take back what was charged and not run, and see where that leaves it."""
        counter, processor = self._counter, self._processor
        stopped, last = counter[STOPPED], self._blocks.last
        if last is not None:
            self._blocks.before = last
            # Between blocks, the last one tells; inside of one: a block in a shadow has one instruction.
            between = NOT_STOPPED < stopped <= AT_LEFT
            processor.shadow_possible = bool(last.flags & SHADOW_FLAG) if between else last.count == 1
            if between:  # what it stands at has been translated, and may never run
                self._on_met(processor.address, 1)
            if not between and (stopped != AT_EXCEPTION or self._vector != DB):
                counter[COUNT] -= last.left_at(processor.address)
        if self._again is not None:
            same = self._again == (processor.rip, counter[COUNT])
            counter[COUNT] += same
            if not same or stopped == AT_EXCEPTION:
                self._retry_no_more()
        self.instructions = counter[COUNT]
        if not self._state_is_found and counter[STATE]:
            self._state_is_found = True
            self._find_state(counter[STATE])

    def _find_state(self, address: int) -> None:
        """Machine code has seen where the CPU keeps its state."""
        self._processor.state.use(address)
        if self._processor.state.live:
            self._stores.look_at(address)

    def _leave(self, site: Site, now: int) -> exits.Exit | None:
        """The CPU stands at an instruction that leaves the guest."""
        if site.kind is Kind.INT1:
            self._processor.advance(site.length)
            self._counter[COUNT] += 1
            self.instructions += 1
            return self._deliver(Event(DB), now)
        try:
            left = self._instructions.leave(site, now, self._processor.stand)
        except Fault as fault:
            return self._fault(fault.event, now)
        if isinstance(left, Jump):
            self._processor.jump(left.rip)
            return self._retired()
        if left is None or isinstance(left, int):
            return self._retire(site, left)
        self._exit = site
        return left

    def _retire(self, site: Site, answer: exits.Answer) -> exits.Exit | None:
        """An instruction that left the guest is done."""
        processor = self._processor
        if self._instructions.finish(site, answer):
            processor.advance(site.length)
        return self._retired()

    def _retired(self) -> exits.Exit | None:
        processor = self._processor
        self._counter[COUNT] += 1
        self.instructions += 1
        if processor.shadow_possible:
            processor.leave_shadow()
        if processor.eflags & FLAG_RF:
            processor.clear_resume()
        return self._trap() if processor.eflags & FLAG_TF else None

    def _trap(self) -> exits.Exit | None:
        """#DB of a single step over an instruction that Unicorn has not carried out to its end."""
        self._processor.note_single_step()
        return self._deliver(Event(DB), 0)

    def _exception(self) -> Event:
        """The exception that stopped the CPU."""
        vector, processor = self._vector, self._processor
        error_code, is_int = processor.state.take_exception()
        if is_int:
            last = self._blocks.last
            length = processor.address - last.starts[-1] if last is not None else 0
            if vector == UD and not length:  # Unicorn leaves RIP before INT 6
                length = 2
                processor.advance(length)
                self._counter[COUNT] += 1
                self.instructions += 1
            return Event(vector, software=length)
        if vector == PF:
            return Event(vector, error_code, cr2=processor.state.cr(2))
        return Event(vector, error_code if vector in WITH_ERROR_CODE else None)

    def _ran_ahead(self) -> bool:
        """Whether it is code further on that could not be fetched.

        Unicorn translates a block before it runs any of it, and faults it as a whole. Its instructions are
        run one by one then, up to the one that faults; CR2 has been changed ahead of them.
        """
        processor, last = self._processor, self._blocks.last
        began = last is not None and last.left_at(processor.address) > 0
        return not began and not processor.state.hflags() & HF_INHIBIT_IRQ

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

    # -- what is translated --

    def _remapped(self) -> None:
        """Addresses may stand for something else now."""
        self._processor.paging.flush()
        self._blocks.forget()
        self._code_pages.clear()
        self._tlb_emptied()

    def _forget_translated(self) -> None:
        """Memory may hold other code now than was translated."""
        self._processor.cpu.forget_all_code()
        self._blocks.forget()
        self._shared.forget()

    def _tlb_emptied(self) -> None:
        counter, stores = self._counter, self._stores
        stores.emptied(counter[COUNT])
        if counter[LIMIT] > stores.due:
            counter[LIMIT] = stores.due

    # -- called by Unicorn, in a run --

    def _on_met(self, address: int, size: int) -> None:
        """There is code at a linear address."""
        first, last = address // PAGE, (address + size - 1) // PAGE
        if first in self._code_pages and last in self._code_pages:
            return
        parts = self._processor.physical(address, size)
        if len(parts) == last - first + 1:
            self._code_pages |= {first, last}
        if self._stores.hold_code([physical for physical, _ in parts]):
            self._tlb_emptied()

    def _on_translated(self, address: int, size: int) -> None:
        self._devices.places.forget()
        self._on_met(address, size)
        if self._shared.tracked:
            for physical, length in self._processor.physical(address, size):
                self._shared.add(physical, length)

    def _on_site(self, _cpu: int, _address: int, _size: int, _data: int) -> None:
        """The CPU is at an instruction of FASTPATH_KINDS; nothing is offered here."""
        self._blocks.stop(AT_SITE)

    def _on_access(self, _address: int, _size: int, _value: int | None) -> int | None:
        """The CPU is at an access to device memory; nothing is offered here."""
        return None

    def _handled(self, _now: int) -> exits.Exit | None:
        """After a stop AT_HANDLED or AT_LEFT."""
        raise AssertionError("nothing was handled on the fast path")

    def _on_exception(self, _cpu: int, vector: int, _data: int) -> None:
        if not self._counter[STOPPED]:
            self._vector = vector
        self._blocks.stop(AT_EXCEPTION)
