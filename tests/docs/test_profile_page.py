# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/profiles.md says what each profile does."""

from tests.docs.profile_page import BETWEEN, PAGE, TABLES, with_tables

TEXT = PAGE.read_text()


def test_the_pages_tables_are_the_rows():
    # Out of date? python -m tests.docs.profile_page
    assert with_tables(TEXT) == TEXT
    assert [found[2] for found in BETWEEN.finditer(TEXT)] == list(TABLES)


def test_a_page_that_is_out_of_date_is_found():
    old = TEXT.replace("held at 5000, tuning goes on", "held at 6000")
    assert old != TEXT
    assert with_tables(old) == TEXT
