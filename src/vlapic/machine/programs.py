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
    """

    name: str
    summary: str
    delta_cycles: int = 200_000

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
    if "/" in name_or_path or "." in name_or_path or path.exists():
        return path
    raise unknown_name("guest", name_or_path, PROGRAMS)
