# SPDX-License-Identifier: GPL-2.0-or-later
"""Ctrl-C: never lost, answered by whoever began what it ends, and no reason to throw results away.

What takes time (a run, a replay, a conversion) catches KeyboardInterrupt itself and returns what it has so
far, marked `interrupted`; files are completed by `ends_well`. Two places know more: `__main__` answers while
nothing is imported yet, the Unicorn engine has to stop its CPU first.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: After this Python is out of the place where it could not be raised, as a rule; else it is dropped, and
#: raised, once more.
AGAIN_AFTER_SECONDS = 0.005


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """While this lasts, a KeyboardInterrupt that Python can only print is raised in the main thread again.

    Python raises it wherever it just is. In the callback of a weak reference or in a finaliser it cannot be
    caught, so Python prints it and goes on, and the command would run to its end.
    """
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


def take_back_interrupts() -> None:
    """Have Python answer Ctrl-C again, after a library with a runtime of its own has taken it at its import.

    In another thread than the main one nothing is done: only the main one may.
    """
    if threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGINT)
        if handler is not None:
            signal.signal(signal.SIGINT, handler)


def ends_well(kind: type[BaseException] | None) -> bool:
    """Whether what is being written is completed and kept after this exception, None for none.

    It is if a person ended it, or if whoever takes the pieces wants no more of them.
    """
    return kind is None or issubclass(kind, (KeyboardInterrupt, GeneratorExit))
