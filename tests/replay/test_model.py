# SPDX-License-Identifier: GPL-2.0-or-later
"""The model over columns: equal to the rules one by one, compiled or not, in pieces or whole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlapic.apic.advance import tune
from vlapic.kernels.profiles import PROFILES, V5_0, V5_4, V6_1, profile_of_release
from vlapic.replay.model import FILTERED, RESET, TUNED, Model

KHZ = 2_000_000
DELTAS = st.one_of(
    st.integers(-12_000, 12_000), st.sampled_from([-(1 << 63), (1 << 63) - 1, 0, 99, 100, 10_000, 10_001])
)


def walk(model, deltas, numbers=None):
    numbers = [0] * len(deltas) if numbers is None else numbers
    return model.walk(np.array(numbers, np.int32), np.array(deltas, np.int64))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@settings(max_examples=40, deadline=None)
@given(deltas=st.lists(DELTAS, max_size=60), cut=st.integers(0, 60))
def test_a_walk_is_the_rules_one_by_one_however_it_is_cut(profile, compiled, deltas, cut):
    if compiled:
        pytest.importorskip("numba", reason="compiled rules need numba: pip install numba")
    model = Model(profile, compiled=compiled)
    model.create(None, KHZ)
    value, done, expected = 1000, False, []
    for delta in deltas:
        if value:
            value, done = tune(profile, value, done, delta < 0, abs(delta), KHZ)
        expected.append(value)
    walked = [walk(model, part).after_ns.tolist() for part in (deltas[:cut], deltas[cut:])]
    assert walked[0] + walked[1] == expected
    assert model.advance_ns(0) == value


def test_an_advancement_of_0_stays():
    model = Model(V6_1, compiled=False)
    model.create(0, KHZ)
    walked = walk(model, [5000, -5000])
    assert walked.after_ns.tolist() == [0, 0]
    assert not walked.noted(TUNED).any()


def test_deltas_too_large_are_filtered_only_while_they_would_tune():
    auto, fixed = Model(V6_1, compiled=False), Model(V6_1, compiled=False)
    auto.create(None, KHZ)
    fixed.create(3000, KHZ)
    assert walk(auto, [10_000, 10_001, -10_001, 99]).noted(FILTERED).tolist() == [False, True, True, False]
    assert not walk(fixed, [10_001]).noted(FILTERED).any()


def test_a_step_over_the_limit_is_a_reset_and_a_step_to_1000_is_none():
    model = Model(V6_1, compiled=False)
    model.create(None, KHZ)
    up, down = 9000, -9000
    walked = walk(model, [up, down, *[up] * 8])
    assert walked.after_ns.tolist()[:2] == [1562, 1000]
    assert walked.noted(RESET).tolist() == [False] * 9 + [True]
    assert walked.after_ns.tolist()[-1] == 1000


def test_one_value_of_all_vcpus_is_tuned_by_each_with_its_own_frequency():
    model = Model(V5_0, compiled=False)
    model.create(None, KHZ)
    model.create(None, KHZ // 2)
    # 100 cycles are 50 ns at 2 GHz, and 100 ns at 1 GHz.
    walked = walk(model, [100, 100, 100], [0, 1, 0])
    assert walked.after_ns.tolist() == [1050, 1150, 1200]
    assert model.advance_ns(0) == model.advance_ns(1) == 1200


def test_every_creation_sets_the_flag_of_the_module_for_everybody():
    model = Model(V5_4, compiled=False)
    model.create(None, KHZ)
    model.create(3000, KHZ)
    assert (model.tunes(0), model.tunes(1)) == (False, False)
    assert walk(model, [5000, 5000], [0, 1]).after_ns.tolist() == [1000, 3000]
    model.parameter_at_creation(None)
    assert walk(model, [800, 800], [0, 1]).after_ns.tolist() == [1050, 3050]


def test_a_vcpu_that_was_there_before_does_not_set_the_flag():
    model = Model(V5_4, compiled=False)
    model.create(None, KHZ)
    model.parameter_at_creation(500)
    model.create(None, KHZ, seen=False)
    assert not model.tunes(0)


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("4.20.0", "v5.0"),
        ("5.0.1", "v5.0"),
        ("5.10.0-8-amd64", "v5.4"),
        ("5.15.0-91-generic", "v5.14"),
        ("5.19", "v6.1"),
        ("6.1.0-56-amd64", "v6.1"),
        ("6.11.0", "v6.12"),
        ("7.0", "v6.19"),
    ],
)
def test_a_release_behaves_like_the_newest_profile_not_after_it(release, name):
    assert profile_of_release(release).name == name


def test_releases_before_tuning_and_words_have_no_profile():
    assert profile_of_release("4.19.0") is None
    assert profile_of_release("") is None
    assert profile_of_release("next") is None
