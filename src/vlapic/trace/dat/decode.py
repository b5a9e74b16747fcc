# SPDX-License-Identifier: GPL-2.0-or-later
"""What each tracepoint becomes: columns of vlapic's events from the fields of the kernel's records.

The fields' names are those of `arch/x86/kvm/trace.h` and `include/trace/events/{kvm,timer,sched}.h` (v5.0 to
v6.19); where they lie, the file says. What is `optional` of them some kernels do not have: it is 0 then, as
in events read from their text. Every kernel from v4.0 to v6.19 that has the event has the others: a format
without one of them is damaged, and so is one whose own print format speaks of a field that it lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from vlapic import events as e
from vlapic.trace.dat.formats import Format
from vlapic.trace.dat.names import KernelSymbols, flag_names, named
from vlapic.trace.exit_reasons import ISA_SVM, ISA_VMX, exit_name

Array = npt.NDArray[Any]

#: `enum hrtimer_mode`: a bit each for relative, pinned, soft and hard.
HRTIMER_MODE_BITS = ("PINNED", "SOFT", "HARD")
#: `TASK_STATE_ARRAY`, up to the highest bit that is reported (since v4.14).
TASK_STATES = {1: "S", 2: "D", 4: "T", 8: "t", 0x10: "X", 0x20: "Z", 0x40: "P", 0x80: "I"}
#: `host_clocks` (since v5.7 by the numbers of VDSO_CLOCKMODE).
HOST_CLOCKS = {0: "none", 1: "tsc"}


class Rows:
    """Records of one event, with the tables of names that their format has.

    A field is a column; one that the kernel does not have is zeros.
    """

    def __init__(self, records: Array, event_format: Format, symbols: KernelSymbols) -> None:
        self._records = records
        self._names = records.dtype.names or ()
        self.format = event_format
        self.symbols = symbols

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, field: str) -> bool:
        return field in self._names

    def __getitem__(self, field: str) -> Array:
        if field not in self._names:
            return np.zeros(len(self), "u8")
        column = self._records[field]
        if column.dtype.kind == "S":
            return _up_to_nul(column)
        return column if column.dtype.isnative else column.astype(column.dtype.newbyteorder("="))


def _up_to_nul(column: Array) -> Array:
    """Names up to their first NUL; numpy's `S` has only those behind the last character removed.

    A kernel's `comm` may keep the rest of a longer name behind it (seen of v4.14 and older: `sh\\0o\\0)`).
    """
    width = column.dtype.itemsize
    characters = np.ascontiguousarray(column).view("u1").reshape(len(column), width)
    there = np.logical_and.accumulate(characters != 0, axis=1)
    if not (characters * ~there).any():
        return column
    return (characters * there).view(column.dtype).reshape(len(column))


class Evidence(Enum):
    """Whether a record's vCPU is the thread's own."""

    NONE = "any thread makes it"
    WEAK = "mostly the vCPU's own thread makes it"
    STRONG = "only the vCPU's own thread makes it"


Column = str | Callable[[Rows], Array]


@dataclass(frozen=True)
class Decoding:
    """How a tracepoint becomes an event.

    Attributes:
        columns: of the event, each a field of the record or a function of them.
        uses: fields that those functions read.
        optional: fields that not every kernel has.
        either: names that one field has had, of which a kernel has one.
        vcpu: the field that says which vCPU it is of; the thread says it if the format has no such field.
        evidence: whether that tells which vCPU the thread itself is.
    """

    event_type: type[Any]
    columns: Mapping[str, Column]
    uses: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    either: tuple[str, ...] = ()
    vcpu: str | None = None
    evidence: Evidence = Evidence.NONE

    @property
    def fields(self) -> list[str]:
        """Every field that is read."""
        named_fields = [column for column in self.columns.values() if isinstance(column, str)]
        return list(dict.fromkeys([*named_fields, *self.uses, *([self.vcpu] if self.vcpu else [])]))

    def fits(self, event_format: Format) -> bool:
        """Whether a format has every field that it must have; if not, it is damaged."""
        if not event_format.whole or event_format.overlaps:
            return False
        if self.either and all(event_format.lacks(name) for name in self.either):
            return False
        optional = (*self.optional, *self.either)
        return not any(event_format.lacks(name, optional=name in optional) for name in self.fields)

    def decode(self, rows: Rows, times: Array, vms: Array, vcpus: Array) -> Array:
        """The events, of dtype `DTYPES[event_type]`."""
        out = np.zeros(len(rows), e.DTYPES[self.event_type])
        out["host_tsc"], out["vm"], out["vcpu"] = times, vms, vcpus
        if self.vcpu is not None and self.vcpu in rows:
            out["vcpu"] = rows[self.vcpu]
        for name, column in self.columns.items():
            out[name] = rows[column] if isinstance(column, str) else column(rows)
        return out


def _exit_reason(rows: Rows) -> Array:
    """By the names that the file's own print format has: VMX's, SVM's, and since v5.8 VMX's flags."""
    reasons = rows["exit_reason"].astype("u4")
    tables = rows.format.symbols
    of_file = len(tables) >= 2
    vmx_table, svm_table = (tables[0], tables[1]) if of_file else ({}, {})
    flags = tables[2] if len(tables) > 2 else {}

    def vmx(number: int) -> str:
        if not of_file:
            return exit_name(ISA_VMX, number)
        if not flags:
            return vmx_table.get(number, hex(number))
        basic, above = number & 0xFFFF, number & ~0xFFFF
        words = [vmx_table.get(basic, hex(basic))]
        words += [name for flag, name in flags.items() if above & flag]
        unnamed = above & ~sum(flags)
        return " ".join([*words, hex(unnamed)] if unnamed else words)

    def svm(number: int) -> str:
        if not of_file:
            return exit_name(ISA_SVM, number)
        # -1 stands there without a width.
        return svm_table.get(number) or svm_table.get(number | 0xFFFF_FFFF_0000_0000) or hex(number)

    is_vmx = rows["isa"] == ISA_VMX
    if is_vmx.all():
        return named(reasons, vmx)
    if not is_vmx.any():
        return named(reasons, svm)
    return np.where(is_vmx, named(reasons, vmx), named(reasons, svm))


def _function(rows: Rows) -> Array:
    return named(rows["function"], rows.symbols.name)


def _mode(rows: Rows) -> Array:
    if "mode" not in rows:
        return np.zeros(len(rows), "S1")

    def name(mode: int) -> str:
        bits = [bit for shift, bit in enumerate(HRTIMER_MODE_BITS, 1) if mode >> shift & 1]
        return "|".join(["REL" if mode & 1 else "ABS", *bits]) if mode < 16 else hex(mode)

    return named(rows["mode"], name)


def _task_state(rows: Rows) -> Array:
    tables = [table for table in rows.format.symbols if table]
    return named(rows["prev_state"].astype("u8"), flag_names(tables[0] if tables else TASK_STATES))


def _host_clock(rows: Rows) -> Array:
    tables = [table for table in rows.format.symbols if table]
    names = tables[0] if tables else HOST_CLOCKS
    return named(rows["host_clock"], lambda number: names.get(number, hex(number)))


#: By the name of the tracepoint.
DECODINGS: dict[str, Decoding] = {
    "kvm_entry": Decoding(
        e.Entry,
        {
            "rip": "rip",
            "immediate_exit": "immediate_exit",
            "intr_info": "intr_info",
            "error_code": "error_code",
        },
        optional=("rip", "immediate_exit", "intr_info", "error_code"),
        vcpu="vcpu_id",
        evidence=Evidence.STRONG,
    ),
    "kvm_exit": Decoding(
        e.Exit,
        {
            "reason": _exit_reason,
            "rip": "guest_rip",
            "info1": "info1",
            "info2": "info2",
            "intr_info": "intr_info",
            "error_code": "error_code",
        },
        uses=("exit_reason", "isa"),
        optional=("intr_info", "error_code", "vcpu_id"),
        vcpu="vcpu_id",
        evidence=Evidence.STRONG,
    ),
    "kvm_msr": Decoding(e.Msr, {"write": "write", "msr": "ecx", "value": "data", "fault": "exception"}),
    "kvm_apic": Decoding(e.ApicAccess, {"write": "rw", "register": "reg", "value": "val"}),
    "kvm_pio": Decoding(e.PortAccess, {"write": "rw", "port": "port", "size": "size", "value": "val"}),
    # `type` is 0 for a read that nobody answered, 1 for a read, 2 for a write.
    "kvm_mmio": Decoding(
        e.DeviceAccess,
        {"write": lambda rows: rows["type"] == 2, "address": "gpa", "size": "len", "value": "val"},
        uses=("type",),
    ),
    "kvm_hv_timer_state": Decoding(
        e.HvTimerState,
        {"hv_timer_in_use": lambda rows: rows["hv_timer_in_use"] != 0},
        uses=("hv_timer_in_use",),
        vcpu="vcpu_id",
        evidence=Evidence.STRONG,
    ),
    "kvm_apic_ipi": Decoding(e.ApicIpi, {"icr_low": "icr_low", "destination": "dest_id"}),
    "kvm_apic_accept_irq": Decoding(
        e.AcceptIrq,
        {
            "apic_id": "apicid",
            "vector": "vec",
            "delivery_mode": lambda rows: rows["dm"] >> 8 & 7,
            "level": lambda rows: rows["tm"] != 0,
        },
        uses=("dm", "tm"),
    ),
    # The vector's field was `irq` up to v5.19.
    "kvm_inj_virq": Decoding(
        e.InjectVirq,
        {
            "vector": lambda rows: rows["vector"] if "vector" in rows else rows["irq"],
            "soft": "soft",
            "reinjected": "reinjected",
        },
        uses=("vector", "irq"),
        optional=("soft", "reinjected"),
        either=("vector", "irq"),
    ),
    "kvm_wait_lapic_expire": Decoding(
        e.WaitLapicExpire, {"delta_cycles": "delta"}, vcpu="vcpu_id", evidence=Evidence.STRONG
    ),
    "kvm_eoi": Decoding(e.Eoi, {"vector": "vector"}, vcpu="apicid"),
    "kvm_pv_eoi": Decoding(e.PvEoi, {"vector": "vector"}, vcpu="apicid"),
    "kvm_write_tsc_offset": Decoding(
        e.TscOffset,
        {"previous": "previous_tsc_offset", "next": "next_tsc_offset"},
        vcpu="vcpu_id",
        evidence=Evidence.WEAK,
    ),
    "kvm_track_tsc": Decoding(
        e.TrackTsc,
        {
            "masterclock": "use_master_clock",
            "matched": "nr_vcpus_matched_tsc",
            "online": "online_vcpus",
            "host_clock": _host_clock,
        },
        uses=("host_clock",),
        vcpu="vcpu_id",
    ),
    "kvm_vcpu_wakeup": Decoding(
        e.VcpuWakeup, {"duration_ns": "ns", "waited": "waited", "valid": "valid"}, optional=("valid",)
    ),
    "hrtimer_start": Decoding(
        e.HrtimerStart,
        {
            "timer": "hrtimer",
            "function": _function,
            "expires_ns": "expires",
            "soft_expires_ns": "softexpires",
            "mode": _mode,
        },
        uses=("function", "mode"),
        optional=("mode",),
    ),
    "hrtimer_expire_entry": Decoding(
        e.HrtimerExpire, {"timer": "hrtimer", "function": _function, "now_ns": "now"}, uses=("function",)
    ),
    "sched_switch": Decoding(
        e.SchedSwitch,
        {
            "previous_comm": "prev_comm",
            "previous_tid": "prev_pid",
            "previous_prio": "prev_prio",
            "previous_state": _task_state,
            "next_comm": "next_comm",
            "next_tid": "next_pid",
            "next_prio": "next_prio",
        },
        uses=("prev_state",),
    ),
    "sched_waking": Decoding(
        e.SchedWaking, {"comm": "comm", "tid": "pid", "prio": "prio", "target_cpu": "target_cpu"}
    ),
}
