# SPDX-License-Identifier: GPL-2.0-or-later
"""The one way to write a file: beside its place, and put there when it is whole.

A file that fails half way (a full disk, no memory, a trace that cannot be read on) leaves what stood under
its name as it was. One that a person ends early is whole as far as it goes, and is put there. What is no
regular file (a pipe, a device) is written directly, and so is a file in a folder that takes no new ones.
`-` is stdout, whose reader may go away before the end (`| head`): what is left is dropped then.

A file whose name ends in `.gz`, `.xz` or `.zst` is packed that way. Ctrl-C in the middle of writing neither
cuts nor doubles what was given before it.
"""

from __future__ import annotations

import errno
import lzma
import operator
import os
import secrets
import stat
import zlib
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Protocol

from vlapic.errors import OutputError, UsageError
from vlapic.interrupts import ends_well

#: So much is written at a time.
_AT_ONCE = 1 << 20
#: The name that stands for stdout.
STDOUT = "-"
_STDOUT_NUMBER = 1
#: Ends of names that say how a file is packed.
PACKINGS = (".gz", ".xz", ".zst")
#: Ends of names that promise a packing in which nothing is written here.
_OTHER_PACKINGS = (".bz2", ".lz4", ".lzma", ".z", ".zip", ".7z")


class _Packer(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def without_packing(path: str | os.PathLike[str]) -> str:
    """A name without the end that says how it is packed, in lower case: `.txt` of `A.TXT.gz` is its end."""
    name = os.fspath(path).lower()
    return next((name.removesuffix(end) for end in PACKINGS if name.endswith(end)), name)


class OutputFile:
    """A file under way; as a context manager it is put in its place, or dropped if it fails.

    Attributes:
        path: its name.
        written_to: the file that is written meanwhile.

    Raises:
        UsageError: its name promises a packing that is not known.
        OutputError: it cannot be written, now or at any later call; the message names it.
    """

    def __init__(self, path: str | os.PathLike[str], what: str = "") -> None:
        """Begin a file.

        Args:
            what: what it is, for messages, like `the trace`.
        """
        self.path = os.fspath(path)
        self._what = f"{what} " if what else ""
        self._pieces: list[bytes] = []
        self._size = 0
        self._held = b""
        self._flushed = 0
        self._ended = self._failed = False
        self._final: str | None = None
        self._in_place = False
        self._packer = self._find_packer()
        try:
            self._file, self.written_to = self._open()
        except OSError as error:
            raise self.cannot_write(error) from None
        # Told by a number, not by the object: nothing closes it but this class.
        self._seekable = self.path != STDOUT and stat.S_ISREG(os.fstat(self._file).st_mode)

    def _open(self) -> tuple[int, str]:
        if not self.path:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if self.path == STDOUT:
            return os.dup(_STDOUT_NUMBER), STDOUT
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            status = None
        if status is not None and not stat.S_ISREG(status.st_mode):
            # Before links are followed: those of /dev/fd lead to no place.
            return os.open(self.path, flags), self.path
        final = os.path.realpath(self.path)
        if status is not None:
            # A file that may not be written is not replaced either.
            os.close(os.open(final, os.O_WRONLY | os.O_CLOEXEC))
        # Short: a name that is as long as can be has room for none longer.
        beside = os.path.join(os.path.dirname(final), f".vlapic-{secrets.token_hex(6)}.part")
        try:
            file = os.open(beside, flags | os.O_EXCL, 0o666)
        except PermissionError:
            if status is None:
                raise
            self._in_place = True
            return os.open(final, flags | os.O_TRUNC), final
        if status is not None:
            with suppress(OSError):
                os.fchown(file, status.st_uid, status.st_gid)
            os.fchmod(file, stat.S_IMODE(status.st_mode))
        self._final = final
        return file, beside

    def _find_packer(self) -> _Packer | None:
        name = self.path.lower()
        if name.endswith(_OTHER_PACKINGS):
            raise UsageError(
                f"{self.path!r} ends in {os.path.splitext(self.path)[1]}, in which nothing is packed here;"
                f" known: {', '.join(PACKINGS)}"
            )
        if name.endswith(".gz"):
            # Without a name and a time in its head: the same bytes from the same content.
            return zlib.compressobj(6, zlib.DEFLATED, 31)
        if name.endswith(".xz"):
            return lzma.LZMACompressor()
        if name.endswith(".zst"):
            try:
                import zstandard
            except ImportError:
                raise OutputError(
                    f"cannot write {self._what}{self.path!r}: zstd needs the package zstandard, which is not"
                    " installed; try .gz"
                ) from None
            packer: _Packer = zstandard.ZstdCompressor().compressobj()
            return packer
        return None

    def write(self, data: bytes) -> None:
        """Append bytes."""
        # In C from end to end, so that a Ctrl-C finds it done or not begun.
        if self._packer is None:
            self._pieces.append(data)
        else:
            self._pieces.extend(map(self._packer.compress, (data,)))
        self._size += len(data)
        if self._size >= _AT_ONCE:
            self._drain()

    def seekable(self) -> bool:
        """Whether `write_at` can be used."""
        return self._seekable and self._packer is None

    def tell(self) -> int:
        """How many bytes have been given."""
        return self._flushed + len(self._held) + sum(map(len, self._pieces))

    def write_at(self, place: int, data: bytes) -> None:
        """Write over bytes that were given before."""
        self._drain()
        with self._telling():
            os.pwrite(self._file, data, place)

    def _drain(self) -> None:
        self._size = 0
        self._held, self._pieces = self._held + b"".join(self._pieces), []
        with self._telling():
            while self._held:
                if self._seekable and (gone := os.lseek(self._file, 0, os.SEEK_CUR) - self._flushed):
                    # An interrupt came before it was noted.
                    self._held, self._flushed = self._held[gone:], self._flushed + gone
                    continue
                gone = self._write_some(self._held)
                self._held, self._flushed = self._held[gone:], self._flushed + gone

    def _write_some(self, data: bytes) -> int:
        try:
            return os.write(self._file, data)
        except BrokenPipeError:
            if self.path != STDOUT:
                raise
            return len(data)

    def keep(self) -> None:
        """Complete the file and put it in its place; after a failure, drop it. A second call does nothing."""
        if self._ended:
            return
        if self._failed:
            self.drop()  # it was told
            return
        try:
            if self._packer is not None:
                self._pieces.extend(map(operator.methodcaller("flush"), (self._packer,)))
                self._packer = None
            self._drain()
            self._ended = True
            with self._telling():
                os.close(self._file)
                if self._final is not None:
                    os.replace(self.written_to, self._final)
        except OutputError:
            self.drop()
            raise

    def drop(self) -> None:
        """Leave the file's place as it was; of one that is written in place, nothing stays but its name."""
        if not self._ended:
            self._ended = True
            with suppress(OSError):
                if self._in_place:
                    os.ftruncate(self._file, 0)
                os.close(self._file)
        if self._final is not None:
            with suppress(OSError):
                os.unlink(self.written_to)

    def cannot_write(self, error: OSError) -> OutputError:
        """The error for this file, from the system's; it is not put in its place any more."""
        self._failed = True
        if self.path == STDOUT and error.errno == errno.EBADF:
            return OutputError(f"cannot write {self._what}{self.path!r}: it is closed")
        return OutputError(
            f"cannot write {self._what}{self.path!r}: {error.strerror or error}; try another place"
        )

    def _telling(self) -> _Telling:
        return _Telling(self.cannot_write)

    def end(self, kind: type[BaseException] | None) -> None:
        """Keep the file if what it is made of came to its end, or a person ended it; else drop it.

        Args:
            kind: the exception that ended it.
        """
        if ends_well(kind):
            self.keep()
        else:
            self.drop()

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.end(kind)

    def __del__(self) -> None:
        if not getattr(self, "_ended", True) and hasattr(self, "_seekable"):
            self.drop()


class _Telling:
    """Makes an error of the system one of ours."""

    def __init__(self, error_of: Callable[[OSError], OutputError]) -> None:
        self._error_of = error_of

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise self._error_of(error) from None
