"""The real-time clock and its battery-backed memory: Motorola's MC146818 at ports 0x70 and 0x71.

Follows the MC146818 data sheet ("Address Map", "Registers") and the places where a PC's firmware leaves the
size of memory, as QEMU fills them. The clock runs, from a date of its own: a run with the same seed sees the
same date. Registers A to D read as an idle clock's.

Left out: setting the clock (writes to its bytes are lost) and its three interrupts. An update takes no time,
so register A never says that one is in progress.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

INDEX = 0
DATA = 1
#: Bit 7 of the index port masks NMIs on a PC; here it does not.
INDEX_BITS = 0x7F

SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR = 0, 2, 4, 6, 7, 8, 9
REGISTER_A, REGISTER_B, REGISTER_C, REGISTER_D = 0xA, 0xB, 0xC, 0xD
CENTURY = 0x32

#: 32 768 Hz, periodic rate 1024 Hz; bit 7 is read-only.
RESET_A = 0x26
A_BITS = 0x7F
#: Binary, not BCD; 24 hours.
B_BINARY = 0x04
B_24_HOURS = 0x02
PM = 0x80
#: Register D: the battery is good.
VALID = 0x80

# sizes of memory, 16 bits each but the last
BASE_KIB = 0x15
EXTENDED_KIB = (0x17, 0x30)
ABOVE_16_MIB = 0x34
ABOVE_4_GIB = 0x5B
#: How many CPUs there are besides the first.
MORE_CPUS = 0x5F

#: The date when the machine is switched on.
EPOCH = datetime(2019, 4, 17)
NS_PER_SECOND = 10**9


def _limited(value: int, bits: int) -> int:
    return min(max(value, 0), (1 << bits) - 1)


class Rtc:
    """The clock and its 128 bytes.

    Args:
        now_ns: reads the time since the machine was switched on.
    """

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._index = 0
        self._memory = bytearray(128)
        self._memory[REGISTER_A] = RESET_A
        self._memory[REGISTER_B] = B_24_HOURS
        self._memory[REGISTER_D] = VALID

    def describe(self, cpus: int, memory_bytes: int, memory_above_4g_bytes: int = 0) -> None:
        """Leave sizes where firmware would; `memory_bytes` lie below 4 GiB."""
        self._put(BASE_KIB, 2, min(640, memory_bytes >> 10))
        for place in EXTENDED_KIB:
            self._put(place, 2, _limited((memory_bytes >> 10) - 1024, 16))
        self._put(ABOVE_16_MIB, 2, _limited((memory_bytes >> 16) - 256, 16))
        self._put(ABOVE_4_GIB, 3, _limited(memory_above_4g_bytes >> 16, 24))
        self._put(MORE_CPUS, 1, _limited(cpus - 1, 8))

    def read_byte(self, offset: int) -> int:
        """The byte that the index selects; the index itself cannot be read."""
        if offset == INDEX:
            return 0xFF
        date = self._date()
        return self._memory[self._index] if date is None else date

    def write_byte(self, offset: int, value: int) -> None:
        if offset == INDEX:
            self._index = value & INDEX_BITS
        elif self._index == REGISTER_A:
            self._memory[REGISTER_A] = value & A_BITS
        elif self._index not in (REGISTER_C, REGISTER_D):
            self._memory[self._index] = value

    def _put(self, place: int, length: int, value: int) -> None:
        self._memory[place : place + length] = value.to_bytes(length, "little")

    def _date(self) -> int | None:
        """The selected byte of the clock, None if another is selected."""
        now = EPOCH + timedelta(seconds=self._now_ns() // NS_PER_SECOND)
        if self._index == HOURS:
            return self._hours(now.hour)
        number = {
            SECONDS: now.second,
            MINUTES: now.minute,
            WEEKDAY: now.isoweekday() % 7 + 1,
            DAY: now.day,
            MONTH: now.month,
            YEAR: now.year % 100,
            CENTURY: now.year // 100,
        }.get(self._index)
        return None if number is None else self._encode(number)

    def _hours(self, hour: int) -> int:
        if self._memory[REGISTER_B] & B_24_HOURS:
            return self._encode(hour)
        return self._encode((hour + 11) % 12 + 1) | (PM if hour >= 12 else 0)

    def _encode(self, value: int) -> int:
        """A number below 100 in the form that register B asks for."""
        if self._memory[REGISTER_B] & B_BINARY:
            return value
        return value // 10 << 4 | value % 10
