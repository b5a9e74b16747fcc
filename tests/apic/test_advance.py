# SPDX-License-Identifier: GPL-2.0-or-later
"""The advancement's rules are those of the compiled kernels, to the bit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.deltas import ahead_of
from vlapic.apic import advance as a
from vlapic.kernels.profiles import ADVANCE_CAP_NS, SERIES, V5_0, V5_1, V5_3, V5_4, V5_14, V6_1, V6_12
from vlapic.kernels.rules import Early, TooShort
from vlapic.tsc import S64_SIGN, U32, U64

KHZ = 2_000_000
u32 = st.integers(0, U32)
u64 = st.integers(0, U64)
khz = st.integers(1, U32)


def tuned(profile, advance_ns, delta_cycles, done=False, tsc_khz=KHZ):
    """Advancement and done flag after one delta."""
    early, distance = a.EARLY[profile.early](*ahead_of(delta_cycles))
    return a.tune(profile, advance_ns, done, early, distance, tsc_khz)


def climb(profile, delta_cycles, events, advance_ns=1000):
    """The advancement after each of so many equal deltas."""
    values, done = [], False
    for _ in range(events):
        advance_ns, done = tuned(profile, advance_ns, delta_cycles, done)
        values.append(advance_ns)
    return values


COMPILED_KERNELS = pytest.mark.parametrize(
    ("name", "profile"),
    [("tune-v5.0", V5_0), ("tune-v5.1", V5_1), ("tune-v5.3", V5_3), ("tune-v6.1", V6_1)],
    ids=["v5.0", "v5.1", "v5.3", "v6.1"],
)


@COMPILED_KERNELS
def test_tuning_equals_every_row_of_the_compiled_kernel(golden, name, profile):
    for row in golden(name):
        got = tuned(profile, row["advance_ns"], row["delta_cycles"], bool(row["done"]), row["tsc_khz"])
        assert got == (row["advance_after_ns"], bool(row["done_after"])), row


# At 2 GHz: advancement, delta; then advancement and done of v5.0, v5.1, v5.3; advancement of v5.4.
T, F = True, False
STEPS = [
    (1000, 0, (1000, T), (1000, T), (1000, T), 1000),
    (1000, 50, (1025, T), (1025, T), (1025, T), 1000),
    (1000, 99, (1049, T), (1049, T), (1049, T), 1000),
    (1000, 100, (1050, F), (1050, F), (1050, F), 1006),
    (1000, -50, (975, T), (975, T), (975, T), 1000),
    (1000, -99, (951, T), (951, T), (951, T), 1000),
    (1000, -100, (950, F), (950, F), (950, F), 994),
    (1000, 250, (1125, F), (1125, F), (1125, F), 1015),
    (1000, -250, (875, F), (875, F), (875, F), 985),
    (1000, 1600, (1125, F), (1125, F), (1125, F), 1100),
    (1000, -1600, (875, F), (875, F), (875, F), 900),
    (1000, 9999, (1125, F), (1125, F), (1125, F), 1624),
    (1000, 10_000, (1125, F), (1125, F), (1125, F), 1625),
    (1000, 10_001, (1125, F), (1125, F), (1125, F), 1000),
    (1000, -10_000, (875, F), (875, F), (875, F), 375),
    (1000, -10_001, (875, F), (875, F), (875, F), 1000),
    (1000, 400_000, (1125, F), (1125, F), (1125, F), 1000),
    (1000, -400_000, (875, F), (875, F), (875, F), 1000),
    (4000, 4000, (4500, F), (4500, F), (4500, F), 4250),
    (4000, -4000, (3500, F), (3500, F), (3500, F), 3750),
    (4000, 10_000, (4500, F), (4500, F), (4500, F), 4625),
    (4990, 50, (5015, T), (0, T), (1000, F), 4990),
    (4990, 99, (5039, T), (0, T), (1000, F), 4990),
    (4990, 100, (5040, F), (0, T), (1000, F), 4996),
    (4990, 250, (5115, F), (0, T), (1000, F), 1000),
    (4990, -250, (4865, F), (4865, F), (4865, F), 4975),
    (4990, 4000, (5613, F), (0, T), (1000, F), 1000),
    (4990, 10_001, (5613, F), (0, T), (1000, F), 4990),
]


@pytest.mark.parametrize(("advance_ns", "delta", "v5_0", "v5_1", "v5_3", "v5_4"), STEPS)
def test_one_step_of_each_era(advance_ns, delta, v5_0, v5_1, v5_3, v5_4):
    assert tuned(V5_0, advance_ns, delta) == v5_0
    assert tuned(V5_1, advance_ns, delta) == v5_1
    assert tuned(V5_3, advance_ns, delta) == v5_3
    for profile in (V5_4, V5_14, V6_1, V6_12):
        assert tuned(profile, advance_ns, delta) == (v5_4, False)
    assert tuned(SERIES, advance_ns, delta) == (min(v5_0[0], ADVANCE_CAP_NS), v5_0[1])


@pytest.mark.parametrize(
    ("advance_ns", "delta", "after_ns"),
    [(50, -2000, 1000), (124, -2000, 1000), (125, -2000, 0), (4900, 1600, 5000), (4900, 2000, 1000)],
)
def test_an_eighth_of_the_delta_wraps_below_zero_and_restarts_above_the_cap(advance_ns, delta, after_ns):
    assert tuned(V5_4, advance_ns, delta) == (after_ns, False)


def test_v5_0_climbs_by_eighths_without_end():
    values = climb(V5_0, 400_000_000, 98)
    expected = [1125, 1265, 1423, 1600, 1800, 2025, 2278, 2562, 2882, 3242, 3647, 4102, 4614, 5190]
    assert values[:14] == expected
    assert values[58] == 1_039_104
    assert values[97] == 102_708_519


def test_the_series_climbs_to_the_cap_and_goes_on_tuning_there():
    values = climb(SERIES, 400_000_000, 20)
    assert values[:13] == climb(V5_0, 400_000_000, 13)
    assert values[13:] == [5000] * 7
    assert tuned(SERIES, 5000, -4000) == (4375, False)


def test_v5_1_ends_advancement_where_v5_0_first_exceeds_the_cap():
    assert climb(V5_1, 400_000_000, 20)[12:] == [4614, *[0] * 7]


def test_v5_3_starts_again_where_v5_0_first_exceeds_the_cap():
    assert climb(V5_3, 400_000_000, 28)[12:15] == [4614, 1000, 1125]
    assert climb(V5_3, 400_000_000, 28)[27] == 1000


@pytest.mark.parametrize("profile", [V5_0, V5_1, V5_3, SERIES], ids=lambda it: it.name)
def test_early_forever_comes_to_7_after_41_steps_and_stays(profile):
    values = climb(profile, -400_000_000, 60)
    assert values.index(7) == 40
    assert values[40:] == [7] * 20


def test_two_vcpus_that_differ_pull_a_global_to_and_fro():
    values, advance_ns = [], 1000
    for event in range(8):
        advance_ns, _ = tuned(V5_0, advance_ns, -1500 if event % 2 else 1500)
        values.append(advance_ns)
    assert values == [1125, 985, 1108, 970, 1091, 955, 1074, 940]


def test_the_distance_is_cut_to_32_bits_of_ns_before_it_is_compared():
    # 2^33 cycles at 2 GHz are 2^32 ns: nothing is left of them.
    assert tuned(V5_0, 1000, 1 << 33) == (1000, False)


def test_a_global_of_32_bits_wraps():
    assert tuned(V5_0, U32, 400_000_000) == (200_000_000 - 1, False)


def test_an_absolute_value_of_2_to_the_63_is_negative_and_so_ends_tuning():
    assert a.tune(V5_0, 1000, False, False, S64_SIGN, KHZ)[1]
    assert a.tune(V5_3, 1000, False, True, S64_SIGN, KHZ)[1]
    assert not a.tune(V5_0, 1000, False, False, S64_SIGN + 1, KHZ)[1]


def test_tuning_ends_below_100_cycles_on_either_side_of_0_and_not_at_100():
    # A distance near 2^64 is a small negative s64, whose absolute value counts.
    for cycles, ends in ((99, True), (100, False)):
        assert a.ends_when_near(False, cycles) is ends
        assert a.ends_when_near(False, 2**64 - cycles) is ends


@given(u64, u64)
def test_both_ways_to_tell_early_agree_below_2_to_the_63(guest_tsc, deadline_tsc):
    compared = a.EARLY[Early.COMPARE](guest_tsc, deadline_tsc)
    by_sign = a.EARLY[Early.SIGN](guest_tsc, deadline_tsc)
    # At 2^63 itself the sign says early, which is right for one of the two.
    assert (compared == by_sign) == (-S64_SIGN <= guest_tsc - deadline_tsc < S64_SIGN)
    assert by_sign[1] <= S64_SIGN


@given(u32, st.booleans(), u64, khz)
def test_done_ends_tuning_whatever_comes(advance_ns, early, distance, khz):
    for profile in (V5_0, V5_1, V5_3, V5_4, SERIES):
        assert a.tune(profile, advance_ns, True, early, distance, khz) == (advance_ns, True)


@given(st.integers(0, ADVANCE_CAP_NS), st.booleans(), u64, khz)
def test_every_limit_keeps_a_tuned_advancement_in_zero_to_the_cap(advance_ns, early, distance, khz):
    for profile in (V5_1, V5_3, V5_4, SERIES):
        assert 0 <= a.tune(profile, advance_ns, False, early, distance, khz)[0] <= ADVANCE_CAP_NS


@given(st.integers(1, ADVANCE_CAP_NS), st.booleans(), st.integers(0, U32), khz)
def test_no_step_by_an_eighth_of_the_advancement_exceeds_it(advance_ns, early, distance, khz):
    after = a.step_by_eighth_of_advance(advance_ns, early, distance, khz)
    assert abs(after - advance_ns) <= advance_ns // 8


@given(u32, u32, u32)
def test_a_deadline_nearer_than_the_advancement_is_armed_in_the_past_or_expires(now, left, advance):
    arms, expires_ns = a.ARM[TooShort.ARM](now, left, advance)
    assert arms
    assert expires_ns == max(now + left - advance, 0)
    arms, expires_ns = a.ARM[TooShort.EXPIRE](now, left, advance)
    assert arms == (left > advance)
    assert expires_ns == (now + left - advance if arms else now)
