# SPDX-License-Identifier: GPL-2.0-or-later
"""Wrapped lines: the events that were there, or damage; never another value."""

import textwrap
from collections import Counter

import pytest

from tests.support.recordings import opened, text_of
from vlapic.events import InjectVirq, Lost
from vlapic.trace.text import reader

RECORDING = "svm-shift0-secondvm-adaptive"


def read(tmp_path, text):
    trace = opened(tmp_path, text)
    return [event for event in trace.events() if type(event) is not Lost], trace


def folded(text, width):
    """The text as a terminal wraps it, and `fold -w`: TABs go on to the next eighth column."""
    pieces = []
    for line in text.decode().splitlines():
        piece, column = "", 0
        for character in line:
            wide = 8 - column % 8 if character == "\t" else 1
            if column + wide > width:
                pieces.append(piece)
                piece, column = "", 0
                wide = 8 if character == "\t" else 1
            piece, column = piece + character, column + wide
        pieces.append(piece)
    return "".join(f"{piece}\n" for piece in pieces)


@pytest.mark.parametrize("width", range(40, 131))
def test_every_event_that_a_terminal_wrapped_is_the_one_that_was_there(width, tmp_path):
    text = text_of(RECORDING)
    wanted, _ = read(tmp_path, text)
    events, trace = read(tmp_path, folded(text, width))
    # Of a few widths a piece looks like the beginning of a line: what stands before it is not sure, and told.
    assert not Counter(events) - Counter(wanted)
    assert len(events) >= len(wanted) - 5
    assert events == wanted or trace.lost


def test_most_widths_of_a_terminal_lose_nothing(tmp_path):
    text = text_of(RECORDING)
    wanted, _ = read(tmp_path, text)
    for width in (60, 72, 80, 100, 120):
        events, trace = read(tmp_path, folded(text, width))
        assert (events, trace.lost) == (wanted, [])


@pytest.mark.parametrize("width", range(40, 131, 6))
def test_every_event_that_was_wrapped_at_blanks_was_there_and_the_rest_is_told(width, tmp_path):
    text = text_of(RECORDING)
    wanted, _ = read(tmp_path, text)
    wrap = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    lines = text.decode().splitlines()
    events, trace = read(tmp_path, "".join(f"{wrap.fill(line)}\n" for line in lines))
    assert not Counter(events) - Counter(wanted)
    assert len(events) == len(wanted) or trace.lost
    assert len(events) >= len(wanted) - 4


def test_an_event_before_a_piece_that_fits_nowhere_is_not_sure_and_not_read(tmp_path):
    head = "             vmm-360     [000] d..1. "
    events, trace = read(
        tmp_path,
        f"{head}1: kvm_inj_virq: IRQ 0xe\n{head}2: kvm_inj_virq: IRQ 0xe\n0 and more\n"
        f"{head}3: kvm_inj_virq: IRQ 0xe0\n",
    )
    assert events == [InjectVirq(1, 0xFFFFFFFF, 0xFFFFFFFF, 0xE), InjectVirq(3, 0xFFFFFFFF, 0xFFFFFFFF, 0xE0)]
    assert [(lost.cause, lost.events, lost.place) for lost in trace.lost] == [("damaged", 2, 2)]


def test_pieces_on_both_sides_of_a_stretchs_end_are_put_together(tmp_path, monkeypatch):
    text = text_of(RECORDING)
    wanted, _ = read(tmp_path, text)
    for size in (20_011, 30_000, 41_000):
        monkeypatch.setattr(reader, "STRETCH", size)
        events, _ = read(tmp_path, folded(text, 80))
        # VMs have their numbers by stretch.
        assert [event._replace(vm=0) for event in events if event.vcpu < 9] == [
            event._replace(vm=0) for event in wanted if event.vcpu < 9
        ]


def test_the_next_lines_beginning_is_no_rest_of_a_form_that_ends_in_text(tmp_path):
    head = "             vmm-360     [000] ....."
    events, trace = read(
        tmp_path,
        f"{head} 1: kvm_track_tsc: vcpu_id 0 masterclock 0 offsetmatched 0 nr_online 1 hostclock\ntsc\n"
        f"{head}\n2: kvm_entry: vcpu 0, rip 0xfff0\n",
    )
    assert [event.host_tsc for event in events] == [1, 2]
    assert (events[0].host_clock, trace.lost) == ("tsc", [])
