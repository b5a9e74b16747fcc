# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever a file holds, the loader refuses it in one line or loads a guest that makes sense."""

import struct
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.machine.guests.images.test_pvh import elf_with_notes, entry_note
from tests.support.images import MIB, elf, multiboot, multiboot2
from vlapic.errors import ImageError
from vlapic.machine.engines.contract import CpuMode
from vlapic.machine.guests.loader import HEADER, MAGIC, load
from vlapic.machine.guests.programs import PROGRAMS

MEMORY = 4 * MIB
GOOD = {
    "flat": PROGRAMS["deadline"].image(),
    "elf32": elf(32, [(MIB, b"code" * 20), (2 * MIB, b"data" * 9, 4096)], MIB + 4),
    "elf64": elf(64, [(MIB, b"code" * 20), (2 * MIB, b"data" * 9, 4096)], MIB + 4),
    "multiboot ELF32": elf(32, [(MIB, multiboot() + b"code" * 20)], MIB + 12),
    "PVH": elf_with_notes(entry_note(MIB + 5)),
    "multiboot2 ELF64": elf(64, [(MIB, multiboot2() + b"code" * 20)], MIB + 24),
    "multiboot2": multiboot2(
        (2, struct.pack("<4I", MIB, MIB, MIB + 120, MIB + 150)), (3, struct.pack("<I", MIB + 72))
    )
    + b"code" * 20,
    "multiboot2 that moves": multiboot2(
        (2, struct.pack("<4I", MIB, MIB, 0, 0)),
        (3, struct.pack("<I", MIB + 96)),
        (10, struct.pack("<4I", MIB, 3 * MIB, 4096, 2)),
    )
    + b"code" * 20,
    "multiboot": multiboot(1 << 16, MIB, MIB, MIB + 60, MIB + 90, MIB + 32) + b"code" * 20,
}
#: Numbers that break careless sums.
EDGES = [
    0,
    1,
    2,
    3,
    0x7F,
    0x80,
    0xFF,
    0x8000,
    0xFFFF,
    MIB - 1,
    MIB,
    MEMORY - 1,
    MEMORY,
    1 << 31,
    (1 << 32) - 1,
]
THOUSANDS = 3000


def outcome(data):
    """Load a file; None if it is refused."""
    try:
        guest = load(data, MEMORY)
    except ImageError as error:
        text = str(error)
        assert "\n" not in text
        assert any(word in text for word in ("expected", "try", "link it"))
        return None
    assert len(guest.memory) == MEMORY
    assert 0 <= guest.first.rip < MEMORY
    assert guest.first.mode in CpuMode
    assert guest.results_address is None or guest.results() is not None
    return guest


def mutated(data, random):
    """A good image with some bytes, numbers or its length changed."""
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        at = random.randrange(min(len(out), 200) if random.random() < 0.9 else len(out))
        if random.random() < 0.5:
            out[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
        else:
            size = random.choice((2, 4, 8))
            value = random.choice((*EDGES, (1 << 64) - 1, 1 << 63, random.getrandbits(64)))
            number = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
            out[at : at + size] = number[: len(out) - at]
    if random.random() < 0.2:
        del out[random.randrange(len(out)) :]
    return bytes(out)


@pytest.mark.parametrize("form", GOOD)
def test_mutated_images_are_refused_or_loaded(form):
    random = Random(form)
    assert outcome(GOOD[form]) is not None
    results = [outcome(mutated(GOOD[form], random)) for _ in range(THOUSANDS)]
    refused = results.count(None)
    assert 0.05 * THOUSANDS < refused < THOUSANDS  # the mutations bite, and not all of them kill


@pytest.mark.parametrize("form", GOOD)
def test_an_image_cut_off_anywhere_is_refused_or_loaded(form):
    for size in range(min(len(GOOD[form]), 400)):
        outcome(GOOD[form][:size])


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", MAGIC, b"\x7fELF", multiboot(), multiboot(1 << 16), multiboot2()[:24]]),
)
@settings(max_examples=2000, deadline=None)
def test_random_files_are_refused_or_loaded(data, front):
    outcome(front + data)


@given(st.lists(st.sampled_from(EDGES) | st.integers(0, (1 << 32) - 1), min_size=4, max_size=4))
@settings(max_examples=500, deadline=None)
def test_random_flat_headers_are_refused_or_loaded(fields):
    outcome(HEADER.pack(MAGIC, *fields, bytes(8)) + bytes(64))


@given(
    st.sampled_from([32, 64]),
    st.lists(st.tuples(st.sampled_from(EDGES), st.binary(max_size=8), st.sampled_from(EDGES)), max_size=4),
    st.sampled_from(EDGES),
)
@settings(max_examples=1000, deadline=None)
def test_random_segments_are_refused_or_loaded(bits, segments, entry):
    guest = outcome(elf(bits, segments, entry))
    if guest is not None:
        for address, data, size in segments:
            assert not size or guest.memory[address : address + len(data)] == data


@given(st.lists(st.sampled_from(EDGES) | st.integers(MIB - 64, MIB + 200), min_size=5, max_size=5))
@settings(max_examples=1000, deadline=None)
def test_random_address_fields_are_refused_or_loaded(fields):
    outcome(struct.pack("<II", 0, 0) + multiboot(1 << 16, *fields) + b"code" * 16)
