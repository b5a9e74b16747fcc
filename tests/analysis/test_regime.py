# SPDX-License-Identifier: GPL-2.0-or-later
"""Each regime from a made-up history, and the history against a recomputation from the whole list."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlapic.analysis import regime
from vlapic.analysis.regime import (
    NOT_SETTLED,
    AdvanceHistory,
    Evidence,
    Regime,
    TuningLimits,
    classify,
    settled_after,
)
from vlapic.kernels.profiles import SERIES, V5_0, V5_3, V5_4, V6_12


def history(advances, start=1000, deltas=None, chunk=None, profile=SERIES):
    """A history of these advancements; `deltas` has None where an event did not wait."""
    made = AdvanceHistory(start, TuningLimits.of(profile))
    deltas = [500] * len(advances) if deltas is None else deltas
    rows = list(zip(advances, deltas, strict=True))
    for at in range(0, len(rows), chunk or max(1, len(rows))):
        part = rows[at : at + (chunk or len(rows))]
        made.add(
            np.array([advance for advance, _ in part], np.uint32),
            np.array([delta or 0 for _, delta in part], np.int64),
            np.array([delta is not None for _, delta in part], bool),
        )
    return made


def judge(advances, *, start=1000, deltas=None, auto=True, profile=SERIES, advanced=True):
    return classify(Evidence(history(advances, start, deltas, profile=profile), auto, advanced))


@pytest.fixture
def few_cells(monkeypatch):
    monkeypatch.setattr(regime, "HISTORY_CELLS", 8)


RISING = [1125, 1265, 1423, 1600, 1800, 2025, 2278]


def test_an_advancement_of_0_all_along_is_off():
    assert judge([0] * 200, start=0, auto=False) == Regime.OFF
    assert judge([], start=0, auto=True) == Regime.OFF


def test_timers_that_are_never_armed_early_are_not_advanced_whatever_the_advancement_is():
    deltas = [None] * 200
    assert judge([1000] * 200, deltas=deltas, advanced=False) == Regime.NOT_ADVANCED
    assert judge([3000] * 200, start=3000, deltas=deltas, auto=False, advanced=False) == Regime.NOT_ADVANCED
    assert judge([0] * 200, start=0, deltas=deltas, auto=False, advanced=False) == Regime.OFF
    assert judge([], advanced=False) == Regime.NOT_ADVANCED  # none has come yet, or ever


def test_an_advancement_that_no_interrupt_of_the_last_quarter_could_tune_is_untuned():
    assert judge([1000] * 200, deltas=[None] * 200) == Regime.UNTUNED
    assert judge([1400] * 200, deltas=[500] * 150 + [None] * 50) == Regime.UNTUNED
    assert judge([1400] * 200, deltas=[500] * 151 + [None] * 49) == Regime.SETTLED


def test_only_what_settled_has_settled_after_so_many_events():
    def after(advances, *, deltas=None, auto=True, advanced=True):
        return settled_after(Evidence(history(advances, 1000, deltas), auto, advanced))

    assert after([1400] * 200) == 1
    assert after([1400] * 200, deltas=[3000, 99, *[-101] * 198]) is None  # frozen
    assert after([5000] * 200) is None  # capped
    assert after([1000] * 200, deltas=[None] * 200) is None  # untuned
    assert after([1000] * 200, deltas=[None] * 200, advanced=False) is None
    assert after([1000] * 200, auto=False) is None  # fixed


def test_why_nothing_settled_can_be_said_for_every_other_regime():
    assert set(NOT_SETTLED) == set(Regime) - {Regime.SETTLED}


def test_a_tuned_advancement_that_fell_to_0_and_stays_is_killed():
    assert judge([*RISING, *[0] * 200]) == Regime.KILLED


def test_an_advancement_that_came_back_from_0_is_not_killed():
    assert judge([0] * 10 + [2000] * 200) == Regime.SETTLED


def test_an_advancement_without_tuning_is_fixed():
    assert judge([3000] * 200, start=3000, auto=False) == Regime.FIXED
    assert judge([], start=3000, auto=False) == Regime.FIXED


def test_a_tuned_one_at_its_start_value_with_90_percent_of_the_deltas_filtered_is_stuck():
    for profile in (V5_4, V6_12):
        assert judge([1000] * 200, deltas=[10_001] * 180 + [50] * 20, profile=profile) == Regime.STUCK
        assert judge([1000] * 200, deltas=[-10_001] * 180 + [50] * 20, profile=profile) == Regime.STUCK
        assert judge([1000] * 200, deltas=[10_001] * 179 + [50] * 21, profile=profile) == Regime.SETTLED
        assert judge([1000] * 200, deltas=[10_000] * 200, profile=profile) == Regime.SETTLED


def test_a_profile_that_tunes_with_any_delta_is_never_stuck():
    assert judge([1000] * 200, deltas=[10_001] * 200) == Regime.SETTLED


def test_the_share_of_filtered_deltas_is_of_those_that_waited():
    deltas = [None, 20_000] * 100
    assert judge([1000] * 200, deltas=deltas, profile=V5_4) == Regime.STUCK
    assert judge([1000] * 200, deltas=[None] * 200, profile=V5_4) == Regime.UNTUNED


def test_two_resets_in_the_last_half_are_a_sawtooth():
    climb = [1125, 1265, 1423, 4900, 1000]
    for profile in (V5_3, V5_4):
        assert judge(climb * 40, profile=profile) == Regime.SAWTOOTH
        # Of 205 events, the 102nd and later are the last half.
        later = [4900] * 95
        assert judge(climb * 20 + [4900, 1000, 4900, 1000, 4900, *later], profile=profile) == Regime.SAWTOOTH
        assert judge(climb * 20 + [4900, 1000, 4900, 4900, 4900, *later], profile=profile) == Regime.SETTLED


def test_what_comes_to_1000_with_its_delta_or_without_a_wait_is_no_reset():
    down = [1125, 1000] * 100
    assert history(down, deltas=[500, -500] * 100, profile=V5_4).late_resets == 0
    assert history(down, deltas=[500, None] * 100, profile=V5_4).late_resets == 0
    assert history(down, deltas=[500, 500] * 100, profile=V5_4).late_resets == 50
    assert history(down, deltas=[500, 500] * 100, profile=V5_0).late_resets == 0


def test_an_early_wrap_to_1000_is_a_reset():
    assert history([124, 1000] * 100, deltas=[-7000, -2000] * 100, profile=V5_4).late_resets == 50


def test_the_cap_for_the_last_quarter_is_capped():
    assert judge([4000] * 150 + [5000] * 50) == Regime.CAPPED
    assert judge([4000] * 151 + [5000] * 49) != Regime.CAPPED
    assert judge([4000] * 150 + [5000] * 50, profile=V5_0) == Regime.SETTLED


def test_done_with_a_median_delta_above_100_cycles_in_the_last_quarter_is_frozen():
    deltas = [3000, 99, *[-101] * 198]
    assert judge([1400] * 200, deltas=deltas) == Regime.FROZEN
    assert judge([1400] * 200, deltas=[3000, 99, *[-100] * 198]) == Regime.SETTLED


def test_a_profile_whose_tuning_no_delta_ends_is_never_frozen():
    deltas = [3000, 99, *[-101] * 198]
    assert judge([1400] * 200, deltas=deltas, profile=V6_12) == Regime.SETTLED


def test_a_small_delta_that_sets_the_advancement_back_does_not_freeze_it():
    deltas = [99, *[-101] * 199]
    assert (
        judge([5015, *[1000] * 199], start=4990, deltas=[None, 99, *deltas[2:]], profile=V5_3)
        == Regime.SETTLED
    )
    assert judge([4990, *[1400] * 199], start=4990, deltas=deltas, profile=V5_3) == Regime.FROZEN


def test_a_median_delta_above_100_cycles_while_tuning_is_not_frozen():
    assert judge([1400] * 200, deltas=[100, *[-101] * 199]) == Regime.SETTLED


def test_a_last_quarter_within_an_eighth_of_its_median_is_settled():
    assert judge([1000] * 100 + [1600, 1800, 1400, 1600] * 25, start=1000) == Regime.SETTLED
    assert judge([1000] * 100 + [1600, 1801, 1600, 1600] * 25, start=1000) == Regime.TUNING


def test_a_small_advancement_is_settled_within_25_ns():
    assert judge([100] * 100 + [40, 65, 40, 15] * 25) == Regime.SETTLED
    assert judge([100] * 100 + [40, 66, 40, 40] * 25) == Regime.TUNING


def test_a_last_quarter_of_fewer_than_32_events_cannot_settle():
    assert judge([1400] * 128) == Regime.SETTLED
    assert judge([1400] * 124) == Regime.TUNING


def test_no_events_of_a_tuned_advancement_are_tuning():
    assert judge([]) == Regime.TUNING


def test_anything_else_is_tuning():
    assert judge(list(range(10, 2010, 10))) == Regime.TUNING


def test_an_earlier_regime_wins():
    names = [name for name, _ in regime.RULES]
    assert names == list(Regime)
    assert judge([0] * 200, start=0, deltas=[20_000] * 200, profile=V5_4) == Regime.OFF


def test_settled_after_counts_the_events_before_the_advancement_stayed_near_its_median():
    # 2000 may differ by 250: the fourth is the first within, the start and three are not.
    assert history([1125, 1265, 1423, 1751, *[2000] * 200]).settled_after() == 4
    assert history([2000] * 200).settled_after() == 1
    assert history([2000] * 200, start=2000).settled_after() == 0
    assert history([2000] * 100 + [1000] + [2000] * 100).settled_after() == 102


def test_settled_after_is_none_when_nothing_settled():
    assert history(list(range(10, 2010, 10))).settled_after() is None
    assert history([2000] * 10).settled_after() is None


def test_an_early_settling_stays_exact_after_pairs_are_merged():
    made = history([*RISING, *[2600] * 300_000])
    assert made.events == 300_007
    assert made.settled_after() == 7


def test_a_late_settling_is_rounded_up_to_a_cell():
    made = history([1000, 4000] * 40_000 + [2600] * 180_000)
    # 260 000 events are in cells of 4; the last astray is event 80 000.
    assert 80_001 <= made.settled_after() <= 80_004


def test_one_outlier_among_many_events_is_not_lost_by_merging():
    advances = [2000] * 300_000
    advances[290_001] = 2600
    assert judge(advances) == Regime.TUNING


def naive(advances, start, deltas, cells):
    """The history's answers from whole lists: cells of the least power of two that fits."""
    width = 1
    while -(-len(advances) // width) > cells:
        width *= 2
    parts = [slice(at, at + width) for at in range(0, len(advances), width)]
    quarter = parts[3 * len(advances) // 4 // width :]
    last = sorted(advances[part][-1] for part in quarter)
    delta = sorted(
        abs([d for d in deltas[part] if d is not None][-1])
        for part in quarter
        if any(d is not None for d in deltas[part])
    )
    in_quarter = list(itertools.chain.from_iterable(advances[part] for part in quarter))
    return (
        min([start, *advances]),
        max([start, *advances]),
        min(in_quarter),
        max(in_quarter),
        last[(len(last) - 1) // 2],
        delta[(len(delta) - 1) // 2] if delta else None,
    )


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 9000), st.none() | st.integers(-(10**5), 10**5)), min_size=1, max_size=100
    ),
    st.integers(0, 9000),
    st.integers(1, 100),
)
def test_a_history_in_merged_cells_equals_a_recomputation(events, start, chunk):
    advances, deltas = [a for a, _ in events], [d for _, d in events]
    cells, regime.HISTORY_CELLS = regime.HISTORY_CELLS, 8
    try:
        made = history(advances, start, deltas, chunk)
    finally:
        regime.HISTORY_CELLS = cells
    quarter = made.last_quarter()
    assert (
        made.low_ns,
        made.high_ns,
        quarter.low_ns,
        quarter.high_ns,
        quarter.median_ns,
        quarter.median_delta_cycles,
    ) == naive(advances, start, deltas, 8)
    assert made.final_ns == advances[-1]
    assert made.deltas == sum(d is not None for d in deltas)
    assert made.done == any(d is not None and abs(d) < 100 for d in deltas)


@settings(deadline=None)
@given(st.lists(st.integers(900, 1300), min_size=128, max_size=300), st.integers(900, 1300))
def test_settled_after_equals_a_recomputation(advances, start):
    # The tail is steady, so that it does settle.
    advances = advances + [1100] * len(advances)
    near = [abs(value - 1100) <= 1100 / 8 for value in [start, *advances]]
    after = max((index + 1 for index, within in enumerate(near) if not within), default=0)
    assert history(advances, start).settled_after() == after
