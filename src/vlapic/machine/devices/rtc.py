# SPDX-License-Identifier: GPL-2.0-or-later
"""The real-time clock and its battery-backed memory: Motorola's MC146818 at ports 0x70 and 0x71.

Follows the MC146818 data sheet ("Address Map", "Update Cycle", "Interrupts", "Registers") and the places
where a PC's firmware leaves the size of memory, as QEMU fills them. The clock runs, from a date of its own: a
run with the same seed sees the same date. Once a second it goes on by a second; from 244 us before that
begins, and for the 1984 us that it takes, register A says that an update is in progress, and the bytes show
the old second.

Its three interrupts come by line 8: periodic, alarm, update ended. A cause is noted in register C whether it
is enabled or not, and the line stays up until register C is read. What is noted is a function of the time;
the board asks when the line rises next and has the clock brought up to date then.

It leaves out the square wave, the daylight saving of register B, and other crystals than 32 768 Hz: register
A's dividers for those stop the clock, as QEMU has it.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

INDEX = 0
DATA = 1
#: Bit 7 of the index port masks NMIs on a PC; here it does not.
INDEX_BITS = 0x7F

SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR = 0, 2, 4, 6, 7, 8, 9
SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM = 1, 3, 5
REGISTER_A, REGISTER_B, REGISTER_C, REGISTER_D = 0xA, 0xB, 0xC, 0xD
CENTURY = 0x32
DATE = (SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY)

#: 32 768 Hz, periodic rate 1024 Hz; bit 7 is read-only.
RESET_A = 0x26
A_BITS = 0x7F
A_UPDATING = 0x80
A_DIVIDER = 0x70
A_RATE = 0x0F
#: The dividers up to this one run.
A_RUNS = 0x20
B_SET = 0x80
B_UPDATE_ENDED = 0x10
#: Binary, not BCD; 24 hours.
B_BINARY = 0x04
B_24_HOURS = 0x02
#: Causes, in registers B (enabled) and C (noted) alike: periodic, alarm, update ended.
PERIODIC, ALARM, UPDATE_ENDED = 0x40, 0x20, 0x10
CAUSES = PERIODIC | ALARM | UPDATE_ENDED
#: Register C: a cause that is noted is enabled; that is the line.
C_REQUEST = 0x80
PM = 0x80
#: An alarm's byte with both of these bits fits any time.
ANY = 0xC0
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
#: What the calendar can hold.
FIRST_YEAR, LAST_YEAR = 1, 9998
NS_PER_SECOND = 10**9
#: Later than any time that is asked for.
FOREVER_NS = 1 << 80
SECONDS_PER_DAY = 86_400
CRYSTAL_HZ = 32_768
#: Update in progress is up from so long before the new second: 244 us and the update's own 1984 us.
UPDATING_NS = 244_000 + 1_984_000
#: The first second ends so long after the divider has been let go.
AFTER_DIVIDER_RESET_NS = NS_PER_SECOND // 2


def _limited(value: int, bits: int) -> int:
    return min(max(value, 0), (1 << bits) - 1)


def _no_interrupt(level: bool) -> None:
    """Go nowhere."""


def _no_change() -> None:
    """Tell no one."""


class Rtc:
    """The clock and its 128 bytes.

    Args:
        now_ns: reads the time since the machine was switched on; it may step back a little.
        interrupt: called with the level of the interrupt line when it changes; low at first.
        changed: called when an access may have changed when the line rises next.

    Attributes:
        level: the level of the interrupt line.
    """

    def __init__(
        self,
        now_ns: Callable[[], int],
        interrupt: Callable[[bool], None] = _no_interrupt,
        changed: Callable[[], None] = _no_change,
    ) -> None:
        self._now_ns = now_ns
        self._interrupt = interrupt
        self._changed = changed
        self._index = 0
        self._memory = bytearray(128)
        self._memory[REGISTER_A] = RESET_A
        self._memory[REGISTER_B] = B_24_HOURS
        self._memory[REGISTER_D] = VALID
        # The second that began at `_began_ns` is `_date`; later ones follow while the clock runs.
        self._date = EPOCH
        self._began_ns = 0
        # How far the weekday that was set is from the date's.
        self._weekday_shift = 0
        # Up to when causes have been noted, which, and until when no other one comes.
        self._seen_ns = 0
        self._noted = 0
        self._quiet_until_ns = 0
        self.level = False

    def describe(self, cpus: int, memory_bytes: int, memory_above_4g_bytes: int = 0) -> None:
        """Leave sizes where firmware would; `memory_bytes` lie below 4 GiB."""
        self._put(BASE_KIB, 2, min(640, memory_bytes >> 10))
        for place in EXTENDED_KIB:
            self._put(place, 2, _limited((memory_bytes >> 10) - 1024, 16))
        self._put(ABOVE_16_MIB, 2, _limited((memory_bytes >> 16) - 256, 16))
        self._put(ABOVE_4_GIB, 3, _limited(memory_above_4g_bytes >> 16, 24))
        self._put(MORE_CPUS, 1, _limited(cpus - 1, 8))

    def _put(self, place: int, length: int, value: int) -> None:
        self._memory[place : place + length] = value.to_bytes(length, "little")

    # -- ports --

    def read_byte(self, offset: int) -> int:
        """The byte that the index selects; the index itself cannot be read."""
        if offset == INDEX:
            return 0xFF
        self.catch_up()
        if self._index == REGISTER_A:
            return self._memory[REGISTER_A] | self._updating() * A_UPDATING
        if self._index == REGISTER_C:
            value = self._noted | self._requests() * C_REQUEST
            self._noted = self._quiet_until_ns = 0
            self._drive()
            self._changed()
            return value
        if self._index in DATE and not self._is_being_set():
            return self._shown(self._index)
        return self._memory[self._index]

    def write_byte(self, offset: int, value: int) -> None:
        if offset == INDEX:
            self._index = value & INDEX_BITS
            return
        self.catch_up()
        if self._index == REGISTER_A:
            self._write_a(value & A_BITS)
        elif self._index == REGISTER_B:
            self._write_b(value)
        elif self._index in DATE:
            self._write_date(value)
        elif self._index not in (REGISTER_C, REGISTER_D):
            self._memory[self._index] = value
        self._quiet_until_ns = 0
        self._drive()
        self._changed()

    def _write_a(self, value: int) -> None:
        ran = self._runs()
        self._keep_date()
        self._memory[REGISTER_A] = value
        if not ran and self._runs():
            self._began_ns = self._seen_ns + AFTER_DIVIDER_RESET_NS - NS_PER_SECOND

    def _write_b(self, value: int) -> None:
        was_set = self._is_being_set()
        self._keep_date()
        if value & B_SET:
            value &= ~B_UPDATE_ENDED
        if value & B_SET and not was_set:
            for place in DATE:
                self._memory[place] = self._shown(place)
        # The bytes stay as they are when their form changes; the guest writes them anew.
        self._memory[REGISTER_B] = value
        if was_set and not value & B_SET:
            self._take_date()

    def _write_date(self, value: int) -> None:
        if self._is_being_set():
            self._memory[self._index] = value
            return
        self._keep_date()
        for place in DATE:
            self._memory[place] = self._shown(place)
        self._memory[self._index] = value
        self._take_date()

    # -- the date --

    def _is_being_set(self) -> bool:
        return bool(self._memory[REGISTER_B] & B_SET)

    def _runs(self) -> bool:
        """Whether the divider runs; it does so while the clock is being set."""
        return self._memory[REGISTER_A] & A_DIVIDER <= A_RUNS

    def _updates(self) -> bool:
        return self._runs() and not self._is_being_set()

    def _seconds(self, at_ns: int) -> int:
        """Seconds that have ended by then since `_date` began."""
        return max((at_ns - self._began_ns) // NS_PER_SECOND, 0)

    def _keep_date(self) -> None:
        """Bring `_date` up to date, before something changes how it goes on; the phase stays."""
        seconds = self._seconds(self._seen_ns)
        if self._updates():
            self._date = self._date_after(seconds)
        if self._runs():
            self._began_ns += seconds * NS_PER_SECOND

    def _date_after(self, seconds: int) -> datetime:
        try:
            date = self._date + timedelta(seconds=seconds)
        except OverflowError:
            date = datetime.max
        return date if date.year <= LAST_YEAR else EPOCH + timedelta(seconds=seconds)

    def _updating(self) -> bool:
        if not self._updates():
            return False
        left_ns = NS_PER_SECOND - (self._seen_ns - self._began_ns) % NS_PER_SECOND
        return left_ns <= UPDATING_NS

    def _shown(self, place: int) -> int:
        """A byte of the date as it is now."""
        now = self._date_after(self._seconds(self._seen_ns)) if self._updates() else self._date
        if place == HOURS:
            return self._hours(now.hour)
        return self._encode(
            {
                SECONDS: now.second,
                MINUTES: now.minute,
                WEEKDAY: (now.isoweekday() + self._weekday_shift) % 7 + 1,
                DAY: now.day,
                MONTH: now.month,
                YEAR: now.year % 100,
                CENTURY: now.year // 100,
            }[place]
        )

    def _take_date(self) -> None:
        """Go on from what the bytes say; a number beyond its range carries over."""
        number = {place: self._decode(self._memory[place]) for place in DATE if place != HOURS}
        year, month = divmod((number[CENTURY] * 100 + number[YEAR]) * 12 + number[MONTH] - 1, 12)
        year = min(max(year, FIRST_YEAR), LAST_YEAR - 1)
        self._date = datetime(year, month + 1, 1) + timedelta(
            days=max(number[DAY], 1) - 1,
            hours=self._hour(self._memory[HOURS]),
            minutes=number[MINUTES],
            seconds=number[SECONDS],
        )
        self._weekday_shift = (number[WEEKDAY] - 1 - self._date.isoweekday()) % 7

    def _hours(self, hour: int) -> int:
        if self._memory[REGISTER_B] & B_24_HOURS:
            return self._encode(hour)
        return self._encode((hour + 11) % 12 + 1) | (PM if hour >= 12 else 0)

    def _hour(self, byte: int) -> int:
        """The hour that a byte says, 0 to 23 if it is one."""
        if self._memory[REGISTER_B] & B_24_HOURS:
            return self._decode(byte)
        return self._decode(byte & ~PM) % 12 + (12 if byte & PM else 0)

    def _encode(self, value: int) -> int:
        """A number below 100 in the form that register B asks for."""
        if self._memory[REGISTER_B] & B_BINARY:
            return value
        return value // 10 << 4 | value % 10

    def _decode(self, byte: int) -> int:
        return byte if self._memory[REGISTER_B] & B_BINARY else (byte >> 4) * 10 + (byte & 0xF)

    # -- interrupts --

    def catch_up(self) -> None:
        """Note the causes that have come since the last time, and set the line by them."""
        now, seen = max(self._now_ns(), self._seen_ns), self._seen_ns
        self._seen_ns = now
        if now < self._quiet_until_ns:
            return
        quiet_until_ns = FOREVER_NS
        for cause in (PERIODIC, ALARM, UPDATE_ENDED):
            at = None if self._noted & cause else self._next_ns(cause, seen)
            if at is not None and at <= now:
                self._noted |= cause
            elif at is not None:
                quiet_until_ns = min(quiet_until_ns, at)
        self._quiet_until_ns = quiet_until_ns
        self._drive()

    def next_rise_ns(self) -> int | None:
        """When the line rises next, behind what `catch_up` has told; None if it does not."""
        if self.level:
            return None
        enabled = self._memory[REGISTER_B] & CAUSES
        times = [
            at
            for cause in (PERIODIC, ALARM, UPDATE_ENDED)
            if enabled & cause and (at := self._next_ns(cause, self._seen_ns)) is not None
        ]
        return min(times, default=None)

    def _requests(self) -> bool:
        return bool(self._noted & self._memory[REGISTER_B] & CAUSES)

    def _drive(self) -> None:
        level = self._requests()
        if level != self.level:
            self.level = level
            self._interrupt(level)

    def _next_ns(self, cause: int, after_ns: int) -> int | None:
        """The first time behind another at which a cause comes; None if it does not."""
        if cause == PERIODIC:
            return self._next_period_ns(after_ns) if self._runs() else None
        if not self._updates():
            return None
        seconds = self._seconds(after_ns) + 1
        if cause == ALARM:
            wait = self._seconds_to_alarm(self._date_after(seconds))
            if wait is None:
                return None
            seconds += wait
        return self._began_ns + seconds * NS_PER_SECOND

    def _next_period_ns(self, after_ns: int) -> int | None:
        rate = self._memory[REGISTER_A] & A_RATE
        if not rate:
            return None
        # Rates 1 and 2 are those of 8 and 9.
        cycles = 1 << (rate + 7 if rate <= 2 else rate) - 1
        period = (after_ns - self._began_ns) * CRYSTAL_HZ // (cycles * NS_PER_SECOND) + 1
        return self._began_ns - -(period * cycles * NS_PER_SECOND) // CRYSTAL_HZ

    def _seconds_to_alarm(self, date: datetime) -> int | None:
        """Seconds from a time of day to the next that fits the alarm, 0 if it does; None if none does."""
        hours, minutes, seconds = (
            {value for value in range(count) if byte & ANY == ANY or encode(value) == byte}
            for byte, count, encode in (
                (self._memory[HOURS_ALARM], 24, self._hours),
                (self._memory[MINUTES_ALARM], 60, self._encode),
                (self._memory[SECONDS_ALARM], 60, self._encode),
            )
        )
        if not hours or not minutes or not seconds:
            return None
        now = date.hour * 3600 + date.minute * 60 + date.second
        for day in (0, SECONDS_PER_DAY):
            for hour in sorted(hours):
                if day + hour * 3600 + 3599 < now:
                    continue
                for minute in sorted(minutes):
                    start = day + hour * 3600 + minute * 60
                    if start + 59 < now:
                        continue
                    fits = [start + second - now for second in sorted(seconds) if start + second >= now]
                    if fits:
                        return fits[0]
        raise AssertionError("every time of day comes again within a day")
