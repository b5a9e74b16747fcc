# SPDX-License-Identifier: GPL-2.0-or-later
"""Markers in a trace.dat: records of writes to trace_marker, whose text may be an event of ours."""

from __future__ import annotations

from typing import Any

from vlapic.events import DTYPES, NO_VCPU
from vlapic.trace.markers import MARKERS, can_be

#: Every text of ours begins with one of these.
_BEGINNINGS = tuple({form.text.partition(":")[0].partition(" ")[0].encode() for _, form in MARKERS})


def read_marker(text: bytes) -> tuple[type[Any], dict[str, Any]] | None:
    """The event that a marker's text is, and the fields it says; None if it is no event of ours.

    Numbers are within their column's width, and what can be; a text in which they are not is none of ours.
    """
    if not text.startswith(_BEGINNINGS):
        return None
    for event_type, form in MARKERS:
        fields = form.read(text)
        if fields is None:
            continue
        if form.decode is not None:
            fields = form.decode(fields)
        if text.startswith(b"vlapic:"):
            fields.setdefault("vm", 0)
        known = DTYPES[event_type]
        values: dict[str, Any] = {"vm": NO_VCPU, "vcpu": NO_VCPU}
        for name, value in fields.items():
            if name not in (known.names or ()):
                continue
            if isinstance(value, str):
                values[name] = value
                continue
            bits = known[name].itemsize * 8
            number = int(value)
            if not -(1 << bits - 1) <= number < 1 << bits:
                return None
            signed = known[name].kind == "i"
            number &= (1 << bits) - 1
            values[name] = number - (1 << bits) if signed and number >> bits - 1 else number
        said = {name: values[name] for name in fields if name in values}
        return (event_type, values) if can_be(event_type, said) else None
    return None
