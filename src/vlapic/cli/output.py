"""What commands write: results to stdout, one line of complaint to stderr."""

from __future__ import annotations

import errno
import os
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
    with suppress(OSError):  # where nobody listens
        print("vlapic:", " ".join(message.split()), file=sys.stderr, flush=True)
    return status


def out_of_memory() -> str:
    """What to say where memory ran out, in this process's limit or in all."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return "memory is exhausted; end other programs, or give it less to do (--memory, --vcpus, --vms)"
    return (
        f"memory is exhausted: this process may have {limit >> 20} MiB; raise that (`ulimit -v`), or give it"
        " less to do (--memory, --vcpus, --vms)"
    )


def drop_stdout() -> None:
    """Point stdout at nothing, so that what is still buffered does not fail again when Python ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
