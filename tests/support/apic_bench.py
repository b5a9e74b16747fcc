# SPDX-License-Identifier: GPL-2.0-or-later
"""A timer on a bench of its own, and an APIC around it: a clock, its two host timers, no vCPU."""

from typing import Any

import pytest

from vlapic.apic import registers as r
from vlapic.apic.advance_state import Advancement, ModuleState
from vlapic.apic.backends import Hrtimer, PreemptionTimer
from vlapic.apic.lapic import LocalApic
from vlapic.apic.timer import Timer, TimerMode
from vlapic.clock import SimClock
from vlapic.kernels.profiles import SERIES
from vlapic.tsc import GuestTsc

BOTH_BACK_ENDS = pytest.mark.parametrize("preemption", [False, True], ids=["hrtimer", "preemption"])
MODE_BITS = {
    "disabled": 0,
    "xapic": r.BASE_ENABLE,
    "x2apic": r.BASE_ENABLE | r.BASE_X2APIC,
}


class Bench:
    """One timer; `traced` holds its kvm_hv_timer_state events, `kicks` has for each firing of its
    hrtimer whether an expiry came to be pending, for which a vCPU is kicked.
    """

    def __init__(
        self,
        *,
        preemption=False,
        advance=0,
        khz=1_000_000,
        host_khz=1_000_000,
        now=1_000_000,
        frac_bits=48,
        clock=None,
        profile=SERIES,
        apicv=False,
    ):
        self.clock = clock or SimClock(now)
        self.tsc = GuestTsc(khz, host_khz, frac_bits)
        self.traced = []
        self.kicks = []
        self.hrtimer = Hrtimer(self.clock, host_khz, self.hrtimer_fired)
        self.preemption = PreemptionTimer(self.clock, self.tsc) if preemption else None
        self.advancement = Advancement(ModuleState(profile, advance, host_khz))
        # Without APICv nothing else of a client is called.
        client: Any = self
        self.timer = Timer(
            self.clock, self.tsc, self.hrtimer, self.preemption, self.advancement, profile, client=client
        )
        self.timer.apicv = apicv

    def hrtimer_fired(self):
        was_pending = self.timer.pending
        self.timer.hrtimer_fired()
        self.kicks.append(self.timer.pending and not was_pending)

    def trace_hv_timer_state(self, in_use):
        self.traced.append(in_use)

    @property
    def guest_tsc(self):
        return self.tsc.at(self.clock.now)

    def pass_time(self, cycles):
        """Let the guest run: host timers expire when they do, the preemption timer to the cycle."""
        until = self.clock.now + cycles
        while True:
            hv = self.preemption.hv_deadline_tsc if self.timer.hv_timer_in_use else until + 1
            if max(hv, self.clock.now) > until:
                self.clock.work(until - self.clock.now)
                return
            self.clock.work(max(hv - self.clock.now, 0))
            self.timer.preemption_timer_ran_out()


class Apic(Bench):
    """A local APIC on a bench.

    `accepted` and `ended` hold its tracepoints, `sent` its messages, `remote` its broadcasts of EOI, `smis`
    counts ignored SMIs.
    """

    def __init__(self, apic_id=0, mode="xapic", enabled=True, **bench):
        super().__init__(**bench)
        self.accepted, self.ended, self.sent, self.remote, self.smis = [], [], [], [], 0
        client: Any = self
        self.lapic = LocalApic(apic_id, self.timer, client=client)
        self.controller = self.lapic.controller
        if enabled:
            self.lapic.write(r.SVR, 0x1FF)
        if mode != "xapic":
            self.lapic.write_base(r.APIC_BASE_DEFAULT | MODE_BITS[mode])

    def inject_timer(self):
        self.controller.inject_timer()

    def trace_accept_irq(self, vector, mode, level):
        self.accepted.append((mode, vector, level))

    def send_ipi(self, message):
        self.sent.append(message)

    def address_changed(self):
        pass

    def remote_eoi(self, vector):
        self.remote.append(vector)

    def trace_smi_ignored(self):
        self.smis += 1

    def trace_eoi(self, vector):
        self.ended.append(vector)

    def get(self, offset):
        """Read a register by the way of the mode."""
        return self.lapic.read_msr(0x800 + (offset >> 4)) if self.lapic.x2apic else self.lapic.read(offset)

    def set(self, offset, value):
        """Write a register by the way of the mode."""
        if self.lapic.x2apic:
            self.lapic.write_msr(0x800 + (offset >> 4), value)
        else:
            self.lapic.write(offset, value)

    @property
    def vectors(self):
        """The vectors accepted so far."""
        return [vector for _, vector, _ in self.accepted]


def counting(count=100_000, mode=TimerMode.ONE_SHOT, tdcr=0b1011, **bench):
    """A bench with a count that runs."""
    it = Bench(**bench)
    it.timer.set_mode(mode)
    it.timer.write_divide(tdcr)
    it.timer.write_initial_count(count)
    return it


def armed(ahead, **bench):
    """A bench whose timer is armed for so many guest cycles from now."""
    it = Bench(**bench)
    it.timer.set_mode(TimerMode.TSC_DEADLINE)
    it.timer.write_tsc_deadline(it.guest_tsc + ahead)
    return it


def delivered(it):
    """Deliver the expiry that is pending, False if there is none."""
    if not it.timer.pending:
        return False
    it.timer.deliver()
    return True


def expiries(it, cycles):
    """When expiries come within the next cycles, each delivered as it comes."""
    begin, found = it.clock.now, []
    for _ in range(cycles // 1000):
        it.pass_time(1000)
        if delivered(it):
            found.append(it.clock.now - begin)
    return found
