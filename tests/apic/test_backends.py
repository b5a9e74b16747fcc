# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's timers: programmed as the kernel programs them, firing when they say."""

from vlapic.apic.backends import NOT_SET, Hrtimer, PreemptionTimer, hv_timer_cycles
from vlapic.clock import SimClock
from vlapic.tsc import U64, GuestTsc, ns_to_cycles


def test_preemption_timer_programming_equals_every_row_of_the_compiled_kernel(golden):
    expired = errors = 0
    for row in golden("hv-timer-v6.1"):
        advance_cycles = ns_to_cycles(row["advance_ns"], row["tsc_khz"])
        assert advance_cycles == row["advance_cycles"], row
        fits, cycles, _ = hv_timer_cycles(
            row["deadline_tsc"],
            row["guest_tsc"],
            advance_cycles,
            row["tsc_ratio"],
            row["frac_bits"],
            row["preemption_timer_multi"],
            divides_zero=False,
        )
        if row["errno"]:
            assert row["errno"] == -34
            assert not fits, row
            errors += 1
        else:
            assert fits, row
            assert (row["host_tsc"] + cycles) % 2**64 == row["hv_deadline_tsc"], row
            assert (cycles == 0) == row["expired"], row
            expired += cycles == 0
    assert expired > 10
    assert errors > 10


def test_the_worked_examples_of_the_kernel_facts():
    # 1000 ns of advancement on a host at 2 GHz, rate 5; guests at 2, 2, 1 and 3 GHz.
    for guest_khz, guest_tsc, deadline_tsc, program in (
        (2_000_000, 1_000_000, 1_020_000, (18_500, False)),
        (2_000_000, 1_000_000, 1_001_600, (500, True)),
        (1_000_000, 0, 10_000, (18_500, False)),
        (3_000_000, 0, 30_000, (18_500, False)),
    ):
        tsc = GuestTsc(guest_khz, 2_000_000)
        tsc.offset = guest_tsc - tsc.at(500) & U64
        timer = PreemptionTimer(SimClock(500), tsc, rate=5)
        is_past = timer.set(deadline_tsc, 1000)
        assert (timer.hv_deadline_tsc, is_past) == program


def test_a_distance_beyond_the_counter_is_refused_and_the_old_deadline_stays():
    clock = SimClock(0)
    timer = PreemptionTimer(clock, GuestTsc(2_000_000, 2_000_000), rate=5)
    limit = 1 << 37
    assert timer.set(limit - 1, 0) is False
    assert timer.hv_deadline_tsc == limit - 1
    assert timer.set(limit, 0) is None
    assert timer.hv_deadline_tsc == limit - 1
    timer.cancel()
    assert timer.hv_deadline_tsc == NOT_SET


def test_an_entry_loads_the_rest_and_the_counter_runs_out_by_tsc_bits():
    clock = SimClock(1000)
    timer = PreemptionTimer(clock, GuestTsc(2_000_000, 2_000_000), rate=5)
    assert timer.entry_value() is None
    timer.set(2000, 0)
    assert timer.entry_value() == 1000 >> 5
    # TSC bit 5 changes at 1024 first; the counter has 31 changes to go.
    assert timer.runs_out_at(31) == (31 + 31) * 32
    assert 2000 - 64 < timer.runs_out_at(31) <= 2000
    clock.elapse(5000)
    assert timer.entry_value() == 0
    assert timer.runs_out_at(0) == clock.now


def test_an_hrtimer_fires_at_the_first_cycle_that_reads_its_expiry():
    clock, fired = SimClock(), []
    timer = Hrtimer(clock, 2_400_000, lambda: fired.append((clock.now, timer.now_ns())))
    timer.start(1000)
    assert timer.active
    clock.work(10_000)
    assert fired == [(2400, 1000)]
    assert not timer.active


def test_starting_an_hrtimer_again_moves_it():
    clock, fired = SimClock(), []
    timer = Hrtimer(clock, 1_000_000, lambda: fired.append(clock.now))
    timer.start(100)
    timer.start(300)
    clock.work(1000)
    assert fired == [300]


def test_an_expiry_in_the_past_fires_at_once():
    clock, fired = SimClock(5000), []
    timer = Hrtimer(clock, 1_000_000, lambda: fired.append(clock.now))
    timer.start(-70)
    clock.take_interrupts()
    assert fired == [5000]
