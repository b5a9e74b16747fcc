# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines that are not what was printed: what is whole is read as it was, and the rest is told."""

import pytest

from tests.support.recordings import opened, text_of
from vlapic.events import Entry, Lost, TrackTsc

HEAD = b"       CPU 0/KVM-5001    [003] d..1.   "


def read(tmp_path, text):
    trace = opened(tmp_path, text)
    return [event for event in trace.events() if type(event) is not Lost], trace


def told(trace):
    return [(lost.cause, lost.events, lost.place) for lost in trace.lost]


@pytest.mark.parametrize("byte", [0, 1, 8, 14, 27, 31])
def test_a_line_with_a_control_byte_is_damaged(byte, tmp_path):
    line = HEAD + b"%d: kvm_entry: vcpu 0, rip 0xfff0\n"
    bad = bytes([byte]) * 5 + line[5:] % 2
    events, trace = read(tmp_path, line % 1 + bad + line % 3)
    assert [event.host_tsc for event in events] == [1, 3]
    assert told(trace) == [("damaged", 1, 2)]
    assert trace.threads[5001].comm == "CPU 0/KVM"


def test_lines_overwritten_with_zeros_are_damage_at_their_place(tmp_path):
    line = HEAD + b"%d: kvm_entry: vcpu 0, rip 0xfff0\n"
    lines = [line % number for number in range(9)]
    lines[3] = bytes(len(lines[3]))
    lines[6] = b"# kernel 6.\0\0\n"
    events, trace = read(tmp_path, b"".join(lines))
    assert [event.host_tsc for event in events] == [0, 1, 2, 5, 7, 8]
    assert told(trace) == [("damaged", 2, 4)]
    assert trace.facts.kernel is None


def test_a_tab_at_a_lines_end_is_as_a_blank(tmp_path):
    track = b"1: kvm_track_tsc: vcpu_id 0 masterclock 0 offsetmatched 0 nr_online 1 hostclock tsc\t\n"
    events, trace = read(tmp_path, HEAD + track + HEAD + b"2: kvm_entry: vcpu 0, rip 0xfff0 \t \r\n")
    assert [type(event) for event in events] == [TrackTsc, Entry]
    assert (events[0].host_clock, trace.lost) == ("tsc", [])


@pytest.mark.parametrize("first", [True, False])
def test_the_form_of_times_is_what_lines_that_are_events_have(first, tmp_path):
    text = text_of("vmx-bochs27-oneshot-adaptive")
    wanted, _ = read(tmp_path, text)
    junk = b"".join(
        b"             vmm-232     [000] ...1. %d.000001: kvm_entry: of nothing\n" % number
        for number in range(2000)
    )
    events, trace = read(tmp_path, junk + text if first else text + junk)
    assert events == wanted
    assert sum(lost.events for lost in trace.lost) == 2000


def test_one_damaged_letter_in_a_threads_name_makes_no_other_vm(tmp_path):
    line = b"       CPU %d/KVM-%d    [003] d..1.   %d: kvm_entry: vcpu %d, rip 0xfff0\n"
    lines = [line % (number % 2, 5001 + number % 2, number, number % 2) for number in range(20)]
    lines[1] = lines[1].replace(b"KVM", b"KWM")
    events, trace = read(tmp_path, b"".join(lines))
    assert {(event.vm, event.vcpu) for event in events} == {(0, 0), (0, 1)}
    assert trace.threads[5002].comm == "CPU 1/KVM"


def test_fewer_events_than_the_header_says_are_a_loss(tmp_path):
    text = text_of("vmx-bochs27-adaptive")
    whole, trace = read(tmp_path, text)
    assert (trace.lost, trace.facts.entries) == ([], 6769)
    lines = text.splitlines(keepends=True)
    _, trace = read(tmp_path, b"".join(lines[:3000]))
    there = sum(not line.startswith(b"#") for line in lines[:3000])
    assert told(trace) == [("unfinished", 6769 - there, 3000)]
    assert "cut off at line 3000" in trace.losses_in_words()[0]
    # grep leaves lines out too, and its lines are read as ever.
    kept = [line for line in lines if line.startswith(b"#") or b"kvm_entry" in line]
    events, trace = read(tmp_path, b"".join(kept))
    assert events == [event for event in whole if type(event) is Entry]
    assert sum(lost.events for lost in trace.lost) == 6769 - len(events)


def test_headers_of_several_buffers_are_held_against_all_their_events(tmp_path):
    text = text_of("vmx-bochs27-oneshot-adaptive")
    _, trace = read(tmp_path, text + text)
    assert (trace.lost, trace.facts.entries) == ([], 2 * 1015)
    _, trace = read(tmp_path, text + text[: text.rindex(b"\n", 0, -1) + 1])
    assert [(lost.cause, lost.events) for lost in trace.lost] == [("unfinished", 1)]
