"""No timer interrupt is lost by way of the page; what differs is on the list of docs/device.md."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.apic.bench import BOTH_BACK_ENDS as BOTH
from tests.apic.bench import Apic
from tests.apic.pages import moved, next_vector, started, with_words, word
from vlapic.apic import registers as r
from vlapic.apic.check import check
from vlapic.apic.state import from_kvm_page, to_kvm_page
from vlapic.apic.timer import TimerMode, divide_count

ONE_SHOT, PERIODIC, DEADLINE, RESERVED = TimerMode


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


def test_a_page_makes_an_apic_that_has_run_forget_its_expired_deadline():
    apic = started(DEADLINE, 5_000, 5_000)
    assert apic.timer.expired_deadline_tsc
    from_kvm_page(apic.lapic, to_kvm_page(apic.lapic))
    assert apic.timer.expired_deadline_tsc == 0


def test_a_periodic_expiry_held_back_by_the_mask_waits_for_the_next_period():
    apic = started(PERIODIC, 300_000, 400_000, masked=True)
    assert apic.timer.pending
    new = moved(apic)
    assert not new.timer.pending
    new.set(r.LVTT, PERIODIC << 17 | 0x41)
    assert next_vector(new) == 200_000
