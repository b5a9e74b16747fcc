# SPDX-License-Identifier: GPL-2.0-or-later
"""A run's observers: one that fails is dropped, and a trace has every event once."""

import pytest

from vlapic.errors import OutputError
from vlapic.events import Entry, Eoi
from vlapic.session.observers import TraceFile, all_of
from vlapic.trace.write.ftrace import FtraceTextWriter

EVENTS = [Entry(tsc, 0, 0, tsc) if tsc % 3 else Eoi(tsc, 0, 0, tsc % 256) for tsc in range(1000)]


def trace_of(path):
    return TraceFile(FtraceTextWriter.open(path, "v5.2", host_khz=2_500_000))


def stamps(path):
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return [int(line.split(":")[0].split()[-1]) for line in lines]


def test_one_observer_stands_for_all():
    first, second = [], []
    tell = all_of([first.append, second.append])
    tell(EVENTS[0])
    assert first == second == EVENTS[:1]
    assert all_of([]) is None


def test_one_that_fails_is_dropped_with_one_warning_and_the_others_are_told_on():
    told, before, behind = [], [], []

    def fails(event):
        told.append(event)
        raise ZeroDivisionError("by 0")

    tell = all_of([before.append, fails, behind.append])
    with pytest.warns(RuntimeWarning, match="an observer failed with ZeroDivisionError: by 0") as warned:
        tell(EVENTS[0])
    assert len(warned) == 1
    tell(EVENTS[1])
    tell(EVENTS[2])
    assert (told, before, behind) == (EVENTS[:1], EVENTS[:3], EVENTS[:3])


def test_ctrl_c_in_an_observer_ends_the_run():
    def interrupted(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        all_of([interrupted])(EVENTS[0])


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 1000])
def test_a_trace_has_every_event_in_its_order(count, tmp_path):
    path = tmp_path / "trace"
    with trace_of(path) as trace:
        for event in EVENTS[:count]:
            trace.write(event)
    assert stamps(path) == list(range(count))
    assert f"entries-written: {count}/{count} " in path.read_text()
    assert trace.failure is None


def test_ctrl_c_amid_the_lines_loses_none_and_doubles_none(tmp_path, monkeypatch):
    path = tmp_path / "trace"
    trace = trace_of(path)
    with monkeypatch.context() as patch:
        patch.setattr(FtraceTextWriter, "_lines_of", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            all(trace.write(event) is None for event in EVENTS)
    trace.close()
    kept = stamps(path)
    assert kept == list(range(len(kept)))
    assert kept


def test_a_trace_that_cannot_be_written_tells_its_first_failure_and_takes_no_more(tmp_path, monkeypatch):
    calls = []

    def full(self, events):
        calls.append(len(events))
        raise OutputError(f"failure {len(calls)}")

    monkeypatch.setattr(FtraceTextWriter, "write_all", full)
    trace = trace_of(tmp_path / "trace")
    for event in EVENTS:
        trace.write(event)
    trace.close()
    trace.close()
    assert trace.failure == "failure 1"
    assert len(calls) == 1
