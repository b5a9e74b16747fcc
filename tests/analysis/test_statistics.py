# SPDX-License-Identifier: GPL-2.0-or-later
"""Distributions and the statistics of a vCPU against naive recomputations from the whole list."""

import itertools
import math
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlapic.analysis import statistics
from vlapic.analysis.statistics import Bin, Distribution, VcpuStatistics, bucket_of, samples_needed
from vlapic.events import Table, TimerInterrupt


def nearest_rank(values, permille):
    ordered = sorted(values)
    return ordered[max(1, math.ceil(Fraction(permille * len(ordered), 1000))) - 1]


def interrupt(lateness=1200, deadline=10**9, **fields):
    values = {
        "host_tsc": 0,
        "vm": 0,
        "vcpu": 0,
        "vector": 0xEC,
        "deadline_tsc": deadline,
        "handler_tsc": (deadline + lateness) % 2**64,
        "instructions": 20,
        "missed": 0,
        "blocked_cycles": 0,
        "waited": True,
        "delta_cycles": -50,
        "wait_cycles": 100,
        "advance_ns": 1000,
    }
    return TimerInterrupt(**(values | fields))


def table(interrupts):
    return Table.of(TimerInterrupt, interrupts)


def fold(chunks, **of):
    made = VcpuStatistics(
        **({"tsc_khz": 2_400_000, "host_khz": 2_500_000, "auto": True, "advance_ns": 1000} | of)
    )
    for chunk in chunks:
        made.add(table(chunk))
    return made


def everything(made):
    """All that statistics say, to compare two of them."""
    return (
        made.interrupts,
        made.missed,
        *(
            (d.count, d.total, d.min, d.max, d.early, d.exact, [d.percentile(p) for p in range(1, 1001)])
            for d in (made.lateness_cycles, made.lateness_ns)
        ),
        (made.wait_total_ns, made.wait_max_ns, made.blocked_total_ns, made.blocked_max_ns),
        (made.history.start_ns, made.history.final_ns, made.history.low_ns, made.history.high_ns),
        made.history.settled_after(),
        made.history.last_quarter(),
        (made.least_instructions, made.most_instructions),
        made.regime(),
    )


interrupts = st.builds(
    interrupt,
    lateness=st.integers(-(10**6), 10**12) | st.integers(-300, 300),
    deadline=st.integers(0, 2**64 - 1),
    instructions=st.integers(0, 2**64 - 1),
    missed=st.integers(0, 2**32 - 1),
    blocked_cycles=st.integers(0, 2**64 - 1),
    waited=st.booleans(),
    delta_cycles=st.integers(-(2**63), 2**63 - 1) | st.integers(-200, 200),
    wait_cycles=st.integers(0, 2**64 - 1),
    advance_ns=st.integers(0, 2**32 - 1) | st.sampled_from([0, 1000, 5000]),
)


@given(st.lists(st.integers(-(10**20), 10**20) | st.integers(-5, 5), min_size=1), st.integers(1, 1000))
def test_percentile_is_the_value_of_nearest_rank(values, permille):
    assert Distribution(values).percentile(permille) == nearest_rank(values, permille)


def test_percentiles_of_a_hundred_values_are_the_textbook_ones():
    distribution = Distribution(range(1, 101))
    assert [distribution.percentile(p) for p in (1, 10, 11, 500, 501, 990, 999, 1000)] == [
        1, 1, 2, 50, 51, 99, 100, 100,
    ]  # fmt: skip


def test_a_distribution_without_values_has_none():
    empty = Distribution()
    assert (empty.count, empty.early, empty.exact) == (0, 0, True)
    assert (empty.min, empty.max, empty.mean, empty.percentile(500)) == (None, None, None, None)
    assert empty.histogram(10) == []


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_the_mean_is_the_exact_sum_divided_once(values):
    distribution = Distribution(values)
    assert distribution.total == sum(values)
    assert distribution.mean == float(Fraction(sum(values), len(values)))
    assert distribution.early == sum(value < 0 for value in values)


def test_65536_distinct_values_are_exact_and_one_more_is_not():
    distribution = Distribution(range(65_536))
    distribution.add([(7, 3)])
    assert distribution.exact
    assert distribution.percentile(1000) == 65_535
    distribution.add([(65_536, 1)])
    assert not distribution.exact


@given(st.integers(-(2**70), 2**70))
def test_a_bucket_is_named_by_its_greatest_value_and_no_wider_than_2_to_the_minus_10(value):
    bucket = bucket_of(value)
    assert bucket_of(bucket) == bucket
    assert bucket - value >= 0
    assert (bucket - value) * 1024 <= abs(value)


@given(st.integers(-(2**20), 2**20), st.integers(0, 2**20))
def test_buckets_keep_the_order_of_values(value, more):
    assert bucket_of(value) <= bucket_of(value + more)


def test_percentiles_from_buckets_are_never_too_small_and_at_most_a_1024th_too_great():
    random_source = random.Random(1)
    values = [random_source.randrange(-(10**6), 10**9) for _ in range(100_000)]
    distribution = Distribution(values)
    assert not distribution.exact
    for permille in (1, 10, 500, 990, 999, 1000):
        true = nearest_rank(values, permille)
        assert true <= distribution.percentile(permille) <= true + abs(true) / 1024
    assert (distribution.min, distribution.max) == (min(values), max(values))
    assert (distribution.total, distribution.early) == (sum(values), sum(v < 0 for v in values))


@settings(deadline=None)
@given(st.lists(st.integers(-3000, 10**7), min_size=1), st.data())
def test_a_distribution_does_not_depend_on_order_or_on_when_buckets_began(values, data):
    shuffled = data.draw(st.permutations(values))
    limit = statistics.DISTINCT_VALUES
    statistics.DISTINCT_VALUES = 8
    try:
        one, other = Distribution(values), Distribution(shuffled)
    finally:
        statistics.DISTINCT_VALUES = limit
    assert one.exact == other.exact == (len(set(values)) <= 8)
    assert [one.percentile(p) for p in range(1, 1001)] == [other.percentile(p) for p in range(1, 1001)]


def test_memory_of_a_distribution_is_bounded():
    distribution = Distribution()
    for base in range(0, 3_000_000, 1000):
        distribution.add((value * 97, 1) for value in range(base, base + 100))
    assert not distribution.exact
    assert len(distribution._counts) <= statistics.DISTINCT_VALUES


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1), st.integers(4, 30))
def test_a_histogram_counts_every_value_once_in_a_body_of_one_round_width_and_wider_tails(values, bins):
    rows = Distribution(values).histogram(bins)
    assert len(rows) <= bins
    assert all(row.high == after.low for row, after in itertools.pairwise(rows))
    for row in rows:
        low = -math.inf if row.low is None else row.low
        high = math.inf if row.high is None else row.high
        assert row.values == sum(low <= value < high for value in values)
    assert sum(row.values for row in rows) == len(values)
    body = [row for row in rows if row.low is not None and row.high is not None]
    width = min(row.high - row.low for row in body)
    assert str(width).rstrip("0") in {"1", "2", "5"}
    widths = [row.high - row.low for row in body]
    begin = widths.index(width)
    end = len(widths) - widths[::-1].index(width)
    assert set(widths[begin:end]) == {width}
    assert rows[0].values > 0
    assert rows[-1].values > 0


def test_what_lies_outside_the_99_percent_is_in_the_open_bins_of_a_histogram():
    values = [-5000, *range(1000), *range(1000), 10**9]
    rows = Distribution(values).histogram(12)
    assert rows[0] == Bin(None, rows[0].high, 1)
    assert rows[-1] == Bin(rows[-1].low, None, 1)
    assert (-5000 < rows[0].high < -1000, rows[-1].low > 10**8) == (True, True)


def test_a_tail_is_told_in_rows_that_grow_with_the_distance():
    values = [*range(460, 500)] * 50 + [505] * 5 + [600] * 4 + [1800] * 3 + [2728]
    rows = Distribution(values).histogram(16)
    assert rows[-4:] == [Bin(500, 520, 5), Bin(520, 700, 4), Bin(700, 2500, 3), Bin(2500, None, 1)]
    mirrored = Distribution([-value for value in values]).histogram(16)
    assert mirrored[:2] == [Bin(None, -2500, 1), Bin(-2500, -1000, 3)]
    assert [row.values for row in mirrored[2:4]] == [0, 9]


def test_one_value_has_one_row():
    assert Distribution([7]).histogram(16) == [Bin(7, 8, 1)]


@pytest.mark.parametrize(("permille", "needed"), [(500, 2), (900, 10), (990, 100), (999, 1000), (1, 2)])
def test_a_percentile_is_known_once_it_is_not_just_the_greatest_value(permille, needed):
    assert samples_needed(permille) == needed
    enough = Distribution(range(needed))
    assert enough.percentile_if_known(permille) < enough.max
    few = Distribution(range(needed - 1))
    assert few.percentile_if_known(permille) is None
    assert few.percentile(permille) == few.max


@settings(deadline=None)
@given(st.lists(interrupts, max_size=40), st.lists(st.integers(0, 40), max_size=6))
def test_how_interrupts_are_cut_into_chunks_does_not_matter(events, cuts):
    ends = sorted({min(cut, len(events)) for cut in cuts} | {len(events)})
    chunks = [events[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    assert everything(fold(chunks)) == everything(fold([events])) == everything(fold([[e] for e in events]))


@settings(deadline=None)
@given(st.lists(interrupts, min_size=1, max_size=40))
def test_statistics_equal_a_recomputation_from_the_whole_list(events):
    made = fold([events], tsc_khz=2_400_001, host_khz=2_500_003, advance_ns=1234)

    late = [(e.handler_tsc - e.deadline_tsc + 2**63) % 2**64 - 2**63 for e in events]
    in_ns = [math.floor(Fraction(cycles * 10**6, 2_400_001)) for cycles in late]
    for distribution, values in ((made.lateness_cycles, late), (made.lateness_ns, in_ns)):
        assert distribution.count == len(values)
        assert distribution.total == sum(values)
        assert (distribution.min, distribution.max) == (min(values), max(values))
        assert distribution.percentile(990) == nearest_rank(values, 990)
    assert made.missed == sum(e.missed for e in events)
    assert made.wait_total_ns == sum(e.wait_cycles for e in events) * 10**6 // 2_500_003
    assert made.wait_max_ns == max(e.wait_cycles for e in events) * 10**6 // 2_500_003
    assert made.blocked_total_ns == sum(e.blocked_cycles for e in events) * 10**6 // 2_400_001
    assert made.blocked_max_ns == max(e.blocked_cycles for e in events) * 10**6 // 2_400_001
    assert made.least_instructions == min(e.instructions for e in events)
    assert made.most_instructions == max(e.instructions for e in events)
    advances = [1234, *(e.advance_ns for e in events)]
    history = made.history
    assert (history.low_ns, history.high_ns, history.final_ns) == (min(advances), max(advances), advances[-1])


def test_lateness_is_a_distance_on_a_tsc_that_wraps():
    made = fold([[interrupt(deadline=2**64 - 10, lateness=30), interrupt(deadline=5, lateness=-20)]])
    assert (made.lateness_cycles.min, made.lateness_cycles.max) == (-20, 30)


def test_lateness_in_ns_rounds_down_also_below_0():
    made = fold([[interrupt(lateness=-1), interrupt(lateness=5)]], tsc_khz=2_400_000)
    assert (made.lateness_ns.min, made.lateness_ns.max) == (-1, 2)
    assert made.lateness_ns.early == 1


def test_the_wait_is_counted_in_host_cycles_and_what_the_guest_blocked_in_its_own():
    made = fold([[interrupt(wait_cycles=3000, blocked_cycles=3000)]], tsc_khz=1_000_000, host_khz=3_000_000)
    assert (made.wait_total_ns, made.blocked_total_ns) == (1000, 3000)
