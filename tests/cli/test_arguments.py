# SPDX-License-Identifier: GPL-2.0-or-later
"""Options that cannot be meant together, and files that must not be written over."""

import os

import pytest

from vlapic.cli import main


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder to work in, with a host model and a configuration."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "host.toml").write_text("entry = 1000\n")
    (tmp_path / "ci.toml").write_text("[budget]\nearly = 0\n")
    (tmp_path / "guest.bin").write_bytes(b"\xf4")
    return tmp_path


def complaint(capsys, *arguments):
    status = main(["run", "--events", "3", *arguments])
    return status, capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--host", "host.toml", "--trace", "./host.toml"],
            "--trace './host.toml' would write over --host 'host.toml'; give it another name",
        ),
        (["--trace", "new", "--junit", "new"], "--junit 'new' would write over --trace 'new'"),
        (
            ["--config", "ci.toml", "--junit", "ci.toml"],
            "--junit 'ci.toml' would write over the configuration 'ci.toml'",
        ),
        (["guest.bin", "--junit", "guest.bin"], "--junit 'guest.bin' would write over guest 'guest.bin'"),
    ],
)
def test_an_output_that_would_write_over_another_file_of_the_run_is_refused(
    capsys, folder, arguments, message
):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    status, said = complaint(capsys, *arguments)
    assert (status, message in said) == (2, True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_several_outputs_may_go_to_nowhere(capsys):
    assert complaint(capsys, "--trace", os.devnull, "--junit", os.devnull) == (0, "")


def test_a_run_that_is_refused_leaves_no_empty_file_to_a_ci_system(capsys, folder):
    status, _ = complaint(capsys, "nosuch", "--junit", "junit.xml")
    assert (status, (folder / "junit.xml").exists()) == (2, False)


def test_two_options_that_run_nothing_contradict_each_other(capsys):
    status, said = complaint(capsys, "--list", "--print-host")
    assert status == 2
    assert "--list and --print-host contradict each other" in said
