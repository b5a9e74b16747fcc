"""Finding a guest by what a user types, and what is found runs on every host."""

from pathlib import Path

import pytest

import vlapic
from vlapic.errors import UsageError
from vlapic.machine.hosts import HOSTS
from vlapic.machine.loader import load
from vlapic.machine.programs import DEFAULT_PROGRAM, PROGRAMS, find_program


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
