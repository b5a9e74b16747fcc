# SPDX-License-Identifier: GPL-2.0-or-later
"""The busy wait: the kernels' amounts to the bit, the series' exact in any time domain."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.deltas import ahead_of
from vlapic.apic import busy_wait as w
from vlapic.apic.advance import EARLY, tune
from vlapic.kernels.profiles import V5_0, V5_1, V5_3, V6_1
from vlapic.kernels.rules import Order, Wait
from vlapic.tsc import U32, U64, GuestTsc

KHZ = 2_000_000


def literal_wait(host_tsc, deadline_tsc, advance_ns, step_cycles, tsc):
    """The series' second patch as a loop: pass one step, read the guest TSC again."""
    steps = 0
    while tsc.at(host_tsc) < deadline_tsc and steps < advance_ns:
        host_tsc += step_cycles
        steps += 1
    return steps


def closed_wait(host_tsc, deadline_tsc, advance_ns, step_cycles, tsc):
    """The same by the rule."""
    return w.wait_steps(
        host_tsc, tsc.at(host_tsc), deadline_tsc, advance_ns, step_cycles, tsc.ratio, tsc.frac_bits
    )


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
    assert closed_wait(*wait) == literal_wait(*wait)


@pytest.mark.parametrize("step_cycles", [1, 3, 40])
@pytest.mark.parametrize("ahead", [1, 39, 40, 41, 500])
def test_a_step_that_jumps_over_the_end_of_the_tsc_waits_as_long_as_the_loop(ahead, step_cycles):
    # The deadline is the last value of the counter: a step over it reads a small value again.
    tsc = GuestTsc(KHZ, KHZ, offset=U64 - ahead)
    wait = (0, U64, 600, step_cycles, tsc)
    assert closed_wait(*wait) == literal_wait(*wait)


def test_a_step_that_fills_the_low_half_of_the_product_to_its_last_bit_carries_nothing():
    """One step gains 65535 guest cycles, which is all that the TSC has left before 2^64.

    What scaling cut off before the step and what it gains add up to 2^64 - 1: a carry would read as a jump
    over 2^64, and the wait would run to its limit.
    """
    tsc = GuestTsc(KHZ, KHZ)
    tsc.ratio = 2**48 - 1
    host_tsc, step_cycles = 2**48 - 65535, 65536
    assert (host_tsc * tsc.ratio % 2**48) + step_cycles * tsc.ratio == U64
    tsc.offset = U64 - 65535 - tsc.at(host_tsc) & U64
    wait = (host_tsc, U64, 5, step_cycles, tsc)
    assert closed_wait(*wait) == literal_wait(*wait) == 1


@pytest.mark.parametrize("guest_khz", [1_000_000, 2_000_000, 4_000_000])
def test_the_wait_ends_within_a_step_after_the_deadline_at_any_guest_frequency(guest_khz):
    tsc = GuestTsc(guest_khz, KHZ)
    host_tsc, step = 1_000_000, 2
    deadline = tsc.at(host_tsc) + guest_khz // 1000 * 1  # 1000 ns ahead
    end = host_tsc + closed_wait(host_tsc, deadline, 5000, step, tsc) * step
    assert tsc.at(end - step) < deadline <= tsc.at(end)


def test_the_wait_never_outlasts_the_advancement():
    tsc = GuestTsc(KHZ, KHZ)
    assert closed_wait(0, 1_000_000, 700, 2, tsc) == 700
    assert closed_wait(0, U64, 700, 2, tsc) == 700


def test_a_deadline_that_has_come_is_not_waited_for():
    tsc = GuestTsc(KHZ, KHZ)
    for wait in w.WAIT_CYCLES.values():
        assert wait(500, 500, 1000, tsc, 1, 1) == 0
        assert wait(501, 500, 1000, tsc, 1, 1) == 0


@pytest.mark.parametrize(
    ("name", "profile"),
    [("tune-v5.0", V5_0), ("tune-v5.1", V5_1), ("tune-v5.3", V5_3), ("tune-v6.1", V6_1)],
    ids=["v5.0", "v5.1", "v5.3", "v6.1"],
)
def test_the_amount_waited_equals_every_row_of_the_compiled_kernel(golden, name, profile):
    kinds = set()
    for row in golden(name):
        guest, deadline = ahead_of(row["delta_cycles"])
        early, distance = EARLY[profile.early](guest, deadline)
        khz = row["tsc_khz"]
        after_ns, _ = tune(profile, row["advance_ns"], bool(row["done"]), early, distance, khz)
        limit_ns = after_ns if profile.order is not Order.WAIT_THEN_TUNE else row["advance_ns"]
        scaled = row["tsc_ratio_48"] != 1 << 48
        got = w.wait_amount(profile.wait, guest, deadline, limit_ns, khz, scaled)
        assert got == (row["wait_kind"], row["wait_amount"]), row
        kinds.add(got[0])
    assert kinds == {w.Kind.NONE, w.Kind.DELAY} | ({w.Kind.NDELAY} if profile is not V5_0 else set())


# Host cycles that ndelay() passes at 1, 2 and 3 GHz, with 1000 ticks a second.
NDELAY = [
    (0, (1, 1, 1)),
    (1, (2, 3, 4)),
    (2, (3, 5, 7)),
    (10, (12, 24, 35)),
    (100, (117, 233, 350)),
    (500, (583, 1165, 1747)),
    (1000, (1165, 2329, 3493)),
    (5000, (5821, 11642, 17463)),
]


@pytest.mark.parametrize(("ns", "cycles"), NDELAY)
def test_ndelay_passes_a_sixth_more_than_it_is_asked_for(ns, cycles):
    hosts = (1_000_000, 2_000_000, 3_000_000)
    assert tuple(w.ndelay_cycles(ns, w.loops_of_host(khz, 1000)) for khz in hosts) == cycles


def test_ndelay_of_a_kernel_with_250_ticks_loses_half_a_tick_in_a_quarter_second():
    # HZ / 4 is 62: 20 000 * 8 000 000 * 62 / 2^32, and one.
    assert w.ndelay_cycles(1000, w.loops_of_host(KHZ, 250)) == 2310


@given(st.integers(0, U32), st.integers(1, U32), st.sampled_from([250, 1000]))
@example(U32, U32, 1000)
def test_ndelay_is_the_kernels_32_bit_multiply(ns, host_khz, hz):
    loops = host_khz * 1000 // hz * (hz // 4) % (1 << 32)
    assert w.ndelay_cycles(ns, w.loops_of_host(host_khz, hz)) == ns * 20 % (1 << 32) * loops // (1 << 32) + 1


# A guest 1000 ns early on a host of 2 GHz, advanced by 1000 ns: host cycles of each rule.
@pytest.mark.parametrize(
    ("guest_khz", "delay", "ndelay"),
    [(1_000_000, 1000, 2329), (2_000_000, 2000, 2000), (4_000_000, 4000, 2329)],
)
def test_a_scaled_guest_is_waited_for_in_the_wrong_time_domain_then_too_long_then_right(
    guest_khz, delay, ndelay
):
    tsc = GuestTsc(guest_khz, KHZ)
    host_tsc = 1_000_000
    deadline = tsc.at(host_tsc) + guest_khz // 1000
    loops = w.loops_of_host(KHZ, 1000)
    got = {rule: wait(host_tsc, deadline, 1000, tsc, 2, loops) for rule, wait in w.WAIT_CYCLES.items()}
    assert got == {Wait.DELAY: delay, Wait.NDELAY_IF_SCALED: ndelay, Wait.GUEST_TSC_1NS: 2000}
