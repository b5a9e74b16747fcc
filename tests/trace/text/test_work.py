# SPDX-License-Identifier: GPL-2.0-or-later
"""How much work lines of no meaning are: it grows as they do, and not as the square of it."""

import random

import numpy as np
import pytest

from tests.support.regex_steps import Steps
from vlapic.trace.text import lines as text_lines
from vlapic.trace.text.lines import read_lines
from vlapic.trace.text.words import Text

EVENTS = [
    b" CPU 0/KVM-5001  (   4990) [003] d..1.  12.345678: kvm_entry: vcpu 0",
    b"> CPU 0/KVM  5001/5002  [003]    12.345678:      kvm:kvm_entry: vcpu 0",
    b"[    1.234567] CPU 0/KV-5001     3d..1.   12345us+: kvm_entry: vcpu 0",
    b"     5001 [003]    12.345678: kvm:kvm_entry: vcpu 0",
    b"       CPU 0/KVM    5001   3 1 00000001 00000002 [00003039] 12.345ms (+0.001ms): kvm_entry: vcpu 0",
    b"no event: at all",
]
JUNK = {
    "blanks": b" ",
    "quotation marks": b">",
    "quotation marks apart": b"> ",
    "words far apart": b"a            ",
    "numbers apart": b"1  ",
    "threads": b"a-1  ",
    "threads and CPUs": b"a-1  [1]  ",
    "times": b"a-1 [1] 1: ",
    "numbers of a verbose line": b"1 1 1 00000001 ",
    "colons": b"a: ",
    "letters": b"abcdefgh",
}
EXPRESSIONS = {"a line": text_lines._LINE, "a verbose line": text_lines._VERBOSE}


def line_of(junk: bytes, length: int) -> bytes:
    return (junk * length)[: length - 3] + b": x"


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)
@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_a_line_of_twice_the_length_takes_twice_the_steps(junk, expression):
    short, long = (Steps(expression, line_of(junk, length)) for length in (150, 300))
    assert (short.end, long.end) == (None, None)
    assert long.taken < 2.5 * short.taken + 50
    assert long.taken < 40 * 300


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_steps_are_counted_of_what_the_expression_finds(expression):
    choose = random.Random(1)
    for line in EVENTS:
        for _ in range(20):
            match = expression.match(line)
            assert Steps(expression, line).end == (match.end() if match else None), line
            at = choose.randrange(len(line))
            line = line[:at] + bytes([choose.choice(b" -:[]/19a")]) + line[at + choose.randrange(2) :]


def test_a_bracket_that_closes_nothing_is_looked_for_in_its_own_line():
    line = b" CPU 0/KVM-5001 a) [003] d..1. 8296364487: kvm_entry: vcpu 0\n"
    looked_at = []

    class Watched(bytearray):
        def rfind(self, what, start=None, end=None):  # type: ignore[override]
            looked_at.append(end - start)
            return super().rfind(what, start, end)

    text = Text(b" CPU 0/KVM-5001 (  1) [003] d..1. 8296364487: kvm_entry: vcpu 0\n" + line * 50)
    text.raw = Watched(text.raw)
    read = read_lines(text).read
    assert np.flatnonzero(read).tolist() == [0]
    assert len(looked_at) == 50
    assert max(looked_at) < len(line)
