"""Samples of the true advancement that lie in a CSV file beside the trace, or in the trace's header.

A CSV file has a line of names, then a line a sample:

    timestamp,advance_ns            host_tsc (or ns) as the trace has it: the deltas up to then came before
    index,advance_ns                so many deltas of the vCPU came before

with `vm` and `vcpu` beside, where there are several vCPUs. Numbers are as `vlapic.numerals` has them; there
may be blanks around them.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass

from vlapic.errors import TraceError
from vlapic.numerals import shown, whole_number
from vlapic.tsc import U32, U64

_COLUMNS = ("timestamp", "index", "advance_ns", "vm", "vcpu")


@dataclass(frozen=True)
class OutsideSample:
    """A sample that is not an event: it stands at a time, or after so many deltas; the other one is None."""

    vm: int
    vcpu: int
    timestamp: int | None
    index: int | None
    advance_ns: int


def read_samples(path: str | os.PathLike[str]) -> list[OutsideSample]:
    """The samples of a CSV file.

    Raises:
        TraceError: it cannot be read, or a line of it is no sample.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise TraceError(
            f"cannot read the samples {os.fspath(path)!r}: {error.strerror}; give a CSV file"
        ) from None
    except UnicodeDecodeError:
        raise TraceError(f"the samples {os.fspath(path)!r} are no text in UTF-8; give a CSV file") from None
    except csv.Error as error:
        why = "a value of it is too long" if "field limit" in str(error) else str(error)
        raise TraceError(f"the samples {os.fspath(path)!r} are no CSV text: {why}; give a CSV file") from None
    names = [name.strip() for name in rows[0]] if rows else []
    if len(set(names)) < len(names):
        raise TraceError(
            f"the samples {os.fspath(path)!r} begin with {shown(','.join(names))}, which has a name"
            " twice; leave one out"
        )
    unknown = [name for name in names if name not in _COLUMNS]
    if unknown or "advance_ns" not in names or not {"timestamp", "index"} & set(names):
        raise TraceError(
            f"the samples {os.fspath(path)!r} begin with {shown(','.join(names))}; expected a line of names:"
            " advance_ns, timestamp or index, and vm and vcpu if there are several"
        )
    return [_sample(names, row, f"{os.fspath(path)}:{line}") for line, row in enumerate(rows[1:], 2) if row]


def _sample(names: list[str], row: list[str], where: str) -> OutsideSample:
    try:
        values = {
            name: whole_number(text.strip(" "))
            for name, text in zip(names, row, strict=True)
            if text.strip(" ")
        }
    except ValueError:
        raise TraceError(
            f"{where} is no sample: {shown(','.join(row))}; expected a whole number for each of"
            f" {', '.join(names)}"
        ) from None
    timestamp, index = values.get("timestamp"), values.get("index")
    if "advance_ns" not in values or (timestamp is None and index is None):
        raise TraceError(f"{where} lacks advance_ns, or both timestamp and index")
    for name, value in values.items():
        most = U32 if name in ("advance_ns", "vm", "vcpu") else U64
        if not 0 <= value <= most:
            raise TraceError(f"{where} has {name} {value}; expected 0 to {most}")
    return OutsideSample(values.get("vm", 0), values.get("vcpu", 0), timestamp, index, values["advance_ns"])
