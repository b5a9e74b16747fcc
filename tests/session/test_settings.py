# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run's settings may be."""

import pytest

from vlapic.errors import UsageError
from vlapic.kernels.profiles import SERIES, find_profile
from vlapic.session.settings import (
    advance_setting,
    check_range,
    distance_cycles,
    kernel_settings,
    on_preemption_timer,
    same_file,
    tsc_frequencies,
)


def test_the_last_frequency_given_is_that_of_the_vcpus_behind_it():
    assert tsc_frequencies(None, 3, 2_500_000) == [2_500_000] * 3
    assert tsc_frequencies(1_000_000, 2, 2_500_000) == [1_000_000] * 2
    assert tsc_frequencies([1_000_000, 3_000_000], 4, 2_500_000) == [1_000_000, *[3_000_000] * 3]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([1_000_000] * 3, "3 TSC frequencies for 2 vCPUs; give one for all, or one for each"),
        ([], "0 TSC frequencies for 2 vCPUs"),
        (0, "guest TSC frequency 0 kHz is out of range; it takes 1 to 4294967295 kHz"),
    ],
)
def test_frequencies_that_cannot_be_are_refused(given, words):
    with pytest.raises(UsageError, match=words):
        tsc_frequencies(given, 2, 2_500_000)


def test_an_advancement_is_auto_or_what_the_profile_s_kernel_takes():
    assert advance_setting(SERIES, "auto") is None
    assert advance_setting(SERIES, 3000) == 3000
    with pytest.raises(UsageError, match="advance 'fast' is neither 'auto' nor a number of ns"):
        advance_setting(SERIES, "fast")
    with pytest.raises(UsageError):
        advance_setting(find_profile("v6.12"), 3000)


def test_only_the_hrtimer_keeps_kvm_from_the_preemption_timer():
    assert [on_preemption_timer(timer) for timer in ("auto", "preemption", "hrtimer")] == [True, True, False]


def test_settings_come_to_rules_and_module_parameters():
    rules, parameters = kernel_settings("series", (5,), "hrtimer", advance=500)
    assert rules.name == "series-5"
    assert (parameters.preemption_timer, parameters.enable_apicv) == (False, False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"profile": "v5.00"},
        {"profile": "v5.0", "without": (1,)},
        {"timer": "hrtimr"},
        {"advance": "of"},
        {"pi_inject": True},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UsageError):
        kernel_settings(**wrong)


def test_both_ends_of_a_range_belong_to_it():
    check_range("seed", 1, 1, 5)
    check_range("seed", 5, 1, 5)
    for outside in (0, 6):
        with pytest.raises(UsageError, match=f"seed {outside} is out of range; it takes 1 to 5$"):
            check_range("seed", outside, 1, 5)


def test_a_file_is_the_same_by_another_path_and_one_that_is_missing_is_not(tmp_path):
    there = tmp_path / "there"
    there.touch()
    (tmp_path / "link").symlink_to(there)
    assert same_file(there, tmp_path / "link")
    assert not same_file(there, tmp_path / "missing")
    assert not same_file(tmp_path / "missing", tmp_path / "missing")


@pytest.mark.parametrize(
    ("text", "khz", "cycles"),
    [
        ("50us", 2_500_000, 125_000),
        ("50 us", 1_500_000, 75_000),
        ("0.5ms", 2_000_000, 1_000_000),
        ("1s", 1, 1000),
        ("1ns", 2_500_000, 2),
        ("200000cycles", 1, 200_000),
        (f"{(2**64 - 1) // 10**6}cycles", 1, (2**64 - 1) // 10**6),
    ],
)
def test_a_distance_of_deadlines_is_a_time_in_cycles_rounded_down(text, khz, cycles):
    assert distance_cycles(text, khz) == cycles


@pytest.mark.parametrize("text", ["50", "", "us", "-1us", "1e3ns", "5 %", "1m", "\u0665us", "1_0us"])
def test_a_distance_without_a_unit_or_number_is_refused(text):
    with pytest.raises(UsageError, match=r"is no distance of deadlines; it takes a time \(50us; "):
        distance_cycles(text, 2_500_000)


@pytest.mark.parametrize("text", ["0ns", "0.3ns", f"{2**64}cycles"])
def test_a_distance_of_no_cycle_or_too_many_is_refused(text):
    with pytest.raises(UsageError, match="out of range; it takes 1 to 18446744073709 cycles"):
        distance_cycles(text, 2_500_000)
