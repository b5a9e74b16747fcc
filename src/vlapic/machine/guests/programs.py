# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests that come with vlapic, by name.

Their sources lie in `machine/guests`, beside the images, so that a user needs no assembler.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from vlapic.errors import unknown_name


@dataclass(frozen=True, slots=True)
class Program:
    """A built-in guest.

    Attributes:
        name: as on the command line.
        summary: one line for a list.
        delta_cycles: default distance of its deadlines, cycles of the guest's TSC.
        vcpus: how many it is made for.
        tsc_khz: frequencies of their TSCs unless others are asked for; empty: the host's.
        needs: what it needs that not every machine has, in words; empty: nothing.
        deadlines: whether it has any, whose distance can be set.
        stage: what failed where it reports 16, or 16 and the number of a stage: with a place for that number.
    """

    name: str
    summary: str
    delta_cycles: int = 200_000
    vcpus: int = 1
    tsc_khz: tuple[int, ...] = ()
    needs: str = ""
    deadlines: bool = True
    stage: str = ""

    def image(self) -> bytes:
        """The built image."""
        return files("vlapic.machine").joinpath("guests", f"{self.name}.bin").read_bytes()

    def report_in_words(self, value: int) -> str:
        """What a value that it reports means; empty for one that it does not report (`guests/common.S`)."""
        if value in REPORTS:
            return REPORTS[value]
        if self.stage and STAGE <= value < STAGE + MAX_STAGES:
            return self.stage.format(value - STAGE)
        if EXCEPTION <= value < EXCEPTION + 32:
            vector = value - EXCEPTION
            named = f" ({EXCEPTIONS[vector]})" if vector in EXCEPTIONS else ""
            return f"exception {vector}{named}, which it did not expect"
        return ""


#: What all of them may report.
REPORTS = {
    0: "all good",
    1: "an interrupt came before its deadline",
    2: "more or fewer interrupts than it was asked for",
    3: "it needs two vCPUs",
    4: "its second vCPU does not start",
}
STAGE = 16
MAX_STAGES = 16
EXCEPTION = 0x80
#: SDM vol. 3A "Interrupt and Exception Handling", the table of exceptions.
EXCEPTIONS = {
    0: "#DE", 1: "#DB", 2: "NMI", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF", 10: "#TS",
    11: "#NP", 12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 18: "#MC", 19: "#XM", 20: "#VE",
    21: "#CP",
}  # fmt: skip


PROGRAMS = {
    program.name: program
    for program in (
        Program("deadline", "TSC-deadline interrupts, spinning in between; local APIC through its page"),
        Program(
            "deadline-hlt", "TSC-deadline interrupts, asleep in HLT in between; local APIC in x2APIC mode"
        ),
        Program("oneshot", "one-shot interrupts of the APIC timer, spinning in between"),
        # KVM gives no period below 200 us.
        Program("periodic", "periodic interrupts of the APIC timer, spinning in between", 1_000_000),
        Program("tickless", "asleep in HLT between deadlines from 1/16 to 50 times the distance"),
        Program("storm", "deadlines near and already past; each must bring its handler once", 5_000),
        Program(
            "stall",
            "TSC-deadline interrupts, spinning; then one for STI;HLT, which must not come before it",
            stage="the last interrupt came before its HLT",
        ),
        Program(
            "ipi",
            "an interrupt to a second vCPU asleep in HLT, which answers with one; local APICs in x2APIC mode",
            delta_cycles=0,
            vcpus=2,
            needs="two vCPUs",
            deadlines=False,
        ),
        Program(
            "interrupt",
            'stages of kvm-unit-tests\' "interrupt": while running, STI;HLT, HLT state',
            deadlines=False,
            stage="stage {} failed",
        ),
        Program(
            "scaled",
            "two vCPUs with TSCs of different frequency, each taking TSC-deadline interrupts by its own",
            vcpus=2,
            tsc_khz=(2_500_000, 1_500_000),
            needs="two vCPUs, TSC scaling",
        ),
        Program(
            "uneven",
            "two vCPUs, each taking TSC-deadline interrupts: the first spinning, the second asleep in HLT",
            vcpus=2,
            needs="two vCPUs",
        ),
    )
}
DEFAULT_PROGRAM = "deadline"


def find_program(name_or_path: str) -> Program | Path:
    """The guest a user means: a built-in name, else what looks like a path.

    Raises:
        UsageError: neither; the nearest name is offered.
    """
    if name_or_path in PROGRAMS:
        return PROGRAMS[name_or_path]
    path = Path(name_or_path)
    if name_or_path and ("/" in name_or_path or "." in name_or_path or path.exists()):
        return path
    raise unknown_name("guest", name_or_path, PROGRAMS)
