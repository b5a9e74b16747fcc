# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables that stay whole: where a console is too narrow for one, its rows are told one below the other."""

from __future__ import annotations

import textwrap

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

#: What a rule is drawn with, in UTF-8 and in ASCII.
_RULE = "\u2500-"


def whole(table: Table, console: Console) -> Table | Group:
    """The table, or what it says a line a cell where a column of it would be cut on this console.

    Its cells are text. A row begins with its first cell; the others follow, each behind its heading, the
    empty ones left out.
    """
    drawn = "".join(segment.text for line in console.render_lines(table) for segment in line)
    said = [_text(part).plain for column in table.columns for part in (column.header, *column.cells)]
    if _written(drawn) == _written("".join(said)):
        return table
    headings = [_text(column.header).plain for column in table.columns]
    lines: list[Text] = []
    for row in zip(*(column.cells for column in table.columns), strict=True):
        first, *others = map(_text, row)
        lines.append(Text(first.plain.strip(), first.style or "bold"))
        for heading, cell in zip(headings[1:], others, strict=True):
            if cell.plain:
                lines += _labelled(heading, cell, console.width)
    return Group(*lines)


def _written(text: str) -> int:
    """How many characters there are but for spaces and the rule below headings."""
    return sum(not (character.isspace() or character in _RULE) for character in text)


def _text(cell: object) -> Text:
    return cell if isinstance(cell, Text) else Text(str(cell))


def _labelled(heading: str, cell: Text, width: int) -> list[Text]:
    """A cell behind its heading, in as many lines as it takes."""
    wrapped = textwrap.wrap(
        f"{heading}: {cell.plain}",
        width,
        initial_indent="  ",
        subsequent_indent="    ",
        break_on_hyphens=False,
    )
    return [Text(line, cell.style) for line in wrapped]
