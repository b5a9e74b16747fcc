# SPDX-License-Identifier: GPL-2.0-or-later
"""IRR, ISR and the priorities, against the SDM's words taken literally: sets, and classes by division."""

from hypothesis import given
from hypothesis import strategies as st

from vlapic.apic.priority import InterruptRegisters

vectors = st.sets(st.integers(16, 255), max_size=6)
bytes_ = st.integers(0, 255)


def registers(irr=(), isr=(), tpr=0):
    made = InterruptRegisters()
    made.irr = sum(1 << vector for vector in irr)
    made.isr = sum(1 << vector for vector in isr)
    made.tpr = tpr
    return made


def class_of(vector):
    return vector // 16


@given(vectors, vectors, bytes_)
def test_the_processors_priority_is_the_higher_class_of_task_and_service(irr, isr, tpr):
    ppr = registers(irr, isr, tpr).ppr
    highest = max(isr, default=0)
    assert class_of(ppr) == max(class_of(tpr), class_of(highest))
    # SDM: the low half is the task's if its class is the higher one (as KVM has it: or equal), else 0.
    assert ppr % 16 == (tpr % 16 if class_of(tpr) >= class_of(highest) else 0)


@given(vectors, vectors, bytes_)
def test_the_arbitration_priority_is_the_sdms_formula(irr, isr, tpr):
    task, requested, in_service = tpr >> 4, max(irr, default=0) >> 4, max(isr, default=0) >> 4
    task_decides = task >= requested and task > in_service
    expected = tpr if task_decides else max(task & in_service, requested) << 4
    assert registers(irr, isr, tpr).apr == expected


@given(vectors, vectors, bytes_)
def test_the_highest_request_is_taken_if_its_class_is_above_the_processors(irr, isr, tpr):
    busy = max([class_of(tpr), *map(class_of, isr)])
    above = [vector for vector in irr if class_of(vector) > busy]
    assert registers(irr, isr, tpr).highest_request() == max(above, default=None)


@given(vectors, vectors)
def test_taking_moves_one_bit_and_ending_clears_the_highest(irr, isr):
    made = registers(irr, isr)
    vector = made.highest_request()
    if vector is not None:
        made.take(vector)
        assert made.irr == sum(1 << each for each in irr - {vector})
        assert made.isr == sum(1 << each for each in isr | {vector})
        assert made.end() == vector
    for expected in sorted(isr, reverse=True):
        assert made.end() == expected
    assert made.end() == -1
    assert made.isr == 0


@given(st.integers(16, 255), st.booleans(), st.booleans())
def test_the_trigger_mode_is_that_of_the_last_acceptance(vector, first, second):
    made = registers()
    made.request(vector, first)
    made.request(vector, second)
    assert made.irr == 1 << vector
    assert made.tmr == second << vector


@given(st.lists(st.one_of(st.integers(16, 255), st.none()), max_size=60), bytes_)
def test_vectors_in_service_are_nested_in_rising_classes(steps, tpr):
    made, stack = registers(tpr=tpr), []
    for vector in steps:
        if vector is None:
            assert made.end() == (stack.pop() if stack else -1)
        else:
            made.request(vector, False)
        while (taken := made.highest_request()) is not None:
            made.take(taken)
            stack.append(taken)
        classes = [class_of(each) for each in stack]
        assert classes == sorted(set(classes))
        assert made.isr == sum(1 << each for each in stack)
