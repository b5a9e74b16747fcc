# SPDX-License-Identifier: GPL-2.0-or-later
"""`python -m vlapic`, and the script `vlapic`: the command line.

Ctrl-C is answered from the first moment on, before anything else is imported: while modules are imported
nothing could, and what Python prints of an interrupted import helps nobody.
"""

from __future__ import annotations

import os
import signal
import sys

# Not of `typing`, whose import takes a while; type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import NoReturn

WORLD = 1
INTERRUPTED = 130


def _end(number: int, frame: FrameType | None) -> NoReturn:
    os.write(2, b"vlapic: interrupted\n")
    os._exit(INTERRUPTED)


#: Whoever starts us may have Ctrl-C ignored.
_INTERRUPTIBLE = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _INTERRUPTIBLE:
    signal.signal(signal.SIGINT, _end)


def _has_memory() -> bool:
    try:
        bytearray(64 << 20)
    except MemoryError:
        return False
    return True


def main() -> int:
    """Run the command line; the exit status."""
    # One thread of numpy's BLAS is enough for what is asked of it. More of them cost memory, and where there
    # is none OpenBLAS raises SIGINT, as if a person had.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from vlapic.cli import main as run_command_line
    except (ImportError, MemoryError):
        if _has_memory():
            raise
        os.write(2, b"vlapic: memory is exhausted; raise the limit with `ulimit -v`\n")
        return WORLD

    if not _INTERRUPTIBLE:
        return run_command_line()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = run_command_line()
        # All is printed: what comes now is too late.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        _end(signal.SIGINT, None)
    if status == INTERRUPTED:
        # Where the interrupt went through an eval(), as in making a namedtuple, Python would end by killing
        # itself with SIGINT, whatever became of it.
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
