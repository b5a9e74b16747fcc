# SPDX-License-Identifier: GPL-2.0-or-later
"""Every event of vlapic, declared once: a NamedTuple for one of them; for many of them numpy columns made
from the same declaration (:class:`Table`).

Events are the one language between machine, traces, analysis and reports.
"""

from __future__ import annotations

from typing import Any, get_args

from vlapic.events.fields import NO_CPU, NO_VCPU
from vlapic.events.kernel import (
    AcceptIrq,
    ApicAccess,
    ApicIpi,
    DeviceAccess,
    Entry,
    Eoi,
    Exit,
    HrtimerExpire,
    HrtimerStart,
    HvTimerState,
    InjectVirq,
    KernelEvent,
    Msr,
    PortAccess,
    PvEoi,
    SchedSwitch,
    SchedWaking,
    TrackTsc,
    TscOffset,
    VcpuWakeup,
    WaitLapicExpire,
)
from vlapic.events.own import (
    AdvanceSample,
    DebugfsSample,
    Lost,
    OwnEvent,
    RemoteEoi,
    Sample,
    SmiIgnored,
    TimerInterrupt,
    VcpuCreated,
    VcpuStart,
)
from vlapic.events.table import Table, dtype_of

__all__ = [
    "DTYPES",
    "EVENT_CODES",
    "EVENT_TYPES",
    "NO_CPU",
    "NO_VCPU",
    "AcceptIrq",
    "AdvanceSample",
    "ApicAccess",
    "ApicIpi",
    "DebugfsSample",
    "DeviceAccess",
    "Entry",
    "Eoi",
    "Event",
    "Exit",
    "HrtimerExpire",
    "HrtimerStart",
    "HvTimerState",
    "InjectVirq",
    "Lost",
    "Msr",
    "PortAccess",
    "PvEoi",
    "RemoteEoi",
    "Sample",
    "SchedSwitch",
    "SchedWaking",
    "SmiIgnored",
    "Table",
    "TimerInterrupt",
    "TrackTsc",
    "TscOffset",
    "VcpuCreated",
    "VcpuStart",
    "VcpuWakeup",
    "WaitLapicExpire",
]

Event = OwnEvent | KernelEvent

#: Every class of event, in the order of their declaration.
EVENT_TYPES: tuple[type[Any], ...] = get_args(Event)

#: Each class's number: its place in `EVENT_TYPES`.
EVENT_CODES = {event_type: code for code, event_type in enumerate(EVENT_TYPES)}

#: The structured dtype of each class of event: a field each, in order.
DTYPES = {event_type: dtype_of(event_type) for event_type in EVENT_TYPES}
