# SPDX-License-Identifier: GPL-2.0-or-later
"""vlapic: a virtual local APIC for x86 guests, with the timer that Linux KVM has.

    >>> import vlapic
    >>> result = vlapic.run("deadline", events=1000)
    >>> result.vcpus[0].regime
    'settled'

Names and modules are imported when they are first used, so that `import vlapic` costs nothing.
"""

from __future__ import annotations

# Not of `typing`, whose import takes longer than all the rest here; type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from vlapic import (
        analysis,
        apic,
        errors,
        events,
        kernels,
        machine,
        patches,
        replay,
        session,
        trace,
        tsc,
    )
    from vlapic.errors import (
        EngineError,
        GuestFailure,
        ImageError,
        OutputError,
        StateError,
        TraceError,
        UsageError,
        VlapicError,
        WorldError,
    )
    from vlapic.machine.host import Host, ModuleParameters, Vm
    from vlapic.machine.hostmodel.model import HostModel
    from vlapic.session.comparison import Comparison, compare
    from vlapic.session.results import RunResult, VcpuResult
    from vlapic.session.run import run
    from vlapic.session.spec import RunSpec
    from vlapic.trace import open_trace

__version__ = "0.1.0"

#: Where each name of the package is, by module.
_HOMES = {
    name: module
    for module, names in {
        "vlapic.session.comparison": ("Comparison", "compare"),
        "vlapic.errors": (
            "EngineError",
            "GuestFailure",
            "ImageError",
            "OutputError",
            "StateError",
            "TraceError",
            "UsageError",
            "VlapicError",
            "WorldError",
        ),
        "vlapic.machine.host": ("Host", "ModuleParameters", "Vm"),
        "vlapic.machine.hostmodel.model": ("HostModel",),
        "vlapic.session.results": ("RunResult", "VcpuResult"),
        "vlapic.session.run": ("run",),
        "vlapic.session.spec": ("RunSpec",),
        "vlapic.trace": ("open_trace",),
    }.items()
    for name in names
}
#: Modules that are there as attributes after `import vlapic`.
_MODULES = frozenset(
    (
        "analysis",
        "apic",
        "errors",
        "events",
        "kernels",
        "machine",
        "patches",
        "replay",
        "session",
        "trace",
        "tsc",
    )
)

__all__ = [
    "Comparison",
    "EngineError",
    "GuestFailure",
    "Host",
    "HostModel",
    "ImageError",
    "ModuleParameters",
    "OutputError",
    "RunResult",
    "RunSpec",
    "StateError",
    "TraceError",
    "UsageError",
    "VcpuResult",
    "VlapicError",
    "Vm",
    "WorldError",
    "__version__",
    "analysis",
    "apic",
    "compare",
    "errors",
    "events",
    "kernels",
    "machine",
    "open_trace",
    "patches",
    "replay",
    "run",
    "session",
    "trace",
    "tsc",
]

if not TYPE_CHECKING:  # a type checker would take it for every name there can be

    def __getattr__(name: str) -> Any:
        from importlib import import_module

        if name in _MODULES:
            return import_module(f"vlapic.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'vlapic' has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
