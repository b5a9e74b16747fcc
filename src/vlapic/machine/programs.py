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
    """

    name: str
    summary: str
    delta_cycles: int = 200_000
    vcpus: int = 1
    tsc_khz: tuple[int, ...] = ()
    needs: str = ""

    def image(self) -> bytes:
        """The built image."""
        return files("vlapic.machine").joinpath("guests", f"{self.name}.bin").read_bytes()


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
            "stall", "TSC-deadline interrupts, spinning; then one for STI;HLT, which must not come before it"
        ),
        Program(
            "ipi",
            "an interrupt to a second vCPU asleep in HLT, which answers with one; local APICs in x2APIC mode",
            delta_cycles=0,
            vcpus=2,
            needs="two vCPUs",
        ),
        Program("interrupt", 'stages of kvm-unit-tests\' "interrupt": while running, STI;HLT, HLT state'),
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
