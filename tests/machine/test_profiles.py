# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels on the whole machine: what a guest sees of each, and the order of what it traces.

The worked numbers are those of a guest at 2 GHz, unscaled, whose advancement is 1000 ns.
"""

from dataclasses import replace
from itertools import pairwise

import pytest

from tests.support.guest_runs import GuestRun
from tests.support.machines import TMICT, VECTOR, Run, halting, set_up, spinning
from vlapic import events as ev
from vlapic.apic.advance import EARLY, tune
from vlapic.kernels import rules as r
from vlapic.kernels.profiles import SERIES, V5_0, V5_1, V5_2, V5_3, V5_4, V5_14, V6_1, V6_12, V6_19
from vlapic.machine.guests.programs import PROGRAMS
from vlapic.machine.hostmodel.model import constant_model
from vlapic.machine.tracer import EXIT_FIRST, IN_WAIT
from vlapic.machine.vcpu import WAITS_LAST

KERNELS = (V5_0, V5_1, V5_2, V5_3, V5_4, V5_14, V6_1, V6_12, V6_19)
ALL = (SERIES, *KERNELS)
DELAYED_TRACE = (V5_3, V5_4, V5_14)
KHZ = 2_000_000
#: From the preemption timer's exit to the guest, 800 cycles (400 ns).
QUICK = {"model": constant_model(preemption_timer=800, injection=0, entry=0, other_exits=0), "tsc_khz": KHZ}


def by_name(profiles):
    return pytest.mark.parametrize("profile", profiles, ids=lambda each: each.name)


@pytest.mark.parametrize(
    ("table", "rule"), [(WAITS_LAST, r.Place), (IN_WAIT, r.WaitTrace), (EXIT_FIRST, r.ExitTrace)]
)
def test_every_answer_is_in_its_table(table, rule):
    assert set(table) == set(rule)


def one_shots(count, initial_count, lvtt=VECTOR):
    """A guest that starts a count of the APIC timer and computes until its handler ran, `count` times."""

    def guest(cpu):
        yield from set_up(cpu, lvtt=lvtt)
        for done in range(1, count + 1):
            yield cpu.store(TMICT, initial_count)
            while len(cpu.handled) < done:
                yield 500
        yield cpu.out(0xF4, 0)

    return guest


# -- fix 5: a one-shot on the preemption timer --


@by_name((V5_0, V5_1, V5_2, V5_3, V5_4))
def test_a_one_shot_of_10_us_on_the_preemption_timer_is_600_ns_early_up_to_v5_12(profile):
    run = Run(one_shots(1, 10_000), advance=None, profile=profile, **QUICK)
    # 20 000 cycles: armed for 18 000, in the guest at 18 800.
    assert not run.interrupts[0].waited
    assert run.lateness[0] == pytest.approx(-1200, abs=64)


@by_name((SERIES, V5_14, V6_1, V6_12, V6_19))
def test_a_one_shot_of_10_us_on_the_preemption_timer_waits_its_600_ns_since_v5_13(profile):
    run = Run(one_shots(1, 10_000), advance=None, profile=profile, **QUICK)
    assert run.interrupts[0].delta_cycles == pytest.approx(-1200, abs=64)
    assert run.interrupts[0].wait_cycles == pytest.approx(1200, abs=64)
    assert run.lateness == [0]


@by_name(ALL)
def test_a_one_shot_of_800_ns_is_past_when_it_is_set_and_waited_for_since_v5_2(profile):
    run = Run(one_shots(1, 800), advance=None, profile=profile, **QUICK)
    early = profile in (V5_0, V5_1)
    assert run.lateness == [-1600 if early else 0]
    assert run.interrupts[0].wait_cycles == (0 if early else 1600)
    assert run.interrupts[0].instructions == 0


def test_fix_5_alone_makes_the_difference_in_the_series():
    assert Run(one_shots(1, 10_000), advance=None, profile=SERIES, **QUICK).lateness == [0]
    without = Run(one_shots(1, 10_000), advance=None, profile=SERIES.without(5), **QUICK)
    assert without.lateness[0] == pytest.approx(-1200, abs=64)


# -- fix 6: past when the preemption timer is set --


@by_name(ALL)
def test_a_one_shot_past_when_it_is_set_is_traced_since_v5_2(profile):
    run = Run(one_shots(1, 800), advance=None, profile=profile, **QUICK)
    traced = [event.hv_timer_in_use for event in run.of(ev.HvTimerState)]
    assert traced == ([] if profile in (V5_0, V5_1) else [False])


def test_fix_6_changes_the_trace_and_nothing_that_the_guest_sees():
    with_it = Run(one_shots(5, 800), advance=1000, profile=SERIES, **QUICK)
    without = Run(one_shots(5, 800), advance=1000, profile=SERIES.without(6), **QUICK)
    assert with_it.interrupts == without.interrupts
    assert (len(with_it.of(ev.HvTimerState)), len(without.of(ev.HvTimerState))) == (5, 0)


# -- CountWrite on the machine --


def stopped(cpu):
    """A guest that starts a one-shot, stops it by writing 0, and goes on."""
    yield from set_up(cpu, lvtt=VECTOR)
    yield cpu.store(TMICT, 20_000)
    yield 1000
    yield cpu.store(TMICT, 0)
    yield 100_000
    yield cpu.out(0xF4, len(cpu.handled))


@by_name(ALL)
def test_a_one_shot_stopped_on_the_preemption_timer_comes_all_the_same_up_to_v5_11(profile):
    spurious = profile in (V5_0, V5_1, V5_2, V5_3, V5_4)
    assert Run(stopped, profile=profile).vm.ports.exit_value == spurious
    assert Run(stopped, profile=profile, preemption=False).vm.ports.exit_value == 0


# -- Place: the preemption timer's counter and the wait --


def periods(count):
    def guest(cpu):
        yield from set_up(cpu, lvtt=0x20000 | VECTOR)
        yield cpu.store(TMICT, 250_000)
        while len(cpu.handled) < count:
            yield 5000
        yield cpu.out(0xF4, 0)

    return guest


def test_a_counter_computed_before_the_wait_runs_out_later_by_it():
    # With APICv: the exit of an EOI would load it anew.
    runs = {
        place: Run(periods(2), advance=3000, profile=replace(SERIES, place=place), apicv=True).interrupts
        for place in r.Place
    }
    before, last = runs[r.Place.BEFORE_COUNTER], runs[r.Place.LAST]
    assert before[0] == last[0]
    waited = before[0].wait_cycles
    assert waited > 5000
    # The entry that waits is the one that loads the next period's counter.
    assert last[1].delta_cycles - before[1].delta_cycles == pytest.approx(waited, abs=64)


@by_name((V5_14, V6_1, V6_12, V6_19))
def test_the_kernels_that_wait_for_periods_compute_the_counter_first(profile):
    run, other = (
        Run(periods(2), advance=None, profile=each, apicv=True, tsc_khz=KHZ).interrupts
        for each in (profile, replace(profile, place=r.Place.BEFORE_COUNTER))
    )
    waited = run[0].wait_cycles
    assert waited > 500
    assert run[1].delta_cycles - other[1].delta_cycles == pytest.approx(waited, abs=64)


@pytest.mark.parametrize("place", r.Place)
def test_where_no_counter_is_loaded_the_place_of_the_wait_makes_no_difference(place):
    expected = Run(spinning(50), advance=None, preemption=False).interrupts
    profile = replace(SERIES, place=place)
    assert Run(spinning(50), advance=None, preemption=False, profile=profile).interrupts == expected


# -- WaitTrace, ExitTrace: the order of events --


def names_around(run, kind):
    """The names of the events next to each of a kind."""
    named = [type(event).__name__ for event in run.events]
    return [
        (named[place - 1], named[place + 1], named[min(place + 2, len(named) - 1)])
        for place, event in enumerate(run.events)
        if isinstance(event, kind)
    ]


@by_name(tuple(profile for profile in ALL if profile not in DELAYED_TRACE))
def test_a_wait_is_traced_behind_kvm_entry(profile):
    run = Run(spinning(5), advance=None, profile=profile)
    expected = ("Entry", "AdvanceSample", "TimerInterrupt")
    assert names_around(run, ev.WaitLapicExpire) == [expected] * 5


@by_name((V5_3, V5_4))
def test_a_wait_is_traced_after_the_next_exit_in_front_of_kvm_exit_up_to_v5_4(profile):
    run = Run(spinning(5), advance=None, profile=profile)
    first, *others = names_around(run, ev.WaitLapicExpire)
    assert first == ("Entry", "Exit", "ApicAccess")
    assert others == [("TimerInterrupt", "AdvanceSample", "Exit")] * 5


def test_a_wait_is_traced_behind_the_next_kvm_exit_in_v5_14():
    run = Run(spinning(5), advance=None, profile=V5_14)
    first, *others = names_around(run, ev.WaitLapicExpire)
    assert first == ("Exit", "ApicAccess", "Entry")
    assert others == [("Exit", "AdvanceSample", "ApicAccess")] * 5


@by_name(DELAYED_TRACE)
@pytest.mark.parametrize("preemption", [True, False])
def test_the_first_exit_traces_a_delta_of_0_that_tunes_nothing(profile, preemption):
    run = Run(spinning(1), advance=None, profile=profile, preemption=preemption)
    bogus, real = run.of(ev.WaitLapicExpire)
    assert bogus.delta_cycles == 0
    assert bogus.host_tsc == run.of(ev.Exit)[0].host_tsc
    assert real.delta_cycles == run.interrupts[0].delta_cycles
    assert len(run.of(ev.AdvanceSample)) == 1
    assert not run.vcpu.advancement.done


@by_name(DELAYED_TRACE)
def test_the_first_exit_traces_its_delta_with_advancement_off_too(profile):
    run = Run(spinning(3), advance=0, profile=profile)
    assert [event.delta_cycles for event in run.of(ev.WaitLapicExpire)] == [0]
    assert run.of(ev.AdvanceSample) == []


@by_name(ALL)
@pytest.mark.parametrize("guest", [spinning, halting])
@pytest.mark.parametrize("preemption", [True, False])
@pytest.mark.parametrize("guest_khz", [None, 1_000_000])
def test_a_trace_tells_every_wait_and_its_deltas_give_the_advancements_back(
    profile, guest, preemption, guest_khz
):
    model = constant_model(hrtimer=2500)
    run = Run(
        guest(40), advance=None, profile=profile, preemption=preemption, guest_khz=guest_khz, model=model
    )
    deltas = [event.delta_cycles for event in run.of(ev.WaitLapicExpire)]
    if profile in DELAYED_TRACE:
        assert deltas.pop(0) == 0
    waited = [it for it in run.interrupts if it.waited]
    assert deltas == [it.delta_cycles for it in waited]
    (start,) = run.of(ev.VcpuStart)
    advance_ns, done, replayed = start.advance_ns, False, []
    for delta in deltas:
        early, distance = EARLY[profile.early](10**12 + delta, 10**12)
        advance_ns, done = tune(profile, advance_ns, done, early, distance, start.tsc_khz)
        replayed.append(advance_ns)
    assert replayed == [event.advance_ns for event in run.of(ev.AdvanceSample)]
    assert replayed == [it.advance_ns for it in waited]
    assert len(set(replayed)) > 1


@by_name(ALL)
def test_the_times_of_events_never_fall(profile):
    run = Run(halting(20), advance=None, profile=profile)
    assert all(first.host_tsc <= second.host_tsc for first, second in pairwise(run.events))


# -- built-in guests --


def built_in(name, profile, *, preemption=True, apicv=False, pi_inject=False, events=False):
    program = PROGRAMS[name]
    return GuestRun(
        program.image(),
        20,
        program.delta_cycles,
        vcpus=program.vcpus,
        tsc_khz=program.tsc_khz or (2_500_000,),
        advance=None,
        preemption=preemption,
        profile=profile,
        apicv=apicv,
        pi_inject=pi_inject,
        mwait_in_guest=pi_inject,
        events=events,
    )


WAYS = {
    "preemption": {},
    "hrtimer": {"preemption": False},
    "apicv": {"apicv": True},
    "posted": {"apicv": True, "pi_inject": True},
}


@by_name(ALL)
@pytest.mark.parametrize("way", WAYS)
def test_every_kernel_runs_every_built_in_guest(profile, way):
    for name in PROGRAMS:
        run = built_in(name, profile, **WAYS[way])
        assert run.value == 0, (name, run.console)


@by_name(ALL)
@pytest.mark.parametrize("way", WAYS)
def test_every_kernel_runs_a_guest_the_same_way_twice(profile, way):
    first, second = (built_in("tickless", profile, **WAYS[way], events=True) for _ in range(2))
    assert first.events == second.events
