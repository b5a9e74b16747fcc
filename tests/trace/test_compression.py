# SPDX-License-Identifier: GPL-2.0-or-later
"""One way to unpack, for whole files and for blocks of a trace.dat: to the damage, and no further."""

import gzip
import lzma
import zlib
from typing import Any

import pytest

from vlapic.trace.compression import decompressor, open_file
from vlapic.trace.source import Origin

zstandard = pytest.importorskip("zstandard", reason="zst is of the extra `trace`: pip install zstandard")

FILES = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstandard.compress}
BLOCKS = {"zlib": zlib.compress, "zstd": zstandard.compress, "none": bytes}
#: So much that it comes out in several pieces, each of which ends where a piece may.
DATA = bytes(range(256)) * (3 << 12)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_what_was_packed_member_after_member(name, tmp_path):
    path = tmp_path / f"trace.{name}"
    path.write_bytes(FILES[name](DATA) + FILES[name](b"more"))
    file: Any
    with open_file(Origin.of(path)) as file:
        assert file.read() == DATA + b"more"
        assert file.damage is None


def test_a_file_that_lacks_only_its_checksum_gives_all_and_says_so(tmp_path):
    path = tmp_path / "trace.gz"
    path.write_bytes(gzip.compress(DATA)[:-8])
    file: Any
    with open_file(Origin.of(path)) as file:
        assert file.read() == DATA
        assert file.damage == "unfinished"


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_whole_only_if_it_has_the_size_and_the_end_that_it_should(name):
    unpack, packed = decompressor(name, "x.dat"), BLOCKS[name](DATA)
    size = len(DATA)
    assert unpack(memoryview(packed), size) == (DATA, True)
    assert unpack(memoryview(packed), size - 1) == (DATA[:-1], False)
    assert unpack(memoryview(packed), size + 1) == (DATA, False)
    assert unpack(memoryview(packed)[:-1], size).whole is False
    assert unpack(memoryview(packed + b"?"), size).whole is False


def test_a_block_that_promises_more_than_there_can_be_takes_no_room_for_it():
    assert decompressor("zlib", "x.dat")(memoryview(zlib.compress(b"few")), 1 << 60) == (b"few", False)
