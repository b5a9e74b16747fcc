# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/device.md says what the device is."""

from tests.docs.device_page import BETWEEN, PAGE, with_table
from vlapic.cli.regs import ROWS

TEXT = PAGE.read_text()


def test_the_pages_register_table_is_the_rows():
    # Out of date? python -m tests.docs.device_page
    assert with_table(TEXT) == TEXT
    lines = BETWEEN.search(TEXT)[2].strip().splitlines()
    assert [line.split(" | ")[0].lstrip("| ") for line in lines[2:]] == [row.name for row in ROWS]


def test_a_page_that_is_out_of_date_is_found():
    old = TEXT.replace("| TPR | 0x80 |", "| TPR | 0x84 |")
    assert old != TEXT
    assert with_table(old) == TEXT


def test_every_file_of_the_device_is_on_the_page():
    source = PAGE.parents[1] / "src" / "vlapic" / "apic"
    assert all(f"`{file.name}`" in TEXT for file in source.glob("*.py") if file.name != "__init__.py")
