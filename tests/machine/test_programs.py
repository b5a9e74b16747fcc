"""Finding a guest by what a user types."""

from pathlib import Path

import pytest

from vlapic.errors import UsageError
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
