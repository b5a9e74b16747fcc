# SPDX-License-Identifier: GPL-2.0-or-later
"""Finding a guest by what a user types, and what is found runs on every host."""

import re
from importlib.resources import files
from pathlib import Path

import pytest

import vlapic
from vlapic.errors import UsageError
from vlapic.machine.guests.loader import load
from vlapic.machine.guests.programs import DEFAULT_PROGRAM, EXCEPTION, PROGRAMS, REPORTS, STAGE, find_program
from vlapic.machine.hostmodel.named import HOSTS


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_built_in_guest_is_found_by_name_and_can_be_loaded(name):
    program = find_program(name)
    assert program is PROGRAMS[name]
    assert load(program.image()).first.rip > 1 << 20
    assert "\n" not in program.summary


def test_the_default_guest_is_there():
    assert DEFAULT_PROGRAM in PROGRAMS


def test_a_name_wins_over_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("deadline").write_bytes(b"")
    assert find_program("deadline") is PROGRAMS["deadline"]


@pytest.mark.parametrize("text", ["./deadline", "guest.bin", "a/b"])
def test_what_looks_like_a_path_is_one(text):
    assert find_program(text) == Path(text)


def test_a_file_that_is_there_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine").write_bytes(b"")
    assert find_program("mine") == Path("mine")


def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(UsageError, match="unknown guest 'deadlin'; did you mean 'deadline'\\?"):
        find_program("deadlin")


def test_a_name_like_no_other_lists_all():
    with pytest.raises(UsageError, match="unknown guest 'zzz'; known: deadline, deadline-hlt"):
        find_program("zzz")


#: (VMs, vCPUs more than the guest is made for, physical CPUs; None is one for each).
MACHINES = [(1, 0, None), (1, 0, 1), (1, 1, 2), (2, 0, 1)]


def kept_short(program, host, vms, pcpus):
    """Whether guests that wait for each other wait for no slice of 100 ms, and if so, in one case only."""
    return program.vcpus == 1 or host != "realtime" or pcpus is None or (program.name == "ipi" and vms == 1)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_guest_runs_to_its_end_on_every_host_however_its_cpus_are_shared(name, host):
    program, found = PROGRAMS[name], {}
    for vms, more, pcpus in MACHINES:
        vcpus = program.vcpus + more
        if vms * vcpus >= (pcpus or 1) and kept_short(program, host, vms, pcpus):
            result = vlapic.run(name, host=host, events=2, vms=vms, vcpus=vcpus, pcpus=pcpus)
            found[vms, more, pcpus] = result.exit_code, result.failure
    # A timer of 20 us comes before the guest is asleep where an exit takes longer than that.
    short_sleep_fails = (name, host) == ("interrupt", "nested")
    assert set(found.values()) == {(16 + 3 if short_sleep_fails else 0, None)}, found


@pytest.mark.parametrize(
    ("guest", "value", "words"),
    [
        ("deadline", 1, "an interrupt came before its deadline"),
        ("storm", 2, "more or fewer interrupts than it was asked for"),
        ("ipi", 3, "it needs two vCPUs"),
        ("uneven", 4, "its second vCPU does not start"),
        ("stall", 16, "the last interrupt came before its HLT"),
        ("interrupt", 19, "stage 3 failed"),
        ("deadline", 0x80 + 13, "exception 13 (#GP), which it did not expect"),
        ("deadline", 0x80 + 31, "exception 31, which it did not expect"),
        ("deadline", 16, ""),
        ("deadline", 5, ""),
        ("deadline", 0x80 + 32, ""),
    ],
)
def test_what_a_guest_reports_is_said_in_words(guest, value, words):
    assert PROGRAMS[guest].report_in_words(value) == words


def test_the_words_are_for_the_values_of_the_sources():
    source = (files("vlapic.machine") / "guests" / "common.S").read_text()
    values = dict(re.findall(r"^ +\.set +([A-Z_]+), (\w+)", source, re.MULTILINE))
    named = ("ALL_GOOD", "SOME_EARLY", "WRONG_COUNT", "ONE_CPU", "NO_SECOND_CPU")
    assert [int(values[name], 0) for name in named] == list(REPORTS)
    assert (int(values["STAGE"], 0), int(values["EXCEPTION"], 0)) == (STAGE, EXCEPTION)


@pytest.mark.parametrize("name", [each.name for each in PROGRAMS.values() if each.deadlines])
def test_a_guest_with_deadlines_takes_their_distance(name):
    near, far = (vlapic.run(name, events=5, delta=delta).virtual_ns for delta in ("300us", "600us"))
    assert far > 1.5 * near
    assert vlapic.run(name, events=5, delta="300us").delta_cycles == 750_000


@pytest.mark.parametrize("name", [each.name for each in PROGRAMS.values() if not each.deadlines])
def test_a_guest_without_deadlines_refuses_their_distance(name):
    with pytest.raises(UsageError, match=f"guest '{name}' has no deadlines to set a distance of; delta goes"):
        vlapic.run(name, delta="50us")


def test_a_distance_is_given_once():
    with pytest.raises(UsageError, match="delta and delta_cycles are one setting"):
        vlapic.run(delta="50us", delta_cycles=5)


def test_without_one_asked_for_a_guest_has_its_own_distance():
    result = vlapic.run(events=5)
    assert result.delta_cycles is None
    assert "delta_cycles" not in result.as_json()
    assert vlapic.run(events=5, delta="200000cycles").as_json()["delta_cycles"] == 200_000
