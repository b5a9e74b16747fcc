# SPDX-License-Identifier: GPL-2.0-or-later
"""The register table in docs/device.md, made from the rows.

    python -m tests.docs.device_page

writes it anew; read the diff.
"""

import re
from pathlib import Path

from vlapic.cli.regs import HEADINGS, ROWS, columns

PAGE = Path(__file__).parents[2] / "docs" / "device.md"
BETWEEN = re.compile(r"(<!-- registers: .*? -->\n)(.*?)(<!-- end of registers -->)", re.DOTALL)


def table():
    """The rows as a table of Markdown."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *map(columns, ROWS)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def with_table(text):
    """The page's text with the table as it is now."""
    return BETWEEN.sub(lambda found: f"{found[1]}\n{table()}\n{found[3]}", text)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
