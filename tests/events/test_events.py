# SPDX-License-Identifier: GPL-2.0-or-later
"""An event is declared once and is the same as a tuple and as columns."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.limits import interrupted_after
from vlapic.events import DTYPES, EVENT_TYPES, Table, WaitLapicExpire
from vlapic.events.table import decoded

RANGES = {
    "u1": st.integers(0, 255),
    "<u4": st.integers(0, (1 << 32) - 1),
    "<u8": st.integers(0, (1 << 64) - 1),
    "<i8": st.integers(-(1 << 63), (1 << 63) - 1),
    "|b1": st.booleans(),
    "<i4": st.integers(-(1 << 31), (1 << 31) - 1),
    "|S28": st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=28),
    "|S24": st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=24),
    "|S15": st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=15),
}


@st.composite
def event_lists(draw, event_type):
    dtype = DTYPES[event_type]
    columns = [RANGES[dtype[name].str.replace("|u1", "u1")] for name in dtype.names]
    return [event_type(*row) for row in draw(st.lists(st.tuples(*columns), max_size=5))]


@pytest.mark.parametrize("event_type", EVENT_TYPES, ids=lambda cls: cls.__name__)
def test_events_come_out_of_a_table_as_they_went_in(event_type):
    @given(event_lists(event_type))
    def check(rows):
        assert list(Table.of(event_type, rows)) == rows

    check()


@pytest.mark.parametrize("event_type", EVENT_TYPES, ids=lambda cls: cls.__name__)
def test_host_tsc_vm_and_vcpu_lead_every_event(event_type):
    assert event_type._fields[:3] == ("host_tsc", "vm", "vcpu")
    assert DTYPES[event_type].names == event_type._fields


@pytest.mark.parametrize("event_type", EVENT_TYPES, ids=lambda cls: cls.__name__)
def test_an_event_takes_less_than_100_bytes(event_type):
    assert DTYPES[event_type].itemsize < 100


def test_a_value_too_large_for_its_column_is_refused_not_cut():
    with pytest.raises(OverflowError):
        Table.of(WaitLapicExpire, [WaitLapicExpire(1, 0, 0, 1 << 63)])


@given(st.lists(st.binary(max_size=8)))
def test_names_are_decoded_whatever_bytes_they_have(names):
    column = np.array([*names, b"x"], "S8")
    assert decoded(column) == np.char.decode(column, "utf-8", "backslashreplace").tolist()


def decode_for_seconds(column, seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        decoded(column)


def test_ctrl_c_is_not_lost_in_a_column_of_names():
    column = np.array([b"TimerInterrupt", b"WaitLapicExpire", b""] * 20_000)
    for _ in range(8):
        with pytest.raises(KeyboardInterrupt), interrupted_after(0.03):
            decode_for_seconds(column, 60)
