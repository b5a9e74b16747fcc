# SPDX-License-Identifier: GPL-2.0-or-later
"""Every program of the page on the library prints what is below it."""

import pytest

from tests.docs.documents import ROOT, programs, run_program

PAGE = (ROOT / "docs" / "library.md").read_text()
PROGRAMS = list(programs(PAGE))


@pytest.mark.parametrize(("program", "output"), PROGRAMS, ids=range(len(PROGRAMS)))
def test_a_program_of_the_page_on_the_library_prints_what_the_page_says(tmp_path, program, output):
    # Out of date? python -m tests.docs.documents
    assert run_program(program, tmp_path) == output


def test_every_program_of_the_page_has_its_output_below_it():
    assert PAGE.count("```python\n") == len(PROGRAMS)


def test_the_first_program_has_ten_lines_or_fewer():
    assert len(PROGRAMS[0][0].splitlines()) <= 10
