# SPDX-License-Identifier: GPL-2.0-or-later
"""The instructions that leave the guest: what each asks the machine, and what it does with the answer.

RDMSR, WRMSR, CPUID, IN, OUT, INS, OUTS, MOV CR8 and VMCALL, after the instruction pages of SDM vol. 2. Some
MSRs are the CPU's alone (`msrs.py`) and never reach the machine; nor do MOV CR0 and MOV CR4, which are here
because Unicorn lets them set anything (`control.py`), and SYSCALL and SYSENTER, which it lacks
(`system_calls.py`). INS and OUTS make one exit an element, as KVM's do. RDPMC faults: there are no counters.

Left out: the TSS's I/O permission bitmap (above IOPL a port access is #GP); INS to device memory and OUTS
from there, which go to memory that is not there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from vlapic.machine.engines import contract as exits
from vlapic.machine.engines.unicorn.control import Control
from vlapic.machine.engines.unicorn.decode import Kind, Site
from vlapic.machine.engines.unicorn.events import GP, PF, SS, UD, Event
from vlapic.machine.engines.unicorn.layout import HF_CPL, HF_PE
from vlapic.machine.engines.unicorn.msrs import NATIVE_MSRS, OwnMsrs
from vlapic.machine.engines.unicorn.paging import PageFault, Paging, is_canonical
from vlapic.machine.engines.unicorn.state import FLAG_DF, CpuState, Stand
from vlapic.machine.engines.unicorn.system_calls import SystemCalls

U32, U64 = 2**32 - 1, 2**64 - 1

_PRIVILEGED = frozenset(
    {Kind.RDMSR, Kind.WRMSR, Kind.READ_CR8, Kind.WRITE_CR8, Kind.WRITE_CR0, Kind.WRITE_CR4}
)
_STRINGS = frozenset({Kind.INS, Kind.OUTS})
_PORT_ACCESSES = _STRINGS | {Kind.IN, Kind.OUT}

_IOPL = 3 << 12
_AX, _CX, _DX, _BX, _SI, _DI = 0, 1, 2, 3, 6, 7
#: What a hypercall outside CPL 0 is answered (`KVM_EPERM`).
_NOT_PERMITTED = -1


class Fault(Exception):
    """The instruction faults instead."""

    def __init__(self, vector: int, error_code: int | None = 0, cr2: int | None = None) -> None:
        super().__init__(vector)
        self.event = Event(vector, error_code, cr2=cr2)


class Jump(NamedTuple):
    """The instruction is done, and execution goes on at `rip`."""

    rip: int


class Instructions:
    """One CPU's exiting instructions.

    Each is used in two steps: :meth:`leave` when the CPU stands at it, :meth:`finish` with the answer.
    """

    def __init__(self, state: CpuState, paging: Paging, msrs: OwnMsrs, control: Control) -> None:
        self._state = state
        self._paging = paging
        self._msrs = msrs
        self._control = control
        self._calls = SystemCalls(state, msrs)
        self._asks: dict[Kind, Callable[[Site, int, Stand], exits.Exit | Jump | int | None]] = {
            Kind.WRMSR: self._wrmsr,
            Kind.RDMSR: self._rdmsr,
            Kind.CPUID: self._cpuid,
            Kind.IN: self._in,
            Kind.OUT: self._out,
            Kind.INS: self._ins,
            Kind.OUTS: self._outs,
            Kind.READ_CR8: self._read_cr8,
            Kind.WRITE_CR8: self._write_cr8,
            Kind.WRITE_CR0: self._write_cr0,
            Kind.WRITE_CR4: self._write_cr4,
            Kind.HYPERCALL: self._hypercall,
            Kind.SMSW: self._smsw,
            Kind.SYSCALL: self._syscall,
            Kind.SYSENTER: self._sysenter,
            Kind.RDPMC: self._rdpmc,
        }

    def leave(self, site: Site, host_tsc: int, stand: Stand) -> exits.Exit | Jump | int | None:
        """What an instruction asks the machine.

        Args:
            site: the instruction the CPU stands at.
            host_tsc: now.
            stand: the CPU's registers.

        Returns:
            The exit; or, where the CPU answers by itself, what :meth:`finish` is to be called with, or where
            it goes.

        Raises:
            Fault: it faults without asking.
        """
        cpl = stand.hflags & HF_CPL
        if cpl and (
            site.kind in _PRIVILEGED or (site.kind in _PORT_ACCESSES and cpl > (stand.eflags & _IOPL) >> 12)
        ):
            raise Fault(GP)
        return self._asks[site.kind](site, host_tsc, stand)

    def finish(self, site: Site, answer: exits.Answer) -> bool:
        """Write what an instruction read to its registers; whether RIP goes on (REP may have more to do)."""
        kind = site.kind
        if kind in _STRINGS:
            return self._finish_string(site, answer)
        if answer is not None:
            state = self._state
            if kind == Kind.RDMSR:
                value = _number(answer)
                state.set_pair(value & U32, value >> 32 & U32)
            elif kind == Kind.CPUID:
                assert isinstance(answer, tuple)
                for register, value in zip((_AX, _BX, _CX, _DX), answer, strict=True):
                    state.set_register(register, value & U32)
            elif kind == Kind.IN:
                mask = (1 << 8 * site.size) - 1
                kept = state.register(_AX) & ~mask if site.size < 4 else 0
                state.set_register(_AX, kept | _number(answer) & mask)
            elif kind == Kind.READ_CR8:
                state.set_register(site.register, _number(answer) & 15)
            elif kind == Kind.HYPERCALL:
                state.set_register(_AX, _number(answer) & (U64 if site.bits == 64 else U32))
        return True

    # -- what each asks: (the instruction, host TSC, registers) --

    def _wrmsr(self, site: Site, host_tsc: int, stand: Stand) -> exits.Exit | None:
        msr, value = stand.rcx & U32, (stand.rdx & U32) << 32 | stand.rax & U32
        if msr not in NATIVE_MSRS:
            return exits.WriteMsr(host_tsc, msr, value)
        if not self._msrs.write(msr, value):
            raise Fault(GP)
        return None

    def _rdmsr(self, site: Site, host_tsc: int, stand: Stand) -> exits.Exit | int:
        msr = stand.rcx & U32
        return self._msrs.read(msr) if msr in NATIVE_MSRS else exits.ReadMsr(host_tsc, msr)

    def _cpuid(self, site: Site, host_tsc: int, stand: Stand) -> exits.Exit:
        return exits.Cpuid(host_tsc, stand.rax & U32, stand.rcx & U32, bool(stand.hflags & HF_CPL))

    def _in(self, site: Site, host_tsc: int, stand: Stand) -> exits.Exit:
        return exits.ReadPort(host_tsc, _port(site, stand), site.size)

    def _out(self, site: Site, host_tsc: int, stand: Stand) -> exits.Exit:
        return exits.WritePort(host_tsc, _port(site, stand), site.size, stand.rax & (1 << 8 * site.size) - 1)

    def _read_cr8(self, site: Site, host_tsc: int, stand: Stand) -> exits.Exit:
        return exits.ReadCr8(host_tsc)

    def _write_cr8(self, site: Site, host_tsc: int, stand: Stand) -> exits.Exit:
        value = self._state.register(site.register)
        if value > 15:
            raise Fault(GP)
        return exits.WriteCr8(host_tsc, value)

    def _write_cr0(self, site: Site, host_tsc: int, stand: Stand) -> None:
        if not self._control.write_cr0(self._operand(site)):
            raise Fault(GP)

    def _write_cr4(self, site: Site, host_tsc: int, stand: Stand) -> None:
        if not self._control.write_cr4(self._operand(site)):
            raise Fault(GP)

    def _smsw(self, site: Site, host_tsc: int, stand: Stand) -> None:
        self._state.set_register(site.register, self._state.cr(0) & U32)

    def _operand(self, site: Site) -> int:
        return self._state.register(site.register) & (U64 if site.bits == 64 else U32)

    def _hypercall(self, site: Site, host_tsc: int, stand: Stand) -> exits.Exit | int:
        if stand.hflags & HF_CPL:
            return _NOT_PERMITTED
        mask = U64 if site.bits == 64 else U32
        first, fourth = (self._state.register(number) & mask for number in (_BX, _SI))
        arguments = first, stand.rcx & mask, stand.rdx & mask, fourth
        return exits.Hypercall(host_tsc, stand.rax & mask, arguments)

    def _rdpmc(self, site: Site, host_tsc: int, stand: Stand) -> NoReturn:
        raise Fault(GP)  # no counter has this number; Unicorn has #UD

    def _syscall(self, site: Site, host_tsc: int, stand: Stand) -> Jump:
        return _jump(self._calls.syscall(stand, stand.rip + site.length))

    def _sysenter(self, site: Site, host_tsc: int, stand: Stand) -> Jump:
        return _jump(self._calls.sysenter(stand))

    # -- INS and OUTS: an exit for each element --

    def _outs(self, site: Site, host_tsc: int, stand: Stand) -> exits.Exit | None:
        mask = (1 << site.address_bits) - 1
        if site.repeated and not stand.rcx & mask:
            return None
        address = self._address(site, site.segment, self._state.register(_SI) & mask, stand)
        try:
            data = self._paging.read(address, site.size, bool(stand.hflags & HF_CPL))
        except PageFault as fault:
            raise Fault(PF, fault.error_code, fault.address) from None
        return exits.WritePort(host_tsc, stand.rdx & 0xFFFF, site.size, int.from_bytes(data, "little"))

    def _ins(self, site: Site, host_tsc: int, stand: Stand) -> exits.Exit | None:
        mask = (1 << site.address_bits) - 1
        if site.repeated and not stand.rcx & mask:
            return None
        address = self._address(site, "es", self._state.register(_DI) & mask, stand)
        user = bool(stand.hflags & HF_CPL)
        try:
            # Found writable now, so that nothing can go wrong once the device has been read.
            self._paging.translate(address, True, user)
            self._paging.translate(address + site.size - 1, True, user)
        except PageFault as fault:
            raise Fault(PF, fault.error_code, fault.address) from None
        return exits.ReadPort(host_tsc, stand.rdx & 0xFFFF, site.size)

    def _address(self, site: Site, segment: str, offset: int, stand: Stand) -> int:
        """The linear address of a string's element; paging is as the CPU has it now."""
        state = self._state
        self._paging.use(state.cr(0), state.cr(3), state.cr(4), state.efer())
        if site.bits == 64:
            base = state.segment(segment).base if segment in ("fs", "gs") else 0
            address = base + offset & U64
            if not is_canonical(address):
                raise Fault(GP)
            return address
        cached = state.segment(segment)
        if stand.hflags & HF_PE and offset + site.size - 1 > cached.limit:
            raise Fault(SS if segment == "ss" else GP)
        return cached.base + offset & U32

    def _finish_string(self, site: Site, answer: exits.Answer) -> bool:
        state = self._state
        stand = state.stand()
        mask = (1 << site.address_bits) - 1
        count = stand.rcx & mask
        if site.repeated and not count:
            return True
        step = -site.size if state.rflags() & FLAG_DF else site.size
        index = _DI if site.kind is Kind.INS else _SI
        offset = state.register(index)
        if site.kind is Kind.INS:
            address = self._address(site, "es", offset & mask, stand)
            data = struct.pack("<I", _number(answer) & (1 << 8 * site.size) - 1)[: site.size]
            self._paging.write(address, data, bool(stand.hflags & HF_CPL))
        state.set_register(index, _part(offset, offset + step, mask))
        if not site.repeated:
            return True
        state.set_register(_CX, _part(stand.rcx, count - 1, mask))
        return count == 1


def _jump(rip: int) -> Jump:
    if rip < 0:
        raise Fault(-rip, None if rip == -UD else 0)
    return Jump(rip)


def _part(before: int, value: int, mask: int) -> int:
    """A register after a write to the part of it that has this mask; 32 bits clear the others."""
    return value & mask if mask >= U32 else before & ~mask | value & mask


def _port(site: Site, stand: Stand) -> int:
    return stand.rdx & 0xFFFF if site.port is None else site.port


def _number(answer: exits.Answer) -> int:
    assert isinstance(answer, int), f"this exit is completed with a number, not {answer!r}"
    return answer
