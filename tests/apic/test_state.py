# SPDX-License-Identifier: GPL-2.0-or-later
"""State in and out: complete, and as the page KVM saves; what the page cannot hold is on a list that ends."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.apic_bench import MODE_BITS, Apic
from tests.support.apic_pages import moved, next_vector, started, word
from tests.support.apic_world import a_world
from vlapic.apic import registers as r
from vlapic.apic.check import check
from vlapic.apic.ipi import DeliveryMode
from vlapic.apic.state import from_kvm_page, restore, restore_tsc_deadline, save, to_kvm_page
from vlapic.apic.timer import TimerMode
from vlapic.errors import StateError

MODES = pytest.mark.parametrize("mode", ["xapic", "x2apic"])
ONE_SHOT, PERIODIC, DEADLINE, _ = TimerMode


# -- complete --


def test_a_saved_state_holds_every_attribute_of_the_device():
    # An attribute that is added and not saved is found here.
    apic = Apic(preemption=True)
    lapic, timer = apic.lapic, apic.timer
    own = {name for name in {**vars(lapic), **vars(lapic.controller)} if not name.startswith("_")}
    own -= {"timer", "client", "interrupts", "controller"}
    assert own | set(vars(lapic.interrupts)) | {"timer"} == set(vars(save(lapic)))
    its_vcpus = {"hrtimer", "preemption", "advancement", "profile", "tdcr_bits"}
    its_vcpus |= {"host_timers", "apicv", "posts", "wants_to_run"}
    timers = {name for name in {**vars(timer), **vars(timer.host_timers)} if not name.startswith("_")}
    timers -= its_vcpus
    parts = {"hrtimer_expires_ns", "hv_deadline_tsc", "advance_ns", "done"}
    assert timers | parts == set(vars(save(lapic).timer))


@given(st.integers(0, 2**32), st.integers(1, 150))
@settings(max_examples=60, deadline=None)
def test_saving_what_was_restored_gives_the_same_state(seed, steps):
    source = random.Random(seed)
    world = a_world(source)
    for _ in range(steps):
        world.play(world.draw(source))
    assert world.twin().everything()[1][0][0] == world.everything()[1][0][0]
    assert [save(apic.lapic) for apic in world.twin().apics] == [save(apic.lapic) for apic in world.apics]


def test_latched_events_and_advancement_come_along():
    apic = started(DEADLINE, 50_000, advance=None)
    lapic = apic.lapic
    for mode in (
        DeliveryMode.NMI,
        DeliveryMode.NMI,
        DeliveryMode.EXTINT,
        DeliveryMode.INIT,
        DeliveryMode.STARTUP,
    ):
        lapic.controller.accept(mode, 0x9A)
    lapic.controller.wait_for_sipi = True
    apic.pass_time(49_999)
    apic.advancement.advance_ns, apic.advancement.done = 1234, True
    other = Apic(now=apic.clock.now)
    restore(other.lapic, save(lapic))
    it = other.controller
    assert (it.nmi_pending, it.extint_pending, it.init_pending, it.startup_page, it.wait_for_sipi) == (
        2, True, True, 0x9A, True,
    )  # fmt: skip
    assert (other.advancement.advance_ns, other.advancement.done) == (1234, True)
    assert other.timer.expired_deadline_tsc == apic.timer.expired_deadline_tsc != 0
    assert other.timer.pending


def test_a_state_of_another_apic_is_refused_and_nothing_changes():
    here = Apic(apic_id=1)
    before = save(here.lapic)
    with pytest.raises(
        StateError, match="that of APIC ID 0, this one has 1; restore it into the vCPU it came from"
    ):
        restore(here.lapic, save(Apic().lapic))
    assert save(here.lapic) == before


def test_a_state_on_a_preemption_timer_needs_one():
    here = Apic()
    before = save(here.lapic)
    with pytest.raises(
        StateError, match="runs on a preemption timer, and this vCPU has none; create it with one"
    ):
        restore(here.lapic, save(started(DEADLINE, 5000, preemption=True).lapic))
    assert save(here.lapic) == before


# -- the page --


@MODES
def test_every_register_is_in_the_page_where_a_guest_reads_it(mode):
    apic = Apic(3, mode)
    lapic = apic.lapic
    for vector in (0x41, 0x52):
        lapic.controller.accept(DeliveryMode.FIXED, vector, level=True)
    lapic.controller.acknowledge()
    for offset, value in (
        (r.TPR, 0x21),
        (r.LVT_LINT0, 0x8741),
        (r.TDCR, 3),
        (r.LVTT, 0x20055),
        (r.TMICT, 10**6),
    ):
        apic.set(offset, value)
    apic.set(r.ICR, (0x1234 << 32 if mode == "x2apic" else 0) | 0x4044)
    apic.pass_time(1600)
    page = to_kvm_page(lapic)
    assert len(page) == 4096
    for row in r.REGISTERS:
        for index in range(row.count):
            offset = row.offset + 16 * index
            if row.access(lapic.x2apic).readable and row.name not in ("ID", "ICR", "APR"):
                assert word(page, offset) == apic.get(offset), row.name
    assert word(page, r.ID) == 3 << 24
    assert (word(page, r.ICR), word(page, r.ICR2)) == (0x4044, 0x1234 if mode == "x2apic" else 0)
    assert word(page, r.TMCCT) == 10**6 - 100
    # KVM keeps no arbitration priority.
    assert word(page, r.APR) == 0
    rest = [offset for offset in range(0, 4096, 4) if offset not in r.expand()]
    assert [offset for offset in rest if word(page, offset)] == ([0x304] if mode == "x2apic" else [])


@MODES
def test_a_page_goes_in_as_it_came_out(mode):
    apic = Apic(3, mode)
    apic.controller.accept(DeliveryMode.FIXED, 0x52, level=True)
    for offset, value in (
        (r.TPR, 0x21),
        (r.LVT_LINT0, 0x8741),
        (r.TDCR, 3),
        (r.LVTT, 0x20055),
        (r.TMICT, 10**6),
    ):
        apic.set(offset, value)
    apic.set(r.ICR, (0x1234 << 32 if mode == "x2apic" else 0) | 0x4044)
    new = moved(apic)
    assert to_kvm_page(new.lapic) == to_kvm_page(apic.lapic)
    check(new.lapic)


def test_what_x2apic_mode_left_in_xapic_mode_goes_by_the_page():
    apic = Apic(3, "x2apic")
    apic.set(r.ICR, 0x8765_4321 << 32 | 0x4041)
    apic.lapic.write_base(r.APIC_BASE_DEFAULT)
    apic.lapic.write_base(r.APIC_BASE_DEFAULT | r.BASE_ENABLE)
    apic.set(r.ICR, 0xFFF0_2041)
    new = moved(apic)
    check(new.lapic)
    assert (new.get(r.LDR), new.get(r.ICR)) == (8, 0xFFF0_2041)
    assert word(to_kvm_page(new.lapic), 0x304) == 0x8765_4321


def test_an_expiry_that_can_be_delivered_is_in_the_pages_irr():
    apic = started(DEADLINE, 5000, 5000)
    assert apic.timer.pending
    assert word(to_kvm_page(apic.lapic), r.IRR + 0x20) == 1 << 1
    assert apic.lapic.read_msr(r.MSR_IA32_TSC_DEADLINE) == 0


@given(st.integers(0, 2**32), st.sampled_from(list(MODE_BITS)), st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_4096_bytes_make_a_legal_apic(seed, mode, preemption):
    apic = Apic(1, mode, enabled=False, preemption=preemption)
    # One vector in service: nesting is what a page cannot be cleaned of.
    page = bytearray(random.Random(seed).randbytes(4096))
    page[r.ISR : r.ISR + 0x80] = bytes(0x80)
    from_kvm_page(apic.lapic, bytes(page))
    check(apic.lapic)
    apic.pass_time(1000)
    check(apic.lapic)
    assert apic.lapic.stored[r.VERSION] == r.VERSION_VALUE


@pytest.mark.parametrize("size", [0, 1024, 4095, 4097])
def test_a_page_of_another_size_is_refused(size):
    with pytest.raises(StateError, match=f"a page of KVM_GET_LAPIC has 4096 bytes, got {size}"):
        from_kvm_page(Apic().lapic, bytes(size))


# -- orders --


def test_the_deadline_before_the_page_is_refused():
    page = to_kvm_page(started(DEADLINE, 5000).lapic)
    new = Apic(enabled=False)
    with pytest.raises(
        StateError,
        match="IA32_TSC_DEADLINE 0x1388 would be ignored: the timer is in ONE_SHOT mode; restore the page",
    ):
        restore_tsc_deadline(new.lapic, 5000)
    from_kvm_page(new.lapic, page)
    restore_tsc_deadline(new.lapic, 2_000_000)
    assert new.hrtimer.active


def test_a_deadline_of_0_may_come_first():
    new = Apic(enabled=False)
    restore_tsc_deadline(new.lapic, 0)
    from_kvm_page(new.lapic, to_kvm_page(started(ONE_SHOT, 5000).lapic))
    assert new.hrtimer.active


@pytest.mark.parametrize(
    ("here", "there"), [(DEADLINE, ONE_SHOT), (DEADLINE, PERIODIC), (PERIODIC, DEADLINE)]
)
def test_a_page_that_would_stop_a_running_timer_by_its_mode_is_refused_and_nothing_changes(here, there):
    page = to_kvm_page(started(there, 300_000).lapic)
    apic = started(here, 500_000)
    before = save(apic.lapic)
    with pytest.raises(
        StateError, match=f"switches the timer from {here.name} to {there.name} and would stop"
    ):
        from_kvm_page(apic.lapic, page)
    assert save(apic.lapic) == before


def test_a_page_whose_count_would_be_zeroed_by_the_crossing_is_refused():
    page = to_kvm_page(started(ONE_SHOT, 300_000).lapic)
    apic = Apic()
    apic.set(r.LVTT, DEADLINE << 17 | 0x41)
    with pytest.raises(
        StateError, match="count 300000 would be lost by leaving TSC_DEADLINE mode; restore into a vC"
    ):
        from_kvm_page(apic.lapic, page)


def test_a_page_of_the_same_mode_restarts_the_deadline_that_is_there():
    apic = started(DEADLINE, 300_000)
    from_kvm_page(apic.lapic, to_kvm_page(apic.lapic))
    assert next_vector(apic) == 300_000
