"""docs/profiles.md says what each profile does."""

import pytest

from tests.documents import commands, run_command, shortened
from tests.profile_page import BETWEEN, PAGE, TABLES, with_tables

TEXT = PAGE.read_text()


def test_the_pages_tables_are_the_rows():
    # Out of date? python -m tests.profile_page
    assert with_tables(TEXT) == TEXT
    assert [found[2] for found in BETWEEN.finditer(TEXT)] == list(TABLES)


def test_a_page_that_is_out_of_date_is_found():
    old = TEXT.replace("held at 5000, tuning goes on", "held at 6000")
    assert old != TEXT
    assert with_tables(old) == TEXT


@pytest.mark.parametrize(("example", "output"), list(commands(TEXT)))
def test_an_example_of_the_page_on_profiles_prints_what_the_page_says(example, output, tmp_path):
    # Out of date? python -m tests.documents
    assert shortened(run_command(example, tmp_path), output) == output
