"""A timer on a bench of its own: a clock, its two host timers, no APIC and no vCPU."""

from vlapic.apic.advance import Advancement
from vlapic.apic.backends import Hrtimer, PreemptionTimer
from vlapic.apic.timer import Timer
from vlapic.clock import SimClock
from vlapic.profiles import SERIES
from vlapic.tsc import GuestTsc


class Bench:
    """One timer; `traced` holds its kvm_hv_timer_state events, `kicks` what its hrtimer asked for."""

    def __init__(self, *, preemption=False, advance=0, khz=1_000_000, host_khz=1_000_000, now=1_000_000):
        self.clock = SimClock(now)
        self.tsc = GuestTsc(khz, host_khz)
        self.traced = []
        self.kicks = []
        self.hrtimer = Hrtimer(self.clock, host_khz, lambda: self.kicks.append(self.timer.hrtimer_fired()))
        self.preemption = PreemptionTimer(self.clock, self.tsc) if preemption else None
        self.advancement = Advancement(advance)
        self.timer = Timer(
            self.clock, self.tsc, self.hrtimer, self.preemption, self.advancement, SERIES, client=self
        )

    def trace_hv_timer_state(self, in_use):
        self.traced.append(in_use)

    @property
    def guest_tsc(self):
        return self.tsc.at(self.clock.now)
