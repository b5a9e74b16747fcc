# SPDX-License-Identifier: GPL-2.0-or-later
"""The smallest engine there is: a guest written as a Python generator. For tests of the machine, and to
explain it.

The generator *is* the guest. It yields a number of instructions to compute, or an exit to make (its
`host_tsc` is filled in); the answer comes back from the yield, a fault is raised out of it::

    def guest(cpu):
        now = cpu.rdtsc()
        yield cpu.wrmsr(0x6E0, now + 100_000)
        while not cpu.handled:
            yield 2                         # cmp; je

An interrupt handler is a second generator that runs on top of the first; its end is the IRET.

The engine "scripted" takes a `ScriptedGuest`, which has such a generator for each vCPU of a VM.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from vlapic.machine.engines import contract as e
from vlapic.tsc import GuestTsc

NMI = 2

_exit = tuple.__new__  # a NamedTuple's own is twice as slow

Script = Generator["int | e.Exit", e.Answer, None]


class ScriptedFault(Exception):
    """An exception of the guest's CPU, raised out of the yield that made the exit."""

    def __init__(self, vector: int, error_code: int | None) -> None:
        super().__init__(f"vector {vector}, error code {error_code}")
        self.vector = vector
        self.error_code = error_code


@dataclass(frozen=True)
class ScriptedGuest:
    """The guest of a VM, written in Python.

    Attributes:
        scripts: what each vCPU plays, in order.
        handler: what each plays when it takes a vector; None: nothing, the vector is noted and that is all.
    """

    scripts: Sequence[Callable[[ScriptedEngine], Script]]
    handler: Callable[[ScriptedEngine, int], Script] | None = None


@dataclass
class _Frame:
    """A script that runs, or was interrupted.

    Attributes:
        left: instructions it still had to compute when it was interrupted.
        answer, fault: what its last exit is answered with, once it goes on.
    """

    script: Script
    left: int = 0
    answer: e.Answer = None
    fault: ScriptedFault | None = None


class ScriptedEngine:
    """A CPU (`CpuEngine`) that plays generators; an instruction takes one host cycle.

    Attributes:
        interrupts_enabled: RFLAGS.IF; the script sets it. An interrupt clears it, the end of its handler
            restores it.
        shadow: True for as long as an interrupt shadow is open; the script sets it, the next instruction
            clears it.
        in_nmi: True from an NMI to the end of its handler.
        waits: True from INIT to SIPI.
        handled: vectors taken so far, in order; 2 for an NMI.
        pages: of the SIPIs so far.
        faults: (vector, error code) of the exceptions injected so far.
    """

    rip = 0

    def __init__(
        self,
        tsc: GuestTsc,
        guest: Callable[[ScriptedEngine], Script],
        handler: Callable[[ScriptedEngine, int], Script] | None = None,
    ) -> None:
        self.instructions = 0
        self.fastpath: e.Fastpath | None = None
        self.interrupts_enabled = True
        self.shadow = False
        self.in_nmi = False
        self.waits = False
        self.handled: list[int] = []
        self.pages: list[int] = []
        self.faults: list[tuple[int, int | None]] = []
        self._tsc = tsc
        self._guest = guest
        self._stack = [_Frame(guest(self))]  # innermost last
        self._nmi_depth = 0  # of the stack under the NMI's handler
        self._masks: list[bool] = []  # RFLAGS.IF of the scripts that were interrupted
        self._handler = handler
        self._now = 0
        self._computing = 0

    # -- what a script says --

    def rdtsc(self) -> int:
        """The guest's TSC at its current instruction."""
        return self._tsc.at(self._now)

    def wrmsr(self, msr: int, value: int) -> e.Exit:
        return _exit(e.WriteMsr, (self._now, msr, value))

    @staticmethod
    def rdmsr(msr: int) -> e.Exit:
        return e.ReadMsr(0, msr)

    def store(self, address: int, value: int, size: int = 4) -> e.Exit:
        return _exit(e.WriteMemory, (self._now, address, size, value))

    @staticmethod
    def load(address: int, size: int = 4) -> e.Exit:
        return e.ReadMemory(0, address, size)

    @staticmethod
    def out(port: int, value: int, size: int = 4) -> e.Exit:
        return e.WritePort(0, port, size, value)

    @staticmethod
    def hlt() -> e.Exit:
        return e.Hlt(0)

    @staticmethod
    def vmcall(number: int, *arguments: int) -> e.Exit:
        first, second, third, fourth = (*arguments, 0, 0, 0, 0)[:4]
        return e.Hypercall(0, number, (first, second, third, fourth))

    # -- the engine --

    @property
    def interruptible(self) -> bool:
        return self.interrupts_enabled and not self.shadow

    def inject_interrupt(self, vector: int) -> None:
        assert self.interruptible, "an interrupt was injected into a guest that takes none"
        self._call_handler(vector)

    @property
    def nmi_blocked(self) -> bool:
        return self.in_nmi or self.shadow

    def inject_nmi(self) -> None:
        assert not self.nmi_blocked, "an NMI was injected into a guest that takes none"
        if self._handler is not None:
            self.in_nmi = True
            self._nmi_depth = len(self._stack)
        self._call_handler(NMI)

    def _call_handler(self, vector: int) -> None:
        self.handled.append(vector)
        if self._handler is None:
            return
        self._stack[-1].left = self._computing
        self._masks.append(self.interrupts_enabled)
        self._stack.append(_Frame(self._handler(self, vector)))
        self.interrupts_enabled = False
        self._computing = 0

    def reset(self) -> None:
        self.waits = True
        self._stack.clear()
        self._masks.clear()
        self._computing = 0
        self.interrupts_enabled = self.shadow = self.in_nmi = False

    def startup(self, page: int) -> None:
        """Start the guest's script from its beginning; `pages` tells it where it was sent."""
        assert self.waits, "a SIPI starts a CPU that waits for one"
        self.waits = False
        self.pages.append(page)
        self._stack = [_Frame(self._guest(self))]

    def close(self) -> None:
        """There is nothing to free."""

    def inject_exception(self, vector: int, error_code: int | None = None) -> None:
        self.faults.append((vector, error_code))
        self._stack[-1].fault = ScriptedFault(vector, error_code)

    def complete(self, answer: e.Answer = None) -> None:
        self.instructions += 1
        self.shadow = False
        self._stack[-1].answer = answer

    @property
    def host_tsc(self) -> int:
        return self._now

    def run(
        self,
        now: int,
        until: int | None = None,
        preemption: int | None = None,
        window: bool = False,
        nmi_window: bool = False,
    ) -> e.Exit:
        assert not self.waits, "a CPU that waits for SIPI was run"
        self._now = now
        while True:
            if preemption is not None and self._now >= preemption:
                return e.PreemptionTimer(self._now)
            if until is not None and self._now >= until:
                return e.ExternalInterrupt(self._now)
            if nmi_window and not self.nmi_blocked:
                return e.NmiWindow(self._now)
            if window and self.interruptible:
                return e.InterruptWindow(self._now)
            if self._computing:
                self._compute(until, preemption, window or nmi_window)
                continue
            step = self._next_step()
            if type(step) is int:
                self._computing = step
                continue
            if step is None:
                return e.Shutdown(self._now, "the script has ended")
            if type(step) is e.Hlt:
                self._retire(1)
                return e.Hlt(self._now)
            assert not isinstance(step, int)
            left = step if step[0] == self._now else _exit(type(step), (self._now, *step[1:]))
            if self.fastpath is None:
                return left
            reentry = self.fastpath(left)
            if reentry is None:
                return e.Handled(self._now)
            self._now, until, preemption, window, nmi_window = reentry

    def _compute(self, until: int | None, preemption: int | None, window: bool) -> None:
        """Retire instructions up to the nearest limit; one only while a shadow or a window needs a look."""
        count = 1 if self.shadow or window else self._computing
        if until is not None and until - self._now < count:
            count = until - self._now
        if preemption is not None and preemption - self._now < count:
            count = preemption - self._now
        self._computing -= count
        self._retire(count)

    def _retire(self, count: int) -> None:
        self.instructions += count
        self._now += count
        self.shadow = False

    def _next_step(self) -> int | e.Exit | None:
        """What the topmost script does next; None when the guest's own has ended."""
        while self._stack:
            frame = self._stack[-1]
            try:
                if frame.fault is not None:
                    fault, frame.fault = frame.fault, None
                    return frame.script.throw(fault)
                answer, frame.answer = frame.answer, None
                return frame.script.send(answer)
            except StopIteration:
                self._stack.pop()
                if not self._stack:
                    return None
                self._retire(1)
                self.interrupts_enabled = self._masks.pop()
                if self.in_nmi and len(self._stack) == self._nmi_depth:
                    self.in_nmi = False
                if left := self._stack[-1].left:
                    self._stack[-1].left = 0
                    return left
        return None


def cpus_of(guest: ScriptedGuest, cycles_per_insn: int) -> e.MakeCpu:
    """The engine "scripted"; an instruction takes one host cycle, whatever the host model says."""
    return lambda index, tsc: ScriptedEngine(tsc, guest.scripts[index], guest.handler)
