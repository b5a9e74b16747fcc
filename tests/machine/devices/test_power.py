# SPDX-License-Identifier: GPL-2.0-or-later
"""How a guest switches its machine off or resets it, and ACPI's fixed registers."""

import pytest

from tests.support.boards import SECOND, Recorder
from vlapic.machine.devices.power import End

PM_TIMER_HZ = 3_579_545


def end_after(*writes):
    """How the machine has ended after writes of (port, bytes, value)."""
    recorder = Recorder()
    for port, size, value in writes:
        recorder.ports.write(port, size, value)
    return recorder.board.power.end


def test_a_machine_that_runs_has_not_ended():
    assert end_after() is None


@pytest.mark.parametrize(
    "write",
    [
        (0x604, 2, 0x2000),  # QEMU's soft-off, type 0
        (0x604, 2, 0x3400),  # type 5
        (0x604, 4, 0x2001),
        (0x605, 1, 0x20),
        (0xB004, 2, 0x2000),
    ],
)
def test_sleep_enable_switches_the_machine_off(write):
    assert end_after(write) is End.OFF


@pytest.mark.parametrize(
    "write", [(0x604, 2, 0x1C00), (0x604, 1, 0x20), (0x600, 4, 0x2000_2000), (0x608, 4, 0x2000)]
)
def test_a_sleep_type_without_sleep_enable_does_nothing(write):
    assert end_after(write) is None


@pytest.mark.parametrize(
    "write",
    [(0xCF9, 1, 0x06), (0xCF9, 1, 0x04), (0xCF9, 1, 0x0E), (0x64, 1, 0xFE), (0x64, 1, 0xF0), (0x92, 1, 0x01)],
)
def test_each_way_to_a_reset_resets(write):
    assert end_after(write) is End.RESET


def test_the_keyboard_controllers_output_port_resets():
    assert end_after((0x64, 1, 0xD1), (0x60, 1, 0xDE)) is End.RESET
    assert end_after((0x64, 1, 0xD1), (0x60, 1, 0xDF)) is None


@pytest.mark.parametrize(
    "write",
    [
        (0xCF9, 1, 0x02),
        (0xCF8, 4, 0x8000_0604),
        (0xCF8, 2, 0x0600),
        (0x64, 1, 0xFF),
        (0x92, 1, 0x02),
        (0x60, 1, 0xFE),
    ],
)
def test_what_looks_like_a_reset_and_is_none_does_nothing(write):
    """Bytes of a PCI configuration address, a pulse of no bit, the A20 gate, a byte for the keyboard."""
    assert end_after(write) is None


def test_the_first_end_counts():
    assert end_after((0xCF9, 1, 6), (0x604, 2, 0x2000)) is End.RESET


def test_acpi_is_always_enabled_and_the_sleep_type_is_kept():
    ports = Recorder().ports
    assert ports.read(0x604, 2) == 1
    ports.write(0x604, 2, 0x1402)
    assert ports.read(0x604, 2) == 0x1403
    assert ports.read(0xB004, 2) == 0x1403


def test_events_can_be_enabled_and_none_but_the_timers_comes():
    ports = Recorder().ports
    ports.write(0x600, 4, 0xFFFF_0000 | 0xFFFF)
    assert ports.read(0x600, 4) == 0xFFFF_0000


def test_the_timer_counts_24_bits_at_3_579545_mhz():
    recorder = Recorder()
    assert recorder.ports.read(0x608, 4) == 0
    recorder.now_ns = SECOND
    assert recorder.ports.read(0x608, 4) == PM_TIMER_HZ
    recorder.now_ns = 5 * SECOND
    assert recorder.ports.read(0x608, 4) == 5 * PM_TIMER_HZ - 2**24
    assert recorder.ports.read(0x609, 1) == (5 * PM_TIMER_HZ >> 8) & 0xFF


def test_the_timers_status_says_that_its_top_bit_has_changed_until_it_is_cleared():
    recorder = Recorder()
    recorder.now_ns = -(-(2**23) * SECOND // PM_TIMER_HZ) - 1
    assert not recorder.ports.read(0x600, 2) & 1
    recorder.now_ns += 1
    assert recorder.ports.read(0x600, 2) & 1
    recorder.ports.write(0x600, 2, 1)
    assert not recorder.ports.read(0x600, 2) & 1
    recorder.now_ns += 3 * SECOND
    assert recorder.ports.read(0x600, 2) & 1


def test_port_92_says_that_the_a20_gate_is_open():
    ports = Recorder().ports
    ports.write(0x92, 1, 0)
    assert ports.read(0x92, 1) == 2


def test_the_reset_control_register_keeps_the_kind_of_reset():
    ports = Recorder().ports
    ports.write(0xCF9, 1, 0x02)
    assert ports.read(0xCF9, 1) == 0x02
    assert ports.read(0xCF8, 4) == 0xFFFF_FFFF
