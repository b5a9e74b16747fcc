# SPDX-License-Identifier: GPL-2.0-or-later
"""The recordings, and traces made up for a test."""

import lzma
from functools import cache
from pathlib import Path

from vlapic.trace import open_trace

FOLDER = Path(__file__).parent.parent / "traces"
RECORDINGS = sorted(path.name.removesuffix(".txt.xz") for path in FOLDER.glob("*.txt.xz"))


def path_of(name):
    return FOLDER / f"{name}.txt.xz"


@cache
def text_of(name):
    return lzma.decompress(path_of(name).read_bytes())


def opened(tmp_path, text, name="trace.txt"):
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return open_trace(path)
