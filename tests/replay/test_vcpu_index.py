# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers of vCPUs for columns, and rows grouped by them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlapic.events import NO_VCPU
from vlapic.replay.vcpu_index import NONE, Groups, VcpuNumbers

WHOSE = st.tuples(*[st.sampled_from([0, 1, 2, 255, 256, 70_000, NO_VCPU])] * 2)


@given(known=st.lists(WHOSE, unique=True), asked=st.lists(WHOSE))
def test_every_row_has_the_number_that_its_vcpu_was_given(known, asked):
    numbers = VcpuNumbers()
    for number, (vm, vcpu) in enumerate(known):
        numbers.give(vm, vcpu, number)
    rows = np.array(asked, np.dtype([("vm", "u4"), ("vcpu", "u4")]))
    expected = [known.index(one) if one in known else NONE for one in asked]
    assert numbers.of(rows).tolist() == expected


@pytest.mark.parametrize("vcpus", [1, 2, 8, 9, 70_000])
def test_groups_keep_the_order_of_each_vcpus_rows(vcpus):
    numbers = np.random.default_rng(vcpus).integers(0, vcpus, 300)
    groups = Groups(numbers, vcpus)
    column = np.arange(300)
    for number in {*numbers.tolist(), 0, vcpus - 1}:
        mine = np.flatnonzero(numbers == number)
        assert groups.sorted(column)[groups.slice_of(number)].tolist() == mine.tolist()
        assert column[groups.places_of(number)].tolist() == mine.tolist()
