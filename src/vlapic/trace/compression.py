# SPDX-License-Identifier: GPL-2.0-or-later
"""Packed data: what they hold, piece by piece, as far as it can be had.

A trace may be packed as a whole, and a trace.dat has packed blocks. What a file begins with says how it is
packed, a trace.dat's header how its blocks are. Data that end too early or are damaged give what comes before
that, and then say so. A size in a damaged file may say anything, so output grows with what really comes out.
Blocks follow trace-cmd's `lib/trace-cmd/trace-compress-zlib.c` and `trace-compress-zstd.c`.
"""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple, Protocol

from vlapic.errors import TraceError
from vlapic.trace.source import Origin, cannot_read

_MAGIC_ZSTD = b"\x28\xb5\x2f\xfd"
#: Compressions that are known by sight only.
_OTHERS = {
    b"BZh": ("bzip2", "bunzip2"),
    b"\x04\x22\x4d\x18": ("lz4", "unlz4"),
    b"PK\x03\x04": ("zip", "unzip"),
    b"\x89LZO": ("lzop", "lzop -d"),
}
_MAGIC_LENGTH = 6

_INPUT_BYTES = 1 << 16
_OUTPUT_BYTES = 1 << 20
#: zstd has no limit on what comes out of a piece: a block is 4 bytes that may become 128 KiB.
_ZSTD_INPUT_BYTES = 512
#: A damaged frame may ask for a huge window; zstd's largest level needs 8 MiB.
_ZSTD_WINDOW_BYTES = 1 << 27

#: No block of a trace.dat is larger: chunks are a few pages, the symbols of a kernel some MiB.
LIMIT_BYTES = 1 << 28


class Damaged(Exception):
    """Packed data go on with something that they cannot."""


class _Stream(Protocol):
    """What unpacks one member; the protocol of `lzma.LZMADecompressor`."""

    @property
    def eof(self) -> bool:
        """Whether the member has ended, and its checksum is right."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes out without more data."""

    @property
    def unused_data(self) -> bytes:
        """What stands behind the member."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """What comes out next."""


class _Compression(NamedTuple):
    """A way to pack.

    Attributes:
        stream: unpacks a member.
        error: what `stream` raises at damage.
        input_bytes: how much it is given at a time.
        padded: there may be zeros between members, and behind the last.
    """

    stream: Callable[[], _Stream]
    error: type[Exception]
    input_bytes: int = _INPUT_BYTES
    padded: bool = False


class _Zlib:
    """zlib's decompressor; `wbits` as `zlib.decompressobj` has it."""

    def __init__(self, wbits: int) -> None:
        self._stream = zlib.decompressobj(wbits)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._stream.decompress(self._stream.unconsumed_tail + data, max_length)
        # As much as was asked for: there may be more inside.
        self.needs_input = not self._stream.unconsumed_tail and len(out) < max_length
        return out


class _Zstd:
    """zstandard's decompressor, which gives all that it can at once."""

    needs_input = True

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    @property
    def eof(self) -> bool:
        return bool(self._stream.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._stream.unused_data)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return bytes(self._stream.decompress(data))


def _compression(name: str, path: str) -> _Compression:
    """gzip, xz, zlib or zstd.

    Raises:
        TraceError: the package for it is missing.
    """
    match name:
        case "gzip":
            return _Compression(lambda: _Zlib(31), zlib.error, padded=True)
        case "xz":
            return _Compression(lzma.LZMADecompressor, lzma.LZMAError, padded=True)
        case "zlib":
            return _Compression(lambda: _Zlib(15), zlib.error)
    try:
        import zstandard
    except ImportError:
        raise TraceError(
            f"the trace {path!r} is compressed with zstd, which needs the package zstandard;"
            " pip install zstandard"
        ) from None
    make = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    return _Compression(lambda: _Zstd(make.decompressobj()), zstandard.ZstdError, _ZSTD_INPUT_BYTES)


def _unpacked(file: BinaryIO, compression: _Compression) -> Iterator[bytes]:
    """What comes out of a file, member after member.

    Raises:
        EOFError: it ends within a member.
        Damaged: it goes on with something that cannot be.
    """

    def more() -> bytes:
        while data := file.read(compression.input_bytes):
            if not at_member or not compression.padded or (data := data.lstrip(b"\0")):
                return data
        return b""

    at_member = False
    stream = compression.stream()
    data = more()
    while data or not stream.needs_input:
        try:
            out = stream.decompress(data, _OUTPUT_BYTES)
        except compression.error as wrong:
            raise Damaged(str(wrong)) from None
        yield out
        if stream.eof:
            at_member = True
            data = stream.unused_data.lstrip(b"\0") if compression.padded else stream.unused_data
            data = data or more()
            if not data:
                return
            at_member = False
            stream = compression.stream()
        else:
            data = more() if stream.needs_input else b""
    raise EOFError


class Pieces(io.RawIOBase):
    """A packed file as what is in it, to be read forwards.

    Attributes:
        damage: None, or after the end: `unfinished` (the file ends too early), or `damaged`.
    """

    def __init__(self, file: BinaryIO, pieces: Iterator[bytes]) -> None:
        self._file = file
        self._pieces = pieces
        self._left = b""
        self.damage: str | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes, fewer than asked for only at the end."""
        parts, length = [self._left], len(self._left)
        while size < 0 or length < size:
            try:
                part = next(self._pieces)
            except StopIteration:
                break
            except EOFError:
                self.damage = "unfinished"
                break
            except Damaged:
                self.damage = "damaged"
                break
            parts.append(part)
            length += len(part)
        whole = b"".join(parts)
        if size < 0:
            size = len(whole)
        self._left = whole[size:]
        return whole[:size]

    def close(self) -> None:
        self._file.close()
        super().close()


def compression_of(head: bytes) -> str | None:
    """How a file is compressed that begins with these bytes (6 are enough), None if it is not."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    return "zstd" if head.startswith(_MAGIC_ZSTD) else None


def open_file(origin: Origin) -> BinaryIO | Pieces:
    """Open a trace for reading, as what it is before any compression.

    Raises:
        TraceError: it cannot be opened, is compressed in a way that is not known, or the package for it is
            missing.
    """
    path = origin.name
    file = origin.open()
    try:
        head = file.read(_MAGIC_LENGTH)
        file.seek(0)
    except OSError as error:
        file.close()
        raise cannot_read(path, error) from None
    for magic, (name, tool) in _OTHERS.items():
        if head.startswith(magic):
            file.close()
            raise TraceError(
                f"the trace {path!r} is compressed with {name}; gz, xz and zst are known,"
                f" so unpack it with {tool}"
            )
    compression = compression_of(head)
    if compression is None:
        return file
    try:
        return Pieces(file, _unpacked(file, _compression(compression, path)))
    except TraceError:
        file.close()
        raise


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
    """What unpacks blocks of the compression that a trace.dat's header names.

    Args:
        name: `none`, `zlib` or `zstd`.
        path: the trace, for messages.

    Raises:
        TraceError: the compression is unknown, or the package it needs is not installed.
    """
    if name == "none":
        return lambda block, size: Unpacked(bytes(block[:size]), len(block) == size)
    if name not in ("zlib", "zstd"):
        raise TraceError(
            f"{path}: the compression {name!r} is not known; known: none, zlib, zstd; "
            "try `trace-cmd convert --compression none`"
        )
    compression = _compression(name, path)

    def unpack(block: memoryview, size: int) -> Unpacked:
        out = bytearray()
        limit = min(size, LIMIT_BYTES)
        whole = False
        try:
            # To the very end, where the checksum is compared; but not on and on behind what there should be.
            for piece in _unpacked(io.BytesIO(block), compression):
                out += piece
                if len(out) > limit:
                    break
            else:
                whole = len(out) == size
        except (EOFError, Damaged):
            pass
        return Unpacked(bytes(out[:size]), whole)

    return unpack
