# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables stay whole on any console."""

import io

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlapic.report.tables import whole


def drawn(width, rows, **columns):
    file = io.StringIO()
    console = Console(file=file, width=width)
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading, settings in columns.items():
        table.add_column(heading, **settings)
    for row in rows:
        table.add_row(*row)
    console.print(whole(table, console))
    return [line.rstrip() for line in file.getvalue().splitlines()]


NUMBER, WORDS = {"justify": "right", "no_wrap": True}, {}


def test_a_table_that_fits_is_a_table():
    assert drawn(20, [("a", "12")], name=WORDS, value=NUMBER) == ["name value", "a       12"]


def test_words_that_can_be_wrapped_are():
    assert drawn(16, [("a", "one two three")], name=WORDS, what=WORDS) == [
        "name what",
        "a    one two",
        "     three",
    ]


@pytest.mark.parametrize("width", [8, 12, 15])
def test_a_number_that_would_be_cut_stands_behind_its_heading(width):
    lines = drawn(width, [("a", "1234567890"), ("b", "")], name=WORDS, value=NUMBER)
    assert "".join(lines).replace(" ", "") == "avalue:1234567890b"
    assert max(map(len, lines)) <= width


def test_the_style_of_a_cell_is_kept():
    file = io.StringIO()
    console = Console(file=file, width=8, force_terminal=True, color_system="standard")
    table = Table(box=None)
    table.add_column("name")
    table.add_column("regime", no_wrap=True)
    table.add_row("a", Text("settled-at-last", "green"))
    console.print(whole(table, console))
    assert "\x1b[32m" in file.getvalue()
