# SPDX-License-Identifier: GPL-2.0-or-later
"""Costs are integers, drawn the same way on any machine."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlapic.machine.hostmodel.model import COST_LIMIT, DEFAULT, Cost, Draws, constant, splitmix64, with_tail

u64 = st.integers(0, (1 << 64) - 1)


def costs():
    sizes = st.integers(0, 6).map(lambda k: (1 << k) + 1) | st.just(1)
    return sizes.flatmap(
        lambda size: st.lists(st.integers(0, COST_LIMIT - 1), min_size=size, max_size=size).map(
            lambda values: Cost(tuple(sorted(values)))
        )
    )


def at(cost, *probabilities):
    return cost.at(np.array(probabilities, dtype=np.uint64)).tolist()


@given(costs(), u64)
def test_a_quantile_is_interpolated_in_integers_and_rounded_down(cost, probability):
    table, intervals = cost.quantiles, len(cost.quantiles) - 1
    if not intervals:
        assert at(cost, probability) == [table[0]]
        return
    index, rest = divmod(probability * intervals, 1 << 64)
    low, high = table[index], table[index + 1]
    assert at(cost, probability) == [low + ((high - low) * (rest >> 32) >> 32)]


def test_the_quantiles_of_a_small_table_read_as_one_expects():
    assert at(Cost((0, 100, 1000)), 0, 1 << 62, 2 << 62, 3 << 62) == [0, 50, 100, 550]


@pytest.mark.parametrize(
    ("quantiles", "message"),
    [
        ((), r"1 value or 2\^k \+ 1 of them, got 0"),
        ((1, 2, 3, 4), r"1 value or 2\^k \+ 1 of them, got 4"),
        ((5, 4), r"never fall, got \(5, 4\)"),
        ((-1,), "0 to 4294967295 cycles"),
        ((1 << 32,), "0 to 4294967295 cycles"),
    ],
)
def test_a_table_of_another_form_is_refused(quantiles, message):
    with pytest.raises(ValueError, match=message):
        Cost(quantiles)


def drawn(draws, name, cost, number):
    return list(islice(draws.of(name, cost), number))


def test_draws_are_the_same_everywhere():
    cost = with_tail(1000, spread=50, tail=4000)
    assert drawn(Draws(seed=7, vcpu=3), "entry", cost, 6) == [1019, 996, 968, 961, 951, 944]


def test_the_generator_is_splitmix64():
    # The first output of the published generator for the state 0.
    assert splitmix64(0x9E37_79B9_7F4A_7C15) == 0xE220_A839_7B1D_CDAF


def test_a_batch_ends_where_the_next_begins():
    cost = with_tail(100_000, spread=50_000, tail=4000)
    first, again = drawn(Draws(1, 0), "entry", cost, 3000), drawn(Draws(1, 0), "entry", cost, 3000)
    assert first == again
    assert len(set(first)) > 2800


def test_a_stream_does_not_move_another():
    cost = with_tail(1000, spread=50, tail=4000)
    draws = Draws(1, 0)
    mixed, other = draws.of("entry", cost), draws.of("hrtimer", cost)
    together = [(next(mixed), next(other))[0] for _ in range(600)]
    assert together == drawn(Draws(1, 0), "entry", cost, 600)


def test_seed_and_vcpu_and_name_each_change_the_draws():
    cost = with_tail(100_000, spread=50_000, tail=4000)
    seen = {
        tuple(drawn(Draws(seed, vcpu), name, cost, 8))
        for seed in (0, 1, 1 << 63)
        for vcpu in (0, 1)
        for name in ("a", "b")
    }
    assert len(seen) == 12


@pytest.mark.parametrize("name", ["hrtimer", "wake_up", "entry"])
def test_the_default_model_varies_around_its_mean(name):
    cost, mean = getattr(DEFAULT, name), {"hrtimer": 1500, "wake_up": 2700, "entry": 1200}[name]
    values = drawn(Draws(0, 0), name, cost, 50_000)
    assert abs(sum(values) / len(values) - mean) < mean / 100
    assert max(values) > mean * 2


def test_a_constant_is_never_drawn():
    assert drawn(Draws(0, 0), "x", constant(5), 3) == [5, 5, 5]


@pytest.mark.parametrize(("khz", "step"), [(1_000_000, 1), (1_000_001, 2), (2_500_000, 3), (3_000_000, 3)])
def test_a_wait_step_is_a_nanosecond_rounded_up_to_cycles(khz, step):
    assert DEFAULT.wait_step(khz) == step
