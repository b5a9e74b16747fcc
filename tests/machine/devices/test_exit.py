# SPDX-License-Identifier: GPL-2.0-or-later
"""The port by which a guest ends."""

import pytest

from vlapic.machine.devices import Ports


def test_a_guest_that_has_not_ended_has_no_value():
    assert Ports().exit_value is None


@pytest.mark.parametrize(("size", "value"), [(1, 0), (4, 0), (4, 35), (2, 0xFFFF)])
def test_the_value_is_what_the_guest_wrote(size, value):
    ports = Ports()
    ports.write(0xF4, size, value)
    assert ports.exit_value == value


def test_the_ports_beside_it_are_not_it():
    ports = Ports()
    ports.write(0xF3, 1, 1)
    ports.write(0xF8, 4, 1)
    assert ports.exit_value is None


def test_a_guest_can_see_that_it_is_there():
    assert Ports().read(0xF4, 4) == 0
