# SPDX-License-Identifier: GPL-2.0-or-later
"""The CPU under a vCPU: what an engine does, and how a guest leaves it.

An engine runs guest instructions from a host TSC value on and says why and when the guest left. It knows no
APIC: memory that is not RAM, model-specific registers, ports, CPUID, VMCALL and HLT come out as exits that
carry their data, and an exit that reads something is answered by :meth:`CpuEngine.complete` before the next
run. The order of work around a run is `machine/vcpu.py`'s.

An engine may offer an exit to its caller where it comes up, in the middle of a run
(:attr:`CpuEngine.fastpath`), and go on in the same run if the caller has nothing else to do. That is KVM's
EXIT_FASTPATH_REENTER_GUEST, and changes nothing but the speed.

Every exit is precise: the guest stands *at* the instruction for an access that has not been carried out yet
(`complete` finishes it), and *after* HLT. The smallest engine, `machine/engines/scripted.py`, obeys the same
contract without a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from vlapic.tsc import GuestTsc


class CpuMode(Enum):
    """The mode a CPU starts in."""

    LONG = "64-bit code at CPL 0, paging on"
    PROTECTED = "32-bit code at CPL 0 in flat segments, paging off"


@dataclass(frozen=True, slots=True)
class FirstState:
    """The registers a guest starts with, interrupts off; the others are 0.

    Attributes:
        cr3, gdt_base, gdt_limit: of no meaning in protected mode, whose segments are flat without a table.
    """

    rip: int
    rsp: int
    rdi: int = 0
    rsi: int = 0
    cr3: int = 0
    gdt_base: int = 0
    gdt_limit: int = 0
    rax: int = 0
    rbx: int = 0
    mode: CpuMode = CpuMode.LONG


class ReadMsr(NamedTuple):
    """RDMSR; complete with 64 bits, or raise #GP by `inject_exception`."""

    host_tsc: int
    msr: int


class WriteMsr(NamedTuple):
    """WRMSR; complete without a value, or raise #GP by `inject_exception`."""

    host_tsc: int
    msr: int
    value: int


class ReadMemory(NamedTuple):
    """A read of memory that is not RAM; complete with `size` bytes, little-endian."""

    host_tsc: int
    address: int
    size: int


class WriteMemory(NamedTuple):
    """A write of memory that is not RAM; complete without a value."""

    host_tsc: int
    address: int
    size: int
    value: int


class ReadPort(NamedTuple):
    """IN; complete with `size` bytes."""

    host_tsc: int
    port: int
    size: int


class WritePort(NamedTuple):
    """OUT; complete without a value."""

    host_tsc: int
    port: int
    size: int
    value: int


class ReadCr8(NamedTuple):
    """MOV from CR8; complete with the task priority's class, 0 to 15."""

    host_tsc: int


class WriteCr8(NamedTuple):
    """MOV to CR8; complete without a value, or raise #GP."""

    host_tsc: int
    value: int


class Cpuid(NamedTuple):
    """CPUID; complete with the four registers (EAX, EBX, ECX, EDX).

    Attributes:
        user: it is outside CPL 0.
    """

    host_tsc: int
    leaf: int
    subleaf: int
    user: bool = False


class Hypercall(NamedTuple):
    """VMCALL or VMMCALL at CPL 0; complete with what RAX is to hold.

    In 64-bit code number and arguments are RAX, RBX, RCX, RDX and RSI, in other code the low halves of these.
    """

    host_tsc: int
    number: int
    arguments: tuple[int, int, int, int]


class Hlt(NamedTuple):
    """HLT has retired; the guest waits for an interrupt."""

    host_tsc: int


class PreemptionTimer(NamedTuple):
    """The VMX preemption timer ran out."""

    host_tsc: int


class ExternalInterrupt(NamedTuple):
    """The host wants its CPU back: `until` was reached, or somebody kicked the vCPU."""

    host_tsc: int


class InterruptWindow(NamedTuple):
    """The guest takes interrupts again (asked for with `window`)."""

    host_tsc: int


class NmiWindow(NamedTuple):
    """The guest takes NMIs again (asked for with `nmi_window`)."""

    host_tsc: int


class Shutdown(NamedTuple):
    """The guest's CPU shut itself down: a triple fault. `reason` tells the faults, first to last."""

    host_tsc: int
    reason: str


class Handled(NamedTuple):
    """The caller has handled an exit on the fast path already, and does not want the guest to go on at once.

    `host_tsc` is when the guest left; the time that handling took is the caller's.
    """

    host_tsc: int


Exit = (
    ReadMsr
    | WriteMsr
    | ReadMemory
    | WriteMemory
    | ReadPort
    | WritePort
    | ReadCr8
    | WriteCr8
    | Cpuid
    | Hypercall
    | Hlt
    | PreemptionTimer
    | ExternalInterrupt
    | InterruptWindow
    | NmiWindow
    | Shutdown
    | Handled
)

#: What completes an exit: nothing for a write, a number for a read, four registers for CPUID.
Answer = int | tuple[int, int, int, int] | None


#: How a guest goes on after an exit on the fast path: the arguments of :meth:`CpuEngine.run`, in order. A
#: window may be asked for only while it is shut, or behind an injection.
Reentry = tuple[int, int | None, int | None, bool, bool]

#: Handles an exit at once; None: `run` is to return :class:`Handled`.
Fastpath = Callable[[Exit], Reentry | None]


class CpuEngine(Protocol):
    """One guest CPU."""

    #: Guest instructions retired since the start. HLT counts as one; an instruction that exited counts
    #: once it is completed.
    instructions: int

    @property
    def host_tsc(self) -> int:
        """The host TSC that the guest has reached, also where an exception (Ctrl-C) ended a run."""

    #: Called in a run, if set, at an exit that the engine can go on after by itself, whichever these are. It
    #: handles the exit as the caller of `run` would: it completes it or injects an exception, and may then
    #: inject an interrupt or an NMI. Meanwhile the guest stands where the exit's contract says, and can be
    #: asked; after an injection it cannot. After an exception it must return None.
    fastpath: Fastpath | None

    @property
    def rip(self) -> int:
        """The guest's instruction pointer, for reports."""

    @property
    def interrupts_enabled(self) -> bool:
        """RFLAGS.IF."""

    @property
    def interruptible(self) -> bool:
        """Whether an interrupt can be injected now: IF is set, no shadow of STI or MOV SS is open."""

    @property
    def nmi_blocked(self) -> bool:
        """Whether an NMI has to wait: one is handled (until an IRET has completed), or a shadow is open."""

    def inject_interrupt(self, vector: int) -> None:
        """Deliver a vector through the guest's IDT before its next instruction, while `interruptible`."""

    def inject_nmi(self) -> None:
        """Deliver vector 2 through the guest's IDT before its next instruction, while not `nmi_blocked`.

        Blocks NMIs until an IRET has completed.
        """

    def inject_exception(self, vector: int, error_code: int | None = None) -> None:
        """Fault the instruction of the last exit instead of completing it."""

    def complete(self, answer: Answer = None) -> None:
        """Carry out the access of the last exit, with what it read. The instruction retires now."""

    def reset(self) -> None:
        """INIT: put the CPU's state back; it waits for :meth:`startup`, and is not to be run before.

        The last exit, if it has not been completed, never will be. Memory and `instructions` stay.
        """

    def startup(self, page: int) -> None:
        """SIPI: start a CPU that waits, in real mode at CS = `page` << 8 (0 to 255), IP = 0."""

    def close(self) -> None:
        """Free what the engine holds, the guest's memory excepted. It cannot run any more; twice is once."""

    def run(
        self,
        now: int,
        until: int | None = None,
        preemption: int | None = None,
        window: bool = False,
        nmi_window: bool = False,
    ) -> Exit:
        """Run the guest from host TSC `now` until it exits.

        An engine may stop later than asked, never earlier (the emulated one stops between blocks of
        instructions), and at a limit that has been reached already it runs no instruction at all. Where
        several reasons hold at once the preemption timer comes first, then the external interrupt, then the
        NMI window, then the interrupt window.

        Args:
            now: host TSC at the guest's next instruction.
            until: host TSC at which the host wants its CPU back (:class:`ExternalInterrupt`); None for
                "whenever it suits": an engine still returns now and then, so that its caller can be
                interrupted.
            preemption: host TSC at which the VMX preemption timer runs out (:class:`PreemptionTimer`).
            window: return :class:`InterruptWindow` as soon as `interruptible` holds.
            nmi_window: return :class:`NmiWindow` as soon as `nmi_blocked` does not hold.
        """


#: Makes a CPU of one VM, given its number there, from 0 on, and the TSC that its guest reads.
MakeCpu = Callable[[int, GuestTsc], CpuEngine]

__all__ = [
    "Answer",
    "CpuEngine",
    "CpuMode",
    "Cpuid",
    "Exit",
    "ExternalInterrupt",
    "Fastpath",
    "FirstState",
    "Handled",
    "Hlt",
    "Hypercall",
    "InterruptWindow",
    "MakeCpu",
    "NmiWindow",
    "PreemptionTimer",
    "ReadCr8",
    "ReadMemory",
    "ReadMsr",
    "ReadPort",
    "Reentry",
    "Shutdown",
    "WriteCr8",
    "WriteMemory",
    "WriteMsr",
    "WritePort",
]
