# SPDX-License-Identifier: GPL-2.0-or-later
"""Every example of the page on replay prints what the page says, and the page explains every option."""

import re

import click
import pytest

from tests.docs.documents import ROOT, commands, run_command, shortened
from vlapic.cli.replay import command as replay_command

PAGE = (ROOT / "docs" / "replay.md").read_text()
EXAMPLES = list(commands(PAGE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all: a later example reads what an earlier one wrote."""
    return tmp_path_factory.mktemp("examples")


@pytest.mark.parametrize(("example", "output"), EXAMPLES, ids=[example for example, _ in EXAMPLES])
def test_an_example_of_the_page_on_replay_prints_what_the_page_says(folder, example, output):
    # Out of date? python -m tests.docs.documents
    assert shortened(run_command(example, folder), output) == output


def test_the_page_on_replay_explains_every_option():
    explained = set(re.findall(r"^`(--[a-z-]+)", PAGE, re.MULTILINE))
    params = replay_command.get_params(click.Context(replay_command))
    assert explained == {name for param in params for name in param.opts if name.startswith("--")} - {
        "--help"
    }
