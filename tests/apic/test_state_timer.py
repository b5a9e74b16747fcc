# SPDX-License-Identifier: GPL-2.0-or-later
"""A timer interrupt that page and MSR can tell of is not lost by their way; docs/device.md lists the rest."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.apic_bench import BOTH_BACK_ENDS as BOTH
from tests.support.apic_bench import Apic
from tests.support.apic_pages import moved, next_vector, started, with_words, word
from vlapic.apic import registers as r
from vlapic.apic.check import check
from vlapic.apic.state import from_kvm_page, to_kvm_page
from vlapic.apic.timer import TimerMode, divide_count
from vlapic.kernels.profiles import SERIES, V5_0, V5_1, V5_2, V5_3, V5_4, V5_14, V6_1, V6_12, V6_19

ONE_SHOT, PERIODIC, DEADLINE, RESERVED = TimerMode
UP_TO_V5_4 = (V5_0, V5_1, V5_2, V5_3, V5_4)
ALL = (SERIES, *UP_TO_V5_4, V5_14, V6_1, V6_12, V6_19)


def by_name(profiles):
    return pytest.mark.parametrize("profile", profiles, ids=lambda each: each.name)


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
    apic.controller.deliver_timer()
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


# -- what the page has no place for: lost in KVM, and so here --


@by_name(ALL)
@pytest.mark.parametrize("init", [False, True], ids=["reset", "INIT"])
def test_a_count_that_outlived_reset_does_not_come_along(profile, init):
    # `kvm_lapic_reset` zeroes TMICT and cancels the hrtimer alone; `set_target_expiration` starts no TMICT 0.
    apic = started(ONE_SHOT, 50_000, preemption=True, profile=profile)
    apic.lapic.reset(init=init)
    assert apic.timer.hv_timer_in_use
    page = to_kvm_page(apic.lapic)
    assert (word(page, r.TMICT), word(page, r.TMCCT)) == (0, 0)
    assert not moved(apic, profile=profile).timer.running
    apic.set(r.SVR, 0x1FF)
    apic.set(r.LVTT, 0x41)
    assert next_vector(apic) == 50_000


@by_name(ALL)
@BOTH
def test_an_expiry_left_beside_a_running_count_does_not_come_along(preemption, profile):
    # A periodic count whose expiry the mask holds back is made a one-shot: TMCCT speaks of the count alone.
    apic = started(PERIODIC, 300_000, 400_000, masked=True, preemption=preemption, profile=profile)
    apic.set(r.LVTT, ONE_SHOT << 17 | 0x41 | r.LVT_MASKED)
    assert apic.timer.pending
    assert apic.timer.running
    new = moved(apic, profile=profile, apicv=False)
    for it in (apic, new):
        it.set(r.LVTT, ONE_SHOT << 17 | 0x41)
    assert next_vector(apic) == 0
    # Up to v5.7 the count begins anew.
    assert next_vector(new) == (300_000 if profile in UP_TO_V5_4 else 200_000)
    assert next_vector(new) is None


@by_name(UP_TO_V5_4)
def test_a_deadline_of_the_reserved_mode_does_not_come_along_up_to_v5_9(profile):
    # `kvm_set_lapic_tscdeadline_msr` takes it in that mode, `kvm_get_lapic_tscdeadline_msr` reads 0.
    apic = Apic(preemption=True, profile=profile)
    apic.set(r.LVTT, RESERVED << 17 | 0x41)
    apic.lapic.write_msr(r.MSR_IA32_TSC_DEADLINE, apic.guest_tsc + 50_000)
    assert apic.timer.hv_timer_in_use
    assert apic.lapic.read_msr(r.MSR_IA32_TSC_DEADLINE) == 0
    assert not moved(apic, profile=profile).timer.running
    assert next_vector(apic) == 50_000


@by_name(UP_TO_V5_4)
def test_what_tmict_0_or_a_mode_left_on_the_preemption_timer_does_not_come_along_up_to_v5_4(profile):
    for offset, value in ((r.TMICT, 0), (r.LVTT, DEADLINE << 17 | 0x41)):
        apic = started(ONE_SHOT, 50_000, preemption=True, profile=profile)
        apic.set(offset, value)
        assert apic.timer.hv_timer_in_use
        assert not moved(apic, profile=profile).timer.running


@by_name((*UP_TO_V5_4, V5_14))
def test_an_expiry_of_the_mode_before_does_not_come_along_up_to_v5_17(profile):
    apic = started(ONE_SHOT, 5_000, 5_000, masked=True, profile=profile)
    apic.set(r.LVTT, DEADLINE << 17 | 0x41 | r.LVT_MASKED)
    assert apic.timer.pending
    new = moved(apic, profile=profile)
    assert not new.timer.pending
    assert not new.timer.running


def test_a_deadline_hours_ahead_is_taken_modulo_that_anew():
    # `start_sw_tscdeadline` multiplies by 10^6 in 64 bits: at 1 GHz 2^63 cycles ahead are 0 ns.
    apic = started(DEADLINE, 1 << 63, 1, masked=True)
    assert apic.timer.pending
    apic.pass_time(1000)
    new = moved(apic)
    assert not new.timer.pending
    assert new.hrtimer.expires_ns - new.hrtimer.now_ns() > 10**12


def test_reset_clears_what_the_other_mode_has_of_icr():
    # `kvm_lapic_reset` clears the half of the mode that is on; SDM: all of it.
    apic = Apic(mode="x2apic")
    apic.set(r.ICR, 0x8765_4321 << 32 | 0x4041)
    apic.lapic.reset()
    apic.lapic.write_base(r.APIC_BASE_DEFAULT | r.BASE_ENABLE | r.BASE_X2APIC)
    assert apic.get(r.ICR) == 0
