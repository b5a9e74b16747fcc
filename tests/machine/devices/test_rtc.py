# SPDX-License-Identifier: GPL-2.0-or-later
"""The real-time clock: a date, and what firmware left in its memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.boards import SECOND, Recorder
from vlapic.machine.devices.rtc import Rtc

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


def test_registers_at_the_start_say_an_idle_clock_with_a_good_battery():
    clock = Clock()
    assert [clock.cmos(register) for register in (A, B, C, D)] == [0x26, 0x02, 0, 0x80]


def test_registers_c_and_d_and_the_update_bit_are_not_written():
    clock = Clock()
    for register in (A, C, D):
        clock.set_cmos(register, 0xA6)
    assert [clock.cmos(register) for register in (A, C, D)] == [0x26, 0, 0x80]


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


US = 1000


@pytest.mark.parametrize(
    ("before_us", "updating"),
    [(2300, False), (2229, False), (2228, True), (1984, True), (1, True), (0, False)],
)
def test_register_a_tells_of_an_update_from_244_us_before_it_to_its_end(before_us, updating):
    """The data sheet, "Update Cycle": 244 us, then 1984 us; the bytes have the new second when it is over."""
    clock = Clock()
    clock.now_ns = 3 * SECOND - before_us * US
    assert bool(clock.cmos(A) & 0x80) == updating
    assert clock.cmos(0) == (3 if before_us == 0 else 2)


def test_no_update_is_in_progress_while_the_clock_is_set():
    clock = Clock()
    clock.set_cmos(B, 0x82)
    clock.now_ns = SECOND - 1
    assert not clock.cmos(A) & 0x80


class Wire(Clock):
    """A clock whose line 8 is open at the I/O APIC, as vector 0x58."""

    def __init__(self):
        super().__init__()
        self.memory.write(0xFEC0_0000, 4, 0x20)
        self.memory.write(0xFEC0_0010, 4, 0x58)

    def interrupts(self, until_ns, enabled=None):
        """When interrupts come, of which register C is read at once, and what it had."""
        if enabled is not None:
            self.set_cmos(B, 0x02 | enabled)
        found = []
        while self.clock.alarms.next_due is not None and self.clock.alarms.next_due <= until_ns:
            before = len(self.messages)
            self.clock.go_to(self.clock.alarms.next_due)
            assert len(self.messages) == before + 1
            found.append((self.now_ns, self.cmos(C)))
        self.clock.go_to(until_ns)
        return found


@pytest.mark.parametrize(
    ("rate", "hz"),
    [(0, 0), (1, 256), (2, 128), (3, 8192), (4, 4096), (6, 1024), (9, 128), (14, 4), (15, 2)],
)
def test_the_periodic_interrupt_has_the_rate_of_register_a(rate, hz):
    clock = Wire()
    clock.set_cmos(A, 0x20 | rate)
    found = clock.interrupts(SECOND - 1, enabled=0x40)
    assert [at for at, _ in found] == [-(-tick * SECOND // hz) for tick in range(1, hz)]
    assert {noted for _, noted in found} <= {0xC0}


def test_an_update_ended_interrupt_comes_each_second():
    clock = Wire()
    clock.set_cmos(A, 0x20)
    assert clock.interrupts(3 * SECOND, enabled=0x10) == [(at * SECOND, 0x90) for at in (1, 2, 3)]


@pytest.mark.parametrize(
    ("alarm", "register_b", "seconds"),
    [
        ((0x02, 0x30, 0x15), 0x02, [2 * 3600 + 30 * 60 + 15]),
        ((0xFF, 0xFF, 0x30), 0x02, list(range(30, 6 * 3600, 60))),
        ((0xC0, 0x00, 0x00), 0x02, [3600 * hour for hour in range(1, 6)]),
        ((5, 1, 10), 0x06, [5 * 3600 + 70]),
        ((0x12, 0x10, 0x00), 0x00, [600]),  # ten past midnight, in 12 hours
        ((0x24, 0x00, 0x00), 0x02, []),  # no hour is 24
    ],
)
def test_the_alarm_interrupts_at_its_time_of_day_and_any_fits_c0_and_more(alarm, register_b, seconds):
    clock = Wire()
    for register, value in zip((5, 3, 1), alarm, strict=True):
        clock.set_cmos(register, value)
    clock.set_cmos(B, register_b | 0x20)
    found = clock.interrupts(6 * 3600 * SECOND - 1)
    assert [at // SECOND for at, noted in found if noted & 0x20] == seconds


def test_the_alarm_comes_again_on_the_next_day():
    clock = Wire()
    assert [at for at, _ in clock.interrupts(2 * 86400 * SECOND, enabled=0x20)] == [
        86400 * SECOND,
        2 * 86400 * SECOND,
    ]


def test_causes_are_noted_enabled_or_not_and_reading_register_c_clears_them():
    clock = Clock()
    clock.now_ns = SECOND
    assert (clock.cmos(C), clock.cmos(C)) == (0x50, 0)


def test_the_line_stays_up_until_register_c_is_read():
    clock = Wire()
    clock.set_cmos(B, 0x12)
    clock.clock.go_to(10 * SECOND)
    assert len(clock.messages) == 1
    assert clock.clock.alarms.next_due is None
    clock.cmos(C)
    clock.clock.go_to(11 * SECOND)
    assert len(clock.messages) == 2


def test_a_cause_that_is_noted_interrupts_as_soon_as_it_is_enabled():
    """The data sheet, "Interrupts": programs clear register C first, if they do not want that."""
    clock = Wire()
    clock.now_ns = SECOND
    clock.set_cmos(B, 0x12)
    assert len(clock.messages) == 1


def test_line_8_comes_through_the_second_8259a_too():
    clock = Clock()
    clock.board.leave_as_firmware_does()
    clock.outb(0xFE, 0xA1)
    clock.set_cmos(B, 0x12)
    clock.clock.go_to(SECOND)
    assert clock.int_levels == [True]
    assert clock.board.acknowledge() == 0x70


def test_setting_the_clock_stops_it_and_it_goes_on_from_what_was_set():
    clock = Wire()
    clock.set_cmos(B, 0x92)
    assert clock.cmos(B) == 0x82, "SET takes the update-ended interrupt's enable away"
    for register, value in (
        (0x32, 0x19),
        (9, 0x99),
        (8, 0x12),
        (7, 0x31),
        (6, 6),
        (4, 0x23),
        (2, 0x59),
        (0, 0x58),
    ):
        clock.set_cmos(register, value)
    clock.now_ns = 10 * SECOND
    assert clock.date == ("19", "99", "12", "31", "23", "59", "58")
    clock.set_cmos(B, 0x02)
    clock.now_ns = 12 * SECOND
    assert clock.date == ("20", "00", "01", "01", "00", "00", "00")
    assert clock.cmos(6) == 7


def test_a_byte_may_be_set_while_the_clock_runs():
    clock = Clock()
    clock.now_ns = SECOND + SECOND // 2
    clock.set_cmos(4, 0x15)
    assert clock.date == ("20", "19", "04", "17", "15", "00", "01")
    clock.now_ns = 2 * SECOND
    assert clock.date[-1] == "02"


def test_the_first_second_ends_half_a_second_after_the_divider_was_let_go():
    """The data sheet, "Register A": a divider held in reset, for a start that is exact."""
    clock = Wire()
    clock.set_cmos(A, 0x76)
    clock.now_ns = 5 * SECOND + 300_000 * US
    assert clock.cmos(0) == 0
    clock.set_cmos(A, 0x20)
    assert clock.interrupts(8 * SECOND, enabled=0x10)[:2] == [
        (5 * SECOND + 800_000 * US, 0x90),
        (6 * SECOND + 800_000 * US, 0x90),
    ]
    assert clock.cmos(0) == 3
