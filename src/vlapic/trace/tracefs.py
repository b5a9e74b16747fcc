# SPDX-License-Identifier: GPL-2.0-or-later
"""What tracefs prints in one kernel: the lines above the events, a line's columns, and each event's form.

Follows `kernel/trace/trace_output.c: trace_print_context` and `trace.c: print_func_help_header_irq`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from vlapic.trace.tracepoints import TRACEPOINTS, Tracepoint

_HEADER_V4 = """\
#                              _-----=> irqs-off
#                             / _----=> need-resched
#                            | / _---=> hardirq/softirq
#                            || / _--=> preempt-depth
#                            ||| /     delay
#           TASK-PID   CPU#  ||||    TIMESTAMP  FUNCTION
#              | |       |   ||||       |         |
"""
_HEADER_V5_10 = """\
#                                _-----=> irqs-off
#                               / _----=> need-resched
#                              | / _---=> hardirq/softirq
#                              || / _--=> preempt-depth
#                              ||| /     delay
#           TASK-PID     CPU#  ||||   TIMESTAMP  FUNCTION
#              | |         |   ||||      |         |
"""
_HEADER_V5_15 = """\
#                                _-----=> irqs-off/BH-disabled
#                               / _----=> need-resched
#                              | / _---=> hardirq/softirq
#                              || / _--=> preempt-depth
#                              ||| / _-=> migrate-disable
#                              |||| /     delay
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
"""


@dataclass(frozen=True)
class Layout:
    """The columns in front of an event.

    Attributes:
        since: the kernel (major, minor) that first had them.
        header: the lines above the events.
        pid_width: of the column of thread numbers.
        migrate_disable: whether there is a fifth flag, which tells that.
    """

    since: tuple[int, int]
    header: str
    pid_width: int
    migrate_disable: bool


#: The oldest first. v5.10 made room for longer pids, v5.15 has a column more.
LAYOUTS = (
    Layout((4, 0), _HEADER_V4, 5, False),
    Layout((5, 10), _HEADER_V5_10, 7, False),
    Layout((5, 15), _HEADER_V5_15, 7, True),
)


#: The kernels whose formats are known; what others print is taken for that of the nearest.
KNOWN = (4, 0), (6, 19)


@dataclass(frozen=True)
class TraceKernel:
    """The text of one kernel.

    Attributes:
        name: `v` and its release.
        version: major, minor.
        layout: the columns.
    """

    name: str
    version: tuple[int, int]
    layout: Layout

    @property
    def known(self) -> bool:
        """Whether its formats are."""
        return KNOWN[0] <= self.version <= KNOWN[1]

    @property
    def tracepoints(self) -> dict[type[Any], Tracepoint]:
        """The tracepoint of each event that has one."""
        return {tracepoint.event_type: tracepoint for tracepoint in TRACEPOINTS}


@lru_cache
def trace_kernel(name: str) -> TraceKernel:
    """The text of a kernel, by a name like `v5.2`.

    Raises:
        ValueError: the name is no release of Linux.
    """
    match = re.fullmatch(r"v([0-9]{1,4})\.([0-9]{1,4})", name)
    if match is None:
        raise ValueError(f"{name!r} is no kernel; expected a name like v5.2")
    version = int(match[1]), int(match[2])
    layout = [layout for layout in LAYOUTS if layout.since <= version] or [LAYOUTS[0]]
    return TraceKernel(name, version, layout[-1])
