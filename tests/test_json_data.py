# SPDX-License-Identifier: GPL-2.0-or-later
"""Frozen data as JSON: fields by name in their order, and what of them is left out."""

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from vlapic.json_data import NOT_IN_JSON, first, json_data


class Word(StrEnum):
    ONE = "the one"


class Pair(NamedTuple):
    later: int
    early: Word


@dataclass(frozen=True)
class Inner:
    max: float | None
    min: bool


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    many: tuple[Pair, ...] = field(metadata=first(2))
    drawn: tuple[int, ...] = field(default=(), metadata=NOT_IN_JSON)


class Own:
    def as_json(self):
        return {"shape": "its own"}


def test_data_are_objects_of_their_fields_in_order():
    pairs = tuple(Pair(number, Word.ONE) for number in range(5))
    text = json.dumps(json_data({"all": [Outer("x", Inner(None, True), pairs, (1, 2)), Own()]}))
    assert text == (
        '{"all": [{"name": "x", "inner": {"max": null, "min": true},'
        ' "many": [{"later": 0, "early": "the one"}, {"later": 1, "early": "the one"}]},'
        ' {"shape": "its own"}]}'
    )


def test_an_enum_is_plain_text_and_a_plain_value_itself():
    assert type(json_data(Word.ONE)) is str
    assert json_data([1, 2.5, "a", None, False]) == [1, 2.5, "a", None, False]
