"""The advancement's rules: waiting is exact in any time domain, tuning is the kernel's."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlapic.apic import advance as a
from vlapic.profiles import SERIES
from vlapic.tsc import U64, GuestTsc

KHZ = 2_000_000


def literal_wait(host_tsc, deadline_tsc, advance_ns, step_cycles, tsc):
    """The series' second patch as a loop: pass one step, read the guest TSC again."""
    steps = 0
    while tsc.at(host_tsc) < deadline_tsc and steps < advance_ns:
        host_tsc += step_cycles
        steps += 1
    return steps


@st.composite
def waits(draw):
    tsc = GuestTsc(
        draw(st.integers(1000, 10_000_000)),
        draw(st.integers(1000, 10_000_000)),
        offset=draw(st.integers(0, U64)),
    )
    host_tsc = draw(st.integers(0, 1 << 62))
    away = draw(st.integers(-1000, 20_000))
    return (
        host_tsc,
        (tsc.at(host_tsc) + away) % (1 << 64),
        draw(st.integers(0, 1500)),
        draw(st.integers(1, 60)),
        tsc,
    )


@settings(max_examples=400)
@given(waits())
def test_the_wait_in_closed_form_takes_the_literal_loops_steps(wait):
    assert a.wait_steps(*wait) == literal_wait(*wait)


@pytest.mark.parametrize("step_cycles", [1, 3, 40])
@pytest.mark.parametrize("ahead", [1, 39, 40, 41, 500])
def test_a_step_that_jumps_over_the_end_of_the_tsc_waits_as_long_as_the_loop(ahead, step_cycles):
    # The deadline is the last value of the counter: a step over it reads a small value again.
    tsc = GuestTsc(KHZ, KHZ, offset=U64 - ahead)
    wait = (0, U64, 600, step_cycles, tsc)
    assert a.wait_steps(*wait) == literal_wait(*wait)


@pytest.mark.parametrize("guest_khz", [1_000_000, 2_000_000, 4_000_000])
def test_the_wait_ends_within_a_step_after_the_deadline_at_any_guest_frequency(guest_khz):
    tsc = GuestTsc(guest_khz, KHZ)
    host_tsc, step = 1_000_000, 2
    deadline = tsc.at(host_tsc) + guest_khz // 1000 * 1  # 1000 ns ahead
    end = host_tsc + a.wait_steps(host_tsc, deadline, 5000, step, tsc) * step
    assert tsc.at(end - step) < deadline <= tsc.at(end)


def test_the_wait_never_outlasts_the_advancement():
    tsc = GuestTsc(KHZ, KHZ)
    assert a.wait_steps(0, 1_000_000, 700, 2, tsc) == 700


def test_a_deadline_that_has_come_is_not_waited_for():
    tsc = GuestTsc(KHZ, KHZ)
    assert a.wait_steps(500, 500, 1000, 1, tsc) == 0
    assert a.wait_steps(501, 500, 1000, 1, tsc) == 0


def test_tuning_by_an_eighth_equals_every_row_of_the_compiled_v5_0(golden):
    rows = [row for row in golden("tune-v5.0") if not row["done"]]
    assert len(rows) > 100
    for row in rows:
        guest, deadline = row["delta_cycles"] % (1 << 64), 0
        if row["delta_cycles"] < 0:
            guest, deadline = 0, -row["delta_cycles"]
        early, distance = a.split_delta(guest, deadline)
        got = a.tune_by_eighth(row["advance_ns"], False, early, distance, row["tsc_khz"])
        assert got == (row["advance_after_ns"], bool(row["done_after"])), row


# From 1000 ns at 2 GHz: delta, advancement, done. The step is an eighth at most; below 100 cycles is done.
STEPS = [
    (0, 1000, True),
    (50, 1025, True),
    (99, 1049, True),
    (100, 1050, False),
    (-50, 975, True),
    (-99, 951, True),
    (-100, 950, False),
    (250, 1125, False),
    (-1600, 875, False),
    (400_000, 1125, False),
    (-400_000, 875, False),
]


@pytest.mark.parametrize(("delta", "advance_ns", "done"), STEPS)
def test_one_step_of_the_series(delta, advance_ns, done):
    assert a.tune(SERIES, 1000, False, delta < 0, abs(delta), KHZ) == (advance_ns, done)


def test_late_forever_climbs_to_the_cap_and_stays_there_untuned_no_longer():
    values, advance_ns, done = [], 1000, False
    for _ in range(20):
        advance_ns, done = a.tune(SERIES, advance_ns, done, False, 400_000_000, KHZ)
        values.append(advance_ns)
    assert values[:13] == [1125, 1265, 1423, 1600, 1800, 2025, 2278, 2562, 2882, 3242, 3647, 4102, 4614]
    assert values[13:] == [5000] * 7
    assert not done
    assert a.tune(SERIES, 5000, False, True, 4000, KHZ) == (4375, False)


def test_early_forever_stops_at_seven():
    advance_ns, done = 1000, False
    for _ in range(60):
        advance_ns, done = a.tune(SERIES, advance_ns, done, True, 400_000_000, KHZ)
    assert (advance_ns, done) == (7, False)


@given(st.integers(0, (1 << 32) - 1), st.booleans(), st.integers(0, U64), st.integers(1, (1 << 32) - 1))
def test_done_ends_tuning_whatever_comes(advance_ns, early, distance, khz):
    assert a.tune(SERIES, advance_ns, True, early, distance, khz) == (advance_ns, True)


@given(st.integers(0, 5000), st.booleans(), st.integers(0, U64), st.integers(1, (1 << 32) - 1))
def test_tuning_never_leaves_zero_to_the_cap(advance_ns, early, distance, khz):
    tuned, _ = a.tune(SERIES, advance_ns, False, early, distance, khz)
    assert 0 <= tuned <= 5000


def test_a_number_is_used_as_it_is_even_above_the_cap_and_never_tuned():
    fixed = a.Advancement(9000)
    assert (fixed.advance_ns, fixed.done) == (9000, True)
    off = a.Advancement(0)
    assert (off.advance_ns, off.done) == (0, True)
    auto = a.Advancement(None)
    assert (auto.advance_ns, auto.done) == (1000, False)


def test_an_hrtimer_may_be_armed_for_the_past():
    assert a.hrtimer_expiry_ns(1000, 200, 700) == 500
