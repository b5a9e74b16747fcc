# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of a constant lateness under each profile: the thresholds of the regimes."""

import numpy as np
import pytest

from vlapic.analysis.regime import AdvanceHistory, Evidence, Regime, TuningLimits, classify, share_ends
from vlapic.apic.advance import tune
from vlapic.kernels.profiles import SERIES, V5_0, V5_1, V5_2, V5_3, V5_4, V5_14, V6_1, V6_12, V6_19

LATER = (V5_4, V5_14, V6_1, V6_12, V6_19)
EVENTS = 3000


def regime(profile, lateness_ns, khz):
    """The regime of a vCPU whose interrupts come to the wait so long after the timer was to fire."""
    advance, done, advances, deltas = 1000, False, [], []
    for _ in range(EVENTS):
        delta = lateness_ns * khz // 1_000_000 - advance * khz // 1_000_000
        if advance:
            advance, done = tune(profile, advance, done, delta < 0, abs(delta), khz)
        advances.append(advance)
        deltas.append(delta)
    history = AdvanceHistory(1000, TuningLimits.of(profile))
    history.add(np.array(advances, np.uint32), np.array(deltas, np.int64), np.array(advances) > 0)
    return classify(Evidence(history, auto=True))


@pytest.mark.parametrize("profile", LATER, ids=lambda it: it.name)
@pytest.mark.parametrize("khz", [1_000_000, 2_000_000, 2_400_000, 4_000_000])
def test_v5_4_and_later_are_stuck_from_1000_ns_and_10_000_cycles_on(profile, khz):
    limit_ns = 1000 + 10**10 // khz
    assert regime(profile, limit_ns + 2, khz) == Regime.STUCK
    assert regime(profile, limit_ns - 2, khz) != Regime.STUCK


@pytest.mark.parametrize("profile", LATER, ids=lambda it: it.name)
@pytest.mark.parametrize("khz", [1_000_000, 1_500_000, 2_000_000])
def test_v5_4_and_later_make_a_sawtooth_between_5000_ns_and_100_cycles_and_that(profile, khz):
    low_ns, high_ns = 5000 + 10**8 // khz, 1000 + 10**10 // khz
    for lateness_ns in (low_ns + 8, (low_ns + high_ns) // 2, high_ns - 2):
        assert regime(profile, lateness_ns, khz) == Regime.SAWTOOTH
    # The last step, an eighth of 100 cycles, may cross 5000 ns where the delta is left out just above it.
    assert regime(profile, low_ns - 10**8 // khz // 8 - 2, khz) == Regime.SETTLED


@pytest.mark.parametrize("khz", [2_600_000, 4_000_000])
def test_above_2_5_ghz_there_is_no_sawtooth_between_settled_and_stuck(khz):
    assert {regime(V6_1, ns, khz) for ns in range(1000, 12_000, 200)} == {Regime.SETTLED, Regime.STUCK}


@pytest.mark.parametrize("profile", [V5_1, V5_2], ids=lambda it: it.name)
def test_v5_1_and_v5_2_end_advancement_above_5000_ns(profile):
    assert regime(profile, 6000, 2_000_000) == Regime.KILLED
    assert regime(profile, 4900, 2_000_000) == Regime.SETTLED


def test_v5_3_starts_again_and_again_above_5000_ns():
    assert regime(V5_3, 6000, 2_000_000) == Regime.SAWTOOTH
    assert regime(V5_3, 1_000_000, 2_000_000) == Regime.SAWTOOTH


def test_the_series_is_held_at_5000_ns_and_v5_0_follows_whatever_comes():
    assert regime(SERIES, 6000, 2_000_000) == Regime.CAPPED
    assert regime(V5_0, 6000, 2_000_000) == Regime.SETTLED


@pytest.mark.parametrize("profile", [V5_0, V5_1, V5_3, SERIES], ids=lambda it: it.name)
def test_up_to_v5_3_nothing_is_stuck(profile):
    assert all(regime(profile, ns, 2_000_000) != Regime.STUCK for ns in (100, 5000, 50_000, 10**6))


@pytest.mark.parametrize("profile", [V5_0, SERIES.without(3)], ids=lambda it: it.name)
def test_a_vcpu_that_another_one_froze_is_frozen_where_they_share_a_value(profile):
    """Its value does not move any more, which would look settled."""
    served, ended = (AdvanceHistory(1000, TuningLimits.of(profile)) for _ in range(2))
    never = np.full(200, 1300), np.full(200, 2500), np.full(200, True)
    served.add(*never)
    assert classify(Evidence(served, auto=True)) == Regime.SETTLED
    ended.add(np.array([1300]), np.array([99]), np.array([True]))
    share_ends([served, ended])
    assert classify(Evidence(served, auto=True)) == Regime.FROZEN


def test_tuning_ends_for_one_vcpu_where_each_has_its_own_value():
    one, other = (AdvanceHistory(1000, TuningLimits.of(SERIES)) for _ in range(2))
    one.add(np.array([800]), np.array([99]), np.array([True]))
    share_ends([one, other])
    assert (one.done, other.done) == (True, False)
