# SPDX-License-Identifier: GPL-2.0-or-later
"""Results, their JSON and the exit status they ask for."""

import json
from typing import Any

import pytest

from tests.support.made_up import interrupts, run_result, vcpu_result
from vlapic.errors import GuestFailure


def keys(value):
    """The keys of an object and of those in it, in order."""
    if isinstance(value, dict):
        return {key: keys(of) for key, of in value.items()}
    return [keys(of) for of in value] if isinstance(value, list) else None


def at(value, path):
    """What stands at a path like `vcpus[0].lateness_ns.p50`."""
    for part in path.replace("[", ".").replace("]", "").split("."):
        value = value[int(part)] if part.isdigit() else value[part]
    return value


def nulls(value, path=""):
    if isinstance(value, dict):
        for key, of in value.items():
            yield from nulls(of, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, of in enumerate(value):
            yield from nulls(of, f"{path}[{index}]")
    elif value is None:
        yield path


def test_the_json_has_the_keys_of_the_schema_in_their_order():
    lateness = dict.fromkeys(
        ["measured_by", "samples", "min", "mean", "p50", "p99", "p99_9", "max", "early", "exact"]
    )
    expected: dict[str, Any] = {
        "schema": None, "engine": None, "profile": None, "host": None, "seed": None,
        "guest": None, "exit_code": None,
        "console": None, "virtual_seconds": None, "wall_seconds": None, "instructions": None,
        "vcpus": [{
            "vm": None, "id": None, "tsc_khz": None, "tsc_ratio": None, "timer": None, "interrupts": None,
            "missed": None,
            "advance_ns": dict.fromkeys(["initial", "final", "min", "max", "settled_after"]),
            "regime": None, "lateness_ns": lateness, "lateness_cycles": lateness,
            "wait_ns": {"total": None, "max": None}, "blocked_ns": {"total": None, "max": None},
            "instructions_before_interrupt": {"min": None, "max": None},
        }],
        "unavailable": {"wall_seconds": None},
    }  # fmt: skip
    vcpu = vcpu_result(interrupts([1200 + index % 40 for index in range(1000)]))
    printed = json.loads(json.dumps(run_result(vcpu).as_json()))
    assert keys(printed) == expected
    assert list(printed) == list(expected)
    assert list(printed["vcpus"][0]) == list(expected["vcpus"][0])
    assert list(printed["vcpus"][0]["lateness_ns"]) == list(lateness)


def test_the_json_holds_what_was_measured():
    # 1200 and 1300 cycles at 2.5 GHz, 20 and 21 instructions, host waits of 250 and 500 cycles.
    made = interrupts([1200, 1300], instructions=[20, 21], wait_cycles=[250, 500], blocked_cycles=[0, 25])
    vcpu = run_result(vcpu_result(made)).as_json()["vcpus"][0]
    assert vcpu["lateness_cycles"] == {
        "measured_by": "engine", "samples": 2, "min": 1200, "mean": 1250.0, "p50": 1200, "p99": None,
        "p99_9": None,
        "max": 1300, "early": 0, "exact": True,
    }  # fmt: skip
    assert vcpu["lateness_ns"]["p50"] == 480
    assert vcpu["wait_ns"] == {"total": 300, "max": 200}
    assert vcpu["blocked_ns"] == {"total": 10, "max": 10}
    assert vcpu["instructions_before_interrupt"] == {"min": 20, "max": 21}
    assert vcpu["interrupts"] == 2


@pytest.mark.parametrize(
    "result",
    [
        run_result(),
        run_result(vcpu_result([])),
        run_result(exit_code=None),
        run_result(exit_code=None, interrupted=True),
        run_result(exit_code=None, failure=GuestFailure("shut down", 0x1000)),
        run_result(exit_code=None, end="switched the machine off"),
        run_result(wall_seconds=1.5),
    ],
    ids=["complete", "no interrupt", "no report", "interrupted", "failed", "switched off", "real time"],
)
def test_every_null_has_a_reason_and_every_reason_a_null(result):
    printed = result.as_json()
    reasons = printed.pop("unavailable")
    assert sorted(reasons) == sorted(nulls(printed))
    assert all(at(printed, path) is None and why for path, why in reasons.items())


def test_the_time_of_the_emulated_cpu_is_virtual_only():
    printed = run_result().as_json()
    assert printed["unavailable"]["wall_seconds"].startswith("virtual time only")
    assert printed["virtual_seconds"] == 0.5


def test_percentiles_are_null_without_interrupts():
    printed = run_result(vcpu_result([])).as_json()
    assert printed["vcpus"][0]["lateness_ns"]["p99"] is None
    assert printed["unavailable"]["vcpus[0].lateness_ns.p99"] == "no timer interrupt reached a handler"


def test_settled_after_is_null_with_its_own_reason():
    printed = run_result(vcpu_result(interrupts([1200] * 20))).as_json()
    assert printed["vcpus"][0]["advance_ns"]["settled_after"] is None
    assert "did not stay near" in printed["unavailable"]["vcpus[0].advance_ns.settled_after"]


@pytest.mark.parametrize(
    ("samples", "unknown"),
    [
        (1, {"p50": 2, "p99": 100, "p99.9": 1000}),
        (99, {"p99": 100, "p99.9": 1000}),
        (100, {"p99.9": 1000}),
        (999, {"p99.9": 1000}),
        (1000, {}),
    ],
)
def test_a_percentile_that_would_be_just_the_greatest_value_is_null_with_what_it_needs(samples, unknown):
    printed = run_result(vcpu_result(interrupts(range(1200, 1200 + samples)))).as_json()
    for name in ("p50", "p99", "p99.9"):
        path = f"vcpus[0].lateness_ns.{name.replace('.', '_')}"
        assert (at(printed, path) is None) == (name in unknown)
        if name in unknown:
            expected = f"{name} needs {unknown[name]} samples, {samples} there"
            assert printed["unavailable"][path] == expected
    assert printed["vcpus"][0]["lateness_ns"]["samples"] == samples


def test_what_froze_has_not_settled_and_says_why():
    frozen = vcpu_result(interrupts([1200] * 200, delta_cycles=[50, *[-400] * 199]))
    printed = run_result(frozen).as_json()
    assert printed["vcpus"][0]["advance_ns"]["settled_after"] is None
    reason = printed["unavailable"]["vcpus[0].advance_ns.settled_after"]
    assert reason == "the advancement is frozen away from what the interrupts need"


def test_a_guest_that_failed_says_so_where_its_exit_code_would_be():
    failure = GuestFailure("shut down: #DF while delivering #GP", 0x10020)
    printed = run_result(exit_code=None, failure=failure).as_json()
    assert printed["unavailable"]["exit_code"] == (
        "the guest shut down: #DF while delivering #GP at rip 0x10020"
    )


def test_a_guest_that_ended_its_machine_says_so_where_its_exit_code_would_be():
    result = run_result(exit_code=None, end="reset the machine")
    printed = result.as_json()
    assert printed["end"] == "the guest reset the machine"
    assert printed["unavailable"]["exit_code"] == "the guest reset the machine and reported no value"
    assert result.exit_status == 0


@pytest.mark.parametrize(
    ("fields", "status", "text"),
    [
        ({"exit_code": 0}, 0, None),
        ({"exit_code": None}, 0, None),
        ({"exit_code": 3}, 4, "the guest reported 3: it needs two vCPUs"),
        ({"exit_code": 7}, 4, "the guest reported 7; 0 is success"),
        ({"exit_code": 3, "guest": "./mine"}, 4, "the guest reported 3; 0 is success"),
        ({"exit_code": None, "failure": GuestFailure("shut down")}, 4, "the guest shut down"),
        ({"exit_code": None, "interrupted": True}, 130, None),
        ({"exit_code": 3, "interrupted": True}, 4, "the guest reported 3: it needs two vCPUs"),
        ({"exit_code": 3, "trace_failure": "disk full"}, 1, "the guest reported 3: it needs two vCPUs"),
    ],
)
def test_the_exit_status_follows_from_the_result(fields, status, text):
    result = run_result(**fields)
    assert (result.exit_status, result.failure_text) == (status, text)
