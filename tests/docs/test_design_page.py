# SPDX-License-Identifier: GPL-2.0-or-later
"""The walk of docs/design.md along one timer interrupt goes through the files that the calls go through."""

import re
import sys
from collections import Counter
from pathlib import Path

import vlapic
from tests.docs.documents import ROOT
from tests.support.machines import Run, end_of_interrupt, set_up
from vlapic.kernels.profiles import V6_12

PACKAGE = Path(vlapic.__file__).parent
DEADLINE_MSR = 0x6E0
#: What the files of the walk have in common: arithmetic.
ASIDE = {"tsc.py"}

WALK = re.search(
    r"^## One timer interrupt, file by file\n(.*?)^## ",
    (ROOT / "docs" / "design.md").read_text(),
    re.DOTALL | re.MULTILINE,
)[1]
STEPS, HALTING = WALK.split("\nA guest that halts ")


def place_of(file):
    """A source file as the page names it; the engine is one place, whichever it is."""
    path = file.relative_to(PACKAGE).as_posix()
    return "machine/engines/" if path.startswith("machine/engines/") else path


def files_of_an_interrupt(halts):
    """The files that calls go to from the guest's write of a deadline to the end of its handler's EOI."""
    called, follows = [], False

    def follow(frame, event, _argument):
        path = Path(frame.f_code.co_filename)
        if follows and event == "call" and path.is_relative_to(PACKAGE):
            called.append(place_of(path))

    def guest(cpu):
        nonlocal follows
        yield from set_up(cpu)
        for done in range(1, 4):
            cpu.interrupts_enabled = not halts
            deadline = cpu.rdtsc() + 200_000
            follows = done == 3
            yield cpu.wrmsr(DEADLINE_MSR, deadline)
            if halts:
                cpu.interrupts_enabled = cpu.shadow = True
                yield cpu.hlt()
            while len(cpu.handled) < done:
                yield 5000
        yield cpu.out(0xF4, 0)

    def handler(cpu, vector):
        nonlocal follows
        yield from end_of_interrupt(cpu, vector)
        follows = False

    class Watched(Run):
        """The loop of the test itself, which sees whether the guest has reported, is no part of it."""

        def ended(self):
            nonlocal follows
            before, follows = follows, False
            over = super().ended()
            follows = before
            return over

    before = sys.getprofile()
    sys.setprofile(follow)
    try:
        Watched(guest, handler, profile=V6_12, advance=None)
    finally:
        sys.setprofile(before)
    assert called
    return set(called) - ASIDE


def named(text):
    return re.findall(r"`((?:[a-z]+/)*[a-z_]+(?:\.py|/))`", text)


def test_a_timer_interrupt_goes_through_the_files_of_the_walk_and_no_others():
    assert files_of_an_interrupt(halts=False) == set(named(STEPS))


def test_the_walk_has_fifteen_files_each_named_once_or_twice():
    times = Counter(named(STEPS))
    assert len(times) <= 15
    assert set(times.values()) <= {1, 2}


def test_a_guest_that_halts_goes_through_the_physical_cpu_as_well():
    assert "machine/pcpu.py" in named(HALTING)
    assert files_of_an_interrupt(halts=True) == set(named(STEPS)) | {"machine/pcpu.py"}
