"""When the busy wait's events are told: in the wait, or after the next exit; before kvm_exit or behind it.

Follows `kvm/lapic.c: __kvm_wait_lapic_expire` and, from v5.3 to v5.17, `kvm/x86.c: vcpu_enter_guest`, where
`advance_expire_delta` waits for the next exit. The marker with the advancement that it was tuned to follows
each kvm_wait_lapic_expire.
"""

from __future__ import annotations

from collections.abc import Callable

from vlapic.events import AdvanceSample, Event, Exit, WaitLapicExpire
from vlapic.kernels.profiles import Profile
from vlapic.kernels.rules import ExitTrace, WaitTrace

#: Whether kvm_wait_lapic_expire is traced in the wait; else it is after the next exit.
IN_WAIT = {WaitTrace.IN_WAIT: True, WaitTrace.AFTER_EXIT: False}
#: Whether kvm_exit comes before what else is traced after an exit.
EXIT_FIRST = {ExitTrace.IN_HANDLER: False, ExitTrace.AT_ONCE: True}

#: What leads every event: host TSC, VM, vCPU.
Stamp = tuple[int, int, int]


class WaitTracer:
    """Tells the events of one vCPU's waits and exits in the order of its kernel."""

    def __init__(self, profile: Profile, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self._in_wait = IN_WAIT[profile.wait_trace]
        self._exit_first = EXIT_FIRST[profile.exit_trace]
        # The delta that the next exit traces, and what it was tuned to. The kernel's field starts at 0: the
        # first exit of all traces a delta that never was, and that tuned nothing.
        self._delta: int | None = None if self._in_wait else 0
        self._advance_ns: int | None = None

    def waited(self, stamp: Stamp, delta_cycles: int) -> None:
        """The guest TSC was read for a busy wait."""
        if self._in_wait:
            self._tell(WaitLapicExpire(*stamp, delta_cycles))
        else:
            # Only the last one since an exit is ever told.
            self._delta = delta_cycles

    def tuned(self, stamp: Stamp, advance_ns: int) -> None:
        """Wait and tuning are over."""
        if self._in_wait:
            self._tell(AdvanceSample(*stamp, advance_ns))
        else:
            self._advance_ns = advance_ns

    def exit(self, event: Exit) -> None:
        """The guest was left."""
        if self._exit_first:
            self._tell(event)
        if self._delta is not None:
            self._tell(WaitLapicExpire(*event[:3], self._delta))
            if self._advance_ns is not None:
                self._tell(AdvanceSample(*event[:3], self._advance_ns))
            self._delta = self._advance_ns = None
        if not self._exit_first:
            self._tell(event)
