# SPDX-License-Identifier: GPL-2.0-or-later
"""Records in pages: found in many pages at once as one by one, in both byte orders and sizes of long."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.dat_ring import Machine, Ring
from vlapic.trace.dat.pages import PageLayout, Records, find_records

MACHINES = [Machine(order, size, page) for order in "<>" for size in (4, 8) for page in (512, 4096, 65536)]


def layout(machine: Machine) -> PageLayout:
    found = PageLayout.of(machine.header_page, machine.order)
    assert found is not None
    return found


def records_of(pages: list[bytes], machine: Machine) -> Records:
    data = np.frombuffer(b"".join(pages), "u1").reshape(-1, machine.page_size)
    return find_records(data, layout(machine))


def one_by_one(pages: list[bytes], machine: Machine) -> list[tuple[int, int, int]]:
    """Place, length and time of each record, as libtraceevent's kbuffer walks through a page."""
    order: Literal["little", "big"] = "little" if machine.order == "<" else "big"
    found = []
    for number, page in enumerate(pages):
        now = int.from_bytes(page[:8], order)
        filled = int.from_bytes(page[8 : machine.head], order) & (1 << 27) - 1
        at, end = machine.head, machine.head + filled
        while at < end:
            word = int.from_bytes(page[at : at + 4], order)
            kind, delta = (word & 31, word >> 5) if order == "little" else (word >> 27, word & (1 << 27) - 1)
            following = int.from_bytes(page[at + 4 : at + 8], order)
            at += 4
            if kind == 31:
                now = (now & 0xF8 << 56) | following << 27 | delta
                at += 4
                continue
            now = now + delta & (1 << 64) - 1
            if kind == 29:
                at += following
            elif kind == 30:
                now += following << 27
                at += 4
            elif kind == 0:
                found.append(((number * machine.page_size + at + 4) // 4, (following - 4) // 4, now))
                at += following
            else:
                found.append(((number * machine.page_size + at) // 4, kind, now))
                at += 4 * kind
    return found


steps = st.tuples(
    st.one_of(st.integers(0, 200), st.integers(0, 1 << 30)),
    st.integers(1, 40),
    st.sampled_from(["plain", "plain", "plain", "long", "absolute", "discard"]),
)


#: The five bits above an absolute stamp, and some time below them.
starts = st.builds(lambda above, below: above << 59 | below, st.integers(0, 30), st.integers(0, 1 << 58))


@given(st.sampled_from(MACHINES), st.lists(steps, max_size=60), starts)
def test_many_pages_at_once_give_what_one_record_after_the_other_gives(
    machine: Machine, script: list[tuple[int, int, str]], start: int
) -> None:
    ring, time = Ring(machine), start
    wanted = []
    for delta, words, how in script:
        time += delta
        if how == "discard":
            continue
        wanted.append((words, time))
        ring.add(time, bytes(4 * words), long=how == "long", absolute=how == "absolute")
        if how == "plain" and words % 5 == 0 and len(ring._page) + 40 < machine.page_size - machine.head:
            ring.discard(4 * words % 24 + 4)
            time += 1
    pages = ring.finish()
    if not pages:
        return
    found = records_of(pages, machine)
    got = list(zip(found.words.tolist(), found.lengths.tolist(), found.times.tolist(), strict=True))
    assert got == one_by_one(pages, machine)
    assert [(length, when) for _, length, when in got] == wanted
    assert not (found.damaged >= 0).any()
    assert not found.missed.any()


@pytest.mark.parametrize("machine", MACHINES)
def test_missed_events_are_told_with_their_number_where_the_kernel_stored_it(machine: Machine) -> None:
    ring = Ring(machine)
    ring.add(10, bytes(8))
    ring.miss(0)
    ring.add(20, bytes(8))
    ring.miss(12345)
    ring.add(30, bytes(8))
    found = records_of(ring.finish(), machine)
    assert found.missed.tolist() == [0, -1, 12345]
    assert found.times.tolist() == [10, 20, 30]
    assert found.pages.tolist() == [0, 1, 2]


def test_a_stamp_counts_on_above_its_59_bits() -> None:
    machine = Machine()
    ring = Ring(machine)
    times = [(5 << 59) - 7, (5 << 59) + 3]
    for time in times:
        ring.add(time, bytes(8), absolute=True)
    assert records_of(ring.finish(), machine).times.tolist() == times


def test_padding_without_a_time_ends_a_page() -> None:
    machine = Machine()
    ring = Ring(machine)
    ring.add(10, bytes(8))
    ring.discard(400, delta=0)
    ring.add(20, bytes(8))
    assert records_of(ring.finish(), machine).times.tolist() == [10]


def test_a_record_that_goes_beyond_its_page_ends_it_and_is_told() -> None:
    machine = Machine()
    ring = Ring(machine)
    for time in (10, 20, 30):
        ring.add(time, bytes(8))
    pages = ring.finish()
    page = bytearray(pages[0])
    # The head of the second record now says 28 words, more than there are.
    page[16 + 12] = page[16 + 12] & 0xE0 | 28
    found = records_of([bytes(page), pages[0]], machine)
    assert found.times.tolist() == [10, 10, 20, 30]
    assert found.damaged.tolist() == [(16 + 12) // 4, -1]


def test_a_page_filled_further_than_it_is_long_has_no_records() -> None:
    machine = Machine()
    page = machine.pack("QQ", 5, 4081) + bytes(4080)
    found = records_of([page], machine)
    assert len(found.words) == 0
    assert found.damaged.tolist() == [4]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\tfield: u64 timestamp;\toffset:0;\tsize:4;\tsigned:0;\n",
        Machine().header_page.replace("offset:16", "offset:18"),
        Machine().header_page.replace("offset:16", "offset:999999"),
        Machine().header_page.replace("offset:8;\tsize:8", "offset:12;\tsize:8"),
        Machine().header_page.replace("size:8;\tsigned:1", "size:3;\tsigned:1"),
    ],
)
def test_a_header_page_that_makes_no_sense_is_none(text: str) -> None:
    assert PageLayout.of(text, "<") is None
