# SPDX-License-Identifier: GPL-2.0-or-later
"""A file that was cut short is called cut off, with the byte and the CPU in whose data that is."""

from __future__ import annotations

import pytest

from tests.trace.dat.test_silent_loss import EVENTS_A_CPU, KINDS, PAGE, Outcome, file_of, spots
from vlapic.cli import main
from vlapic.errors import TraceError
from vlapic.trace import open_trace


def cuts(kind, data):
    """At every number of the structure, before, in and behind it; and everywhere a little."""
    numbers = [
        spot for spot in spots(data, kind, "<", 8) if not spot.what.endswith(("of record", "of event"))
    ]
    at_structure = {spot.at + more for spot in numbers for more in (0, spot.width // 2)}
    return sorted({*at_structure, *range(0, len(data), 301), *range(len(data) - 20, len(data))})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("told", [True, False], ids=["with stats", "without stats"])
def test_a_cut_at_any_place_of_the_structure_is_called_one_there(kind, told):
    data = file_of(kind, told=told)
    whole = set(Outcome.of(data).events)
    places = cuts(kind, data)
    assert len(places) > 100
    sections = [spot.at for spot in spots(data, kind, "<", 8) if spot.what == "kind of section"]
    strings = sections[-1] if sections else None
    read = []
    for length in places:
        after = Outcome.of(data[:length])
        if after.error:
            assert not read, "a longer file gives no less"
            if length >= 12:
                assert f"ends (after {length} bytes) in the middle of" in after.error
                assert "cut off before its events" in after.error
            continue
        if length == strings:
            continue  # only those are missing, which nothing leads to
        assert ("unfinished", length) in {(lost.cause, lost.place) for lost in after.lost}
        # Of version 7 the numbers of CPUs are in what is missing.
        assert kind != "v6" or set(after.events) <= whole
        read.append(len(after.events))
    assert max(read) >= EVENTS_A_CPU * 3


@pytest.mark.parametrize("kind", ["v6", "none"])
def test_the_cpu_in_whose_data_the_cut_is_is_named(kind, tmp_path):
    data = file_of(kind, told=False)
    # In the middle of the last page but one of the second CPU.
    places = [spot.at for spot in spots(data, kind, "<", 8) if spot.what == "commit"]
    second = places[len(places) // 4 * 2 - 2]
    (tmp_path / "cut.dat").write_bytes(data[: second + 100])
    trace = open_trace(tmp_path / "cut.dat")
    cpus = {event.vcpu for event in trace.events() if type(event).__name__ == "Entry"}
    assert cpus == {0, 1}
    [words] = trace.losses_in_words()
    assert words.startswith(f"the trace is cut off at byte {second + 100}, in ")
    assert "CPU 1" in words if kind == "none" else "CPUs 0, 1, 2" in words
    assert words.endswith("what stands before that was read")


@pytest.mark.parametrize("kind", KINDS)
def test_replay_calls_a_trace_that_is_cut_off_before_its_first_event_what_it_is(kind, tmp_path, capsys):
    data = file_of(kind, told=False)
    first = {"v6": "commit", "none": "commit"}.get(kind, "number of chunks")
    length = next(spot.at for spot in spots(data, kind, "<", 8) if spot.what == first) + 2
    (tmp_path / "cut.dat").write_bytes(data[:length])
    assert main(["replay", str(tmp_path / "cut.dat")]) == 1
    said = capsys.readouterr().err
    assert f"cut off at byte {length}" in said
    assert "larger buffer" not in said
    assert "copy it again" in said
    assert said.count("\n") == 1


def test_convert_says_where_the_trace_was_cut_off(tmp_path, capsys):
    data = file_of("v6", told=True)
    length = len(data) - PAGE * 3
    (tmp_path / "cut.dat").write_bytes(data[:length])
    assert main(["convert", str(tmp_path / "cut.dat"), str(tmp_path / "out.csv")]) == 0
    assert f"the trace is cut off at byte {length}, in CPU 0's data" in capsys.readouterr().out


def test_a_file_of_a_wrong_page_size_has_all_its_events_and_says_so():
    for kind in ("v6", "none", "zlib"):
        data = file_of(kind, told=False)
        whole = Outcome.of(data)
        sizes = [spot for spot in spots(data, kind, "<", 8) if spot.what.startswith("page size")]
        spot = sizes[0] if kind == "v6" else sizes[1]
        wrong = data[: spot.at] + (4097).to_bytes(4, "little") + data[spot.at + 4 :]
        after = Outcome.of(wrong)
        assert after.events == whole.events
        assert {lost.cause for lost in after.lost} == {"damaged"}


def test_no_data_at_all_is_no_trace():
    with pytest.raises(TraceError, match=r"is empty"):
        open_trace("/dev/null")
