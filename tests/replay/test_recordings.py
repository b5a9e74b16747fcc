# SPDX-License-Identifier: GPL-2.0-or-later
"""What real kernels recorded: the model comes to every sample of theirs, and to none by looking at it."""

import re

import pytest

from tests.support.recordings import RECORDINGS, path_of
from tests.support.replay_text import replayed, rows, text_of
from vlapic.apic import advance
from vlapic.replay.run import replay


@pytest.fixture(params=RECORDINGS)
def name(request):
    return request.param


def test_every_sample_of_a_recording_agrees_with_the_model(name):
    result = replay(path_of(name))
    assert result.mismatches == 0
    assert result.checked == len(re.findall("LAB sample", text_of(name)))
    assert result.profile == "v6.1"
    assert result.unplaced == 0
    assert result.exit_status == 0


def test_a_trajectory_has_a_row_for_every_wait_with_the_delta_it_printed(tmp_path, name):
    _, text = rows(tmp_path, path_of(name))
    lines = text.decode().splitlines()
    assert lines[0] == "vm,vcpu,index,timestamp,delta_cycles,advance_before_ns,advance_after_ns"
    printed = re.findall(r"(\d+): kvm_wait_lapic_expire: vcpu 0: delta (-?\d+)", text_of(name))
    assert [tuple(row.split(",")[3:5]) for row in lines[1:]] == printed
    assert [int(row.split(",")[2]) for row in lines[1:]] == list(range(len(printed)))


def test_the_model_never_reads_a_sample(tmp_path, name):
    _, whole = rows(tmp_path, path_of(name))
    without = re.sub(r".*LAB (sample|end).*\n|# (sample|VMM) .*\n", "", text_of(name))
    # What other markers say of the advancement is nothing to the model either.
    without = re.sub(r"(LAB (?:start|secondvm) .*advance=)\d+", r"\g<1>1", without)
    bare = tmp_path / "bare.txt"
    bare.write_text(without)
    result, stripped = rows(tmp_path, bare)
    assert result.checked == 0
    assert stripped == whole


def test_deltas_follow_from_deadline_time_and_offset(name):
    result = replay(path_of(name))
    rebuilt = result.vcpus[0].rebuilt
    assert rebuilt.compared > 10
    assert rebuilt.misfits == 0
    assert 0 < rebuilt.cost_cycles.min <= rebuilt.cost_cycles.median <= rebuilt.cost_cycles.max < 1000
    one_shots = "oneshot" in name
    assert (rebuilt.unpaired > 0) is one_shots


def test_rules_run_compiled_and_as_they_stand_give_the_same_bytes(tmp_path, name):
    pytest.importorskip("numba", reason="compiled rules need numba: pip install numba")
    assert rows(tmp_path, path_of(name), compiled=True)[1] == rows(tmp_path, path_of(name), compiled=False)[1]


def test_a_second_vm_created_under_another_parameter_freezes_and_thaws_the_first():
    result = replay(path_of("svm-shift0-secondvm-adaptive"))
    assert [(flip.wait, flip.on, flip.inferred) for flip in result.flips] == [
        (10, False, False),
        (20, True, False),
    ]


def test_without_the_second_vms_marker_the_samples_say_where_the_model_parts(tmp_path):
    text = re.sub(r".*LAB secondvm.*\n", "", text_of("svm-shift0-secondvm-adaptive"))
    result = replayed(tmp_path, text)
    assert result.exit_status == 3
    assert result.mismatches == 30
    parting = result.vcpus[0].parting
    assert (parting.after_index, parting.index) == (10, 11)
    assert (parting.sample_ns, parting.model_ns) == (2261, 2316)


def test_the_flags_flips_are_inferred_from_samples(tmp_path):
    text = re.sub(r".*LAB secondvm.*\n", "", text_of("svm-shift0-secondvm-adaptive"))
    result = replayed(tmp_path, text, infer_flag=True)
    assert result.mismatches == 0
    assert [(flip.wait, flip.on, flip.inferred) for flip in result.flips] == [
        (10, False, True),
        (20, True, True),
    ]


def mismatches(name, **options):
    return replay(path_of(name), compiled=False, **options).mismatches


# What these recordings pin: the nearest value below and above that shows, and where it does. Values between
# the two fit all of them as well as the right one does.
@pytest.mark.parametrize(
    ("name", "tsc_khz"),
    [
        ("svm-shift0-adaptive-lean", 1_000_001),
        ("vmx-bochs27-scaled200-adaptive", 200_001),
        ("vmx-bochs27-scaled200-adaptive", 200_000 - 14),
    ],
)
def test_a_frequency_that_is_wrong_shows(name, tsc_khz):
    assert mismatches(name, tsc_khz=tsc_khz)


@pytest.mark.parametrize(
    ("constant", "below", "shows_below", "above", "shows_above"),
    [
        ("ADJUST_MIN_CYCLES", 99, "svm-shift0-adaptive-lean", 102, "svm-shift0-secondvm-adaptive"),
        ("ADJUST_MAX_CYCLES", 9929, "vmx-bochs27-adaptive", 12_329, "svm-shift0-adaptive-lean"),
        ("ADVANCE_CAP_NS", 4992, "vmx-bochs27-adaptive", 5001, "svm-shift0-adaptive-lean"),
        ("ADJUST_STEP", 7, "vmx-bochs27-settsc-adaptive", 9, "vmx-bochs27-settsc-adaptive"),
        ("ADVANCE_START_NS", 999, "vmx-bochs27-settsc-adaptive", 1001, "vmx-bochs27-settsc-adaptive"),
    ],
)
def test_a_constant_of_the_rules_that_is_wrong_shows(
    monkeypatch, constant, below, shows_below, above, shows_above
):
    for wrong, name in ((below, shows_below), (above, shows_above)):
        monkeypatch.setattr(advance, constant, wrong)
        assert mismatches(name), wrong
        # The last value that does not show there: the edge is where it is said to be.
        nearer = wrong + 1 if wrong == below else wrong - 1
        monkeypatch.setattr(advance, constant, nearer)
        assert not mismatches(name), nearer


@pytest.mark.parametrize("wrong", [999, 1001])
def test_a_wrong_value_to_start_from_shows(monkeypatch, wrong):
    from vlapic.kernels import parameter

    monkeypatch.setattr(parameter, "ADVANCE_START_NS", wrong)
    assert mismatches("svm-shift0-secondvm-adaptive")


def test_the_rules_of_another_kernel_do_not_fit_the_recording():
    assert mismatches("vmx-bochs27-adaptive", profile="v5.3")
    assert mismatches("vmx-bochs27-adaptive", advance=1000)
