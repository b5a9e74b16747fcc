"""The rules that kernels differ in: an Enum a question, a member an answer, each with where it comes from.

A :class:`~vlapic.profiles.Profile` picks one member of each. What a member means stands here in words; the
code for it is found in a table of the part that acts on it (`apic/advance.py`, `apic/timer.py`,
`apic/state.py`, `machine/vcpu.py`), never by asking for a version.
"""

from vlapic.rules.advancement import (
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
from vlapic.rules.rule import Rule, RuleEnum
from vlapic.rules.state_machine import (
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
from vlapic.rules.tracing import ExitTrace, WaitTrace

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
