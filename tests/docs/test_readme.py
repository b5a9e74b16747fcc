# SPDX-License-Identifier: GPL-2.0-or-later
"""README: its commands and its program print what it says, and it is short."""

from tests.docs.documents import ROOT, commands, programs, run_command, run_program, shortened, write_files

README = (ROOT / "README.md").read_text()


def test_the_commands_print_what_readme_says(tmp_path):
    write_files(README, tmp_path)
    examples = list(commands(README))
    assert examples[0][0] == "make run"
    for command, output in examples:
        # Out of date? python -m tests.docs.documents
        assert shortened(run_command(command, tmp_path), output) == output


def test_the_program_prints_what_readme_says(tmp_path):
    ((program, output),) = programs(README)
    assert len(program.splitlines()) <= 10
    assert run_program(program, tmp_path) == output


def test_readme_is_short():
    assert len(README.splitlines()) <= 120
