# SPDX-License-Identifier: GPL-2.0-or-later
"""Batches: events by class and in order; sorting by time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlapic.errors import UsageError
from vlapic.events import Entry, Eoi, Table, WaitLapicExpire
from vlapic.trace.reader import Batch, TraceFacts, TraceReader, in_time_order


def batch_of(events):
    """A batch of any events in their order, each made on the CPU and by the thread of its vCPU's number."""
    events = list(events)
    return Batch.of(
        (
            Table.of(event_type, [e for e in events if type(e) is event_type]),
            np.array([place for place, e in enumerate(events) if type(e) is event_type]),
            np.array([e.vcpu for e in events if type(e) is event_type]),
            np.array([e.vcpu for e in events if type(e) is event_type]),
        )
        for event_type in (Entry, Eoi, WaitLapicExpire)
    )


class Made(TraceReader):
    """A reader of batches that are there already."""

    def __init__(self, batches):
        self.made = batches
        super().__init__("made", "made")

    def batches(self):
        self.begin()
        yield from in_time_order(self.made, self.facts)


times = st.integers(0, 30)
some_events = st.lists(
    st.one_of(
        st.builds(lambda t, v: Entry(t, 0, v, 1), times, st.integers(0, 3)),
        st.builds(lambda t, v: Eoi(t, 0, v, 236), times, st.integers(0, 3)),
        st.builds(lambda t, v, d: WaitLapicExpire(t, 0, v, d), times, st.integers(0, 3), st.integers(-5, 5)),
    ),
    max_size=20,
)


@given(some_events)
def test_a_batch_gives_its_events_in_order(events):
    batch = batch_of(events)
    assert list(batch) == events
    assert batch.times.tolist() == [event.host_tsc for event in events]
    assert batch.cpus.tolist() == batch.tids.tolist() == [event.vcpu for event in events]


@given(st.lists(some_events, max_size=2))
def test_what_is_out_of_order_by_no_more_than_a_batch_is_sorted_and_equal_times_stay(lists):
    facts = TraceFacts()
    out = [event for batch in in_time_order(map(batch_of, lists), facts) for event in batch]
    assert out == sorted((e for events in lists for e in events), key=lambda e: e.host_tsc)
    assert facts.disordered == 0


@given(st.lists(some_events, max_size=5))
def test_nothing_is_lost_by_sorting_and_what_stays_out_of_order_is_counted(lists):
    facts = TraceFacts()
    out = [event for batch in in_time_order(map(batch_of, lists), facts) for event in batch]
    assert sorted(out) == sorted(e for events in lists for e in events)
    reached = np.maximum.accumulate([0, *(e.host_tsc for e in out)])
    late = sum(e.host_tsc < before for e, before in zip(out, reached, strict=False))
    assert (facts.disordered > 0) == (late > 0)


def test_a_reader_gives_single_events_tables_and_whole_columns():
    first, second = [Entry(1, 0, 0, 5), Eoi(2, 0, 0, 236)], [Entry(3, 0, 1, 6)]
    reader = Made([batch_of(first), batch_of(second)])
    assert list(reader.events()) == list(reader) == first + second
    assert [table.event_type for table in reader.tables()] == [Entry, Eoi, Entry]
    assert reader.columns(Entry)["rip"].tolist() == [5, 6]
    assert len(reader.columns(WaitLapicExpire)) == 0
    both = reader.read(Entry, Eoi)
    assert [len(both[event_type]) for event_type in (Entry, Eoi)] == [2, 1]
    assert list(reader.read()[Eoi]) == [first[1]]


@pytest.mark.parametrize(("wrong", "said"), [("x", "'x'"), (int, "'int'"), ("Entri", "did you mean 'Entry'")])
def test_columns_of_what_is_no_event_are_refused(wrong, said):
    with pytest.raises(UsageError, match=said):
        Made([]).columns(wrong)
