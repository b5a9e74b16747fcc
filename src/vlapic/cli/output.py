# SPDX-License-Identifier: GPL-2.0-or-later
"""What commands write: results to stdout, one line of complaint to stderr."""

from __future__ import annotations

import errno
import io
import json
import os
import select
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from vlapic.errors import OutputError

if TYPE_CHECKING:
    from rich.console import Console


def emit(write: Callable[[], object]) -> None:
    """Write results to stdout and flush it.

    A reader that went away (`| head`) is no failure.

    Raises:
        OutputError: stdout takes no more.
    """
    try:
        write()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        drop_stdout()
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError from None
        drop_stdout()
        raise OutputError(f"cannot write the results to stdout: {error.strerror}") from None


def print_json(value: object) -> None:
    """Print a result, or data made of results, as JSON."""
    from vlapic.json_data import json_data

    print(json.dumps(json_data(value), indent=2))


#: No console of ours is taken for narrower than this: tables are whole from here on.
MIN_WIDTH = 40


def console(*, stderr: bool = False) -> Console:
    """What stands for stdout or stderr: its width, its colours. A COLUMNS of 0 means that it is not known."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False)
    if not made.width:
        made.width = shutil.get_terminal_size().columns
    made.width = max(made.width, MIN_WIDTH)
    return made


def print_by_rich(show: Callable[[Console], object]) -> None:
    """Print what `show` draws on a console that stands for stdout: in its width, with its colours.

    Rich itself would end the program where the reader of stdout went away.
    """
    on = console()
    with on.capture() as drawn:
        show(on)
    print(drawn.get(), end="")


def complain(message: str, status: int) -> int:
    """Write one line to stderr; `status` is returned."""
    with suppress(OSError):  # where it is closed
        print("vlapic:", " ".join(message.split()), file=sys.stderr, flush=True)
    return status


def memory_is_short() -> bool:
    """Whether memory is nearly exhausted, so that what failed may have failed for that."""
    try:
        from vlapic.memory import is_short
    except ImportError:
        return True
    return is_short()


#: Options that make a command's work smaller.
_LESS = {"run": "--memory, --vcpus, --vms", "patches": "one fix at a time"}


def out_of_memory(command: str = "") -> str:
    """What to say where memory ran out of a command."""
    try:
        from vlapic.memory import in_words
    except ImportError:
        return "memory is exhausted; raise the limit with `ulimit -v`"
    less = f", or give it less to do ({_LESS[command]})" if command in _LESS else ""
    return f"memory is exhausted: {in_words()}{less}"


class _Closed(io.RawIOBase):
    """Stands for a stdout that was closed before the process began; Python itself says nothing of that."""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        raise OSError(errno.EBADF, "it is closed")


def notice_closed_stdout() -> None:
    """Let writing to a stdout that is closed fail, as to a full one."""
    if sys.stdout is None:
        # So that no file that is opened later gets its number and is written to.
        while os.open(os.devnull, os.O_RDONLY) < 1:
            pass
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(_Closed()), write_through=True)


def has_reader() -> bool:
    """Whether what stdout is goes on; a pipe whose reader left does not."""
    poll = select.poll()
    try:
        poll.register(1, 0)
        return not any(events & select.POLLERR for _, events in poll.poll(0))
    except OSError:
        return False


def drop_stdout() -> None:
    """Point stdout at nothing, so that what is still buffered does not fail again when Python ends."""
    if isinstance(getattr(getattr(sys.stdout, "buffer", None), "raw", None), _Closed):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
