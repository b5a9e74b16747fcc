"""The real-time clock: a date, and what firmware left in its memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlapic.machine.devices.rtc import Rtc

from .boards import SECOND, Recorder

A, B, C, D = 0xA, 0xB, 0xC, 0xD


class Clock(Recorder):
    """A board with verbs for its clock."""

    def cmos(self, register):
        self.outb(register, 0x70)
        return self.inb(0x71)

    def set_cmos(self, register, value):
        self.outb(register, 0x70)
        self.outb(value, 0x71)

    @property
    def date(self):
        return tuple(f"{self.cmos(register):02x}" for register in (0x32, 9, 8, 7, 4, 2, 0))


def test_the_date_at_the_start_is_fixed():
    clock = Clock()
    assert clock.date == ("20", "19", "04", "17", "00", "00", "00")
    assert clock.cmos(6) == 4  # a Wednesday; Sunday is 1


def test_the_clock_runs():
    clock = Clock()
    clock.now_ns = (13 * 3600 + 45 * 60 + 59) * SECOND + SECOND - 1
    assert clock.date == ("20", "19", "04", "17", "13", "45", "59")
    clock.now_ns += 1
    assert clock.date[-2:] == ("46", "00")


@pytest.mark.parametrize(
    ("hour", "register_b", "shown"),
    [(0, 0x00, 0x12), (12, 0x00, 0x92), (13, 0x00, 0x81), (11, 0x04, 11), (23, 0x06, 23), (23, 0x02, 0x23)],
)
def test_register_b_says_how_hours_are_written(hour, register_b, shown):
    clock = Clock()
    clock.now_ns = hour * 3600 * SECOND
    clock.set_cmos(B, register_b)
    assert clock.cmos(4) == shown


def test_no_update_is_ever_in_progress_and_the_battery_is_good():
    clock = Clock()
    clock.set_cmos(A, 0xFF)
    assert not clock.cmos(A) & 0x80
    assert clock.cmos(B) == 0x02
    assert clock.cmos(C) == 0
    assert clock.cmos(D) == 0x80


def test_the_clock_is_not_set_and_registers_c_and_d_are_not_written():
    clock = Clock()
    for register in (0, 9, C, D):
        clock.set_cmos(register, 0x55)
    assert clock.date[0:2] == ("20", "19")
    assert (clock.cmos(0), clock.cmos(C), clock.cmos(D)) == (0, 0, 0x80)


def test_the_rest_is_memory():
    clock = Clock()
    clock.set_cmos(1, 0x59)
    clock.set_cmos(0x8F, 0x0A)
    assert (clock.cmos(0x01), clock.cmos(0x0F)) == (0x59, 0x0A)


def test_the_index_cannot_be_read():
    assert Clock().inb(0x70) == 0xFF


def sizes(clock, place, length=2):
    return sum(clock.cmos(place + byte) << 8 * byte for byte in range(length))


def test_firmware_left_the_size_of_memory():
    clock = Clock()
    clock.board.describe(cpus=4, memory_bytes=48 << 20)
    assert sizes(clock, 0x15) == 640
    assert sizes(clock, 0x17) == sizes(clock, 0x30) == 47 * 1024
    assert sizes(clock, 0x34) == 32 * 16
    assert clock.cmos(0x5F) == 3


def test_a_size_too_large_for_its_bytes_is_the_largest():
    clock = Clock()
    clock.board.describe(cpus=1, memory_bytes=3 << 30)
    assert sizes(clock, 0x17) == 0xFFFF
    assert sizes(clock, 0x34) == ((3 << 30) - (16 << 20)) >> 16


def test_a_small_machine_has_no_extended_memory():
    clock = Clock()
    clock.board.describe(cpus=1, memory_bytes=512 << 10)
    assert (sizes(clock, 0x15), sizes(clock, 0x17), sizes(clock, 0x34)) == (512, 0, 0)


@given(
    st.integers(0, 2**64 - 1),
    st.lists(st.tuples(st.booleans(), st.integers(0, 1), st.integers(0, 255))),
)
def test_any_accesses_at_any_time_read_bytes(now_ns, accesses):
    rtc = Rtc(lambda: now_ns)
    for write, offset, value in accesses:
        if write:
            rtc.write_byte(offset, value)
        else:
            assert 0 <= rtc.read_byte(offset) <= 0xFF
