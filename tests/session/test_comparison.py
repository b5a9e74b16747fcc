# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs side by side: what can be varied, what is the same, and results that were kept."""

import dataclasses
import json

import pytest

import vlapic
from tests.support.made_up import interrupts, run_result, vcpu_result
from vlapic.cli.run import command as run_command_line
from vlapic.errors import UsageError, VlapicError, WorldError
from vlapic.machine.hostmodel.model import DEFAULT
from vlapic.session import comparison
from vlapic.session.comparison import Comparison, Variants, read_kept, setup_differences, vcpus_of
from vlapic.session.options import COMPARABLE, NOT_COMPARABLE

KNOWN = ", ".join(sorted(COMPARABLE))


@pytest.mark.parametrize(
    ("text", "by", "values"),
    [
        ("advance=0,1000,auto", "advance", {"0": 0, "1000": 1000, "auto": "auto"}),
        ("timer=hrtimer,preemption", "timer", {"hrtimer": "hrtimer", "preemption": "preemption"}),
        ("profile=series,v5.0", "profile", {"series": "series", "v5.0": "v5.0"}),
        ("series,v5.0", "profile", {"series": "series", "v5.0": "v5.0"}),
        ("seed=1,2", "seed", {"1": 1, "2": 2}),
        ("guest=deadline,oneshot", "guest", {"deadline": "deadline", "oneshot": "oneshot"}),
        ("apicv=off,on", "apicv", {"off": False, "on": True}),
        ("without=none,1,2+3", "without", {"none": [], "1": [1], "2+3": [2, 3]}),
        ("tsc_khz=1000000,2+3", "tsc-khz", {"1000000": [1_000_000], "2+3": [2, 3]}),
        ("delta=50us,1ms", "delta", {"50us": "50us", "1ms": "1ms"}),
        ("memory=16,32", "memory", {"16": 16, "32": 32}),
        ("seconds=0.5,1", "seconds", {"0.5": 0.5, "1": 1.0}),
    ],
)
def test_an_option_and_its_values_are_read_in_order(text, by, values):
    variants = Variants.parse(text)
    assert (variants.by, variants.values) == (by, values)
    assert list(variants.values) == list(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("advance=0", "compare 'advance=0' has one value; give two or more, as in advance=A,B"),
        ("advance=0,x", "compare advance=x: it is 'auto' or a whole number of ns"),
        ("advance=0,0", "compare 'advance=0,0' has '0' twice"),
        ("advanc=0,1", "unknown option to compare 'advanc'; did you mean 'advance'?"),
        ("x=2,4", f"unknown option to compare 'x'; known: {KNOWN}"),
        ("trace=a,b", f"compare trace: it changes nothing that a run comes to; known: {KNOWN}"),
        ("budget=a,b", f"compare budget: it changes nothing that a run comes to; known: {KNOWN}"),
        ("seed=1,x", "compare seed=x: it is a whole number"),
        ("apicv=on,maybe", "compare apicv=maybe: it is on or off"),
        ("without=1,2+x", "compare without=2+x: it is 'none', or whole numbers with a + between them"),
        ("tsc-khz=1,1.5", "compare tsc-khz=1.5: it is whole numbers with a + between them"),
        ("seconds=1,soon", "compare seconds=soon: it is a number of seconds"),
        ("seed", "compare 'seed' has no values; give two or more, as in seed=A,B"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused(text, message):
    with pytest.raises(UsageError) as refused:
        Variants.parse(text)
    assert str(refused.value) == message


def test_each_run_is_the_run_that_its_value_gives_alone():
    compared = vlapic.compare("deadline", variants="advance=0,auto", events=60, seed=5)
    assert compared.by == "advance"
    for label, result in compared.runs:
        alone = vlapic.run("deadline", advance=label if label == "auto" else int(label), events=60, seed=5)
        assert result.as_json() == alone.as_json()
    assert compared.as_json() == {
        "schema": "vlapic.compare/1",
        "by": "advance",
        "runs": [{"label": label, "run": result.as_json()} for label, result in compared.runs],
    }


@pytest.mark.parametrize(
    ("variants", "alone"),
    [
        ("seed=3,4", {"seed": 4}),
        ("guest=deadline,deadline-hlt", {"guest": "deadline-hlt"}),
        ("apicv=off,on", {"apicv": True}),
        ("without=none,1+5", {"without": [1, 5]}),
        ("tsc-khz=2500000,1000000", {"tsc_khz": 1_000_000}),
        ("delta=50us,60us", {"delta": "60us"}),
        ("mwait-in-guest=off,on", {"mwait_in_guest": True}),
        ("vcpus=1,2", {"vcpus": 2}),
        ("memory=64,32", {"memory_mib": 32}),
        ("host-tsc-khz=2500000,2000000", {"host_tsc_khz": 2_000_000}),
    ],
)
def test_whatever_is_varied_each_run_is_that_of_its_value(variants, alone):
    compared = vlapic.compare("deadline", variants=variants, events=20)
    assert compared.runs[1][1] == vlapic.run(**{"guest": "deadline", "events": 20} | alone)


def test_every_option_of_run_can_be_compared_or_is_known_not_to_change_anything():
    options = {max(param.opts, key=len).removeprefix("--") for param in run_command_line.params}
    assert set(COMPARABLE) | set(NOT_COMPARABLE) == options
    assert not set(COMPARABLE) & set(NOT_COMPARABLE)


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("guest=deadline,dedline", "unknown guest 'dedline'; did you mean 'deadline'?"),
        ("guest=deadline,./nosuch", "nosuch: no such file"),
        ("without=none,9", "no fix 9 in the series"),
        ("delta=50us,50", "delta '50' is no distance of deadlines"),
        ("memory=128,1", "memory 1 MiB is out of range"),
        ("vms=1,17", "vms 17 is out of range"),
        ("seed=0,-1", "seed -1 is out of range"),
        ("timer=hrtimer,preemptoin", "unknown timer 'preemptoin'; did you mean 'preemption'?"),
        ("series,v99", "unknown profile 'v99'"),
        ("advance=0,-5", "advance -5 ns is out of range"),
        ("host=default,nosy", "'nosy'"),
    ],
)
def test_a_value_that_makes_no_sense_is_found_before_the_first_run(monkeypatch, variants, message):
    monkeypatch.setattr(comparison, "run_spec", lambda spec: pytest.fail("it ran"))
    with pytest.raises(VlapicError) as refused:
        vlapic.compare("deadline", variants=variants, events=10**9)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("variants", "options", "message"),
    [
        ("series,v5.1", {"without": [1]}, "profile v5.1 has no fixes to leave out"),
        ("v5.3,v5.2", {"apicv": True, "pi_inject": True}, "profile v5.2 posts no timer interrupts"),
        ("timer=hrtimer,preemption", {"mwait_in_guest": True}, "KVM does not use the preemption timer"),
        (
            "timer=hrtimer,preemption",
            {"profile": "v5.4", "host": dataclasses.replace(DEFAULT, preemption_timer_rate=0)},
            "does not use this host's preemption timer",
        ),
    ],
)
def test_a_value_that_does_not_go_with_the_rest_is_found_before_the_first_run(
    monkeypatch, variants, options, message
):
    monkeypatch.setattr(comparison, "run_spec", lambda spec: pytest.fail("it ran"))
    with pytest.raises(UsageError, match=message):
        vlapic.compare("deadline", variants=variants, **options)


def test_budgets_hold_for_each_run():
    compared = vlapic.compare(
        "deadline", variants="advance=0,auto", events=100, budgets=["p50=700ns", "early=0"]
    )
    kept = {label: [each.met for each in result.budgets] for label, result in compared.runs}
    assert kept == {"0": [False, True], "auto": [True, True]}
    assert compared.exit_status == 3


@pytest.mark.parametrize(
    ("runs", "status"),
    [
        ([{}, {}], 0),
        ([{}, {"exit_code": 7}], 4),
        ([{"interrupted": True}, {"exit_code": 7}], 4),
        ([{"exit_code": 7}, {"trace_failure": "full"}], 1),
        ([{}, {"interrupted": True}], 130),
    ],
)
def test_the_exit_status_is_that_of_the_run_in_most_need_of_a_look(runs, status):
    made = tuple((str(at), run_result(**fields)) for at, fields in enumerate(runs))
    assert Comparison("advance", made, len(made)).exit_status == status


def kept(path, *runs, by=None):
    """A file of a result, or of a comparison of several."""
    objects = [result.as_json() for result in runs]
    whole = objects[0]
    if by is not None:
        labelled = [{"label": str(at), "run": of} for at, of in enumerate(objects)]
        whole = {"schema": "vlapic.compare/1", "by": by, "runs": labelled}
    path.write_text(json.dumps(whole))
    return str(path)


def test_kept_results_are_called_by_their_file_s_name(tmp_path):
    (tmp_path / "old").mkdir()
    paths = [kept(tmp_path / name, run_result()) for name in ("a.json", "b.json", "old/b.json")]
    assert [label for label, _ in read_kept(paths)] == ["a", paths[1], paths[2]]


def test_a_kept_comparison_gives_each_of_its_runs(tmp_path):
    path = kept(tmp_path / "all.json", run_result(), run_result(seed=2), by="advance")
    assert [(label, of["seed"]) for label, of in read_kept([path])] == [("all 0", 0), ("all 1", 2)]


def test_what_differs_in_the_set_up_is_found_and_what_came_of_it_is_not_set_up():
    one = run_result(virtual_ns=5, console="x")
    other = run_result(vcpu_result(interrupts([1300] * 50), timer="hrtimer"), seed=3, guest="tickless")
    differences = setup_differences([("one", one.as_json()), ("other", other.as_json())])
    assert differences == {
        "seed": [0, 3], "guest": ["deadline", "tickless"], "vCPU 0 timer": ["preemption", "hrtimer"],
    }  # fmt: skip
    assert setup_differences([("one", one.as_json()), ("again", one.as_json())]) == {}


def test_a_vcpu_that_one_run_has_not_is_no_difference_of_its_own():
    vcpus = [vcpu_result(interrupts([1200] * 50), vcpu=id) for id in (0, 1)]
    runs = [("one", run_result(vcpus[0]).as_json()), ("two", run_result(*vcpus).as_json())]
    assert setup_differences(runs) == {"vCPUs": [1, 2]}
    assert [of is None for of in vcpus_of(runs)[0, 1]] == [True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON (Expecting property name"),
        ("[]", "is neither a result (vlapic.run/1) nor a comparison (vlapic.compare/1): it has another form"),
        ("{}", "nor a comparison (vlapic.compare/1): 'schema' is missing"),
        ('{"schema": "vlapic.run/2"}', "its schema is 'vlapic.run/2'"),
        ('{"schema": "vlapic.run/1"}', "'vcpus' is missing"),
        ('{"schema": "vlapic.run/1", "vcpus": []}', "vcpus is no list of vCPUs"),
        ('{"schema": "vlapic.run/1", "vcpus": [{"vm": "x", "id": 0}]}', "are no numbers"),
        ('{"schema": "vlapic.run/1", "vcpus": [{"vm": 0, "id": 0}]}', "'interrupts' is missing"),
        ('{"schema": "vlapic.compare/1", "runs": [{"run": 3}]}', "it has another form"),
        ("[" * 100_000, "is nested too deeply to be a result"),
        ('{"schema": NaN}', "is not JSON (NaN is no number of JSON)"),
        ('{"schema": -Infinity}', "is not JSON (-Infinity is no number of JSON)"),
        ('{"schema": 1e999}', "is not JSON ('1e999' is out of range)"),
        ('{"schema": ' + "1" * 5000 + "}", "is not JSON (a number has more than 40 digits)"),
        ('{"schema": 1' + "0" * 400 + "}", "is not JSON (a number has more than 40 digits)"),
    ],
)
def test_a_file_that_is_no_result_is_the_world_s_fault_and_says_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "kept.json"
    path.write_text(text)
    with pytest.raises(WorldError) as refused:
        read_kept([str(path)])
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda vcpus: vcpus[0].update(interrupts="many"), "interrupts is no figure"),
        (lambda vcpus: vcpus[0].update(regime=7), "regime is no figure"),
        (lambda vcpus: vcpus[0].update(regime="calm"), "'calm' is no regime"),
        (lambda vcpus: vcpus[0].update(interrupts=-3), "interrupts is -3, less than 0"),
        (lambda vcpus: vcpus[0]["lateness_ns"].update(early=-1), "lateness_ns.early is -1, less than 0"),
        (lambda vcpus: vcpus[0]["wait_ns"].update(max=True), "wait_ns.max is no figure"),
        (lambda vcpus: vcpus.append(vcpus[0]), "it has a vCPU twice"),
        (lambda vcpus: vcpus[0].update(interrupts=1.5), "interrupts is 1.5, and counts something"),
        (lambda vcpus: vcpus[0]["advance_ns"].update(settled_after=1.5), "settled_after is 1.5, and counts"),
        (lambda vcpus: vcpus[0]["lateness_ns"].update(early=10**6), "early is 1000000, of [0-9]+ interrupts"),
        (lambda vcpus: vcpus[0]["lateness_ns"].update(min=10**9), "lateness_ns.min is 1000000000, more than"),
        (lambda vcpus: vcpus[0]["lateness_ns"].update(p50=10**9), "lateness_ns.p50 is 1000000000, more than"),
        (lambda vcpus: vcpus[0]["advance_ns"].update(min=10**9), "advance_ns.min is 1000000000, more than"),
    ],
)
def test_a_result_with_a_value_of_another_kind_is_refused(tmp_path, change, message):
    kept = run_result().as_json()
    change(kept["vcpus"])
    path = tmp_path / "kept.json"
    path.write_text(json.dumps(kept))
    with pytest.raises(WorldError, match=message):
        read_kept([str(path)])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("profile", 5, "its profile is no name"),
        ("exit_code", "x", "its exit_code is no whole number"),
        ("exit_code", True, "its exit_code is no whole number"),
    ],
)
def test_a_result_with_a_setting_of_another_kind_is_refused(tmp_path, name, value, message):
    path = tmp_path / "kept.json"
    path.write_text(json.dumps(run_result().as_json() | {name: value}))
    with pytest.raises(WorldError, match=message):
        read_kept([str(path)])


def test_a_result_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "kept.json"
    path.write_bytes(b'{"schema": "\xff"}')
    with pytest.raises(WorldError, match="it is no text in UTF-8"):
        read_kept([str(path)])


def test_a_lateness_may_be_negative(tmp_path):
    kept = run_result().as_json()
    kept["vcpus"][0]["lateness_ns"].update(min=-2, mean=-1.5, p50=-2)
    (tmp_path / "kept.json").write_text(json.dumps(kept))
    assert read_kept([str(tmp_path / "kept.json")]) == [("kept", kept)]


def test_a_result_cut_anywhere_is_refused(tmp_path):
    whole = json.dumps(run_result().as_json())
    path = tmp_path / "kept.json"
    for end in range(0, len(whole) - 1, 37):
        path.write_text(whole[:end])
        with pytest.raises(WorldError):
            read_kept([str(path)])


def test_a_file_that_is_not_there_is_the_world_s_fault(tmp_path):
    with pytest.raises(WorldError, match="No such file or directory; keep a result by run --json"):
        read_kept([str(tmp_path / "none.json")])


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("profile=6.1,v6.1", "has the profile 'v6.1' twice"),
        ("delta=1.5cycles,2cycles", "no whole number of cycles"),
    ],
)
def test_values_that_are_one_or_none_are_refused(variants, message):
    with pytest.raises(UsageError, match=message):
        comparison.compare("deadline", variants=variants, events=2)


def test_comparing_comparisons_is_what_changes_nothing():
    with pytest.raises(UsageError, match="compare compare: it changes nothing that a run comes to"):
        comparison.Variants.parse("compare=a,b")


@pytest.mark.parametrize("delta", ["10000s", "18446744073710cycles"])
def test_a_distance_that_kvm_cannot_multiply_is_refused(delta):
    with pytest.raises(UsageError, match="it takes 1 to 18446744073709 cycles, beyond which KVM's product"):
        comparison.compare("deadline", variants="seed=0,1", delta=delta)
