# SPDX-License-Identifier: GPL-2.0-or-later
"""Scanning many lines agrees with reading them one by one, for every form there is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlapic.trace.markers import MARKERS
from vlapic.trace.templates import Field, Form
from vlapic.trace.text.scan import scan
from vlapic.trace.text.words import PAD_BEFORE, Text
from vlapic.trace.tracepoints import TRACEPOINTS

FORMS = [(point.name, form) for point in TRACEPOINTS for form in point.line_forms]
FORMS += [(event_type.__name__, form) for event_type, form in MARKERS]


def lines_of(texts):
    joined = b"\n".join(texts)
    lengths = np.array([len(text) for text in texts])
    starts = PAD_BEFORE + np.cumsum(lengths + 1) - lengths - 1
    return Text(joined), starts, starts + lengths


def field_text(form, field):
    match field.kind:
        case "u":
            return st.integers(0, 2**64 - 1).map(str)
        case "d":
            return st.integers(-(2**63), 2**63 - 1).map(str)
        case "x":
            return st.integers(0, 2**64 - 1).map(lambda n: f"{n:x}")
        case "p":
            return st.integers(0, 2**64 - 1).map(lambda n: f"{n:016x}") | st.just("0xffff888100")
        case "words":
            return st.sampled_from(field.words)
        case "symbol":
            return st.sampled_from([name.decode() for name in form.symbols]) | st.just("0x170")
        case "w":
            return st.sampled_from(["ABS|PINNED", "0xa", "x" * 27])
    return st.sampled_from(["npf", "CPU 0/KVM", "kworker/0:1", "a rip b", "x" * 27, ""])


def text_of(form):
    parts = [
        field_text(form, piece) if isinstance(piece, Field) else st.just(piece.decode())
        for piece in form.pieces
    ]
    return st.tuples(*parts).map("".join).map(str.encode)


@st.composite
def damaged(draw, text):
    whole = draw(text)
    at = draw(st.integers(0, max(len(whole) - 1, 0)))
    return whole[:at] + draw(st.binary(max_size=3)).replace(b"\n", b"") + whole[at + 1 :]


@pytest.mark.parametrize(("name", "form"), FORMS, ids=[f"{name}: {form.text[:30]}" for name, form in FORMS])
def test_what_is_scanned_is_what_the_form_reads(name, form):
    whole = text_of(form)

    @settings(max_examples=20)
    @given(st.lists(st.one_of(whole, whole, damaged(whole)), min_size=1, max_size=6))
    def check(texts):
        # As lines are handed over: without blanks at their end.
        texts = [text.rstrip(b" \r") for text in texts]
        scanned = scan(form, *lines_of(texts))
        for row, text in enumerate(texts):
            if scanned is None or not scanned.read[row]:
                continue
            expected = form.read(text)
            assert expected is not None, text
            for field in form.fields:
                value = scanned.columns[field.name][row]
                if field.kind in "sw":
                    cut = bytes(value).decode(errors="backslashreplace")
                    assert expected[field.name].startswith(cut)
                    assert len(value) == 28 or cut == expected[field.name].rstrip("\0")
                else:
                    assert int(value) == expected[field.name] % 2**64

    check()


def test_nearly_every_whole_line_is_scanned_without_the_regular_expression():
    form = Form("vcpu {vcpu} reason {reason:s} rip 0x{rip:x} info {info1:x} {info2:x}")
    texts = [f"vcpu 0 reason EPT_VIOLATION rip 0x{n:x} info {n} 0".encode() for n in range(50)]
    scanned = scan(form, *lines_of(texts))
    assert scanned.read.all()
    assert scanned.columns["reason"].tolist() == [b"EPT_VIOLATION"] * 50


def test_lines_of_another_form_are_none():
    assert scan(Form("vcpu {vcpu}"), *lines_of([b"reason 1", b""])) is None
