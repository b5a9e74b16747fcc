# SPDX-License-Identifier: GPL-2.0-or-later
"""Reset, INIT, and the start-up messages that end an application processor's wait."""

import pytest

from tests.support.apic_bench import Apic
from vlapic.apic import registers as r
from vlapic.apic.ipi import DeliveryMode
from vlapic.apic.lapic import Startup
from vlapic.apic.timer import TimerMode

FIXED, NMI, INIT, STARTUP, EXTINT = (
    DeliveryMode.FIXED, DeliveryMode.NMI, DeliveryMode.INIT, DeliveryMode.STARTUP, DeliveryMode.EXTINT,
)  # fmt: skip
LEVEL = True


def test_an_init_stops_an_application_processor_until_it_is_started():
    lapic = Apic(apic_id=1).lapic
    lapic.controller.accept(INIT, 0)
    assert lapic.accept_events() == Startup(init=True, page=None)
    assert lapic.controller.wait_for_sipi
    lapic.controller.accept(STARTUP, 0x9A)
    assert lapic.accept_events() == Startup(init=False, page=0x9A)
    assert not lapic.controller.wait_for_sipi
    assert lapic.accept_events() == Startup(init=False, page=None)


def test_an_init_and_the_start_up_behind_it_are_taken_in_one_go():
    lapic = Apic(apic_id=1).lapic
    lapic.controller.accept(INIT, 0)
    lapic.controller.accept(STARTUP, 0x12)
    assert lapic.accept_events() == Startup(init=True, page=0x12)


def test_a_start_up_before_an_init_is_forgotten():
    lapic = Apic(apic_id=1).lapic
    lapic.controller.accept(STARTUP, 0x12)
    lapic.controller.accept(INIT, 0)
    assert lapic.accept_events() == Startup(init=True, page=None)


def test_a_start_up_that_nobody_waits_for_is_dropped():
    lapic = Apic(apic_id=1).lapic
    lapic.controller.accept(STARTUP, 0x12)
    assert lapic.accept_events() == Startup(init=False, page=None)
    lapic.controller.accept(INIT, 0)
    lapic.accept_events()
    assert lapic.controller.wait_for_sipi


def test_the_bootstrap_processor_goes_on_after_an_init():
    lapic = Apic(apic_id=0).lapic
    lapic.controller.accept(INIT, 0)
    assert lapic.accept_events() == Startup(init=True, page=None)
    assert not lapic.controller.wait_for_sipi


def filled(**more):
    """An APIC with something in every part of it."""
    apic = Apic(apic_id=2, **more)
    for offset, value in (
        (r.ID, 7 << 24), (r.TPR, 0x30), (r.LDR, 4 << 24), (r.DFR, 0), (r.ICR2, 9 << 24), (r.ICR, 0x4040),
        (r.LVT_LINT0, 0x41), (r.TDCR, 0xB), (r.LVTT, 0x20042), (r.TMICT, 10**6),
    ):  # fmt: skip
        apic.lapic.write(offset, value)
    lapic = apic.lapic
    lapic.controller.accept(FIXED, 0x61, LEVEL)
    lapic.controller.acknowledge()
    lapic.controller.accept(FIXED, 0x71, LEVEL)
    lapic.controller.accept(NMI, 0)
    lapic.controller.accept(EXTINT, 0)
    lapic.read(0x40)
    return apic


@pytest.mark.parametrize("init", [False, True])
def test_reset_and_init_leave_every_register_as_the_table_says(init):
    apic = filled()
    apic.lapic.reset(init)
    for row in r.REGISTERS:
        if row.name != "ID" and row.xapic.readable:
            for index in range(row.count):
                assert apic.lapic.read(row.offset + 16 * index) == row.reset, row.name
    lapic = apic.lapic
    assert (lapic.controller.nmi_pending, lapic.controller.extint_pending, lapic.controller.errors) == (
        0,
        False,
        0,
    )
    assert lapic.timer.mode is TimerMode.ONE_SHOT
    assert not lapic.timer.host_timers.hrtimer.active


def test_init_keeps_the_base_the_mode_and_the_id_and_reset_does_not():
    for init in (True, False):
        apic = filled()
        apic.lapic.write_base(0xFED0_0000 | r.BASE_ENABLE)
        apic.lapic.reset(init)
        assert apic.controller.base == (0xFED0_0000 if init else r.APIC_BASE_DEFAULT) | r.BASE_ENABLE
        assert apic.lapic.read(r.ID) >> 24 == (7 if init else 2)
    apic = Apic(apic_id=1, mode="x2apic")
    apic.lapic.reset(init=True)
    assert apic.get(r.ID) == 1
    apic.lapic.reset()
    assert not apic.lapic.x2apic
    assert apic.lapic.read(r.ID) == 1 << 24


def test_a_reset_forgets_init_and_start_up_that_were_waiting():
    lapic = Apic(apic_id=1).lapic
    lapic.controller.accept(INIT, 0)
    lapic.accept_events()
    lapic.controller.accept(INIT, 0)
    lapic.controller.accept(STARTUP, 0x12)
    lapic.reset()
    assert not lapic.controller.wait_for_sipi
    assert lapic.accept_events() == Startup(init=False, page=None)
