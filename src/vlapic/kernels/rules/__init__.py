# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules that kernels differ in: an Enum a question, a member an answer, each with where it comes from.

A :class:`~vlapic.kernels.profiles.Profile` picks one member of each. What a member means stands here in
words; the part that acts on it asks for the member, never for a version. The timer and its saved state ask
where they act (`apic/timer.py`, `apic/lapic.py`), and so do `Scope`, `Ending.MODULE_FLAG` and `ZeroDelta`
where vCPUs are made. Rules that are functions have tables of what each member comes to: of tuning and arming
in `apic/advance.py`, of the wait in `apic/busy_wait.py`, of the parameter in `kernels/parameter.py`, of an
entry and its trace in `machine/vcpu.py` and `machine/tracer.py`, of posting in `machine/apicv.py`.
"""

from vlapic.kernels.rules.advancement import (
    Early,
    Ending,
    Order,
    Overflow,
    Parameter,
    Place,
    Scope,
    Tuning,
    Wait,
)
from vlapic.kernels.rules.rule import Rule, RuleEnum
from vlapic.kernels.rules.timer import (
    AfterBlock,
    CountWrite,
    DeadlineRead,
    DeadlineWrite,
    DirectInjection,
    Divide,
    HvExit,
    HvOff,
    ModeChange,
    PeriodicAdvance,
    PostedWait,
    PreExpired,
    Records,
    Restore,
    SavedCount,
    TooShort,
    ZeroDelta,
)
from vlapic.kernels.rules.tracing import ExitTrace, WaitTrace

__all__ = [
    "AfterBlock",
    "CountWrite",
    "DeadlineRead",
    "DeadlineWrite",
    "DirectInjection",
    "Divide",
    "Early",
    "Ending",
    "ExitTrace",
    "HvExit",
    "HvOff",
    "ModeChange",
    "Order",
    "Overflow",
    "Parameter",
    "PeriodicAdvance",
    "Place",
    "PostedWait",
    "PreExpired",
    "Records",
    "Restore",
    "Rule",
    "RuleEnum",
    "SavedCount",
    "Scope",
    "TooShort",
    "Tuning",
    "Wait",
    "WaitTrace",
    "ZeroDelta",
]
