# SPDX-License-Identifier: GPL-2.0-or-later
"""Every example of the page on the patches prints what the page says."""

import pytest

from tests.docs.documents import ROOT, commands, run_command, shortened

EXAMPLES = list(commands((ROOT / "docs" / "patches.md").read_text()))


@pytest.mark.parametrize(("example", "output"), EXAMPLES, ids=[example for example, _ in EXAMPLES])
def test_an_example_of_the_page_on_the_patches_prints_what_the_page_says(tmp_path, example, output):
    # Out of date? python -m tests.docs.documents
    assert shortened(run_command(example, tmp_path), output) == output
