# SPDX-License-Identifier: GPL-2.0-or-later
"""An interrupt's way through the APIC: taken, latched, handed over, ended; pins, errors, the timer."""

import pytest

from tests.support.apic_bench import Apic
from vlapic.apic import registers as r
from vlapic.apic.ipi import DeliveryMode

FIXED, LOWEST, SMI, NMI, INIT, STARTUP, EXTINT = (
    DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY, DeliveryMode.SMI, DeliveryMode.NMI,
    DeliveryMode.INIT, DeliveryMode.STARTUP, DeliveryMode.EXTINT,
)  # fmt: skip
MODES = pytest.mark.parametrize("mode", ["xapic", "x2apic"])
EDGE, LEVEL = False, True


# -- fixed interrupts --


@MODES
def test_an_interrupt_goes_from_request_to_service_to_end(mode):
    apic = Apic(mode=mode)
    assert apic.controller.accept(FIXED, 0x51)
    assert apic.get(r.IRR + 0x10 * 2) == 1 << 0x11
    assert apic.controller.deliverable() == 0x51
    assert apic.controller.acknowledge() == 0x51
    assert apic.get(r.IRR + 0x10 * 2) == 0
    assert apic.get(r.ISR + 0x10 * 2) == 1 << 0x11
    assert apic.get(r.PPR) == 0x50
    apic.set(r.EOI, 0)
    assert apic.get(r.ISR + 0x10 * 2) == 0
    assert apic.get(r.PPR) == 0
    assert (apic.accepted, apic.ended) == ([(FIXED, 0x51, EDGE)], [0x51])


def test_a_higher_class_interrupts_and_an_equal_one_waits():
    lapic = Apic().lapic
    lapic.controller.accept(FIXED, 0x51)
    lapic.controller.acknowledge()
    lapic.controller.accept(FIXED, 0x5F)
    assert lapic.controller.deliverable() is None
    lapic.controller.accept(FIXED, 0x61)
    assert lapic.controller.acknowledge() == 0x61
    assert lapic.controller.deliverable() is None
    lapic.controller.eoi()
    assert lapic.interrupts.isr == 1 << 0x51
    assert lapic.controller.deliverable() is None
    lapic.controller.eoi()
    assert lapic.interrupts.isr == 0
    assert lapic.controller.deliverable() == 0x5F


@pytest.mark.parametrize(("tpr", "deliverable"), [(0x4F, True), (0x50, False), (0x5F, False), (0xF0, False)])
def test_the_task_priority_holds_back_its_class_and_below(tpr, deliverable):
    apic = Apic()
    apic.controller.accept(FIXED, 0x51)
    apic.set(r.TPR, tpr)
    assert apic.get(r.PPR) == tpr
    assert (apic.controller.deliverable() == 0x51) is deliverable


def test_an_interrupt_requested_twice_comes_once_and_again_while_in_service():
    lapic = Apic().lapic
    lapic.controller.accept(FIXED, 0x51)
    lapic.controller.accept(FIXED, 0x51)
    lapic.controller.acknowledge()
    assert lapic.interrupts.irr == 0
    lapic.controller.accept(FIXED, 0x51)
    assert lapic.controller.deliverable() is None
    lapic.controller.eoi()
    assert lapic.controller.deliverable() == 0x51


def test_an_apic_disabled_in_its_base_takes_and_delivers_nothing_and_keeps_what_it_has():
    lapic = Apic().lapic
    lapic.controller.accept(FIXED, 0x51)
    lapic.write_base(r.APIC_BASE_DEFAULT)
    for mode in DeliveryMode:
        assert not lapic.controller.accept(mode, 0x61)
    assert lapic.controller.deliverable() is None
    lapic.write_base(r.APIC_BASE_DEFAULT | r.BASE_ENABLE)
    assert lapic.controller.deliverable() == 0x51


@pytest.mark.parametrize("mode", [FIXED, LOWEST])
def test_an_apic_disabled_by_software_takes_no_fixed_interrupt(mode):
    apic = Apic(enabled=False)
    assert not apic.controller.accept(mode, 0x51)
    assert apic.accepted == []


@pytest.mark.parametrize("mode", [NMI, INIT, STARTUP, SMI])
def test_an_apic_disabled_by_software_takes_nmi_init_startup_and_smi(mode):
    assert Apic(enabled=False).controller.accept(mode, 0x51)


def test_what_was_requested_before_a_software_disable_is_still_delivered():
    apic = Apic()
    apic.controller.accept(FIXED, 0x51)
    apic.set(r.SVR, 0xFF)
    assert apic.controller.acknowledge() == 0x51


@pytest.mark.parametrize("mode", [FIXED, LOWEST])
@pytest.mark.parametrize("vector", [0, 1, 15])
def test_a_message_with_an_illegal_vector_is_an_error_and_not_taken(mode, vector):
    apic = Apic()
    assert not apic.controller.accept(mode, vector)
    assert apic.lapic.interrupts.irr == 0
    apic.set(r.ESR, 0)
    assert apic.get(r.ESR) == r.ESR_RECEIVE_ILLEGAL_VECTOR


def test_a_level_message_that_is_deasserted_does_nothing():
    apic = Apic()
    for mode in (FIXED, LOWEST, INIT):
        assert not apic.controller.accept(mode, 0x51, LEVEL, asserted=False)
    assert not apic.controller.init_pending
    assert apic.accepted == []


def test_an_edge_message_is_taken_whatever_its_level():
    lapic = Apic().lapic
    assert lapic.controller.accept(FIXED, 0x51, EDGE, asserted=False)
    assert lapic.controller.accept(INIT, 0, EDGE, asserted=False)


def test_the_reserved_delivery_mode_changes_nothing():
    apic = Apic()
    before = (
        apic.lapic.interrupts.irr,
        apic.controller.nmi_pending,
        apic.controller.init_pending,
    )
    apic.controller.accept(DeliveryMode.RESERVED_3, 0x51)
    assert (
        apic.lapic.interrupts.irr,
        apic.controller.nmi_pending,
        apic.controller.init_pending,
    ) == before


# -- EOI --


def test_an_end_is_of_the_highest_in_service_and_of_no_other():
    apic = Apic()
    for vector in (0x41, 0x51, 0x61):
        apic.controller.accept(FIXED, vector)
        apic.controller.acknowledge()
    for _ in range(3):
        apic.controller.eoi()
    assert apic.ended == [0x61, 0x51, 0x41]


def test_an_end_with_nothing_in_service_is_spurious():
    apic = Apic()
    apic.set(r.EOI, 0)
    assert apic.ended == [-1]
    assert apic.remote == []


@pytest.mark.parametrize("level", [EDGE, LEVEL])
@pytest.mark.parametrize("suppressed", [False, True])
def test_the_end_of_a_level_interrupt_is_told_to_the_io_apics_unless_suppressed(level, suppressed):
    apic = Apic()
    apic.set(r.SVR, 0x1FF | (r.SVR_SUPPRESS_EOI_BROADCAST if suppressed else 0))
    apic.controller.accept(FIXED, 0x51, level)
    assert apic.get(r.TMR + 0x20) == level << 0x11
    apic.controller.acknowledge()
    apic.set(r.EOI, 0)
    assert apic.remote == ([0x51] if level and not suppressed else [])
    assert apic.ended == [0x51]


# -- NMI, SMI, ExtINT --


def test_one_nmi_waits_behind_the_one_being_handled_and_more_are_lost():
    lapic = Apic().lapic
    for _ in range(4):
        lapic.controller.accept(NMI, 2)
    assert [lapic.controller.take_nmi() for _ in range(3)] == [True, True, False]
    assert not lapic.controller.nmi_pending


def test_an_nmi_needs_no_legal_vector_and_requests_none():
    lapic = Apic().lapic
    assert lapic.controller.accept(NMI, 0)
    assert lapic.interrupts.irr == 0
    assert lapic.controller.errors == 0


def test_an_smi_is_ignored_and_said_so():
    apic = Apic()
    apic.controller.accept(SMI, 0)
    assert apic.smis == 1
    assert apic.lapic.interrupts.irr == 0
    assert not apic.controller.nmi_pending


# -- the local vector table --

SOURCES = [r.LVT_CMCI, r.LVT_THERMAL, r.LVT_PERFORMANCE, r.LVT_LINT0, r.LVT_LINT1, r.LVT_ERROR]


@pytest.mark.parametrize("lvt", SOURCES)
@MODES
def test_a_local_source_is_delivered_as_its_lvt_says(lvt, mode):
    apic = Apic(mode=mode)
    apic.set(lvt, 0x51)
    apic.controller.local_interrupt(lvt)
    assert apic.controller.acknowledge() == 0x51
    assert apic.accepted == [(FIXED, 0x51, EDGE)]


@pytest.mark.parametrize("lvt", SOURCES)
def test_a_masked_local_source_is_lost(lvt):
    apic = Apic()
    apic.set(lvt, r.LVT_MASKED | 0x51)
    apic.controller.local_interrupt(lvt)
    assert apic.accepted == []
    assert apic.lapic.interrupts.irr == 0


@pytest.mark.parametrize("lvt", [lvt for lvt in SOURCES if lvt != r.LVT_ERROR])
def test_a_local_source_can_be_an_nmi(lvt):
    apic = Apic()
    apic.set(lvt, NMI << 8)
    apic.controller.local_interrupt(lvt)
    assert apic.controller.take_nmi()
    assert apic.accepted == [(NMI, 0, EDGE)]


@pytest.mark.parametrize("lvt", [r.LVT_LINT0, r.LVT_LINT1])
def test_an_external_controllers_interrupt_comes_through_a_pin_and_has_no_vector_here(lvt):
    apic = Apic()
    apic.set(lvt, EXTINT << 8 | 0x51)
    apic.controller.local_interrupt(lvt)
    assert apic.controller.extint_pending
    assert apic.lapic.interrupts.irr == 0


@pytest.mark.parametrize("lvt", [r.LVT_LINT0, r.LVT_LINT1])
def test_a_level_triggered_pin_sets_tmr(lvt):
    apic = Apic()
    apic.set(lvt, r.LVT_LEVEL | 0x51)
    apic.controller.local_interrupt(lvt)
    assert apic.lapic.interrupts.tmr == 1 << 0x51


def test_a_performance_interrupt_masks_itself_and_no_other_does():
    for lvt in SOURCES:
        apic = Apic()
        apic.set(lvt, 0x51)
        apic.controller.local_interrupt(lvt)
        assert bool(apic.get(lvt) & r.LVT_MASKED) is (lvt == r.LVT_PERFORMANCE)


def test_a_local_source_with_an_illegal_vector_is_a_receive_error():
    apic = Apic()
    apic.set(r.LVT_THERMAL, 0x0F)
    apic.controller.local_interrupt(r.LVT_THERMAL)
    assert apic.accepted == []
    assert apic.controller.errors == r.ESR_RECEIVE_ILLEGAL_VECTOR


# -- errors --


def test_an_error_raises_its_interrupt_once_until_esr_is_written():
    apic = Apic()
    apic.set(r.LVT_ERROR, 0xFE)
    apic.controller.accept(FIXED, 3)
    apic.controller.accept(FIXED, 3)
    apic.get(0x40)
    assert apic.vectors == [0xFE]
    apic.set(r.ESR, 0)
    assert apic.get(r.ESR) == r.ESR_RECEIVE_ILLEGAL_VECTOR | r.ESR_ILLEGAL_REGISTER
    apic.controller.accept(FIXED, 3)
    assert apic.vectors == [0xFE, 0xFE]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda apic: apic.controller.accept(FIXED, 3),
        lambda apic: apic.get(0x40),
        lambda apic: apic.set(r.ICR, 3),
    ],
    ids=["receive illegal vector", "illegal register", "send illegal vector"],
)
def test_every_kind_of_error_raises_the_interrupt(wrong):
    apic = Apic()
    apic.set(r.LVT_ERROR, 0xFE)
    wrong(apic)
    assert apic.vectors == [0xFE]


def test_an_error_interrupt_with_an_illegal_vector_does_not_go_round_in_circles():
    apic = Apic()
    apic.set(r.LVT_ERROR, 0x0E)
    apic.controller.accept(FIXED, 3)
    assert apic.controller.errors == r.ESR_RECEIVE_ILLEGAL_VECTOR
    assert apic.accepted == []


# -- the timer's vector --


def timer_at(apic, ahead, vector=0xE0, masked=False):
    apic.set(r.LVTT, 2 << r.LVT_MODE_SHIFT | vector | (r.LVT_MASKED if masked else 0))
    apic.lapic.write_msr(r.MSR_IA32_TSC_DEADLINE, apic.guest_tsc + ahead)


@MODES
def test_the_timers_vector_is_accepted_when_its_deadline_comes(mode):
    apic = Apic(mode=mode)
    timer_at(apic, 10_000)
    assert apic.lapic.read_msr(r.MSR_IA32_TSC_DEADLINE) == apic.guest_tsc + 10_000
    apic.clock.work(10_000)
    assert apic.controller.deliver_timer()
    assert apic.vectors == [0xE0]
    assert not apic.controller.deliver_timer()


def test_a_masked_timer_keeps_one_expiry_until_it_is_unmasked():
    apic = Apic()
    timer_at(apic, 10_000, masked=True)
    apic.clock.work(10_000)
    assert not apic.controller.deliver_timer()
    apic.set(r.LVTT, 2 << r.LVT_MODE_SHIFT | 0xE0)
    assert apic.controller.deliver_timer()
    assert apic.vectors == [0xE0]


def test_a_timer_with_an_illegal_vector_is_an_error_and_no_interrupt():
    apic = Apic()
    timer_at(apic, 100, vector=0x0F)
    apic.clock.work(100)
    assert not apic.controller.deliver_timer()
    assert not apic.timer.pending
    assert apic.controller.errors == r.ESR_RECEIVE_ILLEGAL_VECTOR


def test_the_busy_wait_asks_whether_the_current_vector_is_in_service():
    apic = Apic()
    timer_at(apic, 10)
    apic.clock.work(10)
    apic.controller.deliver_timer()
    assert not apic.controller.timer_vector_in_service
    apic.controller.acknowledge()
    assert apic.controller.timer_vector_in_service
    apic.set(r.LVTT, 2 << r.LVT_MODE_SHIFT | 0x31)
    assert not apic.controller.timer_vector_in_service
