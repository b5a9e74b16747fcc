# SPDX-License-Identifier: GPL-2.0-or-later
"""The 8254: counters that guests calibrate by."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.boards import SECOND, Recorder
from vlapic.machine.devices.pit import Counter, Pit

HZ = 1_193_182
CONTROL = 0x43
SYSTEM = 0x61


class Timer(Recorder):
    """A board with verbs for its 8254, and time in ticks."""

    def at_tick(self, tick):
        """Go to the first ns of a tick."""
        self.now_ns = -(-tick * SECOND // HZ)

    def start(self, counter, mode, count, access=3, bcd=0):
        self.outb(counter << 6 | access << 4 | mode << 1 | bcd, CONTROL)
        if access & 1:
            self.outb(count & 0xFF, 0x40 + counter)
        if access & 2:
            self.outb(count >> 8, 0x40 + counter)

    def count(self, counter):
        """Latch, then read both bytes."""
        self.outb(counter << 6, CONTROL)
        return self.inb(0x40 + counter) | self.inb(0x40 + counter) << 8

    def status(self, counter):
        self.outb(0xE0 | 2 << counter, CONTROL)
        return self.inb(0x40 + counter)

    @property
    def output_2(self):
        return bool(self.inb(SYSTEM) & 0x20)


def test_a_counter_counts_down_at_1193182_hz():
    timer = Timer()
    timer.start(0, 2, 0)
    timer.now_ns = SECOND // 50
    assert timer.count(0) == 0x10000 - HZ // 50


def test_linux_calibrates_its_tsc_by_counter_2():
    """quick_pit_calibrate: the high byte falls every 256 ticks while the gate is open."""
    timer = Timer()
    timer.outb(timer.inb(SYSTEM) & ~0x02 | 0x01, SYSTEM)
    timer.start(2, 0, 0xFFFF)
    for high in range(0xFF, 0xA0, -1):
        timer.at_tick(256 * (0xFF - high) + 100)
        timer.inb(0x42)
        assert timer.inb(0x42) == high


def test_linux_waits_for_the_output_of_counter_2():
    """pit_calibrate_tsc: mode 0 for a number of ms, then bit 5 of port 0x61."""
    timer = Timer()
    timer.outb(timer.inb(SYSTEM) & ~0x02 | 0x01, SYSTEM)
    timer.start(2, 0, HZ // 100)
    timer.at_tick(HZ // 100 - 1)
    assert not timer.output_2
    timer.at_tick(HZ // 100)
    assert timer.output_2


def test_a_closed_gate_stops_a_counter_and_an_open_one_goes_on():
    timer = Timer()
    timer.start(2, 0, 1000)
    timer.at_tick(300)
    assert timer.count(2) == 1000
    timer.outb(1, SYSTEM)
    timer.at_tick(400)
    assert timer.count(2) == 900
    timer.outb(0, SYSTEM)
    timer.at_tick(5000)
    assert timer.count(2) == 900
    assert not timer.output_2
    timer.outb(1, SYSTEM)
    timer.at_tick(5900)
    assert timer.output_2


@pytest.mark.parametrize("mode", [2, 3, 6, 7])
def test_a_periodic_counter_starts_again_when_its_gate_opens(mode):
    timer = Timer()
    timer.outb(1, SYSTEM)
    timer.start(2, mode, 1000)
    timer.at_tick(300)
    timer.outb(0, SYSTEM)
    assert timer.output_2
    timer.at_tick(700)
    timer.outb(1, SYSTEM)
    assert timer.count(2) == 1000


@pytest.mark.parametrize("mode", [1, 5])
def test_a_triggered_counter_waits_for_its_gate_to_rise(mode):
    timer = Timer()
    timer.outb(1, SYSTEM)
    timer.start(2, mode, 1000)
    timer.at_tick(500)
    assert timer.count(2) == 1000
    assert timer.output_2
    timer.outb(0, SYSTEM)
    timer.outb(1, SYSTEM)
    timer.outb(0, SYSTEM)
    timer.at_tick(600)
    assert timer.count(2) == 900
    assert timer.output_2 == (mode == 5)
    timer.at_tick(1500)
    assert timer.output_2 == (mode == 1)


def outputs(mode, count, ticks):
    timer = Timer()
    timer.outb(1, SYSTEM)
    timer.start(2, mode, count)
    levels = []
    for tick in range(ticks):
        timer.at_tick(tick)
        levels.append(int(timer.output_2))
    return levels


def test_outputs_have_the_forms_of_the_data_sheet():
    assert outputs(0, 4, 10) == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert outputs(2, 4, 10) == [1, 1, 1, 0, 1, 1, 1, 0, 1, 1]
    assert outputs(3, 4, 10) == [1, 1, 0, 0, 1, 1, 0, 0, 1, 1]
    assert outputs(3, 5, 10) == [1, 1, 1, 0, 0, 1, 1, 1, 0, 0]
    assert outputs(4, 4, 10) == [1, 1, 1, 1, 0, 1, 1, 1, 1, 1]


def test_mode_2_counts_to_one_and_mode_3_by_two():
    timer = Timer()
    timer.start(0, 2, 4)
    timer.start(1, 3, 8)
    counts = []
    for tick in range(8):
        timer.at_tick(tick)
        counts.append((timer.count(0), timer.count(1)))
    assert counts == [(4, 8), (3, 6), (2, 4), (1, 2), (4, 8), (3, 6), (2, 4), (1, 2)]


def test_a_latched_count_waits_to_be_read_whole():
    timer = Timer()
    timer.start(0, 0, 0x1234)
    timer.outb(0x00, CONTROL)
    timer.at_tick(0x100)
    timer.outb(0x00, CONTROL)
    assert (timer.inb(0x40), timer.inb(0x40)) == (0x34, 0x12)
    assert (timer.inb(0x40), timer.inb(0x40)) == (0x34, 0x11)


@pytest.mark.parametrize(("access", "count", "read"), [(1, 0x34, [0x34, 0x34]), (2, 0x1200, [0x12, 0x12])])
def test_a_counter_may_have_one_byte_only(access, count, read):
    timer = Timer()
    timer.start(0, 0, count, access=access)
    assert [timer.inb(0x40), timer.inb(0x40)] == read
    timer.outb(0x00, CONTROL)
    assert timer.inb(0x40) == read[0]


def test_a_counter_may_count_in_decimal():
    timer = Timer()
    timer.start(0, 0, 0x1000, bcd=1)
    timer.at_tick(1)
    assert timer.count(0) == 0x0999
    timer.at_tick(1001)
    assert timer.count(0) == 0x9999


def test_read_back_tells_mode_output_and_whether_a_count_was_written():
    timer = Timer()
    timer.outb(0x30, CONTROL)
    assert timer.status(0) == 0x70
    timer.start(0, 0, 10)
    assert timer.status(0) == 0x30
    timer.at_tick(10)
    assert timer.status(0) == 0xB0


def test_read_back_latches_several_counters_status_first():
    timer = Timer()
    timer.start(0, 2, 0x1111)
    timer.start(1, 2, 0x2222)
    timer.outb(0xC6, CONTROL)
    timer.at_tick(9)
    for port, byte in [(0x40, 0x11), (0x41, 0x22)]:
        assert timer.inb(port) == 0xB4
        assert (timer.inb(port), timer.inb(port)) == (byte, byte)


def test_the_first_byte_of_a_count_stops_mode_0():
    timer = Timer()
    timer.start(0, 0, 10)
    timer.at_tick(20)
    timer.outb(10, 0x40)
    assert not timer.status(0) & 0x80


def test_the_control_word_cannot_be_read():
    assert Timer().inb(CONTROL) == 0xFF


def test_the_refresh_bit_toggles_every_15_us():
    timer = Timer()
    seen = []
    for tick in range(0, 72, 9):
        timer.at_tick(tick)
        seen.append(timer.inb(SYSTEM) >> 4 & 1)
    assert seen == [0, 0, 1, 1, 0, 0, 1, 1]


@given(
    st.lists(
        st.tuples(st.sampled_from(["read", "write", "gate", "time"]), st.integers(0, 3), st.integers(0, 255)),
        max_size=60,
    )
)
def test_any_accesses_keep_counts_16_bits_wide(steps):
    now = 1000

    def now_ns():
        return now

    pit = Pit(now_ns)
    for verb, where, value in steps:
        if verb == "time":
            # Time steps back a little when another vCPU looks.
            now += value * 10_000 - 50_000
            now = max(now, 0)
        elif verb == "gate":
            pit.counters[2].set_gate(bool(value & 1))
        elif verb == "write":
            pit.write_byte(where, value)
        else:
            assert 0 <= pit.read_byte(where) <= 0xFF
        for counter in pit.counters:
            assert 0 <= counter.count <= 0xFFFF
            assert counter.output in (False, True)


class Wire(Timer):
    """A timer whose line 0 is open at the 8259A (vector 0x20 on), and at pin 2 of the I/O APIC (0x52)."""

    def __init__(self, pic=True, pin=True):
        super().__init__()
        for value, port in [(0x11, 0x20), (0x20, 0x21), (4, 0x21), (1, 0x21), (0xFE if pic else 0xFF, 0x21)]:
            self.outb(value, port)
        self.memory.write(0xFEC0_0000, 4, 0x14)
        self.memory.write(0xFEC0_0010, 4, 0x52 if pin else 0x10052)

    def go_to_tick(self, tick):
        """Let time go on to the first ns of a tick, every alarm ringing at its own."""
        self.clock.go_to(-(-tick * SECOND // HZ))

    def rises(self, ticks):
        """The ticks at which an interrupt came to the I/O APIC, of so many from now on."""
        found = []
        for tick in range(ticks):
            before = len(self.messages)
            self.go_to_tick(tick)
            found += [tick] * (len(self.messages) - before)
        return found


@pytest.mark.parametrize(
    ("mode", "ticks"),
    [(0, [10]), (1, []), (2, [10, 20, 30]), (3, [10, 20, 30]), (4, [11]), (5, []), (6, [10, 20, 30])],
)
def test_counter_0_interrupts_when_its_output_rises(mode, ticks):
    """Its gate is open for good, so that modes 1 and 5, which wait for it to rise, never begin."""
    wire = Wire()
    wire.start(0, mode, 10)
    assert wire.rises(35) == ticks


def test_both_controllers_get_line_0():
    wire = Wire()
    wire.start(0, 2, 10)
    wire.go_to_tick(10)
    assert [message.vector for message in wire.messages] == [0x52]
    assert wire.int_levels == [True]
    assert wire.board.acknowledge() == 0x20


def test_mode_0_asks_once_until_a_count_is_written_anew():
    wire = Wire(pin=False)
    wire.start(0, 0, 10)
    wire.go_to_tick(100_000)
    assert wire.board.acknowledge() == 0x20
    assert wire.clock.alarms.next_due is None
    wire.outb(0x20, 0x20)
    wire.outb(5, 0x40)
    wire.outb(0, 0x40)
    wire.go_to_tick(100_005)
    assert wire.int_levels == [True, False, True]


def test_a_control_word_of_mode_0_puts_the_output_down_and_of_another_mode_up():
    """The data sheet, "Mode Definitions": what the output is from the control word on; a rise interrupts."""
    wire = Wire()
    wire.outb(0x30, CONTROL)
    assert wire.messages == []
    wire.outb(0x34, CONTROL)
    assert len(wire.messages) == 1
    wire.go_to_tick(1_000_000)
    assert len(wire.messages) == 1, "without a count it does not count"


@pytest.mark.parametrize(("mode", "changes_at"), [(2, 1000), (3, 500)])
def test_a_count_written_while_a_periodic_counter_runs_waits_for_the_end_of_the_period(mode, changes_at):
    """In mode 3 of half of it. The status says until then that the count is not in the counter yet."""
    wire = Wire()
    wire.start(0, mode, 1000)
    wire.go_to_tick(100)
    wire.outb(400 & 0xFF, 0x40)
    wire.outb(400 >> 8, 0x40)
    wire.go_to_tick(changes_at - 1)
    assert wire.status(0) & 0x40
    assert wire.count(0) == (1 if mode == 2 else 2)
    wire.go_to_tick(changes_at)
    assert not wire.status(0) & 0x40
    assert wire.count(0) == 400
    first = 1000 if mode == 2 else 700
    assert wire.rises(2000) == [tick for tick in range(first, 2000, 400) if tick > changes_at or mode == 3]


def test_a_count_for_a_triggered_counter_waits_for_the_next_trigger():
    timer = Timer()
    timer.start(2, 1, 1000)
    timer.outb(1, SYSTEM)
    timer.at_tick(100)
    timer.outb(50, 0x42)
    timer.outb(0, 0x42)
    assert timer.count(2) == 900
    timer.outb(0, SYSTEM)
    timer.outb(1, SYSTEM)
    assert timer.count(2) == 50


def test_a_pit_that_is_masked_asks_for_no_alarm_and_its_edge_waits_at_the_8259a_only():
    wire = Wire(pic=False, pin=False)
    wire.start(0, 2, 10)
    wire.outb(0, 0x40)
    wire.outb(1, 0x40)
    assert wire.clock.alarms.next_due is None
    wire.now_ns = SECOND
    assert wire.inb(0x20) & 1, "IRR, with IMR in front of it"
    wire.outb(0xFE, 0x21)
    assert wire.int_levels == [True]
    wire.memory.write(0xFEC0_0010, 4, 0x52)
    assert wire.messages == [], "an I/O APIC drops what comes to a masked pin"
    assert wire.clock.alarms.next_due is not None


def test_a_request_that_waits_at_the_8259a_needs_no_more_alarms():
    wire = Wire(pin=False)
    wire.start(0, 2, 10)
    wire.go_to_tick(10)
    assert wire.clock.alarms.next_due is None
    wire.board.acknowledge()
    assert wire.clock.alarms.next_due is not None


def test_a_pit_that_nothing_takes_stops_asking_and_goes_on_once_the_guest_does():
    wire = Wire(pic=False)
    wire.start(0, 2, 1193)
    wire.clock.idle = True
    wire.clock.go_to(SECOND)
    assert 0 < len(wire.messages) < 10
    assert wire.clock.alarms.next_due is None
    wire.clock.idle = False
    wire.inb(0x21)
    wire.clock.go_to(2 * SECOND)
    assert len(wire.messages) > 900


def test_nothing_is_asked_for_once_the_board_is_switched_off():
    wire = Wire()
    wire.start(0, 2, 10)
    wire.board.switch_off()
    assert wire.clock.alarms.next_due is None


@given(
    mode=st.integers(0, 5),
    start=st.integers(0, 100),
    count=st.integers(2, 12),
    written=st.one_of(st.none(), st.tuples(st.integers(0, 40), st.integers(2, 12))),
)
def test_edges_are_where_the_output_changes(mode, start, count, written):
    """What `next_rise` and `next_fall` say, held against the output tick by tick. Modes 2 and 3 take no 1."""
    now = start
    counter = Counter(lambda: now, gate=True)
    counter.control(1, mode, bcd=False)
    counter.write_byte(count)
    if written is not None:
        now += written[0]
        counter.write_byte(written[1])
    after, before = now, counter.output
    told = counter.next_rise(after), counter.next_fall(after)
    found: list[int | None] = [None, None]
    for now in range(after + 1, after + 60):
        output = counter.output
        edge = 0 if output else 1
        if output != before and found[edge] is None:
            found[edge] = now
        before = output
    assert told == tuple(found)
