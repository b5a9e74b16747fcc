# SPDX-License-Identifier: GPL-2.0-or-later
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


def find_engine(name: str, *, images: bool = True) -> Engine:
    """An engine by its name.

    Args:
        images: whether it is for a guest's image; else for a `ScriptedGuest`.

    Raises:
        UsageError: there is none of that name, or it is for the other kind of guests.
    """
    check_engine(name, images=images)
    engine: Engine = import_module(ENGINES[name].module).cpus_of
    return engine


def check_engine(name: str, *, images: bool = True) -> None:
    """Refuse what `find_engine` refuses, and import nothing.

    Raises:
        UsageError: there is no engine of that name, or it is for the other kind of guests.
    """
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    if ENGINES[name].images is not images:
        those = " or ".join(repr(other) for other, row in ENGINES.items() if row.images is images)
        does = "runs no Python programs" if not images else "plays Python programs, and runs no images"
        raise UsageError(f"engine {name!r} {does}; take {those}")
