"""CPUs under a vCPU: the contract that every engine keeps, and the engines by name. They know no APIC and no
host.

An engine is a function of a VM's guest and of what an instruction costs, in host TSC cycles; it gives the
function that makes each CPU of that VM. It is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from vlapic.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from vlapic.machine.engines.contract import MakeCpu

#: Makes the CPUs of one VM, given its guest and host TSC cycles for each instruction.
Engine = Callable[[Any, int], "MakeCpu"]

EMULATED = "emulated"
SCRIPTED = "scripted"


class _Row(NamedTuple):
    """Where an engine is.

    Attributes:
        module: whose `cpus_of` is the engine.
        images: whether it runs images; else the guest is a Python program.
    """

    module: str
    images: bool


ENGINES = {
    EMULATED: _Row("vlapic.machine.engines.unicorn.engine", images=True),
    SCRIPTED: _Row("vlapic.machine.engines.scripted", images=False),
}


def find_engine(name: str) -> Engine:
    """An engine by its name.

    Raises:
        UsageError: there is none; the nearest name is offered.
    """
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    engine: Engine = import_module(ENGINES[name].module).cpus_of
    return engine


def check_runs_images(name: str) -> None:
    """Refuse an engine that cannot run a guest's image.

    Raises:
        UsageError: there is no such engine, or it plays Python programs.
    """
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    if not ENGINES[name].images:
        those = " or ".join(repr(other) for other, row in ENGINES.items() if row.images)
        raise UsageError(
            f"engine {name!r} plays guests that are Python programs, and runs no images; take {those}"
        )
