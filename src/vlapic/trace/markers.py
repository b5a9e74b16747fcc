# SPDX-License-Identifier: GPL-2.0-or-later
"""Markers: what somebody wrote into trace_marker, and becomes an event.

vlapic's own say what the kernel has no tracepoint for. They begin with `vlapic: vcpu=N`, with `vm=N ` before
it unless the VM is the first. `LAB` markers are those of recordings whose VMM wrote the kernel's own debugfs
values into the trace; `debugfs` ones are of a loop beside the VM (`vlapic record`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vlapic.events import (
    AdvanceSample,
    DebugfsSample,
    RemoteEoi,
    Sample,
    SmiIgnored,
    TimerInterrupt,
    VcpuCreated,
    VcpuStart,
)
from vlapic.trace.templates import Compute, Form
from vlapic.tsc import cycles_as_ns

#: Names of the event that a write to trace_marker makes: as tracefs prints it, as trace-cmd and perf do.
MARKER_NAMES = ("tracing_mark_write", "print")

_START = "start khz={tsc_khz} ratio={tsc_ratio} frac={frac_bits} offset={tsc_offset:d} profile={profile:s}"
#: Everything statistics know of an interrupt; a line of its own, in front of the handler's.
_INTERRUPT = (
    "interrupt tsc={handler_tsc} deadline={deadline_tsc} insns={instructions} vector={vector} missed={missed}"
    " blocked={blocked_cycles} waited={waited} delta={delta_cycles:d} wait={wait_cycles} advance={advance_ns}"
)
_HANDLER = "handler tsc={handler_tsc} deadline={deadline_tsc} insns={instructions} wait_ns={_wait_ns}"


def _in_vms(text: str, computed: Compute | None = None) -> tuple[Form, Form]:
    """A marker's forms: in the first VM, in another one."""
    return (
        Form(f"vlapic: vcpu={{vcpu}} {text}", computed=computed),
        Form(f"vlapic: vm={{vm}} vcpu={{vcpu}} {text}", computed=computed),
    )


#: The forms of vlapic's own markers: in the first VM, in another one.
OWN_MARKERS: dict[type[Any], tuple[Form, Form]] = {
    event_type: _in_vms(text)
    for event_type, text in {
        VcpuStart: f"{_START} advance={{advance_ns}} parameter={{parameter:s}}",
        VcpuCreated: "created parameter={parameter:s}",
        TimerInterrupt: _INTERRUPT,
        AdvanceSample: "advance_ns={advance_ns}",
        RemoteEoi: "remote_eoi vector={vector}",
        SmiIgnored: "smi_ignored",
    }.items()
}


def handler_marker(host_khz: int) -> tuple[Form, Form]:
    """The forms of the line that follows an interrupt's, for people: in the first VM, in another one.

    Args:
        host_khz: of the host's TSC, for the wait in ns.
    """
    return _in_vms(_HANDLER, {"_wait_ns": lambda event: cycles_as_ns(event.wait_cycles, host_khz)})


def _lab_start(fields: dict[str, Any]) -> dict[str, Any]:
    """-1 stands where the host has no TSC scaling to tell of."""
    unknown = (1 << 64) - 1
    said = (fields.pop(name) for name in ("_ratio", "_frac"))
    # Of a column they are modulo 2^64 already.
    ratio, frac = (np.uint64(value % (1 << 64)) if isinstance(value, int) else value for value in said)
    return fields | {
        "tsc_ratio": np.where(ratio == unknown, 0, ratio),
        "frac_bits": np.where(frac == unknown, 0, frac),
    }


#: What is read where only the handler's line is there.
HANDLERS = handler_marker(1)
SAMPLE = Form("LAB sample done={interrupts} advance={advance_ns} offset={tsc_offset:d}")
_LAB_START = (
    "LAB start khz={tsc_khz} offset={tsc_offset:d} ratio={_ratio:d} frac={_frac:d} advance={advance_ns}"
)

DEBUGFS = Form("debugfs pid={pid} vcpu={number} advance_ns={advance_ns}")

#: Every marker that is read, with the event it becomes.
MARKERS: tuple[tuple[type[Any], Form], ...] = (
    *((event_type, form) for event_type, forms in OWN_MARKERS.items() for form in forms),
    *((TimerInterrupt, form) for form in HANDLERS),
    (Sample, SAMPLE),
    (DebugfsSample, DEBUGFS),
    (VcpuStart, Form(_LAB_START, decode=_lab_start)),
    *((VcpuStart, form) for form in _in_vms(f"{_START} advance={{advance_ns}}")),
    (VcpuCreated, Form("LAB secondvm param={parameter:s} advance={_advance_ns}")),
)

#: What every one of them begins with; perf tells the function that wrote it before that.
MARKER_BEGINNINGS = (b"vlapic: ", b"LAB ", b"debugfs ")

#: What only those begin with that are read. A recording's VMM writes other lines with `LAB` too.
MARKER_OPENINGS = (b"vlapic: ", b"LAB start ", b"LAB sample ", b"debugfs pid=")

#: What a host can have at most. KVM_MAX_VCPU_IDS is 4 * 4096 where CONFIG_KVM_MAX_NR_VCPUS is its greatest
#: (arch/x86/include/asm/kvm_host.h, v6.12); of VMs there are not more than processes.
_MOST = {"vcpu": (1 << 14) - 1, "vm": (1 << 16) - 1}


def can_be(event_type: type[Any], said: Mapping[str, Any]) -> Any:
    """Whether what a text says of an event can be: a column for columns, else a truth value.

    Args:
        event_type: the event.
        said: its fields, numbers or columns of them; those that the text does not say may be missing.
    """
    fits: Any = True
    for name, most in _MOST.items():
        if name in said:
            fits = fits & (said[name] <= most)
    if event_type is VcpuStart and "frac_bits" in said:
        # What scales a TSC has a fraction of 1 to 63 bits, or there is no scaling.
        bits = said["frac_bits"]
        fits = fits & ((said["tsc_ratio"] == 0) | ((bits >= 1) & (bits <= 63)))
    return fits
