"""Every example of the documentation prints what its page says, and the page on a command is complete."""

import re

import click
import pytest

from tests.documents import ROOT, commands, run_command, shortened
from vlapic.cli.run import command as run_command_line

RUN = (ROOT / "docs" / "run.md").read_text()
EXAMPLES = list(commands(RUN))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all examples of the page: a later one may read what an earlier one wrote."""
    return tmp_path_factory.mktemp("examples")


@pytest.mark.parametrize(("example", "output"), EXAMPLES, ids=[example for example, _ in EXAMPLES])
def test_an_example_of_the_page_on_run_prints_what_the_page_says(folder, example, output):
    # Out of date? python -m tests.documents
    assert shortened(run_command(example, folder), output) == output


def test_the_page_on_run_explains_every_option():
    explained = set(re.findall(r"^`(--[a-z-]+)", RUN, re.MULTILINE))
    params = run_command_line.get_params(click.Context(run_command_line))
    assert explained == {name for param in params for name in param.opts if name.startswith("--")}


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text()
    listed = re.search(r"```\{toctree\}\n(?::.*\n)*\n(.*?)```", index, re.DOTALL)[1].split()
    assert sorted(listed) == sorted(
        page.stem for page in (ROOT / "docs").glob("*.md") if page.stem != "index"
    )
