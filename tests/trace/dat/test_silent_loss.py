# SPDX-License-Identifier: GPL-2.0-or-later
"""What a file's structure promises and does not hold is told: no change loses events in silence.

A mutant is a file with one number of its structure changed, or bytes anywhere. It gives the same events as
the file it was made of, or tells a loss with its place, or is an error. What no reader can know is left out:
times and the fields of events, which may have any value, and the text of formats and names.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import pytest

from tests.support.dat_files import Made
from tests.support.dat_ring import Machine, Ring
from tests.trace.dat.test_damage import little_memory
from vlapic.errors import TraceError
from vlapic.events import Lost
from vlapic.trace.dat.reader import DatReader

Order: TypeAlias = Literal["little", "big"]

KINDS = ("v6", "none", "zlib", "zstd")
EVENTS_A_CPU = 60
PAGE = 512


def stats(cpu: int, read: int) -> tuple[int, bytes]:
    """The option with a CPU's stats, as trace-cmd has it."""
    text = f"CPU: {cpu}\nentries: 0\noverrun: 0\ncommit overrun: 0\ndropped events: 0\nread events: {read}\0"
    return 2, text.encode()


def file_of(kind: str, *, told: bool, order: str = "<", long_size: int = 8) -> bytes:
    """A file of three CPUs and an instance; `told`: it has the CPUs' stats."""
    machine = Machine(order, long_size, PAGE)
    rings, options = [], []
    for cpu in range(3):
        ring, time = Ring(machine), 5000 + cpu
        for number in range(EVENTS_A_CPU // 3):
            time += 1000 << number % 20
            tid = 1000 + cpu
            ring.add(time, machine.payload("kvm_entry", tid, vcpu_id=cpu, rip=number), absolute=number == 9)
            ring.add(time + 300, machine.payload("kvm_wait_lapic_expire", tid, vcpu_id=cpu, delta=number))
            ring.add(
                time + 500, machine.payload("kvm_msr", tid, ecx=0x6E0, data=~number), long=number % 7 == 3
            )
            if number == 12:
                ring.discard(16)
                time += 1
        rings.append(b"".join(ring.finish()))
        options.append(stats(cpu, EVENTS_A_CPU // 3 * 3))
    made = Made({"": rings, "other": rings[:1]}, machine, options=options if told else [])
    return made.v6() if kind == "v6" else made.v7(kind, pages_a_chunk=2)


@dataclass(frozen=True)
class Outcome:
    """What reading a file came to: its events, or an error; and whether either tells of damage."""

    events: Sequence[object]
    passed_over: int
    lost: list[Lost]
    error: str = ""

    @classmethod
    def of(cls, data: bytes) -> Outcome:
        try:
            reader = DatReader("x.dat", memoryview(data))
            events = [event for event in reader.events() if not isinstance(event, Lost)]
        except TraceError as error:
            return cls([], 0, [], str(error))
        return cls(events, reader.passed_over.total(), reader.lost)

    @property
    def told(self) -> bool:
        return bool(self.error or self.lost)


@dataclass(frozen=True)
class Spot:
    """A number of the structure: what it is, where, and how wide."""

    what: str
    at: int
    width: int


def spots(data: bytes, kind: str, order: str, long_size: int) -> Iterator[Spot]:
    """Every number that says where something is, how long, how many or what."""
    little: Order = "little" if order == "<" else "big"

    def number(at: int, width: int) -> int:
        return int.from_bytes(data[at : at + width], little)

    yield Spot("page size", 14, 4)
    if kind == "v6":
        table = data.index(b"flyrecord\0") + 10
        yield Spot("number of CPUs", data.index(b"options  \0") - 4, 4)
        places = [table + 16 * cpu for cpu in range(3)]
        places.append(data.index(b"flyrecord\0", table) + 10)
        for at in places:
            yield Spot("place of a CPU's data", at, 8)
            yield Spot("size of a CPU's data", at + 8, 8)
            begin, size = number(at, 8), number(at + 8, 8)
            for page in range(begin, begin + size, PAGE):
                yield from page_spots(data, page, little, long_size)
        return
    at = data.index(b"1.0\0") + 4
    yield Spot("place of options", at, 8)
    at += 8
    buffers = 0
    while at < len(data):
        section, size = number(at, 2), number(at + 8, 8)
        yield Spot("kind of section", at, 2)
        yield Spot("flags of section", at + 2, 2)
        yield Spot("size of section", at + 8, 8)
        if section == 3:
            page = -(-(at + 16) // PAGE) * PAGE
            while page < at + 16 + size:
                if kind == "none":
                    yield from page_spots(data, page, little, long_size)
                    page += PAGE
                    continue
                yield Spot("number of chunks", page, 4)
                chunk = page + 4
                for _ in range(number(page, 4)):
                    yield Spot("packed size of chunk", chunk, 4)
                    yield Spot("size of chunk", chunk + 4, 4)
                    chunk += 8 + number(chunk, 4)
                page = -(-chunk // PAGE) * PAGE
        elif section == 0:
            option = at + 16
            while True:
                if option + 6 > at + 16 + size:
                    break
                what, length = number(option, 2), number(option + 2, 4)
                yield Spot("number of option", option, 2)
                yield Spot("size of option", option + 2, 4)
                if what == 3:
                    inside = data.index(b"\0", data.index(b"\0", option + 14) + 1) + 1
                    yield Spot("place of buffer", option + 6, 8)
                    yield Spot("page size of buffer", inside, 4)
                    yield Spot("number of CPUs", inside + 4, 4)
                    for cpu in range(number(inside + 4, 4)):
                        yield Spot("place of a CPU's data", inside + 12 + 20 * cpu, 8)
                        yield Spot("size of a CPU's data", inside + 20 + 20 * cpu, 8)
                    buffers += 1
                elif what == 0 or what >= 16:
                    yield Spot("place of section", option + 6, 8)
                option += 6 + length
        elif kind != "none":
            yield Spot("packed size of section", at + 16, 4)
            yield Spot("unpacked size of section", at + 20, 4)
        at += 16 + size
    assert buffers == 2


def page_spots(data: bytes, page: int, little: Order, long_size: int) -> Iterator[Spot]:
    def number(at: int, width: int) -> int:
        return int.from_bytes(data[at : at + width], little)

    yield Spot("commit", page + 8, long_size)
    at = page + 8 + long_size
    end = at + (number(page + 8, long_size) & (1 << 27) - 1)
    while at < end:
        word = number(at, 4)
        kind = word & 31 if little == "little" else word >> 27
        # The byte of a head that has its type, and some bits of time.
        yield Spot("type of record", at, 1)
        if kind in (0, 29):
            yield Spot("length of record", at + 4, 4)
        if 0 <= kind <= 28:
            yield Spot("number of event", at + (8 if kind == 0 else 4), 2)
        at += 4 + (4 * kind if 0 < kind <= 28 else number(at + 4, 4) if kind in (0, 29) else 4)


def changed(data: bytes, spot: Spot, value: int, little: Order) -> bytes:
    value &= (1 << 8 * spot.width) - 1
    return data[: spot.at] + value.to_bytes(spot.width, little) + data[spot.at + spot.width :]


def structural(data: bytes, kind: str, order: str, long_size: int) -> Iterator[tuple[Spot, bytes]]:
    """Every number of the structure off by one, halved, doubled, nothing, everything."""
    little: Order = "little" if order == "<" else "big"
    for spot in spots(data, kind, order, long_size):
        was = int.from_bytes(data[spot.at : spot.at + spot.width], little)
        values: list[int]
        if spot.what == "type of record":
            shift = 0 if order == "<" else 3
            values = [was ^ bit << shift for bit in (1, 2, 4, 8, 16)]
            of_type = was >> shift & 31
            values += [was & ~(31 << shift) | (of_type + more & 31) << shift for more in (1, -1)]
        else:
            values = [0, 1, 2, was + 1, was - 1, was + 4, was - 4, was // 2, was * 2, was ^ 1 << 30, -1]
            values += [4097, was + PAGE, was - PAGE, was ^ 1 << 27]
        for value in dict.fromkeys(value & (1 << 8 * spot.width) - 1 for value in values):
            if value != was:
                yield spot, changed(data, spot, value, little)


def anywhere(data: bytes, seed: str, number: int) -> Iterator[bytes]:
    """Files with a bit, a byte or a word changed, or bytes taken out, wherever chance has it."""
    chance = random.Random(seed)
    for _ in range(number):
        at = chance.randrange(len(data))
        match chance.randrange(5):
            case 0:
                yield data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
            case 1:
                yield data[:at] + chance.randbytes(1) + data[at + 1 :]
            case 2:
                yield data[:at] + chance.choice((b"\xff" * 4, bytes(4))) + data[at + 4 :]
            case 3:
                yield data[:at] + bytes(PAGE) + data[at + PAGE :]
            case 4:
                yield data[:at] + data[at + chance.choice((1, 4, PAGE)) :]


def is_silent(spot: Spot, before: Outcome, after: Outcome) -> bool:
    """Whether events are not the same, and nothing says so.

    A time stamp that becomes a time to be added, or the other way, gives times that may well be right.
    """
    if after.told:
        return False
    if spot.what == "type of record":
        return len(before.events) != len(after.events)
    return Counter(after.events) != Counter(before.events)


def loses_in_silence(before: Outcome, after: Outcome) -> bool:
    """Whether there are fewer events, and nothing says so; their fields may be others.

    An event whose format's name was changed is passed over by that name, and counted.
    """
    return not after.told and len(after.events) + after.passed_over < len(before.events)


def check_words(after: Outcome, length: int) -> None:
    assert all(lost.place <= length for lost in after.lost if lost.cause != "overrun")
    assert "\n" not in after.error


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("told", [True, False], ids=["with stats", "without stats"])
def test_no_number_of_the_structure_is_changed_in_silence(kind: str, told: bool) -> None:
    mutants = list(structural(file_of(kind, told=told), kind, "<", 8))
    sample = random.Random(f"{kind}{told}").sample(mutants, 100)
    structure_is_kept(kind, told, "<", 8, sample)


@pytest.mark.hunt
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("told", [True, False], ids=["with stats", "without stats"])
@pytest.mark.parametrize(("order", "long_size"), [("<", 8), (">", 4)])
def test_none_at_all_is_changed_in_silence(kind: str, told: bool, order: str, long_size: int) -> None:
    mutants = structural(file_of(kind, told=told, order=order, long_size=long_size), kind, order, long_size)
    structure_is_kept(kind, told, order, long_size, mutants)


def structure_is_kept(
    kind: str, told: bool, order: str, long_size: int, mutants: Iterable[tuple[Spot, bytes]]
) -> None:
    before = Outcome.of(file_of(kind, told=told, order=order, long_size=long_size))
    assert len(before.events) == EVENTS_A_CPU * 4
    assert not before.told
    silent: Counter[str] = Counter()
    with little_memory():
        for spot, mutant in mutants:
            after = Outcome.of(mutant)
            check_words(after, len(mutant))
            silent[spot.what] += is_silent(spot, before, after)
    assert +silent == Counter()


@pytest.mark.parametrize("kind", KINDS)
def test_no_change_anywhere_loses_events_in_silence(kind: str) -> None:
    changes_anywhere_are_told(kind, 60)


@pytest.mark.hunt
@pytest.mark.parametrize("kind", KINDS)
def test_no_change_of_many_loses_events_in_silence(kind: str) -> None:
    changes_anywhere_are_told(kind, 3000)


def changes_anywhere_are_told(kind: str, number: int) -> None:
    data = file_of(kind, told=True)
    before = Outcome.of(data)
    silent = 0
    with little_memory():
        for mutant in anywhere(data, f"{kind}{number}", number):
            after = Outcome.of(mutant)
            check_words(after, len(mutant))
            silent += loses_in_silence(before, after)
    assert silent == 0


RECORDING = Path(__file__).parent.parent / "data/svm-tscdeadline-latency.dat"


@pytest.mark.hunt
def test_no_change_of_the_recording_loses_events_in_silence() -> None:
    data = RECORDING.read_bytes()
    before = Outcome.of(data)
    for mutant in anywhere(data, "recording", 300):
        assert not loses_in_silence(before, Outcome.of(mutant))


def losses_of(data: bytes) -> list[tuple[str, int, int, int, int]]:
    """Cause, CPU, events, place and size of each."""
    return [
        (lost.cause, lost.cpu, lost.events, lost.place, lost.size_bytes) for lost in Outcome.of(data).lost
    ]


def pages_of(data: bytes) -> list[int]:
    """Where the pages of the first CPU of a version 6 file are."""
    table = data.index(b"flyrecord\0") + 10
    begin, size = (int.from_bytes(data[table + more : table + more + 8], "little") for more in (0, 8))
    return list(range(begin, begin + size, PAGE))


def put(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def test_a_page_of_zeros_is_a_loss_of_that_page() -> None:
    data = file_of("v6", told=False)
    page = pages_of(data)[1]
    assert losses_of(put(data, page, bytes(PAGE))) == [("damaged", 0, 0, page + 8, PAGE)]


def test_a_page_that_is_filled_less_than_it_holds_is_a_loss_of_what_is_behind() -> None:
    data = file_of("v6", told=False)
    page = pages_of(data)[1]
    filled = int.from_bytes(data[page + 8 : page + 16], "little")
    at = data.index(Machine().payload("kvm_entry", 1000)[:8], page + 100) - 4
    cut = put(data, page + 8, (at - page - 16).to_bytes(8, "little"))
    last = max(at for at in range(page, page + 16 + filled) if data[at])
    assert losses_of(cut) == [("damaged", 0, 0, at, last + 1 - at)]


def test_a_page_earlier_than_the_one_before_it_is_told() -> None:
    data = file_of("v6", told=False)
    page = pages_of(data)[2]
    assert losses_of(put(data, page, bytes(8))) == [("damaged", 0, 0, page, 0)]


def test_fewer_events_than_the_stats_count_are_a_loss_of_so_many() -> None:
    machine = Machine()
    ring = Ring(machine)
    for number in range(7):
        ring.add(number, machine.payload("kvm_entry", 1000, rip=number))
    made = Made({"": [b"".join(ring.finish())]}, machine, options=[stats(0, 9), stats(1, 4)])
    for data in (made.v6(), made.v7("zlib")):
        found = [(lost.cause, lost.cpu, lost.events) for lost in Outcome.of(data).lost]
        assert found == [("damaged", 0, 2), ("damaged", 1, 4)]


def test_records_that_are_of_no_event_are_one_loss_for_each_cpu_and_number() -> None:
    machine = Machine()
    rings = []
    for _ in range(2):
        ring = Ring(machine)
        for number in range(50):
            payload = machine.payload("kvm_entry", 1000, rip=number)
            ring.add(number, machine.pack("H", 999) + payload[2:] if number % 5 == 0 else payload)
        rings.append(b"".join(ring.finish()))
    after = Outcome.of(Made({"": rings}, machine).v6())
    assert len(after.events) == 80
    assert [(lost.cpu, lost.events, lost.size_bytes) for lost in after.lost] == [(0, 10, 280), (1, 10, 280)]


def test_data_that_no_cpu_has_are_told_with_their_place_and_size() -> None:
    data = file_of("v6", told=False)
    table = data.index(b"flyrecord\0") + 10
    begin, size = pages_of(data)[0], len(pages_of(data)) * PAGE
    [loss] = losses_of(put(data, table + 8, bytes(8)))
    assert loss[0] == "damaged"
    assert (loss[3], size - PAGE < loss[4] <= size) == (begin, True)
