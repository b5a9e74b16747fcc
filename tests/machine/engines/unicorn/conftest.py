# SPDX-License-Identifier: GPL-2.0-or-later
"""Every test of the engine runs with counting by machine code and, the same, with counting in Python."""

import pytest

from tests.support.bare_unicorn import Bare
from vlapic.machine.engines.unicorn.machine_code import native_counting


@pytest.fixture(params=["native", "portable"])
def native(request):
    if request.param == "native" and not native_counting():
        pytest.skip("no executable memory, or not x86-64 Linux: only the portable way of counting is here")
    return request.param == "native"


@pytest.fixture
def boot(native):
    """Make bare guests: `boot(program, **options of Bare and the engine)`."""
    guests = []

    def make(program, **options):
        guests.append(Bare(program, **{"native": native, **options}))
        return guests[-1]

    yield make
    for guest in guests:
        guest.engine.close()
