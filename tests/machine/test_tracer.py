# SPDX-License-Identifier: GPL-2.0-or-later
"""What a tracer tells, and that it tells nothing where nobody listens."""

import pytest

from vlapic import events as ev
from vlapic.apic.ipi import FIXED, Message
from vlapic.clock import SimClock
from vlapic.kernels.profiles import SERIES, V5_3, V5_14, V6_1, Profile
from vlapic.machine.tracer import Tracer
from vlapic.tsc import ktime_ns

KHZ = 2_000_000


class Engine:
    """A CPU whose guest stands somewhere; `asked` is how often that was looked for."""

    asked = 0

    @property
    def rip(self):
        self.asked += 1
        return 0x1000


def told(profile: Profile, tell):
    """The events that a tracer of vCPU 2 of VM 1 makes at host TSC 500."""
    events = []
    tell(Tracer(SimClock(500), 1, 2, profile, events.append))
    return events


def everything(tracer, engine):
    """All that a tracer can be asked to tell."""
    tracer.tell(ev.Eoi, 0x40)
    tracer.entry(engine)
    tracer.waited(-3)
    tracer.tuned(900)
    tracer.exit("HLT", 0x1000)
    tracer.ipi(Message(FIXED, 0x40, destination=1))
    tracer.hrtimer_expire(KHZ)


def test_each_event_begins_with_its_time_its_vm_and_its_vcpu():
    events = told(SERIES, lambda tracer: everything(tracer, Engine()))
    assert {event[:3] for event in events} == {(500, 1, 2)}
    assert {type(event) for event in events} == {
        ev.Eoi, ev.Entry, ev.WaitLapicExpire, ev.AdvanceSample, ev.Exit, ev.ApicIpi, ev.HrtimerExpire
    }  # fmt: skip


def test_an_expiry_of_the_hrtimer_has_the_hosts_time_and_a_number_of_its_own():
    (event,) = told(SERIES, lambda tracer: tracer.hrtimer_expire(KHZ))
    assert event[3:] == (1 << 16 | 2, "apic_timer_fn", ktime_ns(500, KHZ))


def test_where_nobody_listens_nothing_is_computed_for_an_event():
    engine = Engine()
    everything(Tracer(SimClock(500), 0, 0, SERIES, None), engine)
    assert engine.asked == 0


@pytest.mark.parametrize(
    ("profile", "order"),
    [
        (SERIES, ["WaitLapicExpire", "AdvanceSample", "Exit"]),
        (V5_3, ["WaitLapicExpire", "AdvanceSample", "Exit"]),
        (V5_14, ["Exit", "WaitLapicExpire", "AdvanceSample"]),
        (V6_1, ["WaitLapicExpire", "AdvanceSample", "Exit"]),
    ],
    ids=["series", "v5.3", "v5.14", "v6.1"],
)
def test_a_wait_and_the_exit_after_it_are_told_in_the_order_of_the_kernel(profile, order):
    def wait(tracer):
        tracer.exit("HLT", 0x1000)  # takes with it the delta that never was
        tracer.waited(-3)
        tracer.tuned(900)
        tracer.exit("HLT", 0x1000)

    assert [type(event).__name__ for event in told(profile, wait)][-3:] == order


def test_from_v5_3_to_v5_17_a_wait_is_told_after_the_next_exit_of_the_guest():
    def wait(tracer):
        tracer.waited(-3)
        tracer.tuned(900)

    assert [type(event).__name__ for event in told(SERIES, wait)] == ["WaitLapicExpire", "AdvanceSample"]
    assert told(V5_3, wait) == []


def test_an_exit_before_any_wait_tells_a_delta_of_0_where_the_kernel_keeps_it_for_the_exit():
    events = told(V5_3, lambda tracer: tracer.exit("HLT", 0x1000))
    assert [event for event in events if isinstance(event, ev.WaitLapicExpire)] == [
        ev.WaitLapicExpire(500, 1, 2, 0)
    ]
