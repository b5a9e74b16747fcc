"""Ctrl-C, not lost: what Python drops of it is raised again.

Python raises KeyboardInterrupt wherever it just is. In the callback of a weak reference or in a finaliser
nothing can catch it, so Python prints it and goes on, and the command would run to its end.
"""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: After this Python is out of the place where it could not be raised, as a rule; else it is dropped, and
#: raised, once more.
AGAIN_AFTER_SECONDS = 0.005


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """While this lasts, a KeyboardInterrupt that Python can only print is raised in the main thread again."""
    before = sys.unraisablehook
    again: list[threading.Timer] = []

    def on_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
        if not isinstance(unraisable.exc_value, KeyboardInterrupt):
            before(unraisable)
            return
        timer = threading.Timer(AGAIN_AFTER_SECONDS, _thread.interrupt_main)
        timer.daemon = True
        again.append(timer)
        timer.start()

    sys.unraisablehook = on_unraisable
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in again:
            timer.cancel()
