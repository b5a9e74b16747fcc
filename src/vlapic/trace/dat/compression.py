"""The compressions of trace.dat: a block of known size, unpacked without trusting that size.

Follows trace-cmd's `lib/trace-cmd/trace-compress-zlib.c` and `trace-compress-zstd.c`. A size in a damaged
file may say anything, so output grows step by step with what really comes out, and ends at `LIMIT_BYTES`.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

from vlapic.errors import TraceError

#: No block of a trace.dat is larger: chunks are a few pages, the symbols of a kernel some MiB.
LIMIT_BYTES = 1 << 28
_STEP_BYTES = 1 << 20


class Unpacked(NamedTuple):
    """What came out of a block.

    Attributes:
        data: at most as much as was asked for; of a damaged block, what comes before the damage.
        whole: it is as long as was asked for, the block ends there, and its checksum, if any, is right.
    """

    data: bytes
    whole: bool


#: Unpacks a block that should give so many bytes.
Decompressor = Callable[[memoryview, int], Unpacked]


def decompressor(name: str, path: str) -> Decompressor:
    """What unpacks blocks of the compression that a file's header names.

    Raises:
        TraceError: the compression is unknown, or the package it needs is not installed.
    """
    if name == "none":
        return _stored
    if name == "zlib":
        return _zlib
    if name == "zstd":
        return _zstd(_zstandard(path))
    raise TraceError(
        f"{path}: the compression {name!r} is not known; known: none, zlib, zstd; "
        "try `trace-cmd convert --compression none`"
    )


def _stored(block: memoryview, size: int) -> Unpacked:
    return Unpacked(bytes(block[:size]), len(block) == size)


def _zlib(block: memoryview, size: int) -> Unpacked:
    stream = zlib.decompressobj()
    out = bytearray()
    rest: bytes | memoryview = block
    # One byte more than there should be: only so is the end reached, and its checksum compared.
    limit = min(size, LIMIT_BYTES) + 1
    sound = True
    try:
        while len(out) < limit and not stream.eof:
            step = stream.decompress(rest, min(_STEP_BYTES, limit - len(out)))
            rest = stream.unconsumed_tail
            if not step and not rest:
                break
            out += step
    except zlib.error:
        sound = False
    whole = sound and stream.eof and len(out) == size and not stream.unused_data
    return Unpacked(bytes(out[:size]), whole)


def _zstandard(path: str) -> ModuleType:
    try:
        import zstandard
    except ImportError:
        raise TraceError(
            f"{path} is compressed with zstd, which needs the package zstandard; pip install zstandard"
        ) from None
    return zstandard


def _zstd(zstandard: ModuleType) -> Decompressor:
    def unpack(block: memoryview, size: int) -> Unpacked:
        out = bytearray()
        limit = min(size, LIMIT_BYTES) + 1
        sound = True
        try:
            # A damaged frame may ask for a huge window; the encoder's largest level needs 8 MiB.
            engine = zstandard.ZstdDecompressor(max_window_size=1 << 27)
            with engine.stream_reader(io.BytesIO(block)) as stream:
                while len(out) < limit:
                    step = stream.read(min(_STEP_BYTES, limit - len(out)))
                    if not step:
                        break
                    out += step
        except zstandard.ZstdError:
            sound = False
        return Unpacked(bytes(out[:size]), sound and len(out) == size)

    return unpack
