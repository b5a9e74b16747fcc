# SPDX-License-Identifier: GPL-2.0-or-later
"""Every benchmark runs to its end, at toy size: what it measures then means nothing."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
#: Sizes that each is given instead of its own, and its arguments.
TOYS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "bench_dat": ({"ROUNDS": 1}, ["5000"]),
    "bench_device": ({"WRITES": 50, "CYCLES": 20}, ["1"]),
    "bench_engine": ({"EXITS": 50, "STOPS": 20, "SLICES": 5}, ["1"]),
    "bench_guests": ({"LAPS": 1}, ["1"]),
    "bench_many": (
        {"TURNS": 1, "INTERRUPTS": 80, "RUN_INTERRUPTS": (10, 20), "FOLD_INTERRUPTS": (100, 1000)},
        [],
    ),
    "bench_replay": ({"FEW": 500}, ["--events", "3000"]),
    "bench_rules": ({"VCPUS": 20, "EVENTS": 5, "INTERPRETED_VCPUS": 3}, ["1"]),
    "bench_run": ({"TURNS": 1, "INTERRUPTS": 50}, []),
    "bench_trace": ({"TURNS": 1, "LINES": 20_000}, []),
}


def test_each_has_a_toy_size():
    assert {path.stem for path in BENCHMARKS.glob("*.py")} == set(TOYS)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOYS)
def test_benchmark_runs_to_its_end(name, monkeypatch, capsys):
    sizes, arguments = TOYS[name]
    if name == "bench_rules":
        pytest.importorskip("numba", reason="compiled rules need numba: pip install numba")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    monkeypatch.delenv("VLAPIC_KVM_UNIT_TESTS", raising=False)
    program = import_module(name)
    for size, value in sizes.items():
        monkeypatch.setattr(program, size, value)
    program.main()
    printed, complaints = capsys.readouterr()
    assert complaints == ""
    assert any(character.isdigit() for character in printed)
