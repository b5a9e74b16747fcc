# SPDX-License-Identifier: GPL-2.0-or-later
"""`check` finds every kind of state that must not be: each example breaks one thing."""

import pytest

from tests.support.apic_bench import Apic
from vlapic.apic import registers as r
from vlapic.apic.check import check
from vlapic.apic.timer import TimerMode


def deadline_timer(preemption=False):
    apic = Apic(preemption=preemption)
    apic.set(r.LVTT, 0x400E0)
    apic.lapic.write_msr(r.MSR_IA32_TSC_DEADLINE, apic.guest_tsc + 10_000)
    return apic


def put(path, value):
    """Set an attribute of the APIC by its path."""

    def broken(apic):
        *objects, name = path.split(".")
        it = apic.lapic
        for each in objects:
            it = getattr(it, each)
        setattr(it, name, value)

    return broken


def store(offset, value):
    def broken(apic):
        apic.lapic.stored[offset] = value

    return broken


BROKEN = [
    (put("controller.base", r.APIC_BASE_DEFAULT | r.BASE_ENABLE | 1), "a reserved bit of IA32_APIC_BASE"),
    (put("controller.base", r.BASE_X2APIC), "x2APIC mode without the enable bit"),
    (put("xapic_id", 0x100), "an xAPIC ID has 8 bits"),
    (put("interrupts.irr", 1 << 15), "IRR has a vector below 16"),
    (put("interrupts.isr", 1 << 3), "ISR has a vector below 16"),
    (put("interrupts.tmr", 1 << 256), "TMR has a vector above 255"),
    (put("interrupts.tpr", 0x100), "TPR has 8 bits"),
    (put("interrupts.isr", 3 << 0x41), "vectors 0x41, 0x42 of a class are in service"),
    (store(r.LVT_LINT0, 1 << 20), "LINT0 holds a reserved bit"),
    (store(r.LVTT, 1 << 12 | 0x400E0), "LVTT holds a reserved bit"),
    (store(r.VERSION, 0), "VERSION was written"),
    (store(r.DFR, 0xF000_0000), "DFR's low bits are ones"),
    (store(r.ESR, 1), "ESR has a bit that nothing sets"),
    (store(r.TPR, 0), "a register is stored that has another place"),
    (store(r.SVR, 0xFF), "are unmasked with the APIC disabled in SVR"),
    (put("controller.errors", 1), "an error was detected that there is not"),
    (put("controller.nmi_pending", 3), "3 NMIs are latched"),
    (put("controller.startup_page", 256), "page 256"),
    (store(r.LVTT, 0xE0), "LVTT says ONE_SHOT, the timer is in TSC_DEADLINE"),
    (put("timer.host_timers.hv_timer_in_use", True), "two host timers are armed"),
    (put("timer.deadline_tsc", 1 << 64), "deadline_tsc has more than 64 bits"),
    (put("timer.expired_deadline_tsc", -1), "expired_deadline_tsc has more than 64 bits"),
    (put("timer.initial_count", 1 << 32), "TMICT is"),
    (put("timer.tdcr", 4), "TDCR has a reserved bit"),
    (put("timer.advancement.advance_ns", 1 << 32), "the advancement is"),
    (put("timer.initial_count", 5), "a count is left in TSC-deadline mode"),
    (put("timer.deadline_tsc", 0), "a host timer runs for no deadline"),
    (put("timer.pending", True), "a host timer runs though the deadline has expired"),
    (put("timer.armings", 0), "that was never started"),
]


@pytest.mark.parametrize(("broken", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_a_broken_state_is_told_by_what_is_wrong_with_it(broken, message):
    apic = deadline_timer()
    check(apic.lapic)
    broken(apic)
    with pytest.raises(AssertionError, match=message):
        check(apic.lapic)


def test_a_preemption_timer_in_use_without_a_deadline_is_found():
    apic = deadline_timer(preemption=True)
    check(apic.lapic)
    apic.preemption.cancel()
    with pytest.raises(AssertionError, match="hv_timer_in_use is True, its deadline False"):
        check(apic.lapic)


def test_a_pending_expiry_without_a_deadline_is_found():
    apic = deadline_timer()
    apic.lapic.write_msr(r.MSR_IA32_TSC_DEADLINE, 0)
    apic.timer.pending = True
    with pytest.raises(AssertionError, match="an expiry is pending that no deadline caused"):
        check(apic.lapic)


def test_a_period_below_the_shortest_is_found():
    apic = Apic()
    apic.set(r.LVTT, 0x200E0)
    apic.set(r.TMICT, 5)
    apic.timer.period_ns = 10
    with pytest.raises(AssertionError, match="10 ns of period"):
        check(apic.lapic)


def test_a_count_beyond_its_period_is_found(monkeypatch):
    apic = Apic()
    apic.set(r.TMICT, 5)
    assert apic.timer.mode is TimerMode.ONE_SHOT
    monkeypatch.setattr(apic.timer, "current_count", lambda: 6)
    with pytest.raises(AssertionError, match="TMCCT 6 is beyond the period of 10 ns"):
        check(apic.lapic)


def test_the_highest_request_must_be_the_one_that_is_deliverable(monkeypatch):
    apic = Apic()
    apic.lapic.interrupts.irr = 3 << 0x51
    monkeypatch.setattr(apic.controller, "deliverable", lambda: 0x51)
    with pytest.raises(AssertionError, match="0x51 is not the highest requested"):
        check(apic.lapic)
    monkeypatch.setattr(apic.controller, "deliverable", lambda: 0x52)
    apic.lapic.interrupts.tpr = 0x50
    with pytest.raises(AssertionError, match="0x52 is not above PPR's class 0x50"):
        check(apic.lapic)
