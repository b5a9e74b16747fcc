# SPDX-License-Identifier: GPL-2.0-or-later
"""How to record a host's timer: the commands for the kernel at hand, each part with what it is for.

Nothing is run here. The commands make a trace.dat, the samples of the kernel's own advancement inside it, and
the sidecar with what a trace does not say, so that `vlapic replay` needs nothing else.
"""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from typing import NamedTuple

from vlapic.errors import UsageError
from vlapic.json_data import json_data
from vlapic.kernels.profiles import release_numbers

#: Where the kernel's debugfs shows each VM: a folder named after the process and a file descriptor of its.
_KVM_DEBUGFS = "/sys/kernel/debug/kvm"
#: The kernels that show a vCPU's advancement in debugfs, and those whose parameter is a switch.
_SHOWS_ADVANCE = (5, 2)
_HAS_SWITCH = (6, 11)
#: Buffer of each CPU, KiB: trace-cmd writes it out all the time, and a host may have hundreds of CPUs.
BUFFER_KIB = 20_480


class Part(NamedTuple):
    """A part of the recording: words of a command line or lines of a script, and what they are for."""

    text: str
    why: str


@dataclass(frozen=True)
class Recording:
    """How to record.

    Attributes:
        kernel: the release of the kernel it is for.
        command: the parts of the trace-cmd line, in order.
        sampling: lines of the loop that writes the kernel's advancement into the trace; empty where the
            kernel does not show it.
        sidecar: lines that write the sidecar.
        notes: what else there is to know of this kernel.
    """

    kernel: str
    command: tuple[Part, ...]
    sampling: tuple[str, ...]
    sidecar: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def line(self) -> str:
        """The trace-cmd line."""
        return " ".join(part.text for part in self.command)

    @property
    def script(self) -> str:
        """All of it as a shell script, with comments."""
        width = max(len(part.text) for part in self.command)
        lines = [
            "#!/bin/sh",
            f"# Records the local APIC timers of a host with kernel {self.kernel}. Needs root.",
        ]
        lines += [f"# {note}" for note in self.notes]
        lines += ["", "# What the trace does not say, as it is before the recording."]
        lines += self.sidecar
        if self.sampling:
            lines += [
                "",
                "# The kernel's own advancement of each vCPU, written into the trace 100 times a second.",
            ]
            lines += self.sampling
        lines += ["", "# The recording; each part:"]
        lines += [f"#   {part.text:<{width}}  {part.why}" for part in self.command]
        if self.sampling:
            lines += ["# Ctrl-C ends it early, and the loop with it."]
        lines.append(self.line)
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """The object `vlapic record --print --json` prints."""
        return {
            "schema": "vlapic.live.record/1",
            "kernel": self.kernel,
            "line": self.line,
            "parts": json_data(self.command),
            "sampling": list(self.sampling),
            "sidecar": list(self.sidecar),
            "notes": list(self.notes),
        }


def recording(kernel: str | None = None, *, seconds: int = 60, output: str = "trace.dat") -> Recording:
    """The commands for a kernel.

    Args:
        kernel: its release; None for that of this machine.
        seconds: how long to record.
        output: the trace's file; its sidecar goes beside it.

    Raises:
        UsageError: the release is none, or a number is out of range.
    """
    release = platform.release() if kernel is None else kernel
    version = release_numbers(release)
    if version == (0, 0):
        raise UsageError(f"{release!r} is no kernel's release; expected one like 6.1.0, as uname -r says it")
    if not 1 <= seconds <= 86_400:
        raise UsageError(f"seconds {seconds} is out of range; it takes 1 to 86400")
    if not output.endswith(".dat") or re.search(r"[^\w./+-]", output):
        raise UsageError(f"output {output!r} must end in .dat, and have no blanks or quotes")
    return Recording(
        kernel=release,
        command=_command(seconds, output),
        sampling=_sampling() if version >= _SHOWS_ADVANCE else (),
        sidecar=_sidecar(version, output.removesuffix(".dat") + ".toml"),
        notes=tuple(_notes(version)),
    )


def _command(seconds: int, output: str) -> tuple[Part, ...]:
    return (
        Part("trace-cmd record", "records from the kernel's ring buffers"),
        Part(f"-o {output}", "the trace"),
        Part(
            "-C x86-tsc", "times are the host's TSC: deltas can be computed again from them, cycle by cycle"
        ),
        Part(f"-b {BUFFER_KIB}", "KiB of memory for each CPU while it records, so that nothing is lost"),
        Part("-e kvm:kvm_wait_lapic_expire", "the deltas: without them there is nothing to replay"),
        Part("-e kvm:kvm_msr", "the deadlines (TSC_DEADLINE, 6e0)"),
        Part(
            "-e kvm:kvm_write_tsc_offset",
            "the guest's TSC is the host's plus this; shows vCPUs being created",
        ),
        Part("-e kvm:kvm_hv_timer_state", "which host timer is used: the preemption timer or an hrtimer"),
        Part("-e kvm:kvm_entry -e kvm:kvm_exit", "how long the guest runs, and what takes it out"),
        Part("-e kvm:kvm_apic_accept_irq", "when the local APIC has the interrupt"),
        Part("-e kvm:kvm_inj_virq -e kvm:kvm_eoi", "when it goes in and ends; not to be seen with APICv"),
        Part("-e kvm:kvm_vcpu_wakeup", "the sleep and the polling of halted vCPUs"),
        Part("-e timer:hrtimer_start -e timer:hrtimer_expire_entry", "the host timer under the guest's"),
        Part(
            "-e sched:sched_switch -e sched:sched_waking",
            "who had the CPU instead; of the whole host, so leave them out if it is busy",
        ),
        Part(
            "-O record-tgid",
            "which process a thread is of, in text of tracefs; trace.dat has no place for it",
        ),
        Part(f"sleep {seconds}", "for so many seconds"),
    )


def _sampling() -> tuple[str, ...]:
    """A loop in the background that ends with the script, also by Ctrl-C, which trace-cmd itself takes."""
    return (
        "trap : INT",
        "trap 'kill \"$sampler\"' EXIT",
        "while :; do",
        f"    for file in {_KVM_DEBUGFS}/*/vcpu*/lapic_timer_advance_ns; do",
        '        read -r advance_ns 2>/dev/null < "$file" || continue',
        f"        vm=${{file#{_KVM_DEBUGFS}/}} vcpu=${{file%/*}}",
        '        echo "debugfs pid=${vm%%-*} vcpu=${vcpu##*/vcpu} advance_ns=$advance_ns"'
        " > /sys/kernel/tracing/trace_marker",
        "    done",
        "    sleep 0.01",
        "done &",
        "sampler=$!",
    )


def _sidecar(version: tuple[int, int], path: str) -> tuple[str, ...]:
    name = "lapic_timer_advance" if version >= _HAS_SWITCH else "lapic_timer_advance_ns"
    return (
        "{",
        'echo "kernel = \\"$(uname -r)\\""',
        "# Of the host's TSC, which a guest's is unless its VMM gave it another one or it is scaled (debugfs",
        "# tsc-scaling-ratio). If the kernel's log no longer has it, add tsc_khz = N to the file yourself.",
        "{ journalctl -k -b; dmesg; } 2>/dev/null |",
        "sed -nE 's/.*tsc: (Refined TSC clocksource calibration:|Detected) ([0-9]+)\\.([0-9]{3}) MHz"
        ".*/tsc_khz = \\2\\3/p' | tail -n 1",
        'echo "[parameters]"',
        f'echo "{name} = \\"$(cat /sys/module/kvm/parameters/{name})\\""',
        f"}} > {path}",
    )


def _notes(version: tuple[int, int]) -> list[str]:
    notes = [
        "Guests that run already are no longer at an advancement of 1000 ns: replay them with --start NS, or"
        " start them after this."
    ]
    if version < _SHOWS_ADVANCE:
        notes.append("This kernel does not show the advancement of a vCPU (debugfs has it since v5.2).")
    if (5, 3) <= version < (5, 18):
        notes.append(
            "This kernel traces a delta after the next exit, and a first one of each vCPU that never was."
        )
    if (5, 8) <= version < (5, 18):
        notes.append("Where it enters a guest again without a round of its loop, deltas are not traced.")
    return notes
