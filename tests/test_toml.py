# SPDX-License-Identifier: GPL-2.0-or-later
"""TOML text: what is wrong with it has a line, and Python's own limits are no tracebacks."""

import pytest

from vlapic.toml import NotToml, parse


def test_tables_and_numbers_are_as_toml_has_them():
    assert parse("a = 1_000\n[b]\nc = 0x10\nd = [1.5, inf]") == {
        "a": 1000,
        "b": {"c": 16, "d": [1.5, float("inf")]},
    }


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a = 1\nb =\n", 2, "Invalid value"),
        ("a = 1\nb = [1,\n", 2, "Invalid value"),
        ("\na = " + "7" * 5000, 2, "a number has more than 40 digits"),
        ("\n\na = -" + "7" * 41, 3, "a number has more than 40 digits"),
        ("a = [{b = 0x" + "f" * 5000 + "}]", 1, "a number has more than 40 digits"),
        ("a = 1\n\nb = " + "[" * 3000 + "]" * 3000, 3, "brackets are nested too deeply"),
        ("a = 1\na = 2", 2, "Cannot overwrite a value"),
    ],
)
def test_what_is_wrong_has_its_line(text, line, reason):
    with pytest.raises(NotToml) as found:
        parse(text)
    assert (found.value.line, str(found.value)) == (line, reason)


def test_keys_with_thousands_of_dots_are_read():
    found = parse(".".join("a" * 5000) + " = 1")
    depth = 0
    while isinstance(found, dict):
        (found,) = found.values()
        depth += 1
    assert (depth, found) == (5000, 1)
