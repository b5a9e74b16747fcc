# SPDX-License-Identifier: GPL-2.0-or-later
"""What is asked for: fields, their checks, and what they come to."""

import dataclasses
import inspect

import pytest

import vlapic
from vlapic.errors import ImageError, UsageError
from vlapic.kernels.profiles import find_profile
from vlapic.machine.guests.programs import PROGRAMS
from vlapic.machine.limits import Limits
from vlapic.session import comparison
from vlapic.session.spec import MachineSpec, RunSpec, VmSpec


def test_run_has_the_fields_of_a_spec_with_their_defaults():
    taken = inspect.signature(vlapic.run).parameters
    fields = {field.name: field.default for field in dataclasses.fields(RunSpec)}
    assert {name: each.default for name, each in taken.items()} == fields
    assert [name for name, each in taken.items() if each.kind is not each.KEYWORD_ONLY] == ["guest"]


def test_help_of_run_explains_every_field():
    for field in dataclasses.fields(RunSpec):
        assert f"\n    {field.name}: " in vlapic.run.__doc__


def test_a_field_of_another_kind_is_refused_when_the_spec_is_made():
    with pytest.raises(UsageError, match="events takes a whole number, not '10'"):
        RunSpec(events="10")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="seed takes a whole number, not None"):
        dataclasses.replace(RunSpec(), seed=None)


def test_a_spec_comes_to_a_machine_of_equal_vms():
    plan = RunSpec("scaled", vms=3, memory_mib=16, events=7, profile="v5.4", advance=3000, seed=9).plan()
    vm = VmSpec(PROGRAMS["scaled"], [2_500_000, 1_500_000], 16 << 20, interrupts=7, delta_cycles=200_000)
    machine = plan.machine
    assert machine.vms == (vm,) * 3
    assert (machine.tsc_khz, machine.seed, machine.pcpus) == (2_500_000, 9, None)
    assert (machine.profile, machine.parameters.lapic_timer_advance_ns) == (find_profile("v5.4"), 3000)
    assert (plan.built_in, plan.delta_cycles) == (True, None)


def test_a_built_in_guest_ends_by_itself_and_an_image_after_so_many_interrupts(tmp_path):
    assert RunSpec(events=5, seconds=0.001).plan().limits(1000) == Limits(None, 1000 + 2_500_000, None)
    image = RunSpec(tmp_path / "image", events=5, instructions=9).plan()
    assert image.limits(1000) == Limits(5, None, 9)


def test_a_profile_goes_in_as_it_is():
    mine = dataclasses.replace(find_profile("v5.0"), name="mine")
    assert vlapic.run(profile=mine, events=5).profile == "mine"
    with pytest.raises(UsageError, match="has no fixes to leave out"):
        RunSpec(profile=mine, without=[1]).plan()


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("emulate", "unknown engine 'emulate'; did you mean 'emulated'?"),
        ("scripted", "engine 'scripted' plays Python programs, and runs no images; take 'emulated'"),
    ],
)
def test_an_engine_that_runs_no_images_is_refused(engine, message):
    with pytest.raises(UsageError) as refused:
        RunSpec(engine=engine).check()
    assert str(refused.value) == message


def test_a_check_loads_what_the_run_would(tmp_path):
    with pytest.raises(ImageError, match="no such file; expected a boot module"):
        RunSpec(modules=[tmp_path / "none"]).check()
    image = tmp_path / "image"
    image.write_bytes(PROGRAMS["deadline"].image())
    RunSpec(image).check()
    with pytest.raises(UsageError, match="is the guest's image; choose another file"):
        RunSpec(image, trace=image).check()
    with pytest.raises(UsageError, match="is a boot module; choose another file"):
        RunSpec(modules=[image], trace=image).check()
    assert list(tmp_path.iterdir()) == [image]


def test_a_comparison_finds_a_missing_module_before_its_first_run(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "run_spec", lambda spec: pytest.fail("it ran"))
    with pytest.raises(ImageError, match="no such file"):
        vlapic.compare(variants=f"module=none,{tmp_path}/none")


def test_observers_are_told_every_event_in_the_order_of_a_trace(tmp_path):
    seen, few = [], []
    traced = vlapic.run(events=20, trace=tmp_path / "trace", observers=[seen.append])
    plain = vlapic.run(events=20, observers=[few.append])
    assert seen == few
    assert traced == plain == vlapic.run(events=20)
    handled = [event for event in seen if type(event).__name__ == "TimerInterrupt"]
    read = vlapic.open_trace(tmp_path / "trace").columns(type(handled[0]))
    assert [event.deadline_tsc for event in handled] == read["deadline_tsc"].tolist()


def test_an_observer_that_fails_is_dropped_and_the_run_goes_on():
    def fails(event):
        raise ZeroDivisionError

    with pytest.warns(RuntimeWarning, match="an observer failed with ZeroDivisionError"):
        assert vlapic.run(events=20, observers=[fails]) == vlapic.run(events=20)


def test_a_machine_s_defaults_are_those_of_a_host():
    host = vlapic.Host()
    machine = MachineSpec([])
    assert (machine.model, machine.profile, machine.seed) == (host.model, host.profile, host.seed)
