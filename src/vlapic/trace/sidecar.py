# SPDX-License-Identifier: GPL-2.0-or-later
"""The sidecar of a trace: what its recorder knew and the trace does not say, in `NAME.toml` beside it.

    kernel = "6.1.0-56-amd64"           # uname -r of the host
    tsc_khz = 2599997                   # of the guest's TSC: KVM_GET_TSC_KHZ
    tsc_ratio = 281474976710656         # debugfs tsc-scaling-ratio; left out: not scaled
    frac_bits = 48                      # debugfs tsc-scaling-ratio-frac-bits
    [parameters]                        # of the kvm modules
    lapic_timer_advance_ns = -1

Every line may be left out, and other keys may be there for people to read. `khz`, `ratio` and `frac` are
other names for these.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlapic import toml
from vlapic.errors import TraceError
from vlapic.numerals import shown
from vlapic.trace.source import STDIN
from vlapic.tsc import U32, U64

#: The numbers it may say, each with its least and greatest value.
_NUMBERS = {"tsc_khz": (1, U32), "tsc_ratio": (1, U64), "frac_bits": (1, 63)}
_KEYS = ("kernel", *_NUMBERS, "parameters")
#: Other names for them.
_SHORT = {"khz": "tsc_khz", "ratio": "tsc_ratio", "frac": "frac_bits"}


@dataclass(frozen=True)
class Sidecar:
    """What a sidecar says; None or empty is not said.

    Attributes:
        path: the file, empty where there is none.
        kernel: release of the kernel that recorded the trace.
        tsc_khz: frequency of the guest's TSC.
        tsc_ratio, frac_bits: the scaling ratio of the guest's TSC.
        parameters: of the kvm modules, as sysfs has them.
    """

    path: str = ""
    kernel: str | None = None
    tsc_khz: int | None = None
    tsc_ratio: int | None = None
    frac_bits: int | None = None
    parameters: dict[str, str] = field(default_factory=dict)


def sidecar_of(trace: str) -> Sidecar:
    """The sidecar of a trace: `a.toml` beside `a.txt`, `a.dat` or `a.txt.gz`; an empty one if it has none.

    Standard input has none.

    Raises:
        TraceError: it is there, and cannot be read or understood.
    """
    if trace == STDIN:
        return Sidecar()
    path = Path(trace)
    names = [path.name + ".toml"]
    stem = path.name
    while "." in stem.lstrip("."):
        stem = stem.rpartition(".")[0]
        names.append(stem + ".toml")
    for name in names:
        beside = path.with_name(name)
        if beside != path and beside.is_file():
            return _read(beside)
    return Sidecar()


def _read(path: Path) -> Sidecar:
    try:
        said = toml.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TraceError(f"cannot read the sidecar {str(path)!r}: {error.strerror}") from None
    except toml.NotToml as error:
        raise TraceError(
            f"the sidecar {str(path)!r} is no TOML at line {error.line}: {error}; expected lines like"
            " tsc_khz = 2599997"
        ) from None
    except UnicodeDecodeError:
        raise TraceError(f"the sidecar {str(path)!r} is no text in UTF-8; expected TOML") from None
    for key in said:
        # Other things are remarks for people; what looks like a slip of the pen is one.
        if key not in (*_KEYS, *_SHORT) and (near := difflib.get_close_matches(key, _KEYS, 1, 0.8)):
            raise TraceError(f"the sidecar {str(path)!r} has a key {key!r}; did you mean {near[0]!r}?")
    said |= {name: said[short] for short, name in _SHORT.items() if short in said}
    for key, (least, most) in _NUMBERS.items():
        value = said.get(key)
        if value is not None and not (type(value) is int and least <= value <= most):
            raise TraceError(
                f"the sidecar {str(path)!r} has {key} = {_seen(value)}; expected a whole number,"
                f" {least} to {most}"
            )
    kernel, parameters = said.get("kernel"), said.get("parameters", {})
    if kernel is not None and not isinstance(kernel, str):
        raise TraceError(
            f"the sidecar {str(path)!r} has kernel = {_seen(kernel)}; expected a release in quotes, as"
            " uname -r says it"
        )
    if not isinstance(parameters, dict):
        raise TraceError(
            f"the sidecar {str(path)!r} has parameters = {_seen(parameters)}; expected a table [parameters]"
        )
    return Sidecar(
        path=str(path),
        kernel=kernel,
        tsc_khz=said.get("tsc_khz"),
        tsc_ratio=said.get("tsc_ratio"),
        frac_bits=said.get("frac_bits"),
        parameters={name: _as_sysfs(value) for name, value in parameters.items()},
    )


def _as_sysfs(value: Any) -> str:
    return ("Y" if value else "N") if isinstance(value, bool) else _text(value)


def _seen(value: Any) -> str:
    """A value for an error's one line."""
    return shown(value) if isinstance(value, str) else shown(_text(value))[1:-1]


def _text(value: Any) -> str:
    try:
        return str(value)
    except ValueError:
        # A hexadecimal number of thousands of digits is TOML; Python does not print it in decimal.
        return hex(value) if isinstance(value, int) else "..."
