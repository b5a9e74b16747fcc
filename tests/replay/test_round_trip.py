# SPDX-License-Identifier: GPL-2.0-or-later
"""What `vlapic run --trace` wrote, replayed: the deltas and advancements of the run, by every profile."""

import csv

import pytest

import vlapic
from tests.support.replay_text import rows
from vlapic.events import AdvanceSample, TimerInterrupt
from vlapic.kernels.profiles import PROFILES
from vlapic.trace import open_trace

GUESTS = [
    ("deadline", {}),
    ("deadline-hlt", {"timer": "hrtimer"}),
    ("scaled", {}),
    ("tickless", {"advance": 0}),
]


@pytest.mark.parametrize(("guest", "options"), GUESTS, ids=[guest for guest, _ in GUESTS])
@pytest.mark.parametrize("profile", PROFILES)
def test_a_run_replayed_gives_its_deltas_and_advancements(tmp_path, profile, guest, options):
    trace = tmp_path / "run.txt"
    run = vlapic.run(guest, profile=profile, events=120, trace=trace, **options)
    result, text = rows(tmp_path, trace)
    assert result.profile == profile
    assert result.mismatches == 0
    trajectory = list(csv.DictReader(text.decode().splitlines()))
    for vcpu, ran in zip(result.vcpus, run.vcpus, strict=True):
        mine = [row for row in trajectory if int(row["vcpu"]) == vcpu.vcpu]
        interrupts = [
            event
            for event in open_trace(trace).events()
            if isinstance(event, TimerInterrupt) and event.vcpu == vcpu.vcpu and event.waited
        ]
        assert [int(row["delta_cycles"]) for row in mine][: len(interrupts)] == [
            event.delta_cycles for event in interrupts
        ]
        if options.get("advance") != 0:
            assert vcpu.checked == sum(
                isinstance(event, AdvanceSample) and event.vcpu == vcpu.vcpu
                for event in open_trace(trace).events()
            )
            assert vcpu.checked > 100
            assert vcpu.advance_ns.final == ran.advance_ns.final
            assert vcpu.rebuilt.misfits == 0
        assert vcpu.advance_ns.initial == ran.advance_ns.initial
        assert vcpu.while_off == 0


@pytest.mark.parametrize("guest", ["scaled", "uneven"])
def test_one_value_of_all_vcpus_of_several_vms_comes_back_in_the_order_it_was_tuned(tmp_path, guest):
    trace = tmp_path / "run.txt"
    run = vlapic.run(guest, profile="v5.0", vms=2, events=100, trace=trace)
    result, _ = rows(tmp_path, trace)
    assert len(result.vcpus) == 4
    assert result.checked > 300
    assert result.mismatches == 0
    assert {vcpu.advance_ns.final for vcpu in run.vcpus} >= {result.vcpus[0].advance_ns.final}


@pytest.mark.parametrize("advance", [0, 1000, 3000])
def test_a_number_of_ns_comes_back_as_the_parameter_it_was(tmp_path, advance):
    trace = tmp_path / "run.txt"
    vlapic.run("deadline", profile="v6.1", advance=advance, events=50, trace=trace)
    result, _ = rows(tmp_path, trace)
    vcpu = result.vcpus[0]
    assert (vcpu.parameter, vcpu.parameter_from) == (advance, "the start marker")
    assert vcpu.regime == ("fixed" if advance else "off")
    assert vcpu.advance_ns.final == advance


def test_the_bogus_first_delta_of_a_kernel_that_traces_after_the_exit_is_dropped_and_counted(tmp_path):
    trace = tmp_path / "run.txt"
    vlapic.run("deadline", profile="v5.3", events=50, trace=trace)
    result, text = rows(tmp_path, trace)
    assert result.vcpus[0].dropped == 1
    # By v5.3's rules a delta of 0 ends tuning.
    assert result.vcpus[0].events == 50
    assert result.vcpus[0].regime != "frozen"
    assert len(text.decode().splitlines()) == 51
