# SPDX-License-Identifier: GPL-2.0-or-later
"""On which line of a TOML text a key stands: tomllib says it of errors only, tomlkit of nothing."""

from __future__ import annotations

import re
import tomllib

_HEADER = re.compile(r"^\s*\[\[?\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"""^\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")


def line_of(text: str, path: tuple[str, ...]) -> int | None:
    """The line, from 1, of a key or a table's header; of the nearest thing around it if it is within a value.

    Args:
        text: valid TOML.
        path: the names that lead to the key, from outside in.
    """
    while path:
        if (line := _exact_line_of(text, path)) is not None:
            return line
        path = path[:-1]
    return None


def _exact_line_of(text: str, path: tuple[str, ...]) -> int | None:
    lines = text.split("\n")
    table: tuple[str, ...] = ()
    for index, line in enumerate(lines):
        if header := _HEADER.match(line):
            if not _is_complete(lines[:index]):
                continue  # an array in an array
            table = _parts(header[1])
            if table == path:
                return index + 1
        elif (key := _KEY.match(line)) and table + _parts(key[1]) == path and _is_complete(lines[:index]):
            return index + 1
    return None


def _parts(key: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(key))


def _is_complete(lines: list[str]) -> bool:
    """Whether no value is still open after these lines."""
    try:
        tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError:
        return False
    return True
