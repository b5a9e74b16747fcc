# SPDX-License-Identifier: GPL-2.0-or-later
"""Ctrl-C: what it ends is kept, and it is Python's to answer."""

import signal
import threading

import pytest

from vlapic.interrupts import ends_well, take_back_interrupts


@pytest.mark.parametrize("kind", [None, KeyboardInterrupt, GeneratorExit])
def test_what_a_person_ends_is_kept(kind):
    assert ends_well(kind)


@pytest.mark.parametrize("kind", [OSError, MemoryError, AssertionError, SystemExit])
def test_what_fails_is_dropped(kind):
    assert not ends_well(kind)


def test_the_handler_that_python_knows_is_set_again(monkeypatch):
    set_again = []
    monkeypatch.setattr(signal, "signal", lambda *of: set_again.append(of))
    take_back_interrupts()
    assert set_again == [(signal.SIGINT, signal.getsignal(signal.SIGINT))]


def test_another_thread_than_the_main_one_sets_no_handler(monkeypatch):
    set_again = []
    monkeypatch.setattr(signal, "signal", lambda *of: set_again.append(of))
    thread = threading.Thread(target=take_back_interrupts)
    thread.start()
    thread.join()
    assert set_again == []
