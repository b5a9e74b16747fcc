# SPDX-License-Identifier: GPL-2.0-or-later
"""Format files: fields, tables of names, and texts that make no sense."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.dat_ring import EVENTS, Machine
from vlapic.trace.dat.formats import Format, evaluate
from vlapic.trace.dat.names import KernelSymbols, flag_names, named

SCHED_SWITCH = """\
name: sched_switch
ID: 372
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:char prev_comm[16];\toffset:8;\tsize:16;\tsigned:0;
\tfield:long prev_state;\toffset:32;\tsize:8;\tsigned:1;
\tfield:__data_loc char[] name;\toffset:40;\tsize:4;\tsigned:0;

print fmt: "prev_state=%s%s", (REC->prev_state & ((((0x0 | 0x1) + 1) << 1) - 1)) ? __print_flags(\
REC->prev_state & ((((0x0 | 0x1) + 1) << 1) - 1), "|", { 0x00000001, "S" }, { 0x00000002, "D" }) : "R", \
REC->prev_state & 4 ? "+" : ""
"""


def test_fields_have_their_places_and_types() -> None:
    found = Format.of("sched", SCHED_SWITCH)
    assert found is not None
    assert (found.name, found.number) == ("sched_switch", 372)
    assert found.fields["prev_comm"].column("<") == "S16"
    assert found.fields["prev_state"].column(">") == ">i8"
    assert found.fields["name"].column("<") is None
    record = found.record(["prev_state", "prev_comm", "nothing", "name"], "<")
    assert record is not None
    assert record.names == ("prev_state", "prev_comm")
    assert record.itemsize == 40
    assert record.fields is not None
    assert record.fields["prev_state"][1] == 32


def test_a_format_without_the_fields_asked_for_has_no_record() -> None:
    found = Format.of("sched", SCHED_SWITCH)
    assert found is not None
    assert found.record(["nothing", "name"], "<") is None


def test_tables_of_names_come_from_the_print_format() -> None:
    switch = Format.of("sched", SCHED_SWITCH)
    leave = Format.of("kvm", Machine().format_text("kvm_exit"))
    assert switch is not None
    assert leave is not None
    assert switch.symbols == [{1: "S", 2: "D"}]
    assert leave.symbols == [
        {12: "HLT", 52: "PREEMPTION_TIMER"},
        {0x60: "interrupt", 0x41: "DB excp", (1 << 64) - 1: "invalid"},
        {0x80000000: "FAILED_VMENTRY"},
    ]


@pytest.mark.parametrize("machine", [Machine(order, size) for order in "<>" for size in (4, 8)])
@pytest.mark.parametrize("name", sorted(EVENTS))
def test_a_payload_is_read_back_by_its_format(machine: Machine, name: str) -> None:
    found = Format.of("kvm", machine.format_text(name))
    assert found is not None
    fields = [field for kind, field, _, _ in machine.layout(name) if not kind.startswith("char")]
    values = dict.fromkeys(fields, 1)
    record = found.record(["common_pid", *fields], machine.order)
    assert record is not None
    row = np.frombuffer(machine.payload(name, 42, **values), record, 1)[0]
    assert row["common_pid"] == 42
    assert all(row[field] == 1 for field in fields)


@given(st.text(max_size=300))
def test_any_text_is_a_format_or_none(text: str) -> None:
    for beginning in ("", "name: x\nID: 4\nformat:\n"):
        found = Format.of("kvm", beginning + text)
        if found is not None:
            assert isinstance(found.symbols, list)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("0x040 + 1", 0x41),
        ("((((0x0|0x40) + 1) << 1) - 1)", 129),
        ("-1", (1 << 64) - 1),
        ("0x80000000UL", 1 << 31),
        ("010", 8),
        ("1 << 99999999999", 0),
        ("9 ** 9 ** 9", None),
        ("HRTIMER_MODE_ABS", None),
        ("f(1)", None),
        ("1 +", None),
        ("", None),
    ],
)
def test_constant_expressions_have_their_value_and_no_others(expression: str, value: int | None) -> None:
    assert evaluate(expression) == value


def test_names_of_numbers_are_asked_for_once_each() -> None:
    asked = []

    def name(number: int) -> str:
        asked.append(number)
        return f"n{number}"

    for numbers in ([3, 1, 3, 3], [1 << 40, 5, 1 << 40]):
        asked.clear()
        column = named(np.array(numbers, "u8"), name)
        assert column.tolist() == [f"n{number}".encode() for number in numbers]
        assert len(asked) == len(set(numbers))


def test_a_task_state_is_its_flags_and_a_plus_for_the_bit_above_them() -> None:
    name = flag_names({1: "S", 2: "D", 4: "T"})
    assert [name(state) for state in (0, 1, 3, 8, 9)] == ["R", "S", "S|D", "R+", "S+"]


def test_a_symbol_is_found_by_its_exact_address() -> None:
    symbols = KernelSymbols(b"ffffffff81000000 T _text\nffffffff8100abc0 t apic_timer_fn\t[kvm]\n")
    assert symbols.name(0xFFFFFFFF8100ABC0) == "apic_timer_fn"
    assert symbols.name(0xFFFFFFFF8100ABC1) == "0xffffffff8100abc1"


def test_an_expression_that_python_warns_of_is_none_and_says_nothing(recwarn):
    assert evaluate("0xfor 1") is None
    assert not recwarn.list


@pytest.mark.parametrize(
    ("system", "declaration", "end", "words"),
    [
        ("kvm", "u32 vcpu_id", (8, 4), (3, 4)),
        ("kvm", "s64 delta", (16, 8), (6, 6)),
        ("kvm", "u8 exception", (24, 1), (7, 8)),
        ("kvm", "__data_loc char[] name", (8, 4), (3, 1 << 16)),
        ("kvm", "char buf[]", (16, 0), (4, 1 << 16)),
        ("ftrace", "unsigned long caller[8]", (16, 64), (0, 1 << 16)),
        ("user_events", "u32 count", (8, 4), (0, 1 << 16)),
    ],
)
def test_a_records_length_is_its_formats_up_to_an_alignment_of_8(
    system: str, declaration: str, end: tuple[int, int], words: tuple[int, int]
) -> None:
    offset, size = end
    text = (
        "name: x\nID: 7\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n"
        f'\tfield:{declaration};\toffset:{offset};\tsize:{size};\tsigned:0;\n\nprint fmt: ""\n'
    )
    found = Format.of(system, text)
    assert found is not None
    assert found.record_words() == words
