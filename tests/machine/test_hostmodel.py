"""Costs are integers, drawn the same way on any machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlapic.machine.hostmodel import DEFAULT, Cost, Draws, constant, splitmix64, with_tail

u64 = st.integers(0, (1 << 64) - 1)


def costs():
    sizes = st.integers(0, 6).map(lambda k: (1 << k) + 1) | st.just(1)
    return sizes.flatmap(
        lambda size: st.lists(st.integers(0, 1 << 40), min_size=size, max_size=size).map(
            lambda values: Cost(tuple(sorted(values)))
        )
    )


@given(costs(), u64, u64)
def test_a_quantile_lies_within_its_table_and_never_falls(cost, first, second):
    low, high = sorted((first, second))
    assert cost.quantiles[0] <= cost.at(low) <= cost.at(high) <= cost.quantiles[-1]


def test_a_quantile_is_interpolated_between_its_neighbours():
    cost = Cost((0, 100, 1000))
    assert [cost.at(p << 62) for p in range(4)] == [0, 50, 100, 550]


@pytest.mark.parametrize("quantiles", [(), (1, 2, 3, 4), (5, 4), (-1,)])
def test_a_table_of_another_form_is_refused(quantiles):
    with pytest.raises(ValueError, match=r"quantiles of a cost never fall|1 value or 2\^k \+ 1"):
        Cost(quantiles)


def test_draws_are_the_same_everywhere():
    draws = Draws(seed=7, stream=3)
    cost = with_tail(1000, spread=50, tail=4000)
    assert [draws.cycles("entry", cost) for _ in range(6)] == [1019, 996, 968, 961, 951, 944]


def test_the_generator_is_splitmix64():
    # The first output of the published generator for the state 0.
    assert splitmix64(0x9E37_79B9_7F4A_7C15) == 0xE220_A839_7B1D_CDAF


def test_a_stream_does_not_move_another():
    alone, mixed = Draws(1, 0), Draws(1, 0)
    cost = with_tail(1000, spread=50, tail=4000)
    first = [alone.cycles("entry", cost) for _ in range(20)]
    second = []
    for _ in range(20):
        mixed.cycles("hrtimer", cost)
        second.append(mixed.cycles("entry", cost))
    assert first == second


def test_seed_and_stream_and_name_each_change_the_draws():
    cost = with_tail(100_000, spread=50_000, tail=4000)

    def drawn(seed, stream, name):
        draws = Draws(seed, stream)
        return tuple(draws.cycles(name, cost) for _ in range(8))

    assert len({drawn(s, v, n) for s in (0, 1, 1 << 63) for v in (0, 1) for n in ("a", "b")}) == 12


@pytest.mark.parametrize("name", ["hrtimer", "wake_up", "entry"])
def test_the_default_model_varies_around_its_mean(name):
    cost, mean = getattr(DEFAULT, name), {"hrtimer": 1500, "wake_up": 2700, "entry": 1200}[name]
    draws = Draws(0, 0)
    drawn = [draws.cycles(name, cost) for _ in range(50_000)]
    assert abs(sum(drawn) / len(drawn) - mean) < mean / 100
    assert max(drawn) > mean * 2


def test_a_constant_is_never_drawn():
    draws = Draws(0, 0)
    assert {draws.cycles("x", constant(5)) for _ in range(3)} == {5}


@pytest.mark.parametrize(("khz", "step"), [(1_000_000, 1), (1_000_001, 2), (2_500_000, 3), (3_000_000, 3)])
def test_a_wait_step_is_a_nanosecond_rounded_up_to_cycles(khz, step):
    assert DEFAULT.wait_step(khz) == step
