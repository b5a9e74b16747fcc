# SPDX-License-Identifier: GPL-2.0-or-later
"""Ctrl-C at any stage of a replay ends it, with what there is so far."""

import json

import pytest

from tests.support.replay_text import HEADER, sample, start, wait
from vlapic.cli import main
from vlapic.replay import run as session
from vlapic.replay.replayer import Replay
from vlapic.replay.run import replay

TEXT = HEADER + start(1) + wait(10, 800) + sample(11, 1100) + wait(20, 800) + sample(21, 1100)


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def ctrl_c_in_pass(monkeypatch):
    """Ctrl-C comes once, after the first batch of a pass over the trace: of the first, the second..."""

    def arrange(number):
        passes = 0

        class Interrupted(Replay):
            def __init__(self, *args, **options):
                nonlocal passes
                super().__init__(*args, **options)
                passes += 1
                self.interrupted = passes == number

            def add(self, batch):
                super().add(batch)
                if self.interrupted:
                    raise KeyboardInterrupt

        monkeypatch.setattr(session, "Replay", Interrupted)

    return arrange


def test_ctrl_c_in_the_search_for_flips_ends_the_replay(trace, ctrl_c_in_pass):
    whole = replay(trace, infer_flag=True)
    assert not whole.interrupted
    for number in (1, 2):
        ctrl_c_in_pass(number)
        result = replay(trace, infer_flag=True)
        assert (result.interrupted, result.exit_status) == (True, 130)
        assert result.events == 2


def test_the_command_says_so_and_prints_what_there_is(trace, ctrl_c_in_pass, capsys):
    ctrl_c_in_pass(1)
    assert main(["replay", str(trace), "--infer-flag"]) == 130
    out, err = capsys.readouterr()
    assert "interrupted" in err
    assert "2 " in out


def test_ctrl_c_keeps_the_trajectory_and_the_result_so_far(trace, ctrl_c_in_pass, capsys, tmp_path):
    ctrl_c_in_pass(1)
    path = tmp_path / "out.csv"
    assert main(["replay", str(trace), "--json", "--trajectory", str(path)]) == 130
    out, err = capsys.readouterr()
    assert "the results are those of the trace so far" in err
    assert json.loads(out)["vcpus"][0]["events"] == 2
    assert len(path.read_text().splitlines()) == 1 + 2


def test_ctrl_c_while_a_frequency_is_fitted_ends_the_replay(trace, monkeypatch):
    said = "kvm_wait_lapic_expire: vcpu 0: delta 800 (late)"
    trace.write_text(f" vmm-200 [000] d..1. 0.000010: {said}\n")

    def fitting(reader):
        raise KeyboardInterrupt

    monkeypatch.setattr("vlapic.replay.assumptions.fit_frequencies", fitting)
    result = replay(trace)
    assert (result.interrupted, result.vcpus) == (True, ())
