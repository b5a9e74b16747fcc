# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of VM exits as KVM prints them, by number: VMX's basic exit reasons, SVM's exit codes.

Follows `arch/x86/include/uapi/asm/vmx.h: VMX_EXIT_REASONS` and `svm.h: SVM_EXIT_REASONS` (v6.1).
What has no name is printed in hex (`__print_symbolic`).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

#: The least width of a column of names here.
_NAME_BYTES = 28
#: `isa` of kvm_exit.
ISA_VMX = 1
ISA_SVM = 2
#: Bit 31 of VMX's exit reason, printed behind the name from v5.8 on.
VMX_FAILED_VMENTRY = 1 << 31

VMX_EXITS = {
    0: "EXCEPTION_NMI",
    1: "EXTERNAL_INTERRUPT",
    2: "TRIPLE_FAULT",
    3: "INIT_SIGNAL",
    4: "SIPI_SIGNAL",
    7: "INTERRUPT_WINDOW",
    8: "NMI_WINDOW",
    9: "TASK_SWITCH",
    10: "CPUID",
    12: "HLT",
    13: "INVD",
    14: "INVLPG",
    15: "RDPMC",
    16: "RDTSC",
    18: "VMCALL",
    19: "VMCLEAR",
    20: "VMLAUNCH",
    21: "VMPTRLD",
    22: "VMPTRST",
    23: "VMREAD",
    24: "VMRESUME",
    25: "VMWRITE",
    26: "VMOFF",
    27: "VMON",
    28: "CR_ACCESS",
    29: "DR_ACCESS",
    30: "IO_INSTRUCTION",
    31: "MSR_READ",
    32: "MSR_WRITE",
    33: "INVALID_STATE",
    34: "MSR_LOAD_FAIL",
    36: "MWAIT_INSTRUCTION",
    37: "MONITOR_TRAP_FLAG",
    39: "MONITOR_INSTRUCTION",
    40: "PAUSE_INSTRUCTION",
    41: "MCE_DURING_VMENTRY",
    43: "TPR_BELOW_THRESHOLD",
    44: "APIC_ACCESS",
    45: "EOI_INDUCED",
    46: "GDTR_IDTR",
    47: "LDTR_TR",
    48: "EPT_VIOLATION",
    49: "EPT_MISCONFIG",
    50: "INVEPT",
    51: "RDTSCP",
    52: "PREEMPTION_TIMER",
    53: "INVVPID",
    54: "WBINVD",
    55: "XSETBV",
    56: "APIC_WRITE",
    57: "RDRAND",
    58: "INVPCID",
    59: "VMFUNC",
    60: "ENCLS",
    61: "RDSEED",
    62: "PML_FULL",
    63: "XSAVES",
    64: "XRSTORS",
    67: "UMWAIT",
    68: "TPAUSE",
    74: "BUS_LOCK",
    75: "NOTIFY",
}

SVM_EXITS = {
    0x0: "read_cr0",
    0x2: "read_cr2",
    0x3: "read_cr3",
    0x4: "read_cr4",
    0x8: "read_cr8",
    0x10: "write_cr0",
    0x12: "write_cr2",
    0x13: "write_cr3",
    0x14: "write_cr4",
    0x18: "write_cr8",
    0x20: "read_dr0",
    0x21: "read_dr1",
    0x22: "read_dr2",
    0x23: "read_dr3",
    0x24: "read_dr4",
    0x25: "read_dr5",
    0x26: "read_dr6",
    0x27: "read_dr7",
    0x30: "write_dr0",
    0x31: "write_dr1",
    0x32: "write_dr2",
    0x33: "write_dr3",
    0x34: "write_dr4",
    0x35: "write_dr5",
    0x36: "write_dr6",
    0x37: "write_dr7",
    0x40: "DE excp",
    0x41: "DB excp",
    0x43: "BP excp",
    0x44: "OF excp",
    0x45: "BR excp",
    0x46: "UD excp",
    0x47: "NM excp",
    0x48: "DF excp",
    0x4A: "TS excp",
    0x4B: "NP excp",
    0x4C: "SS excp",
    0x4D: "GP excp",
    0x4E: "PF excp",
    0x50: "MF excp",
    0x51: "AC excp",
    0x52: "MC excp",
    0x53: "XF excp",
    0x60: "interrupt",
    0x61: "nmi",
    0x62: "smi",
    0x63: "init",
    0x64: "vintr",
    0x65: "cr0_sel_write",
    0x66: "read_idtr",
    0x67: "read_gdtr",
    0x68: "read_ldtr",
    0x69: "read_rt",
    0x6A: "write_idtr",
    0x6B: "write_gdtr",
    0x6C: "write_ldtr",
    0x6D: "write_rt",
    0x6E: "rdtsc",
    0x6F: "rdpmc",
    0x70: "pushf",
    0x71: "popf",
    0x72: "cpuid",
    0x73: "rsm",
    0x74: "iret",
    0x75: "swint",
    0x76: "invd",
    0x77: "pause",
    0x78: "hlt",
    0x79: "invlpg",
    0x7A: "invlpga",
    0x7B: "io",
    0x7C: "msr",
    0x7D: "task_switch",
    0x7E: "ferr_freeze",
    0x7F: "shutdown",
    0x80: "vmrun",
    0x81: "hypercall",
    0x82: "vmload",
    0x83: "vmsave",
    0x84: "stgi",
    0x85: "clgi",
    0x86: "skinit",
    0x87: "rdtscp",
    0x88: "icebp",
    0x89: "wbinvd",
    0x8A: "monitor",
    0x8B: "mwait",
    0x8D: "xsetbv",
    0x8F: "write_efer_trap",
    0x90: "write_cr0_trap",
    0x94: "write_cr4_trap",
    0x98: "write_cr8_trap",
    0xA2: "invpcid",
    0x400: "npf",
    0x401: "avic_incomplete_ipi",
    0x402: "avic_unaccelerated_access",
    0x403: "vmgexit",
    0x80000001: "vmgexit_mmio_read",
    0x80000002: "vmgexit_mmio_write",
    0x80000003: "vmgexit_nmi_complete",
    0x80000004: "vmgexit_ap_hlt_loop",
    0x80000005: "vmgexit_ap_jump_table",
    0x80000010: "vmgexit_page_state_change",
    0x80000011: "vmgexit_guest_request",
    0x80000012: "vmgexit_ext_guest_request",
    0x80000013: "vmgexit_ap_creation",
    0x8000FFFD: "vmgexit_hypervisor_feature",
}


def exit_name(isa: int, reason: int) -> str:
    """What KVM prints for an exit, its flags left out.

    Args:
        isa: `ISA_VMX` or `ISA_SVM`.
        reason: VMX's exit reason with its flags, or SVM's exit code.
    """
    if isa == ISA_VMX:
        return VMX_EXITS.get(reason & 0xFFFF, f"{reason & 0xFFFF:#x}")
    return SVM_EXITS.get(reason, f"{reason:#x}")


#: SVM's exit codes whose name in trace-cmd's plugin is not that of the kernel behind `EXIT_`.
_PLUGIN_SVM = {
    "ioio": "io",
    "intr": "interrupt",
    "vmmcall": "hypercall",
    "tr_read": "read_rt",
    "tr_write": "write_rt",
    "mwait_cond": "0x8c",
    # -1 in the kernel's table, which an `unsigned int` is not.
    "err": "0xffffffff",
    # As much as a column takes of it.
    "avic_unaccelerated_acce": "avic_unaccelerated_access",
}
_TABLE_ACCESS = re.compile(r"([gil]dtr)_(read|write)")
_UNKNOWN = re.compile(rb"UNKNOWN \((\d{1,10})\)")
#: Names of what the plugin has none for; no number that both have is unknown to it of both.
_UNKNOWN_NAMES = {
    reason: VMX_EXITS[reason] for reason in (3, 4, 33, 34, 37, 46, 47, 51, 53, 57, 59, 60, 61, 67, 68, 74, 75)
} | {reason: SVM_EXITS[reason] for reason in (0x2, 0x12, 0x8F, 0x90, 0x94, 0x98, 0xA2, 0x403)}


def plugin_reason(reasons: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Names as the kernel prints them; trace-cmd's plugin has names of its own for SVM, `EXIT_NPF`.

    What it has no name for is `UNKNOWN (75)`. PENDING_INTERRUPT stays: kernels up to v5.5 print it too.
    """
    if reasons.dtype.itemsize < _NAME_BYTES:
        reasons = reasons.astype(f"S{_NAME_BYTES}")
    letters = np.ascontiguousarray(reasons).view("u1").reshape(len(reasons), -1)
    first, fourth = letters[:, 0], letters[:, 3]
    own = np.flatnonzero(
        (first == ord("E")) & (fourth == ord("T")) | (first == ord("U")) & (fourth == ord("N"))
    )
    if len(own):
        names, inverse = np.unique(reasons[own], return_inverse=True)
        reasons = reasons.copy()
        reasons[own] = np.array([_kernels_name(name) for name in names.tolist()], reasons.dtype)[inverse]
    return reasons


def _kernels_name(plugin: bytes) -> bytes:
    """The kernel's name for one of the plugin's."""
    if unknown := _UNKNOWN.fullmatch(plugin):
        return _UNKNOWN_NAMES.get(reason := int(unknown[1]), f"{reason:#x}").encode()
    if not plugin.startswith(b"EXIT_"):
        return plugin
    name = plugin.removeprefix(b"EXIT_").decode(errors="replace").lower()
    if name.startswith("excp_"):
        name = f"{name.removeprefix('excp_').upper()} excp"
    name = _TABLE_ACCESS.sub(r"\2_\1", name)
    return _PLUGIN_SVM.get(name, name).encode()
