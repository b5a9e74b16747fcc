# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers and runs at many places are those that Python reads one by one."""

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vlapic.trace.text.words import (
    PAD_BEFORE,
    Text,
    decimals_at,
    decimals_before,
    hashes,
    hex_at,
    spaces_at,
    spaces_before,
    starts_with,
)

texts = st.one_of(
    st.binary(max_size=40),
    st.text("0123456789 abcdefABCDEFxg.@`:/", max_size=40).map(str.encode),
    st.from_regex(rb"[ ]{0,30}[0-9]{0,22}[ ]{0,30}", fullmatch=True),
    st.from_regex(rb"[0-9a-fA-F]{0,18}[ .g]", fullmatch=True),
)


def everywhere(text):
    return np.arange(PAD_BEFORE, PAD_BEFORE + len(text) + 1)


@given(texts)
def test_a_decimal_number_begins_here(text):
    values, lengths = decimals_at(Text(text), everywhere(text))
    for at in range(len(text) + 1):
        digits = re.match(rb"[0-9]*", text[at:])[0]
        assert lengths[at] == min(len(digits), 24)
        if len(digits) <= 20:
            assert int(values[at]) == int(digits or b"0") % 2**64


@given(texts)
def test_a_decimal_number_ends_here(text):
    values, lengths = decimals_before(Text(text), everywhere(text))
    for at in range(len(text) + 1):
        digits = re.search(rb"[0-9]*\Z", text[:at])[0]
        assert lengths[at] == min(len(digits), 24)
        if len(digits) <= 20:
            assert int(values[at]) == int(digits or b"0") % 2**64


@given(texts)
def test_a_hexadecimal_number_begins_here(text):
    values, lengths = hex_at(Text(text), everywhere(text))
    for at in range(len(text) + 1):
        digits = re.match(rb"[0-9a-fA-F]*", text[at:])[0]
        assert lengths[at] == min(len(digits), 24)
        if len(digits) <= 16:
            assert int(values[at]) == int(digits or b"0", 16)


@given(texts)
def test_spaces_are_counted_on_both_sides(text):
    padded = Text(text)
    after, before = spaces_at(padded, everywhere(text)), spaces_before(padded, everywhere(text))
    for at in range(len(text) + 1):
        assert after[at] == min(len(re.match(rb" *", text[at:])[0]), 56)
        assert before[at] == min(len(re.search(rb" *\Z", text[:at])[0]), 56)


@given(texts, st.binary(min_size=1, max_size=20))
def test_a_place_begins_with_some_characters(text, literal):
    for wanted in (literal, text[3:14]):
        found = starts_with(Text(text), everywhere(text), wanted)
        padded = text + b"\n" * 20
        assert found.tolist() == [padded[at:].startswith(wanted) for at in range(len(text) + 1)]


@given(st.lists(st.binary(max_size=24), min_size=1, max_size=8, unique=True))
def test_different_strings_have_different_hashes_wherever_they_stand(strings):
    joined = Text(b"".join(strings) * 2)
    lengths = np.array([len(s) for s in strings] * 2)
    starts = PAD_BEFORE + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    values = hashes(joined, starts, lengths)
    assert values[: len(strings)].tolist() == values[len(strings) :].tolist()
    assert len(set(values.tolist())) == len(strings)
    alone = [hashes(joined, starts[n : n + 1], lengths[n : n + 1])[0] for n in range(len(strings))]
    assert alone == values[: len(strings)].tolist()


@given(texts)
def test_strings_are_cut_out_as_they_stand(text):
    starts = everywhere(text)
    lengths = np.minimum(5, len(text) + PAD_BEFORE - starts)
    cut = Text(text).strings(starts, lengths, 8).tolist()
    assert cut == [text[at : at + 5].rstrip(b"\0") for at in range(len(text) + 1)]
