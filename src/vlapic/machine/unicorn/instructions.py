"""The instructions that leave the guest: what each asks the machine, and what it does with the answer.

RDMSR, WRMSR, CPUID, IN, OUT, INS, OUTS and MOV CR8, after the instruction pages of SDM vol. 2. Some MSRs
are the CPU's alone (:data:`NATIVE_MSRS`) and never reach the machine. INS and OUTS make one exit an
element, as KVM's do.

Left out: the TSS's I/O permission bitmap (above IOPL a port access is #GP), INS and OUTS with a prefix
for address size or segment (#UD).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from unicorn import x86_const as x86

from vlapic.machine import engine as exits
from vlapic.machine.unicorn.binding import Cpu, Registers
from vlapic.machine.unicorn.decode import Kind, Site
from vlapic.machine.unicorn.exceptions import GP, PF, UD, Event
from vlapic.machine.unicorn.paging import PageFault, Paging, is_canonical

U32 = 0xFFFF_FFFF

MSR_EFER = 0xC000_0080
MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_SFMASK = 0xC000_0081, 0xC000_0082, 0xC000_0083, 0xC000_0084
MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_TSC_AUX = 0xC000_0100, 0xC000_0101, 0xC000_0102, 0xC000_0103
MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP, MSR_PAT = 0x174, 0x175, 0x176, 0x277

#: MSRs the CPU keeps to itself.
NATIVE_MSRS = frozenset(
    {
        *(MSR_EFER, MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_SFMASK),
        *(MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_TSC_AUX),
        *(MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP, MSR_PAT),
    }
)
_ADDRESS_MSRS = frozenset(
    {MSR_LSTAR, MSR_CSTAR, MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP}
)
_EFER_SCE, _EFER_LME, _EFER_LMA, _EFER_NXE = 1 << 0, 1 << 8, 1 << 10, 1 << 11
_PAT_TYPES = frozenset({0, 1, 4, 5, 6, 7})

_PRIVILEGED = frozenset({Kind.RDMSR, Kind.WRMSR, Kind.READ_CR8, Kind.WRITE_CR8})
_STRINGS = frozenset({Kind.INS, Kind.OUTS})
_PORT_ACCESSES = _STRINGS | {Kind.IN, Kind.OUT}

_IOPL = 3 << 12
_DF = 1 << 10

_GENERAL = tuple(
    getattr(x86, f"UC_X86_REG_{name}")
    for name in ("RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", *(f"R{n}" for n in range(8, 16)))
)
_RAX, _RCX, _RDX, _RBX, _, _, _RSI, _RDI = _GENERAL[:8]


class Fault(Exception):
    """The instruction faults instead."""

    def __init__(self, vector: int, error_code: int | None = 0, cr2: int | None = None) -> None:
        super().__init__(vector)
        self.event = Event(vector, error_code, cr2=cr2)


class Instructions:
    """One CPU's exiting instructions.

    Each is used in two steps: :meth:`leave` when the CPU stands at it, :meth:`finish` with the answer.
    """

    def __init__(self, cpu: Cpu, paging: Paging) -> None:
        self._cpu = cpu
        self._paging = paging
        self._string = Registers(cpu, (_RCX, _RSI, _RDI, x86.UC_X86_REG_RFLAGS, x86.UC_X86_REG_CR3))
        self._pair = Registers(cpu, (_RAX, _RDX))
        self._four = Registers(cpu, (_RAX, _RBX, _RCX, _RDX))
        self._one = [Registers(cpu, (register,)) for register in _GENERAL]
        self._asks: dict[Kind, Callable[..., exits.Exit | int | None]] = {
            Kind.WRMSR: self._wrmsr,
            Kind.RDMSR: self._rdmsr,
            Kind.CPUID: self._cpuid,
            Kind.IN: self._in,
            Kind.OUT: self._out,
            Kind.INS: self._ins,
            Kind.OUTS: self._outs,
            Kind.READ_CR8: self._read_cr8,
            Kind.WRITE_CR8: self._write_cr8,
        }

    def leave(
        self, site: Site, host_tsc: int, rflags: int, rax: int, rcx: int, rdx: int, cs: int
    ) -> exits.Exit | int | None:
        """What an instruction asks the machine.

        Args:
            site: the instruction the CPU stands at; the registers are the CPU's.
            host_tsc: now.

        Returns:
            The exit; or, where the CPU answers by itself, what :meth:`finish` is to be called with.

        Raises:
            Fault: it faults without asking.
        """
        cpl = cs & 3
        if cpl and (
            site.kind in _PRIVILEGED or (site.kind in _PORT_ACCESSES and cpl > (rflags & _IOPL) >> 12)
        ):
            raise Fault(GP)
        return self._asks[site.kind](site, host_tsc, rax, rcx, rdx)

    def finish(self, site: Site, answer: exits.Answer) -> int:
        """Write what an instruction read to its registers; RIP afterwards."""
        kind = site.kind
        if kind in _STRINGS:
            return self._finish_string(site, answer)
        if answer is not None:
            if kind == Kind.RDMSR:
                value = _number(answer)
                self._pair.write(value & U32, value >> 32 & U32)
            elif kind == Kind.CPUID:
                assert isinstance(answer, tuple)
                self._four.write(*(register & U32 for register in answer))
            elif kind == Kind.IN:
                mask = (1 << 8 * site.size) - 1
                kept = self._one[0].read()[0] & ~mask if site.size < 4 else 0
                self._one[0].write(kept | _number(answer) & mask)
            elif kind == Kind.READ_CR8:
                self._one[site.register].write(_number(answer) & 15)
        return site.address + site.length

    # -- what each asks: (the instruction, host TSC, RAX, RCX, RDX) --

    def _wrmsr(self, site: Site, host_tsc: int, rax: int, rcx: int, rdx: int) -> exits.Exit | None:
        msr, value = rcx & U32, (rdx & U32) << 32 | rax & U32
        if msr in NATIVE_MSRS:
            self._write_native(msr, value)
            return None
        return exits.WriteMsr(host_tsc, msr, value)

    def _rdmsr(self, site: Site, host_tsc: int, rax: int, rcx: int, rdx: int) -> exits.Exit | int:
        msr = rcx & U32
        return self._cpu.read_msr(msr) if msr in NATIVE_MSRS else exits.ReadMsr(host_tsc, msr)

    def _cpuid(self, site: Site, host_tsc: int, rax: int, rcx: int, rdx: int) -> exits.Exit:
        return exits.Cpuid(host_tsc, rax & U32, rcx & U32)

    def _in(self, site: Site, host_tsc: int, rax: int, rcx: int, rdx: int) -> exits.Exit:
        return exits.ReadPort(host_tsc, _port(site, rdx), site.size)

    def _out(self, site: Site, host_tsc: int, rax: int, rcx: int, rdx: int) -> exits.Exit:
        return exits.WritePort(host_tsc, _port(site, rdx), site.size, rax & (1 << 8 * site.size) - 1)

    def _read_cr8(self, site: Site, host_tsc: int, rax: int, rcx: int, rdx: int) -> exits.Exit:
        return exits.ReadCr8(host_tsc)

    def _write_cr8(self, site: Site, host_tsc: int, rax: int, rcx: int, rdx: int) -> exits.Exit:
        value = self._one[site.register].read()[0]
        if value > 15:
            raise Fault(GP)
        return exits.WriteCr8(host_tsc, value)

    def _write_native(self, msr: int, value: int) -> None:
        """WRMSR of a register of the CPU's own, with the checks Unicorn leaves out."""
        if msr in _ADDRESS_MSRS and not is_canonical(value):
            raise Fault(GP)
        if msr == MSR_TSC_AUX and value >> 32:
            raise Fault(GP)
        if msr == MSR_PAT and not _PAT_TYPES.issuperset(value.to_bytes(8, "little")):
            raise Fault(GP)
        if msr == MSR_EFER:
            now = self._cpu.read_msr(MSR_EFER)
            unknown = value & ~(_EFER_SCE | _EFER_LME | _EFER_LMA | _EFER_NXE)
            if unknown or (value ^ now) & _EFER_LME:  # paging is on in 64-bit mode
                raise Fault(GP)
        self._cpu.write_msr(msr, value)

    # -- INS and OUTS: an exit for each element --

    def _outs(self, site: Site, host_tsc: int, rax: int, rcx: int, rdx: int) -> exits.Exit | None:
        count, rsi, *_ = self._string_registers(site)
        if site.repeated and count == 0:
            return None
        try:
            data = self._paging.read(_canonical(rsi), site.size)
        except PageFault as fault:
            raise Fault(PF, fault.error_code, fault.address) from None
        return exits.WritePort(host_tsc, rdx & 0xFFFF, site.size, int.from_bytes(data, "little"))

    def _ins(self, site: Site, host_tsc: int, rax: int, rcx: int, rdx: int) -> exits.Exit | None:
        count, _, rdi, *_ = self._string_registers(site)
        if site.repeated and count == 0:
            return None
        try:
            # Found writable now, so that nothing can go wrong once the device has been read.
            self._paging.translate(_canonical(rdi), write=True)
            self._paging.translate(_canonical(rdi + site.size - 1), write=True)
        except PageFault as fault:
            raise Fault(PF, fault.error_code, fault.address) from None
        return exits.ReadPort(host_tsc, rdx & 0xFFFF, site.size)

    def _string_registers(self, site: Site) -> list[int]:
        if not site.plain:
            raise Fault(UD, None)
        registers = self._string.read()
        self._paging.use(registers[4], self._paging.write_protect)
        return registers

    def _finish_string(self, site: Site, answer: exits.Answer) -> int:
        after = site.address + site.length
        rcx, rsi, rdi, rflags, _ = self._string_registers(site)
        if site.repeated and rcx == 0:
            return after
        step = -site.size if rflags & _DF else site.size
        if site.kind is Kind.INS:
            mask = (1 << 8 * site.size) - 1
            self._paging.write(rdi, struct.pack("<I", _number(answer) & mask)[: site.size])
            rdi += step
        else:
            rsi += step
        rcx -= site.repeated
        self._one[1].write(rcx)
        self._one[6].write(rsi & 2**64 - 1)
        self._one[7].write(rdi & 2**64 - 1)
        return site.address if site.repeated and rcx else after


def _port(site: Site, rdx: int) -> int:
    return rdx & 0xFFFF if site.port is None else site.port


def _number(answer: exits.Answer) -> int:
    assert isinstance(answer, int), f"this exit is completed with a number, not {answer!r}"
    return answer


def _canonical(address: int) -> int:
    if not is_canonical(address):
        raise Fault(GP)
    return address
