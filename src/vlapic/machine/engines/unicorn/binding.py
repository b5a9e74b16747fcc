# SPDX-License-Identifier: GPL-2.0-or-later
"""Unicorn 2.1.4 through ctypes: the calls the engine makes, registers in batches, and the hidden state.

The package's own binding costs 2 us a register and swallows what a callback raises unless it started the
run itself; here a batch of registers costs 0.5 us, and whatever a callback raises (a Ctrl-C too) stops
the CPU and comes out of :meth:`Cpu.start`.

What has no register number is in `state.py`.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from typing import Any

from unicorn import unicorn_const as uc
from unicorn import x86_const as x86
from unicorn.unicorn_py3.unicorn import uclib

from vlapic.errors import EngineError
from vlapic.machine.engines.unicorn.layout import TELLING_REGISTERS, find_layout
from vlapic.machine.engines.unicorn.state import CpuState
from vlapic.memory import in_words, is_room_for

VERSION = (2, 1, 4)
#: What a CPU maps when it begins: 1 GiB for translated code, and a little.
_ROOM_BYTES = (1 << 30) + (32 << 20)

#: A library object of our own: prototypes set here do not show in the package's binding.
lib = ctypes.CDLL(uclib._name)

_ptr, _u32, _i32, _u64, _size = (
    ctypes.c_void_p,
    ctypes.c_uint32,
    ctypes.c_int32,
    ctypes.c_uint64,
    ctypes.c_size_t,
)

BlockCallback = ctypes.CFUNCTYPE(None, _ptr, _u64, _u32, _ptr)
InterruptCallback = ctypes.CFUNCTYPE(None, _ptr, _u32, _ptr)
InstructionCallback = ctypes.CFUNCTYPE(_u32, _ptr, _ptr)
GeneratedCallback = ctypes.CFUNCTYPE(None, _ptr, _ptr, _ptr, _ptr)
MmioReadCallback = ctypes.CFUNCTYPE(_u64, _ptr, _u64, _u32, _ptr)
MmioWriteCallback = ctypes.CFUNCTYPE(None, _ptr, _u64, _u32, _u64, _ptr)
# What machine code calls: (kind, offset, size, value), and (kind, count, where, size, value).
MemoryCallback = ctypes.CFUNCTYPE(_u64, _u32, _u64, _u32, _u64)
ExitCallback = ctypes.CFUNCTYPE(_u64, _u32, _u64, _u64, _u32, _u64)

for _name, _arguments in {
    "uc_open": (_i32, _i32, _ptr),
    "uc_close": (_ptr,),
    "uc_emu_start": (_ptr, _u64, _u64, _u64, _size),
    "uc_emu_stop": (_ptr,),
    "uc_reg_write": (_ptr, _i32, _ptr),
    "uc_mem_map_ptr": (_ptr, _u64, _size, _u32, _ptr),
    "uc_mmio_map": (_ptr, _u64, _size, _ptr, _ptr, _ptr, _ptr),
    "uc_context_alloc": (_ptr, _ptr),
    "uc_context_save": (_ptr, _ptr),
    "uc_context_restore": (_ptr, _ptr),
    "uc_context_free": (_ptr,),
}.items():
    getattr(lib, _name).argtypes = _arguments
# Called most, with arguments that are C values already; they cannot fail.
_read_batch, _write_batch = lib.uc_reg_read_batch, lib.uc_reg_write_batch
_read_batch.restype = _write_batch.restype = None
lib.uc_context_size.argtypes = (_ptr,)
lib.uc_context_size.restype = _size
lib.uc_strerror.argtypes = (_i32,)
lib.uc_strerror.restype = ctypes.c_char_p


def address_of(function: Any) -> int:
    """Where a C function or a callback is, for machine code."""
    return ctypes.cast(function, _ptr).value or 0


EMU_STOP_ADDRESS, REG_WRITE_ADDRESS = address_of(lib.uc_emu_stop), address_of(lib.uc_reg_write)


class _Msr(ctypes.Structure):
    _fields_ = (("number", _u32), ("value", _u64))


class Registers:
    """Several registers read or written at once; each takes a 64-bit slot, a table register three.

    The three slots of IDTR, GDTR, LDTR and TR are selector, base, and limit with the flags above bit 31.
    """

    _WIDE = (x86.UC_X86_REG_IDTR, x86.UC_X86_REG_GDTR, x86.UC_X86_REG_LDTR, x86.UC_X86_REG_TR)

    def __init__(self, cpu: Cpu, registers: Sequence[int]) -> None:
        widths = [3 if register in self._WIDE else 1 for register in registers]
        self._values = (_u64 * sum(widths))()
        first = ctypes.addressof(self._values)
        starts = [first + 8 * sum(widths[:index]) for index in range(len(widths))]
        self._ids = (_i32 * len(registers))(*registers)
        self._pointers = (_ptr * len(registers))(*starts)
        self._slots = memoryview(self._values).cast("B").cast("Q")
        ids, pointers = ctypes.addressof(self._ids), ctypes.addressof(self._pointers)
        self._call = _ptr(cpu.handle), _ptr(ids), _ptr(pointers), _i32(len(registers))

    def read(self) -> list[int]:
        """Every slot, in order."""
        _read_batch(*self._call)
        return self._slots.tolist()

    def write(self, *values: int) -> None:
        """Write every slot, in order."""
        self._values[:] = list(values)
        _write_batch(*self._call)


class Cpu:
    """A Unicorn CPU in 64-bit mode, stopped. Frees itself with :meth:`close`.

    Attributes:
        state: its registers, and what has no register number.
        on_failure: stops the CPU after a callback has raised something.
    """

    def __init__(self) -> None:
        self._handle = _ptr()
        self._keep: list[Any] = []
        self._context = _ptr()
        self._target = _u64()
        self._target_address = ctypes.addressof(self._target)
        self._failure: BaseException | None = None
        self._hook_before = sys.unraisablehook
        self._catch = self._keep_failure
        self.on_failure: Callable[[], None] = self.stop
        if (uc.UC_VERSION_MAJOR, uc.UC_VERSION_MINOR, uc.UC_VERSION_PATCH) != VERSION:
            seen = f"{uc.UC_VERSION_MAJOR}.{uc.UC_VERSION_MINOR}.{uc.UC_VERSION_PATCH}"
            raise EngineError(
                f"Unicorn {seen} is installed, the emulated CPU needs 2.1.4; try: pip install unicorn==2.1.4"
            )
        if not is_room_for(_ROOM_BYTES, executable=True):
            # It would print a line of its own, and end the process.
            raise EngineError(
                f"there is no memory for an emulated CPU: Unicorn maps 1 GiB for each, and {in_words()}, or"
                " have fewer vCPUs"
            )
        check(lib.uc_open(uc.UC_ARCH_X86, uc.UC_MODE_64, ctypes.byref(self._handle)), "open a CPU")
        self.handle: int = self._handle.value or 0
        # No address ends a run; only a stop, a HLT or an error does.
        self.control(uc.UC_CTL_UC_USE_EXITS, uc.UC_CTL_IO_WRITE, ctypes.c_int(1))
        check(lib.uc_context_alloc(self.handle, ctypes.byref(self._context)), "save a CPU's state")
        context = self._context.value or 0
        size: int = lib.uc_context_size(self.handle)

        def save() -> None:
            lib.uc_context_save(self.handle, context)

        def saved() -> bytes:
            save()
            return ctypes.string_at(context, size)

        self.state = CpuState(
            find_layout(Registers(self, TELLING_REGISTERS), saved),
            (context, size),
            save,
            lambda: lib.uc_context_restore(self.handle, context),
            lambda: self._rflags.read()[0],
        )
        self._rflags = Registers(self, (x86.UC_X86_REG_RFLAGS,))

    def close(self) -> None:
        """Free the CPU; more than once does no harm."""
        if self.handle:
            lib.uc_context_free(self._context)
            lib.uc_close(self.handle)
            self.handle = 0
            self._keep.clear()

    # -- registers beyond the batches --

    def read_msr(self, msr: int) -> int:
        """One of Unicorn's own model-specific registers."""
        access = _Msr(msr, 0)
        lib.uc_reg_read(_ptr(self.handle), x86.UC_X86_REG_MSR, ctypes.byref(access))
        return int(access.value)

    def write_msr(self, msr: int, value: int) -> None:
        """Write one of Unicorn's own model-specific registers."""
        access = _Msr(msr, value)
        lib.uc_reg_write(self.handle, x86.UC_X86_REG_MSR, ctypes.addressof(access))

    # -- running --

    def start(self, rip: int) -> int:
        """Run from `rip` until something stops the CPU; the error number, 0 for none.

        Raises:
            BaseException: whatever a callback raised; the CPU stopped soon after it.
        """
        # A try statement inside a callback would miss a Ctrl-C that arrives as the callback is entered:
        # Python looks for signals before the first statement. ctypes hands whatever leaves a callback to
        # this hook.
        self._failure = None
        self._hook_before = sys.unraisablehook
        try:
            sys.unraisablehook = self._catch
            error: int = lib.uc_emu_start(self.handle, rip, 0, 0, 0)
        finally:
            sys.unraisablehook = self._hook_before
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return error

    def _keep_failure(self, unraisable: sys.UnraisableHookArgs) -> None:
        # A Ctrl-C in a finaliser or a weak reference's callback would be lost, too.
        if "ctypes callback" in (unraisable.err_msg or "") or unraisable.exc_type is KeyboardInterrupt:
            self._failure = self._failure or unraisable.exc_value
            self.on_failure()
        else:
            self._hook_before(unraisable)

    def jump(self, rip: int) -> None:
        """In a hook of an instruction: go on at `rip`. (After a batch the instruction would run again.)"""
        self._target.value = rip
        lib.uc_reg_write(self.handle, x86.UC_X86_REG_RIP, self._target_address)

    def stop(self) -> None:
        """Ask for a stop; takes effect before the next block, instruction with a hook, or memory access."""
        lib.uc_emu_stop(self.handle)

    # -- set-up; outside a run --

    def map_ram(self, address: int, buffer: Any) -> int:
        """Back guest-physical memory with a writable buffer, whole pages of it; its address on the host."""
        held = (ctypes.c_char * len(buffer)).from_buffer(buffer)
        self._keep.append(held)
        host = ctypes.addressof(held)
        check(
            lib.uc_mem_map_ptr(self.handle, address, len(buffer), uc.UC_PROT_ALL, host),
            f"map {len(buffer)} bytes of guest memory",
        )
        return host

    def map_mmio(
        self,
        address: int,
        size: int,
        read: Callable[..., int] | int,
        write: Callable[..., None] | int,
        data: int = 0,
    ) -> None:
        """Let `read(cpu, offset, size, data)` and `write(cpu, offset, size, value, data)` answer for memory.

        Either may be the address of machine code.
        """
        entries = []
        for make, answer in ((MmioReadCallback, read), (MmioWriteCallback, write)):
            callback = answer if isinstance(answer, int) else make(answer)
            self._keep.append(callback)
            entries.append(_ptr(callback) if isinstance(callback, int) else ctypes.cast(callback, _ptr))
        check(
            lib.uc_mmio_map(self.handle, address, size, entries[0], data, entries[1], data),
            f"map {size:#x} bytes at {address:#x}",
        )

    def hook(
        self, kind: int, callback: Any, first: int = 1, last: int = 0, data: int = 0, instruction: int = 0
    ) -> int:
        """Call a ctypes callback, or machine code at an address, for addresses `first` to `last` (1, 0: all).

        Returns:
            What :meth:`unhook` takes.
        """
        self._keep.append(callback)
        entry = _ptr(callback) if isinstance(callback, int) else ctypes.cast(callback, _ptr)
        hook = _size()
        error = lib.uc_hook_add(
            _ptr(self.handle),
            ctypes.byref(hook),
            ctypes.c_int(kind),
            entry,
            _ptr(data),
            _u64(first),
            _u64(last),
            ctypes.c_int(instruction),
        )
        check(error, f"add a hook of kind {kind:#x}")
        return hook.value

    def unhook(self, hook: int) -> None:
        """Take a hook away; code translated with it keeps it until it is forgotten."""
        check(lib.uc_hook_del(_ptr(self.handle), _size(hook)), "remove a hook")

    def control(self, what: int, direction: int, *arguments: Any) -> None:
        """`uc_ctl`: C values as they are to be passed."""
        code = what | len(arguments) << 26 | direction << 30
        check(
            lib.uc_ctl(_ptr(self.handle), _u32(code), *arguments),
            f"control {what}",
        )

    def forget_code(self, address: int, size: int) -> None:
        """Drop what was translated of these guest-virtual addresses, so that new hooks take effect."""
        self.control(uc.UC_CTL_TB_REMOVE_CACHE, uc.UC_CTL_IO_WRITE, _u64(address), _u64(address + size))

    def forget_all_code(self) -> None:
        """Drop all that was translated; guest memory was written behind Unicorn's back. Outside a run."""
        self.control(uc.UC_CTL_TB_FLUSH, uc.UC_CTL_IO_WRITE)

    def forget_pages(self) -> None:
        """Drop every translation of an address. Outside a run."""
        self.control(uc.UC_CTL_TLB_FLUSH, uc.UC_CTL_IO_WRITE)


def check(error: int, what: str) -> None:
    """Raise EngineError for a Unicorn error number that is not 0."""
    if error:
        reason = lib.uc_strerror(error).decode()
        raise EngineError(f"Unicorn would not {what}: {reason} (error {error})")
