# SPDX-License-Identifier: GPL-2.0-or-later
"""The interval timer: Intel's 8254 at ports 0x40 to 0x43, and port 0x61, which gates its third counter.

Follows the 8254 data sheet ("Programming the 82C54", "Mode Definitions") and a PC's wiring: counters 0 and 1
always count, counter 2 while bit 0 of port 0x61 is set, and its output is bit 5 there. Counter 0's output is
interrupt line 0: its rise asks for an interrupt. Each counter runs at 1 193 182 Hz of the time that it is
given, so a guest can calibrate other clocks by it.

What a counter shows is a function of the ticks since it was started; nothing happens in between. The board
asks when the next rise is and has it brought up to date then, and before anything looks at the line.

It leaves out the clock pulse that the data sheet puts between a write and the start of the count: a count is
in the counter as soon as it is written, at most 838 ns early.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

FREQUENCY_HZ = 1_193_182
NS_PER_SECOND = 10**9

#: Behind every tick there is.
NEVER = 1 << 80

COUNTERS = 3
CONTROL = 3

#: The control word's access field.
LATCH, LOW, HIGH, LOW_THEN_HIGH = 0, 1, 2, 3
READ_BACK = 3
#: Read-back bits, both active low.
READ_BACK_COUNT, READ_BACK_STATUS = 0x20, 0x10
STATUS_OUTPUT, STATUS_NULL_COUNT = 0x80, 0x40

# port 0x61
GATE_2, SPEAKER = 1, 2
SPEAKER_BITS = 0x0F
REFRESH, OUTPUT_2 = 0x10, 0x20
#: Ticks for which the refresh bit keeps its value: about 15 us.
REFRESH_TICKS = 18


def _from_bcd(value: int) -> int:
    return sum((value >> 4 * digit & 0xF) * 10**digit for digit in range(4))


def _to_bcd(value: int) -> int:
    return sum(value // 10**digit % 10 << 4 * digit for digit in range(4))


def _rise(mode: int, start: int, count: int, after: int) -> int | None:
    """The first tick behind `after` at which the output of a counter started at `start` rises."""
    if mode in (2, 3):
        return _in_period(start, count, count, after)
    rise = start + count + (mode in (4, 5))
    return rise if rise > after else None


def _fall(mode: int, start: int, count: int, after: int) -> int | None:
    """The first tick behind `after` at which that output falls."""
    if mode in (2, 3):
        return _in_period(start, count, count - 1 if mode == 2 else (count + 1) // 2, after)
    fall = start + count
    return fall if mode in (4, 5) and fall > after else None


def _in_period(start: int, count: int, place: int, after: int) -> int | None:
    """The first tick behind `after` that is `place` ticks into a period, 1 to `count`."""
    if count == 1:  # forbidden by the data sheet; the output keeps one level
        return None
    return start + place + max((after - start - place) // count + 1, 0) * count


class Load(NamedTuple):
    """A count that a counter takes over later.

    Attributes:
        at: the tick at which it does.
        start: the tick from which it then counts; ahead of `at` where half of a period is over by then.
        initial: the count, 1 to 65536.
    """

    at: int
    start: int
    initial: int


class Counter:
    """One of the three counters.

    Attributes:
        mode: 0 to 5.
        gate: whether it may count (modes 0, 2, 3, 4); its rise starts modes 1, 2, 3 and 5.
        programmed: whether a guest has ever written its control word.
    """

    def __init__(self, ticks: Callable[[], int], gate: bool) -> None:
        self.mode = 3
        self.gate = gate
        self.programmed = False
        self._ticks = ticks
        self._access = LOW_THEN_HIGH
        self._bcd = False
        # What was written last, and what it counts from; they differ until the counter takes it over.
        self._written = self._initial = 0x10000
        self._next: Load | None = None
        # A control word leaves a counter without a count until one is written.
        self._loaded = True
        # Modes 1 and 5 count only after a trigger.
        self._triggered = True
        self._start = 0
        # The ticks counted when the gate stopped it, None while it counts.
        self._stopped: int | None = None
        self._low_byte: int | None = None
        self._high_next = False
        self._latched: list[int] = []
        self._latched_status: int | None = None

    # -- what it counts --

    @property
    def output(self) -> bool:
        """The level of its output."""
        if not self._loaded:
            return self.mode != 0
        elapsed = self._elapsed()
        if self.mode in (0, 1):
            return elapsed >= self._initial if self._triggered else True
        if self.mode in (2, 3) and not self.gate:
            return True
        if self.mode == 2:
            return elapsed % self._initial != self._initial - 1 or self._initial == 1
        if self.mode == 3:
            return elapsed % self._initial < (self._initial + 1) // 2
        return elapsed != self._initial or not self._triggered

    @property
    def count(self) -> int:
        """What it shows, 0 to 0xffff, in BCD if it counts so."""
        whole = 10_000 if self._bcd else 0x10000
        elapsed = self._elapsed()
        if not self._loaded or not self._triggered:
            left = self._written
        elif self.mode == 2:
            left = self._initial - elapsed % self._initial
        elif self.mode == 3:
            # It counts by two, twice a period.
            left = self._initial - 2 * elapsed % self._initial & ~1
        else:
            left = self._initial - elapsed
        left %= whole
        return _to_bcd(left) if self._bcd else left

    def next_rise(self, after: int) -> int | None:
        """The first tick behind tick `after` at which its output rises by itself; None if it does not."""
        return self._next_edge(_rise, after)

    def next_fall(self, after: int) -> int | None:
        """The first tick behind tick `after` at which its output falls by itself; None if it does not."""
        return self._next_edge(_fall, after)

    def _next_edge(self, edge: Callable[[int, int, int, int], int | None], after: int) -> int | None:
        if not self._loaded or not self._triggered or self._stopped is not None:
            return None
        found = edge(self.mode, self._start, self._initial, after)
        if self._next is not None and (found is None or found > self._next.at):
            found = edge(self.mode, self._next.start, self._next.initial, max(after, self._next.at))
        return found

    def set_gate(self, gate: bool) -> None:
        """Change the level of the gate."""
        if gate == self.gate:
            return
        if self.mode in (1, 5):
            if gate and self._loaded:
                self._begin()
        elif not gate:
            self._stopped = self._elapsed()
        elif self.mode in (2, 3):
            self._begin()
        else:
            self._start, self._stopped = self._ticks() - self._elapsed(), None
        self.gate = gate

    def _elapsed(self) -> int:
        if self._next is not None and self._ticks() >= self._next.at:
            _, self._start, self._initial = self._next
            self._next = None
        if self._stopped is not None:
            return self._stopped
        return max(self._ticks() - self._start, 0)

    def _begin(self) -> None:
        """Count from what was written last."""
        self._initial, self._next = self._written, None
        self._start, self._stopped = self._ticks(), None
        self._triggered = True

    def _load_later(self) -> None:
        """Take over what was written when the period ends (mode 2), or the half of one (mode 3)."""
        elapsed, count = self._elapsed(), self._written
        at = began = self._start + elapsed // self._initial * self._initial
        half = (self._initial + 1) // 2
        if self.mode == 3 and elapsed % self._initial < half:
            at = began + half
            self._next = Load(at, at - (count + 1) // 2, count)
        else:
            at = began + self._initial
            self._next = Load(at, at, count)

    # -- what a guest programs --

    def control(self, access: int, mode: int, bcd: bool) -> None:
        """Take a control word: wait for a count."""
        self._access = access
        # Modes 6 and 7 are 2 and 3.
        self.mode = mode & 3 if mode > 5 else mode
        self.programmed = True
        self._bcd = bcd
        self._loaded = False
        self._next = None
        self._triggered = self.mode not in (1, 5)
        self._low_byte = None
        self._high_next = False
        self._latched = []
        self._latched_status = None

    def latch_count(self) -> None:
        """Keep the count for the next reads; a count that is kept already stays."""
        if not self._latched:
            low, high = self.count & 0xFF, self.count >> 8
            self._latched = {LOW: [low], HIGH: [high]}.get(self._access, [low, high])

    def latch_status(self) -> None:
        """Keep the status for the next read; a status that is kept already stays."""
        if self._latched_status is None:
            self._latched_status = (
                self.output * STATUS_OUTPUT
                | (not self._loaded or self._next is not None) * STATUS_NULL_COUNT
                | self._access << 4
                | self.mode << 1
                | self._bcd
            )

    def read_byte(self) -> int:
        """A byte of what is latched, or of the count as it is."""
        if self._latched_status is not None:
            status, self._latched_status = self._latched_status, None
            return status
        if self._latched:
            return self._latched.pop(0)
        high = self._access == HIGH or (self._access == LOW_THEN_HIGH and self._high_next)
        self._high_next = self._access == LOW_THEN_HIGH and not self._high_next
        return self.count >> 8 if high else self.count & 0xFF

    def write_byte(self, value: int) -> None:
        """A byte of the initial count; the last one starts the counter."""
        if self._access == LOW_THEN_HIGH and self._low_byte is None:
            self._low_byte = value
            # The data sheet: the first byte stops mode 0.
            self._loaded &= self.mode != 0
            return
        low, self._low_byte = self._low_byte or 0, None
        self._load(value if self._access == LOW else low | value << 8)

    def _load(self, count: int) -> None:
        if self._bcd:
            self._written = _from_bcd(count) or 10_000
        else:
            self._written = count or 0x10000
        counts, self._loaded = self._loaded, True
        if self.mode in (1, 5):
            return  # the next trigger takes it
        if counts and self.mode in (2, 3) and self.gate:
            self._load_later()
            return
        self._begin()
        if not self.gate:
            self._stopped = 0


def _no_interrupt(level: bool) -> None:
    """Go nowhere."""


class Pit:
    """The three counters behind their ports.

    Args:
        now_ns: reads the time since the machine was switched on; it may step back a little.
        interrupt: called with the level of counter 0's output when it changes, by `catch_up`; the output is
            high at first.

    Attributes:
        counters: by number.
    """

    def __init__(self, now_ns: Callable[[], int], interrupt: Callable[[bool], None] = _no_interrupt) -> None:
        self._now_ns = now_ns
        self._interrupt = interrupt
        self.counters = [Counter(self.ticks, gate=number != 2) for number in range(COUNTERS)]
        # Up to which tick `interrupt` has been told of counter 0's output, its level then, and the tick at
        # which it changes next.
        self._seen = 0
        self._level = True
        self._quiet_until = 0

    def ticks(self) -> int:
        """Ticks of the oscillator so far."""
        return self._now_ns() * FREQUENCY_HZ // NS_PER_SECOND

    def next_rise_ns(self) -> int | None:
        """When counter 0's output rises next, behind what `catch_up` has told; None if it does not."""
        rise = self.counters[0].next_rise(self._seen)
        return None if rise is None else -(-rise * NS_PER_SECOND // FREQUENCY_HZ)

    def catch_up(self) -> None:
        """Tell `interrupt` what counter 0's output has done since the last time; of several rises one."""
        counter, now, seen = self.counters[0], max(self.ticks(), self._seen), self._seen
        self._seen = now
        if now < self._quiet_until:
            return
        rise = counter.next_rise(seen)
        if rise is not None and rise <= now:
            self._set_level(False)
            self._set_level(True)
        self._set_level(counter.output)
        changes = counter.next_rise(now), counter.next_fall(now)
        self._quiet_until = min((at for at in changes if at is not None), default=NEVER)

    def _set_level(self, level: bool) -> None:
        if level != self._level:
            self._level = level
            self._interrupt(level)

    def read_byte(self, offset: int) -> int:
        """Read a counter; the control word cannot be read."""
        return 0xFF if offset == CONTROL else self.counters[offset].read_byte()

    def write_byte(self, offset: int, value: int) -> None:
        self._quiet_until = 0
        if offset != CONTROL:
            self.counters[offset].write_byte(value)
            return
        number, access = value >> 6, value >> 4 & 3
        if number == READ_BACK:
            self._read_back(value)
        elif access == LATCH:
            self.counters[number].latch_count()
        else:
            self.counters[number].control(access, value >> 1 & 7, bool(value & 1))

    def _read_back(self, command: int) -> None:
        for number, counter in enumerate(self.counters):
            if command & 2 << number:
                if not command & READ_BACK_COUNT:
                    counter.latch_count()
                if not command & READ_BACK_STATUS:
                    counter.latch_status()


class SystemControl:
    """Port 0x61: the gate and the output of counter 2, and the bit that memory refresh toggles."""

    def __init__(self, pit: Pit) -> None:
        self._pit = pit
        self._bits = 0

    def read_byte(self, offset: int) -> int:
        refresh = self._pit.ticks() // REFRESH_TICKS & 1
        return self._bits | refresh * REFRESH | self._pit.counters[2].output * OUTPUT_2

    def write_byte(self, offset: int, value: int) -> None:
        self._bits = value & SPEAKER_BITS
        self._pit.counters[2].set_gate(bool(value & GATE_2))
