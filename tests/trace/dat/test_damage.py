# SPDX-License-Identifier: GPL-2.0-or-later
"""Damaged files: cut short at any byte, changed anywhere, with numbers that promise what is not there."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.dat_files import Made
from tests.support.dat_ring import Machine, Ring
from vlapic.errors import TraceError
from vlapic.events import Lost
from vlapic.trace.dat.reader import DatReader

#: How much more memory than the interpreter's own a damaged file may have made us take.
ROOM_BYTES = 256 << 20
EVENTS_A_CPU = 60


def small(kind: str, order: str = "<", long_size: int = 8) -> bytes:
    """A file of two CPUs and an instance, some of whose times need extends and stamps."""
    machine = Machine(order, long_size, 512)
    rings = []
    for cpu in range(2):
        ring, time = Ring(machine), 5000 + cpu
        for number in range(EVENTS_A_CPU // 2):
            time += 1000 << number % 24
            tid = 1000 + cpu
            ring.add(
                time, machine.payload("kvm_entry", tid, vcpu_id=cpu, rip=number), absolute=number % 9 == 1
            )
            ring.add(
                time + 300,
                machine.payload("kvm_wait_lapic_expire", tid, vcpu_id=cpu, delta=number - 20),
                long=number % 7 == 3,
            )
        rings.append(b"".join(ring.finish()))
    made = Made({"": rings, "other": rings[:1]}, machine)
    return made.v6() if kind == "v6" else made.v7(kind, pages_a_chunk=2)


KINDS = ("v6", "none", "zlib", "zstd")


def read(data: bytes) -> tuple[list[object], list[Lost]] | TraceError:
    """All events of a file and its losses, or the error that it is."""
    try:
        reader = DatReader("x.dat", memoryview(data))
        return list(reader.events()), reader.lost
    except TraceError as error:
        return error


def resident(which: str) -> int:
    """Bytes of this process in memory: VmRSS now, VmHWM at most since clear_refs (proc(5))."""
    found = re.search(rf"{which}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10


@contextmanager
def little_memory() -> Iterator[None]:
    # ru_maxrss never falls: what another test took would hide what this one takes.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    yield
    assert resident("VmHWM") - before < ROOM_BYTES


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_short_gives_what_is_whole_and_says_what_is_not(kind: str) -> None:
    data = small(kind)
    found = read(data)
    assert isinstance(found, tuple)
    whole, _ = found
    before = -1
    for length in sorted({*range(0, len(data), 97), len(data) - 1}):
        found = read(data[:length])
        if isinstance(found, TraceError):
            assert before < 0, "a longer file gives no less"
            continue
        events, lost = found
        real = [event for event in events if not isinstance(event, Lost)]
        before = max(before, len(real))
        # The last section of a version 7 file has strings that nothing needs.
        assert lost or len(real) == len(whole)
        if kind == "v6":
            assert set(real) <= set(whole), "an event that is not in the file"
    assert before > EVENTS_A_CPU


def test_a_changed_byte_in_a_page_loses_no_more_than_the_rest_of_its_page() -> None:
    data = small("v6")
    found = read(data)
    assert isinstance(found, tuple)
    whole, lost = found
    assert not lost
    record = Machine().payload("kvm_entry", 1001, vcpu_id=1, rip=5)
    place = data.index(record)
    changed = bytearray(data)
    # The record's length is now in the word after its head, and more than its page has.
    changed[place - 4] &= 0xE0
    changed[place : place + 4] = b"\xff" * 4
    found = read(bytes(changed))
    assert isinstance(found, tuple)
    events, lost = found
    real = [event for event in events if not isinstance(event, Lost)]
    assert len(whole) - 20 < len(real) < len(whole)
    assert set(real) < set(whole)
    assert [(one.cause, one.cpu) for one in lost] == [("damaged", 1)]
    assert lost[0].place == place - 4


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x.dat ends (after 0 bytes)"),
        (b"\x17\x08\x44tracing6\0", "x.dat ends (after 12 bytes)"),
        (b"# tracer: nop\n", "x.dat is no trace.dat"),
        (b"\x17\x08\x44tracing8\0" + bytes(100), "version '8' is not known; known: 6, 7"),
        (
            small("none").replace(b"none\0", b"lzma\0", 1),
            "compression 'lzma' is not known; known: none, zlib",
        ),
        (small("v6").replace(b"common_type", b"common_tipe"), "no event has common_type and common_pid"),
        (small("v6").replace(b"timestamp", b"timestump"), "header_page makes no sense"),
        (small("none").replace(b"header_page\0", b"header_pige\0"), "formats of its events cannot be read"),
    ],
)
def test_what_cannot_be_read_at_all_is_told_in_one_line(data: bytes, message: str) -> None:
    error = read(data)
    assert isinstance(error, TraceError)
    assert message in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_changed_files_give_events_or_an_error(kind: str) -> None:
    mutate(kind, rounds=60, seed=1)


@pytest.mark.hunt
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", KINDS)
def test_many_changed_files_give_events_or_an_error(kind: str, order: str) -> None:
    mutate(kind, rounds=700, seed=2, order=order)


def mutate(kind: str, *, rounds: int, seed: int, order: str = "<") -> None:
    """Change a file in many ways and read it each time."""
    data = small(kind, order)
    chance = random.Random(f"{seed}{kind}{order}")
    pages = (
        data.find(b"flyrecord")
        if kind == "v6"
        else data.find(b"\x03\0\x00\0" if order == "<" else b"\0\x03\0")
    )
    with little_memory():
        for _ in range(rounds):
            changed = bytearray(data)
            low = chance.choice((0, 0, max(pages, 0)))
            for _ in range(chance.choice((1, 1, 2, 5, 30))):
                at = chance.randrange(low, len(changed))
                match chance.randrange(5):
                    case 0:
                        changed[at] ^= 1 << chance.randrange(8)
                    case 1:
                        changed[at] = chance.randrange(256)
                    case 2:
                        changed[at : at + 4] = chance.choice((b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"))
                    case 3:
                        changed[at : at + 8] = chance.choice((b"\xff" * 8, bytes(8), b"\0\0\0\0\0\0\0\x01"))
                    case 4:
                        del changed[at : at + chance.choice((1, 4, 512))]
                if not changed:
                    break
            found = read(bytes(changed))
            if isinstance(found, TraceError):
                assert str(found).startswith("x.dat")
                assert "\n" not in str(found)


def test_what_a_test_takes_is_seen_whatever_was_taken_before() -> None:
    b"x" * (2 * ROOM_BYTES)  # given back at once
    with pytest.raises(AssertionError), little_memory():
        b"x" * (ROOM_BYTES + (16 << 20))
