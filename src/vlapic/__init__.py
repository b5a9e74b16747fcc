"""vlapic: a virtual local APIC for x86 guests, with the timer that Linux KVM has.

    >>> import vlapic
    >>> result = vlapic.run("deadline", events=1000)
    >>> result.vcpus[0].regime
    'settled'

Names are imported when they are first used, so that `import vlapic` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlapic.comparison import Comparison, compare
    from vlapic.errors import GuestFailure, VlapicError
    from vlapic.machine.host import Host, ModuleParameters, Vm
    from vlapic.machine.hostmodel import HostModel
    from vlapic.results import RunResult, VcpuResult
    from vlapic.session import run

_HOMES = {
    "Comparison": "vlapic.comparison",
    "compare": "vlapic.comparison",
    "GuestFailure": "vlapic.errors",
    "Host": "vlapic.machine.host",
    "HostModel": "vlapic.machine.hostmodel",
    "ModuleParameters": "vlapic.machine.host",
    "RunResult": "vlapic.results",
    "VcpuResult": "vlapic.results",
    "VlapicError": "vlapic.errors",
    "Vm": "vlapic.machine.host",
    "run": "vlapic.session",
}

__all__ = [
    "Comparison",
    "GuestFailure",
    "Host",
    "HostModel",
    "ModuleParameters",
    "RunResult",
    "VcpuResult",
    "VlapicError",
    "Vm",
    "compare",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vlapic' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
