"""`python -m vlapic`, and the script `vlapic`: the command line.

Ctrl-C is answered from the first moment on: while modules are imported nothing could, and what Python prints
of an interrupted import helps nobody.
"""

import os
import signal
import sys
from types import FrameType


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"vlapic: interrupted\n")
    os._exit(130)


def main() -> int:
    """Run the command line; the exit status."""
    # Whoever starts us may have Ctrl-C ignored.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, _end)
    from vlapic.cli import main as run_command_line

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run_command_line()


if __name__ == "__main__":
    sys.exit(main())
