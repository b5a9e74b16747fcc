# SPDX-License-Identifier: GPL-2.0-or-later
"""Frozen data as JSON has them: an object for a dataclass or a named tuple, its fields by name and in order.

A class is written in the order of its schema, and that is all there is to its JSON. What has another shape
(the whole of a run, whose nulls have reasons) says it by a method `as_json` of its own.
"""

from __future__ import annotations

from dataclasses import Field, fields, is_dataclass
from enum import Enum
from typing import Any

#: Of a dataclass's field: it is not in the JSON.
NOT_IN_JSON = {"json": None}


def first(count: int) -> dict[str, Any]:
    """Metadata of a dataclass's field: the JSON has only so many of its values."""
    return {"json": lambda values: values[:count]}


def json_data(value: Any) -> Any:
    """Dicts, lists and plain values, as `json.dumps` takes them.

    Args:
        value: a dataclass, a named tuple, a list, tuple or dict of such, an Enum (its text), a plain value.
    """
    if value is None or isinstance(value, bool | int | float) or type(value) is str:
        return value
    if isinstance(value, Enum):
        return str(value)
    if hasattr(value, "as_json"):
        return value.as_json()
    if is_dataclass(value):
        return {of.name: _shown(of, getattr(value, of.name)) for of in fields(value) if _is_shown(of)}
    if isinstance(value, dict):
        return {name: json_data(of) for name, of in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: json_data(of) for name, of in zip(value._fields, value, strict=True)}
    if isinstance(value, tuple | list):
        return [json_data(of) for of in value]
    return value


def _is_shown(of: Field[Any]) -> bool:
    return of.metadata.get("json", of) is not None


def _shown(of: Field[Any], value: Any) -> Any:
    return json_data(of.metadata["json"](value) if "json" in of.metadata else value)
