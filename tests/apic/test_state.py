"""State in and out: complete, and as the page KVM saves; what the page cannot hold is on a list that ends."""

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.apic.bench import MODE_BITS, Apic
from tests.apic.world import a_world
from vlapic.apic import registers as r
from vlapic.apic.check import check
from vlapic.apic.ipi import DeliveryMode
from vlapic.apic.state import from_kvm_page, restore, restore_tsc_deadline, save, to_kvm_page
from vlapic.apic.timer import TimerMode, divide_count
from vlapic.errors import StateError

MODES = pytest.mark.parametrize("mode", ["xapic", "x2apic"])
BOTH = pytest.mark.parametrize("preemption", [False, True], ids=["hrtimer", "preemption"])
ONE_SHOT, PERIODIC, DEADLINE, RESERVED = TimerMode


def word(page, offset):
    return struct.unpack_from("<I", page, offset)[0]


def with_words(page, **words):
    page = bytearray(page)
    for name, value in words.items():
        struct.pack_into("<I", page, getattr(r, name), value)
    return bytes(page)


def moved(apic, **more):
    """The APIC as it comes out of a page and the deadline's MSR, at the same host time."""
    page, deadline_tsc = to_kvm_page(apic.lapic), apic.lapic.read_msr(r.MSR_IA32_TSC_DEADLINE)
    new = Apic(
        apic.lapic.apic_id, enabled=False, preemption=apic.preemption is not None, now=apic.clock.now,
        khz=apic.tsc.khz, **more,
    )  # fmt: skip
    new.lapic.write_base(apic.lapic.base)
    from_kvm_page(new.lapic, page)
    restore_tsc_deadline(new.lapic, deadline_tsc)
    return new


def started(mode, count, passed=0, *, masked=False, tdcr=0xB, **bench):
    """An APIC whose timer was started, and time that has passed since."""
    apic = Apic(**bench)
    apic.set(r.LVTT, mode << 17 | 0x41 | (r.LVT_MASKED if masked else 0))
    apic.set(r.TDCR, tdcr)
    if mode is DEADLINE:
        apic.lapic.write_msr(r.MSR_IA32_TSC_DEADLINE, apic.guest_tsc + count)
    else:
        apic.set(r.TMICT, count)
    apic.pass_time(passed)
    return apic


def next_vector(apic, within=1_000_000):
    """After how long the next timer interrupt is accepted, None if none is."""
    begin, before = apic.clock.now, len(apic.vectors)
    for step in (0, *(250 for _ in range(within // 250))):
        apic.pass_time(step)
        apic.lapic.deliver_timer()
        if len(apic.vectors) > before:
            return apic.clock.now - begin
    return None


# -- complete --


def test_a_saved_state_holds_every_attribute_of_the_device():
    # An attribute that is added and not saved is found here.
    apic = Apic(preemption=True)
    lapic, timer = apic.lapic, apic.timer
    own = {name for name in vars(lapic) if not name.startswith("_")} - {"timer", "client", "interrupts"}
    assert own | set(vars(lapic.interrupts)) | {"timer"} == set(vars(save(lapic)))
    timers = {name for name in vars(timer) if not name.startswith("_")} - {
        "hrtimer",
        "preemption",
        "advancement",
    }
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
        lapic.accept(mode, 0x9A)
    lapic.wait_for_sipi = True
    apic.pass_time(49_999)
    apic.advancement.advance_ns, apic.advancement.done = 1234, True
    other = Apic(now=apic.clock.now)
    restore(other.lapic, save(lapic))
    it = other.lapic
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
        lapic.accept(DeliveryMode.FIXED, vector, level=True)
    lapic.acknowledge()
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
    assert not any(word(page, offset) for offset in rest)


@MODES
def test_a_page_goes_in_as_it_came_out(mode):
    apic = Apic(3, mode)
    apic.lapic.accept(DeliveryMode.FIXED, 0x52, level=True)
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


# -- no timer interrupt is lost, and the differences that there are --


@BOTH
@given(
    mode=st.sampled_from([ONE_SHOT, PERIODIC, RESERVED]),
    count=st.integers(1, 400_000),
    tdcr=st.sampled_from([0xB, 0, 3, 0xA]),
    passed=st.integers(0, 500_000),
    masked=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_a_count_comes_along_to_within_one_count(preemption, mode, count, tdcr, passed, masked):
    apic = started(mode, count, passed, tdcr=tdcr, masked=masked, preemption=preemption)
    new = moved(apic)
    check(new.lapic)
    assert (new.timer.mode, new.timer.period_ns) == (mode, apic.timer.period_ns)
    if apic.timer.running:
        assert new.timer.running
        assert abs(new.timer.target_ns - apic.timer.target_ns) <= divide_count(tdcr)
    else:
        # Over, delivered or not: the page says TMCCT 0, and it comes once more, now.
        new.pass_time(0)
        assert new.timer.pending


@BOTH
@given(ahead=st.integers(1, 400_000), passed=st.integers(0, 500_000), masked=st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_deadline_comes_along_to_the_cycle_and_comes_once(preemption, ahead, passed, masked):
    apic = started(DEADLINE, ahead, passed, masked=masked, preemption=preemption)
    new = moved(apic)
    check(new.lapic)
    if apic.timer.running:
        assert new.timer.deadline_tsc == apic.timer.deadline_tsc
        assert new.timer.running
    else:
        # Delivered already, or held back by the mask and expired again.
        assert new.timer.pending is masked
        assert not new.timer.running


def test_a_periodic_count_in_its_last_nanosecond_skips_no_interrupt():
    apic = started(PERIODIC, 300_000, 2 * 300_000 - 1, tdcr=0)
    assert apic.timer.current_count() == 0
    new = moved(apic)
    assert word(to_kvm_page(new.lapic), r.TMCCT) == 1
    assert next_vector(new) == 250


def test_a_page_of_kvms_with_a_periodic_count_at_0_begins_a_period():
    page = with_words(to_kvm_page(started(PERIODIC, 300_000, 100).lapic), TMCCT=0)
    new = Apic(enabled=False)
    from_kvm_page(new.lapic, page)
    assert next_vector(new) == 300_000


def test_a_count_above_the_initial_one_begins_anew():
    page = with_words(to_kvm_page(started(ONE_SHOT, 300_000, 100).lapic), TMCCT=400_000)
    new = Apic(enabled=False)
    from_kvm_page(new.lapic, page)
    assert next_vector(new) == 300_000


def test_a_one_shot_that_is_over_comes_once_more_and_only_once():
    apic = started(ONE_SHOT, 5_000, 10_000)
    apic.lapic.deliver_timer()
    new = moved(apic)
    assert next_vector(new) == 0
    assert next_vector(new) is None


def test_advancement_begins_anew_and_nothing_is_waited_for():
    apic = started(DEADLINE, 50_000, 49_500, advance=700)
    apic.advancement.advance_ns = 1234
    assert apic.timer.expired_deadline_tsc
    new = moved(apic, advance=None)
    assert (new.advancement.advance_ns, new.advancement.done) == (1000, False)
    assert new.timer.expired_deadline_tsc == 0


def test_a_periodic_expiry_held_back_by_the_mask_waits_for_the_next_period():
    apic = started(PERIODIC, 300_000, 400_000, masked=True)
    assert apic.timer.pending
    new = moved(apic)
    assert not new.timer.pending
    new.set(r.LVTT, PERIODIC << 17 | 0x41)
    assert next_vector(new) == 200_000
