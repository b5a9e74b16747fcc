# SPDX-License-Identifier: GPL-2.0-or-later
"""Every example of the page on host models prints what the page says."""

import pytest

from tests.docs.documents import ROOT, commands, programs, run_command, run_program, shortened, write_files

HOSTS = (ROOT / "docs" / "hosts.md").read_text()
EXAMPLES = list(commands(HOSTS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder with the page's files for all examples: a later one may read what an earlier one wrote."""
    made = tmp_path_factory.mktemp("examples")
    write_files(HOSTS, made)
    return made


@pytest.mark.parametrize(("example", "output"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_of_the_page_on_hosts_prints_what_the_page_says(folder, example, output):
    # Out of date? python -m tests.docs.documents
    assert shortened(run_command(example, folder), output) == output


@pytest.mark.parametrize(("program", "output"), list(programs(HOSTS)))
def test_the_program_of_the_page_on_hosts_prints_what_the_page_says(folder, program, output):
    assert run_program(program, folder) == output
