# SPDX-License-Identifier: GPL-2.0-or-later
"""Every example of the page on guests prints what the page says."""

import pytest

from tests.docs.documents import ROOT, commands, run_command, shortened

EXAMPLES = list(commands((ROOT / "docs" / "guests.md").read_text()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all examples: a later one may read what an earlier one wrote."""
    return tmp_path_factory.mktemp("examples")


@pytest.mark.parametrize(("example", "output"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_of_the_page_on_guests_prints_what_the_page_says(folder, example, output):
    # Out of date? python -m tests.docs.documents
    assert shortened(run_command(example, folder), output) == output
