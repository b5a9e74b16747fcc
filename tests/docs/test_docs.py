# SPDX-License-Identifier: GPL-2.0-or-later
"""Every example of the documentation prints what its page says, and the page on a command is complete."""

import re

import click
import pytest

from tests.docs.documents import ROOT, commands, programs, run_command, run_program, shortened, write_files
from vlapic.cli.run import command as run_command_line

RUN = (ROOT / "docs" / "run.md").read_text()
#: The pages on commands; others have tests of their own.
PAGES = ("run", "compare", "budgets", "completion")
TEXTS = {page: (ROOT / "docs" / f"{page}.md").read_text() for page in PAGES}
EXAMPLES = [
    pytest.param(page, example, output, id=f"{page}: {example}")
    for page, text in TEXTS.items()
    for example, output in commands(text)
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for each page, with its files: a later example may read what an earlier one wrote."""
    made = {page: tmp_path_factory.mktemp(page) for page in PAGES}
    for page, folder in made.items():
        write_files(TEXTS[page], folder)
    return made


@pytest.mark.parametrize(("page", "example", "output"), EXAMPLES)
def test_an_example_of_a_page_prints_what_the_page_says(folders, page, example, output):
    # Out of date? python -m tests.docs.documents
    assert shortened(run_command(example, folders[page]), output) == output


@pytest.mark.parametrize("page", PAGES)
def test_a_program_of_a_page_prints_what_the_page_says(folders, page):
    for program, output in programs(TEXTS[page]):
        assert run_program(program, folders[page]) == output


def test_the_page_on_run_explains_every_option():
    explained = set(re.findall(r"^`(--[a-z-]+)", RUN, re.MULTILINE))
    params = run_command_line.get_params(click.Context(run_command_line))
    assert explained == {name for param in params for name in param.opts if name.startswith("--")}


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(f"docs/{it.name}" for it in (ROOT / "docs").glob("*.md"))]
)
def test_every_row_of_a_table_has_as_many_cells_as_its_heading(page):
    tables, in_code = [[]], False
    for line in (ROOT / page).read_text().splitlines():
        in_code ^= line.startswith("```")
        if line.startswith("|") and not in_code:
            tables[-1].append(line)
        elif tables[-1]:
            tables.append([])
    for heading, *rows in filter(None, tables):
        bars = len(re.findall(r"(?<!\\)\|", heading))
        assert [row for row in rows if len(re.findall(r"(?<!\\)\|", row)) != bars] == []


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "index.md").read_text()
    listed = re.search(r"```\{toctree\}\n(?::.*\n)*\n(.*?)```", index, re.DOTALL)[1].split()
    assert sorted(listed) == sorted(
        page.stem for page in (ROOT / "docs").glob("*.md") if page.stem != "index"
    )


def test_the_page_on_design_names_every_source_file_in_its_folder():
    layers = (ROOT / "docs" / "design.md").read_text().partition("```\n")[2].partition("```")[0]
    named, folders = set(), [(-1, "")]  # with the column of each folder's line
    for line in filter(None, layers.splitlines()):
        indent = len(line) - len(line.lstrip())
        while folders[-1][0] >= indent:
            folders.pop()
        if folder := re.match(r" *(\w+/)", line):
            folders.append((indent, folders[-1][1] + folder[1]))
        named |= {folders[-1][1] + name for name in re.findall(r"\b\w+\.py\b", line)}
    package = ROOT / "src" / "vlapic"
    files = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    assert sorted(name for name in files - named if not name.endswith("__init__.py")) == []
    assert sorted(named - files) == []
