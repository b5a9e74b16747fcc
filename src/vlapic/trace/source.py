# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a trace comes from: a file, or a pipe whose bytes are kept, so that they can be read again.

A trace is opened more than once: to see what it is, to fit a frequency, to place samples. What comes through
a pipe comes once, so it is written to a temporary file that has no name and ends with the process.
"""

from __future__ import annotations

import io
import os
import stat
import tempfile
from typing import BinaryIO

from vlapic.errors import TraceError

#: The name that stands for standard input.
STDIN = "-"
_STDIN_NUMBER = 0
_COPIED_BYTES = 1 << 20


class Origin:
    """What a trace is read from, as often as wanted.

    Attributes:
        name: as a person named it, for messages.
        interrupted: a person ended what came through a pipe; what came before that is kept.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Take a file, or all that comes through a pipe; `-` is standard input.

        Raises:
            TraceError: a pipe cannot be read or kept, or it is a terminal.
        """
        self.name = os.fspath(path)
        self.interrupted = False
        self._kept: BinaryIO | None = None
        try:
            self._status = os.stat(_STDIN_NUMBER if self.name == STDIN else self.name)
            if self.name == STDIN:
                self._take(io.FileIO(_STDIN_NUMBER, closefd=False))
            elif _comes_once(self._status.st_mode):
                with io.FileIO(self.name) as file:
                    self._take(file)
        except OSError as error:
            raise cannot_read(self.name, error) from None

    @classmethod
    def of(cls, trace: str | os.PathLike[str] | Origin) -> Origin:
        """Where a trace comes from that is named, or has been taken already."""
        return trace if isinstance(trace, Origin) else cls(trace)

    def open(self) -> BinaryIO:
        """The bytes from the first one on, independent of whoever else reads them.

        Raises:
            TraceError: it cannot be opened.
        """
        if self._kept is not None:
            return io.BufferedReader(_View(self._kept))
        try:
            return open(self.name, "rb")
        except OSError as error:
            raise cannot_read(self.name, error) from None

    def is_file(self, path: str | os.PathLike[str]) -> bool:
        """Whether a path is the very file that this is read from."""
        try:
            return os.path.samestat(self._status, os.stat(path))
        except OSError:
            return False

    def _take(self, file: io.FileIO) -> None:
        """Keep what comes through an open file, or the file itself where it can be read again."""
        if file.isatty():
            raise TraceError(
                f"{self.name!r} is a terminal; expected a trace through a pipe, like"
                " `trace-cmd report | vlapic replay -`"
            )
        if stat.S_ISREG(self._status.st_mode) and file.tell() == 0:
            self._kept = file
            return
        try:
            kept = tempfile.TemporaryFile()  # noqa: SIM115
        except OSError as error:
            raise self._cannot_keep(error) from None
        try:
            while piece := file.read(_COPIED_BYTES):
                if stat.S_ISCHR(self._status.st_mode):
                    # A device may have no end; what it begins with says that it is no trace.
                    kept.write(piece)
                    break
                try:
                    kept.write(piece)
                except OSError as error:
                    raise self._cannot_keep(error) from None
        except KeyboardInterrupt:
            # Ctrl-C ends whoever writes into the pipe as well; what came is the trace.
            if not kept.tell():
                raise
            self.interrupted = True
        try:
            kept.flush()
        except OSError as error:
            raise self._cannot_keep(error) from None
        self._kept = kept

    def _cannot_keep(self, error: OSError) -> TraceError:
        return TraceError(
            f"cannot keep what comes through {self.name!r} in {tempfile.gettempdir()!r}: {error.strerror};"
            " set TMPDIR to a place with room, or give a file"
        )


class _View(io.RawIOBase):
    """An open file from its beginning, at a place of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 0

    def fileno(self) -> int:
        return self._file.fileno()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: os.fstat(self.fileno()).st_size}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = os.pread(self.fileno(), len(buffer), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _comes_once(mode: int) -> bool:
    """Whether what is read from such a file is gone from it."""
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)


def cannot_read(name: str, error: Exception) -> TraceError:
    """The error for a trace that the system does not let us read."""
    reason = getattr(error, "strerror", None) or error
    return TraceError(f"cannot read the trace {name!r}: {reason}; give a file that can be read")
