# SPDX-License-Identifier: GPL-2.0-or-later
"""Whose the advancement is, and what the module's parameter has to say to it."""

import pytest

from vlapic.apic.advance_state import Advancement, ModuleState
from vlapic.errors import UsageError
from vlapic.kernels.profiles import SERIES, V5_0, V5_1, V5_2, V5_3, V5_4, V5_14, V6_1, V6_12, V6_19
from vlapic.tsc import U32, GuestTsc

KHZ = 2_000_000
TSC = GuestTsc(KHZ, KHZ)


def module(profile, setting=None):
    return ModuleState(profile, setting, KHZ)


def vcpu(state):
    return Advancement(state)


def expire(advancement, delta_cycles):
    """An expiry so many cycles after its deadline; returns what the wait found."""
    now = 1 << 40
    return advancement.wait(now, now - delta_cycles, TSC, 2)


def state(*advancements):
    return [(each.advance_ns, each.done) for each in advancements]


# -- scope --


def test_up_to_v5_0_all_vcpus_pull_at_one_value():
    kvm = module(V5_0)
    a, b = vcpu(kvm), vcpu(kvm)
    expire(a, 1500)
    assert state(a, b) == [(1125, False)] * 2
    expire(b, -1500)
    assert state(a, b) == [(985, False)] * 2


def test_up_to_v5_0_one_good_delta_freezes_the_value_for_everybody():
    kvm = module(V5_0)
    a, b = vcpu(kvm), vcpu(kvm)
    expire(a, 50)
    expire(b, 40_000)
    assert state(a, b, vcpu(kvm)) == [(1025, True)] * 3


@pytest.mark.parametrize("profile", [V5_1, V5_3, SERIES], ids=lambda it: it.name)
def test_since_v5_1_each_vcpu_tunes_its_own(profile):
    kvm = module(profile)
    a, b = vcpu(kvm), vcpu(kvm)
    for _ in range(4):
        expire(a, 1500)
        expire(b, -1500)
    assert state(a, b) == [(1600, False), (588, False)]
    expire(a, 50)
    assert state(a, b) == [(1625, True), (588, False)]


def test_the_series_without_its_third_fix_shares_one_value_and_done_flag():
    kvm = module(SERIES.without(3))
    a, b = vcpu(kvm), vcpu(kvm)
    expire(a, 50)
    assert state(a, b) == [(1025, True)] * 2


# -- the parameter --


def test_up_to_v5_0_the_parameter_is_the_value_and_reads_back_what_tuning_made_of_it():
    kvm = module(V5_0)
    a = vcpu(kvm)
    assert kvm.read_parameter() == "1000"
    expire(a, 1500)
    assert kvm.read_parameter() == "1125"


def test_a_value_written_before_tuning_is_done_is_tuned_away_and_one_after_it_sticks():
    kvm = module(V5_0)
    a = vcpu(kvm)
    kvm.write_parameter(2000)
    expire(a, -800)
    assert state(a) == [(1750, False)]
    expire(a, 0)
    kvm.write_parameter(3000)
    expire(a, 40_000)
    assert state(a) == [(3000, True)]
    assert kvm.read_parameter() == "3000"


@pytest.mark.parametrize("profile", [V5_1, V5_3, V5_4, V5_14, V6_1, SERIES], ids=lambda it: it.name)
def test_since_v5_1_a_number_is_used_as_it_is_and_never_tuned(profile):
    for number in (0, 2000, 9000):
        a = vcpu(module(profile, number))
        expire(a, -800)
        assert state(a) == [(number, True)]


@pytest.mark.parametrize("profile", [V5_1, V5_3, SERIES], ids=lambda it: it.name)
def test_a_running_vcpu_keeps_its_snapshot_of_the_parameter(profile):
    kvm = module(profile, 2000)
    old = vcpu(kvm)
    kvm.write_parameter(None)
    assert state(old, vcpu(kvm)) == [(2000, True), (1000, False)]
    kvm.write_parameter(3000)
    assert state(old, vcpu(kvm)) == [(2000, True), (3000, True)]


def test_in_v5_1_minus_one_is_refused_and_the_greatest_number_says_auto():
    # 5.1.0 declares the signed variable a uint; 0e6edceb8f18 ("... parameter overflow") mends it in v5.2.
    assert module(V5_1).read_parameter() == str(U32)
    kvm = module(V5_1, U32)
    assert (kvm.setting(), state(vcpu(kvm))) == ("auto", [(1000, False)])
    assert state(vcpu(module(V5_1, U32 - 1))) == [(U32 - 1, True)]
    with pytest.raises(UsageError, match=r"-1 ns .* v5\.1; it takes auto, or 0 to 4294967295 ns"):
        module(V5_1, -1)


@pytest.mark.parametrize("profile", [V5_2, V6_1], ids=lambda it: it.name)
def test_the_signed_parameter_says_auto_by_minus_one_and_minus_two_wraps_to_32_bits(profile):
    assert module(profile).read_parameter() == "-1"
    assert state(vcpu(module(profile, -1))) == [(1000, False)]
    kvm = module(profile, -2)
    assert kvm.read_parameter() == "-2"
    assert state(vcpu(kvm)) == [(4_294_967_294, True)]


def test_the_series_without_its_fourth_fix_tunes_a_users_value_away():
    a = vcpu(module(SERIES.without(4), 2000))
    expire(a, -800)
    assert state(a) == [(1750, False)]


def test_from_v5_4_to_v6_10_creating_a_vcpu_decides_for_all_whether_they_tune():
    for profile in (V5_4, V5_14, V6_1):
        kvm = module(profile)
        a = vcpu(kvm)
        kvm.write_parameter(500)
        assert state(a) == [(1000, False)]
        fixed = vcpu(kvm)
        expire(a, 1600)
        assert state(a, fixed) == [(1000, True), (500, True)]
        kvm.write_parameter(None)
        vcpu(kvm)
        expire(a, 1600)
        expire(fixed, 1600)
        assert state(a, fixed) == [(1100, False), (600, False)]


def test_vcpus_of_v5_4_share_the_flag_but_not_the_value():
    kvm = module(V5_4)
    a, b = vcpu(kvm), vcpu(kvm)
    expire(a, 1600)
    assert state(a, b) == [(1100, False), (1000, False)]


@pytest.mark.parametrize("profile", [V6_12, V6_19], ids=lambda it: it.name)
def test_since_v6_11_the_parameter_is_on_or_off_and_nothing_ends_tuning(profile):
    on, off = module(profile), module(profile, 0)
    assert (on.read_parameter(), off.read_parameter()) == ("Y", "N")
    a = vcpu(on)
    expire(a, 0)
    expire(a, 1600)
    assert state(a, vcpu(off)) == [(1100, False), (0, False)]
    with pytest.raises(UsageError, match="read-only"):
        on.write_parameter(0)


def test_a_number_for_a_switch_is_refused_in_a_line_that_says_who_takes_it():
    with pytest.raises(UsageError, match=r"v6\.12 takes auto or 0 .* not 3000: since v6\.11 .* series") as it:
        module(V6_12, 3000)
    assert "\n" not in str(it.value)


@pytest.mark.parametrize(
    ("profile", "number"),
    [
        (V5_0, -1),
        (V5_0, U32 + 1),
        (SERIES, -1),
        (V5_1, -1),
        (V5_1, U32 + 1),
        (V5_2, 1 << 31),
        (V5_2, -1 - (1 << 31)),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_range(profile, number):
    with pytest.raises(
        UsageError, match=rf"advance {number} ns is out of range in profile .* it takes auto, or"
    ):
        module(profile, number)


# -- the order --


def test_up_to_v5_11_the_wait_is_limited_by_the_old_advancement_and_later_by_the_new():
    # 4000 cycles early at 2 GHz is tuned from 1000 ns to 750 ns by an eighth of the delta.
    assert expire(vcpu(module(V5_4)), -4000) == (-4000, 2000)
    for profile in (V5_14, V6_1, V6_12):
        assert expire(vcpu(module(profile)), -4000) == (-4000, 1500)


def test_an_expiry_that_is_late_is_not_waited_for():
    assert expire(vcpu(module(V5_0)), 4000) == (4000, 0)
