"""Files that may be compressed: what they hold, piece by piece, as far as it can be had.

What a file begins with says how it is compressed. One that ends too early or is damaged gives what comes
before that, and then says so.
"""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

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

_INPUT = 1 << 16
_OUTPUT = 1 << 20
#: zstd has no limit on what comes out of a piece: a block is 4 bytes that may become 128 KiB.
_ZSTD_INPUT = 512


class Pieces(io.RawIOBase):
    """A file of what a generator yields, to be read forwards.

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
            except (zlib.error, lzma.LZMAError, _ZstdError):
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


class _ZstdError(Exception):
    """zstandard's error, under a name that is there without it."""


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
        return Pieces(file, _READERS[compression](file, path))
    except TraceError:
        file.close()
        raise


def _gzip(file: BinaryIO, path: str) -> Iterator[bytes]:
    decompress = zlib.decompressobj(31)
    data = file.read(_INPUT)
    while data:
        yield decompress.decompress(data, _OUTPUT)
        if decompress.eof:
            # Several members, perhaps with zeros between them.
            data = decompress.unused_data.lstrip(b"\0")
            while not data and (more := file.read(_INPUT)):
                data = more.lstrip(b"\0")
            if not data:
                return
            decompress = zlib.decompressobj(31)
        else:
            data = decompress.unconsumed_tail or file.read(_INPUT)
    raise EOFError


def _xz(file: BinaryIO, path: str) -> Iterator[bytes]:
    decompress = lzma.LZMADecompressor()
    data = file.read(_INPUT)
    while data or not decompress.needs_input:
        yield decompress.decompress(data, _OUTPUT)
        if decompress.eof:
            data = decompress.unused_data.lstrip(b"\0") or file.read(_INPUT).lstrip(b"\0")
            if not data:
                return
            decompress = lzma.LZMADecompressor()
        else:
            data = file.read(_INPUT) if decompress.needs_input else b""
    raise EOFError


def _zstd(file: BinaryIO, path: str) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise TraceError(
            f"the trace {path!r} is compressed with zstd, which needs the package zstandard;"
            " pip install zstandard"
        ) from None
    return _zstd_pieces(file, zstandard.ZstdDecompressor, zstandard.ZstdError)


def _zstd_pieces(file: BinaryIO, make: Callable[[], object], error: type[Exception]) -> Iterator[bytes]:
    decompress = make().decompressobj()  # type: ignore[attr-defined]
    data = file.read(_ZSTD_INPUT)
    while data:
        try:
            yield decompress.decompress(data)
        except error as wrong:
            raise _ZstdError(str(wrong)) from None
        if decompress.eof:
            data = decompress.unused_data or file.read(_ZSTD_INPUT)
            if not data:
                return
            decompress = make().decompressobj()  # type: ignore[attr-defined]
        else:
            data = file.read(_ZSTD_INPUT)
    raise EOFError


_READERS: dict[str, Callable[[BinaryIO, str], Iterator[bytes]]] = {"gzip": _gzip, "xz": _xz, "zstd": _zstd}
