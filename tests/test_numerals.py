# SPDX-License-Identifier: GPL-2.0-or-later
"""What is a number in text, and what is none."""

import pytest

from vlapic.numerals import MOST_DIGITS, counted, hex_number, real_number, shown, whole_number

NO_NUMBERS = (
    *(
        "",
        " ",
        "-",
        "+5",
        "1_0",
        "1 0",
        " 5",
        "5 ",
        "5\n",
        "--5",
        "\u0665",
        "\uff11\uff12",
        "\xb2",
        "0x10",
        "1e3",
        "1.0",
    ),
    *("nan", "inf", "9" * 5000, "9" * (MOST_DIGITS + 1)),
)


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_only_ascii_digits_are_a_whole_number(text):
    with pytest.raises(ValueError, match="no whole number"):
        whole_number(text)


def test_a_whole_number_may_be_negative_or_begin_with_zeros():
    assert [whole_number(text) for text in ("0", "-1", "007", str(1 << 64))] == [0, -1, 7, 1 << 64]


@pytest.mark.parametrize("text", ["0", "-1", "256"])
def test_a_whole_number_out_of_range_is_refused(text):
    with pytest.raises(ValueError, match=r"is not from 1 to 255"):
        whole_number(text, (1, 255))


@pytest.mark.parametrize("text", ["12", "x12", "0x", "0x1_0", "0x\u0661", "-0x1", "0x" + "f" * 5000])
def test_a_hexadecimal_number_says_that_it_is_one(text):
    with pytest.raises(ValueError, match="no hexadecimal number"):
        hex_number(text)
    assert hex_number("0x6e0") == hex_number("0X6E0") == 0x6E0


@pytest.mark.parametrize(
    "text", ["", ".", "+1", "1_0.5", "nan", "inf", "-inf", "1e400", "\u0665.5", "1,5", " 1"]
)
def test_a_real_number_is_finite_and_of_ascii(text):
    with pytest.raises(ValueError, match="no number"):
        real_number(text)
    assert [real_number(text) for text in ("2", "0.5", ".5", "1.", "-1e-3")] == [2, 0.5, 0.5, 1, -0.001]


def test_a_long_text_is_shown_in_short():
    assert len(shown("9" * 5000)) < 60
    assert shown("12") == "'12'"


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [
        (1, ("line",), "1 line"),
        (0, ("line",), "0 lines"),
        (2, ("loss", "losses"), "2 losses"),
        (1, ("loss", "losses"), "1 loss"),
    ],
)
def test_one_of_something_has_no_plural(number, words, said):
    assert counted(number, *words) == said
