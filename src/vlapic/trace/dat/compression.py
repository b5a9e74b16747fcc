"""The compressions of trace.dat: a block of known size, unpacked without trusting that size.

Follows trace-cmd's `lib/trace-cmd/trace-compress-zlib.c` and `trace-compress-zstd.c`. A size in a damaged
file may say anything, so output grows step by step with what really comes out, and ends at `LIMIT_BYTES`.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from types import ModuleType

from vlapic.errors import TraceError

#: No block of a trace.dat is larger: chunks are a few pages, the symbols of a kernel some MiB.
LIMIT_BYTES = 1 << 28
_STEP_BYTES = 1 << 20

#: Unpacks a block into at most so many bytes; None if it is damaged from the start.
Decompressor = Callable[[memoryview, int], bytes | None]


def decompressor(name: str, path: str) -> Decompressor:
    """What unpacks blocks of the compression that a file's header names.

    A damaged block gives what came out before the damage, or None if that is nothing.

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


def _stored(block: memoryview, size: int) -> bytes | None:
    return bytes(block[:size])


def _zlib(block: memoryview, size: int) -> bytes | None:
    stream = zlib.decompressobj()
    out = bytearray()
    rest: bytes | memoryview = block
    limit = min(size, LIMIT_BYTES)
    try:
        while len(out) < limit and not stream.eof:
            step = stream.decompress(rest, min(_STEP_BYTES, limit - len(out)))
            rest = stream.unconsumed_tail
            if not step and not rest:
                break
            out += step
    except zlib.error:
        pass
    return bytes(out) or None


def _zstandard(path: str) -> ModuleType:
    try:
        import zstandard
    except ImportError:
        raise TraceError(
            f"{path} is compressed with zstd, which needs the package zstandard; pip install zstandard"
        ) from None
    return zstandard


def _zstd(zstandard: ModuleType) -> Decompressor:
    def unpack(block: memoryview, size: int) -> bytes | None:
        out = bytearray()
        limit = min(size, LIMIT_BYTES)
        try:
            # A damaged frame may ask for a huge window; the encoder's largest level needs 8 MiB.
            engine = zstandard.ZstdDecompressor(max_window_size=1 << 27)
            with engine.stream_reader(io.BytesIO(block)) as stream:
                while len(out) < limit:
                    step = stream.read(min(_STEP_BYTES, limit - len(out)))
                    if not step:
                        break
                    out += step
        except (zstandard.ZstdError, MemoryError):
            pass
        return bytes(out) or None

    return unpack
