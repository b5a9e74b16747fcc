# SPDX-License-Identifier: GPL-2.0-or-later
"""The page walk by which interrupts are delivered."""

import struct

import pytest

from tests.support.bare_unicorn import ram
from vlapic.machine.engines.unicorn.paging import ACCESSED, DIRTY, PageFault, Paging, is_canonical

PG, LONG_CR0, PAE, PSE, EFER = 1 << 31, 1 << 31 | 1 << 16, 1 << 5, 1 << 4, 0xD00
TABLES = 0x1000, 0x2000, 0x3000, 0x4000


def entry(memory, table, index):
    return struct.unpack_from("<Q", memory, TABLES[table] + 8 * index)[0]


def mapped(*entries):
    """Paging in which virtual 0 is translated by one entry a level, all else is not present."""
    memory = ram()
    for table, value in zip(TABLES, entries, strict=False):
        struct.pack_into("<Q", memory, table, value)
    paging = Paging(memory)
    paging.use(LONG_CR0, 0x1000, PAE, EFER)
    return memory, paging


@pytest.mark.parametrize(
    ("entries", "address", "physical"),
    [
        ((0x2003, 0x3003, 0x4003, 0x5003), 0x123, 0x5123),
        ((0x2003, 0x3003, 0x200083), 0x1234, 0x201234),
        ((0x2003, 0x40000083), 0x1234567, 0x41234567),
        ((0x2003, 0x3003, 0x4003, 0x8000_0000_0000_5003), 0x123, 0x5123),
    ],
)
def test_pages_of_every_size_are_found(entries, address, physical):
    _, paging = mapped(*entries)
    assert paging.translate(address) == physical
    assert paging.translate(address, write=True) == physical


@pytest.mark.parametrize(
    ("entries", "write", "error_code"),
    [
        ((0,), False, 0),
        ((0x2003, 0x3003, 0x4003, 0), True, 2),
        ((0x2003, 0x3003, 0x4003, 0x5001), True, 3),
        ((0x2001, 0x3003, 0x4003, 0x5003), True, 3),
        ((0x7FFF_F003,), False, 9),
    ],
)
def test_an_access_that_is_not_allowed_says_why(entries, write, error_code):
    _, paging = mapped(*entries)
    with pytest.raises(PageFault) as caught:
        paging.translate(0x10, write)
    assert (caught.value.address, caught.value.error_code) == (0x10, error_code)


def test_without_write_protection_the_kernel_writes_anywhere():
    _, paging = mapped(0x2003, 0x3003, 0x4003, 0x5001)
    paging.use(PG, 0x1000, PAE, EFER)
    assert paging.translate(0, write=True) == 0x5000


def test_accessed_and_dirty_flags_are_set():
    memory, paging = mapped(0x2003, 0x3003, 0x4003, 0x5003)
    paging.read(0, 1)
    assert [entry(memory, level, 0) & (ACCESSED | DIRTY) for level in range(4)] == [ACCESSED] * 4
    paging.write(0, b"x")
    assert entry(memory, 3, 0) & DIRTY


def test_a_changed_entry_counts_after_a_flush():
    memory, paging = mapped(0x2003, 0x3003, 0x4003, 0x5003)
    assert paging.translate(0) == 0x5000
    struct.pack_into("<Q", memory, 0x4000, 0x6003)
    assert paging.translate(0) == 0x5000
    paging.flush()
    assert paging.translate(0) == 0x6000


def test_a_write_across_a_bad_page_writes_nothing():
    memory, paging = mapped(0x2003, 0x3003, 0x4003, 0x5003)
    with pytest.raises(PageFault) as caught:
        paging.write(0xFFC, b"12345678")
    assert caught.value.address == 0x1000
    assert memory[0x5FFC:0x6000] == bytes(4)


def test_a_read_across_pages_joins_them():
    memory, paging = mapped(0x2003, 0x3003, 0x4003, 0x5003)
    struct.pack_into("<Q", memory, 0x4008, 0x9003)
    memory[0x5FFE:0x6000], memory[0x9000:0x9002] = b"ab", b"cd"
    assert paging.read(0xFFE, 4) == b"abcd"


def test_beyond_memory_reads_are_all_ones_and_writes_are_lost():
    _, paging = mapped(0x2003, 0x3003, 0x4003, 0x8000_0003)
    paging.write(8, b"abc")
    assert paging.read(8, 3) == b"\xff\xff\xff"


@pytest.mark.parametrize(
    ("address", "canonical"),
    [(0, True), (0x7FFF_FFFF_FFFF, True), (1 << 47, False), (0xFFFF_8000_0000_0000, True), (1 << 63, False)],
)
def test_canonical_addresses(address, canonical):
    assert is_canonical(address) == canonical


# -- the other modes --


def legacy(entries, cr4, cr0=LONG_CR0):
    """32-bit paging in which the directory's and the table's entry 0 are these."""
    memory = ram()
    for table, value in zip((0x1000, 0x2000), entries, strict=False):
        struct.pack_into("<I", memory, table, value)
    paging = Paging(memory)
    paging.use(cr0, 0x1000, cr4, 0)
    return memory, paging


def pae(entries, efer=0):
    """PAE paging: an entry of the pointers, the directory and the table."""
    memory = ram()
    for table, value in zip((0x1000, 0x2000, 0x3000), entries, strict=False):
        struct.pack_into("<Q", memory, table, value)
    paging = Paging(memory)
    paging.use(LONG_CR0, 0x1000, PAE, efer)
    return memory, paging


def test_without_paging_an_address_is_physical_and_has_32_bits():
    paging = Paging(ram())
    paging.use(0x11, 0, 0, 0)
    assert paging.translate(0x1234) == 0x1234
    assert paging.translate(0x1_0000_0010, write=True) == 0x10


@pytest.mark.parametrize(
    ("entries", "cr4", "address", "physical"),
    [
        ((0x2003, 0x5003), 0, 0x123, 0x5123),
        ((0x0040_0083,), PSE, 0x1234, 0x40_1234),
        ((0x0040_0083 | 1 << 13,), PSE, 0x1234, 0x1_0040_1234),
        ((0x2083, 0x5003), 0, 0x123, 0x5123),
    ],
)
def test_32_bit_paging_finds_pages_of_4_kib_and_with_pse_of_4_mib(entries, cr4, address, physical):
    _, paging = legacy(entries, cr4)
    assert paging.translate(address) == physical


def test_32_bit_paging_marks_what_it_used():
    memory, paging = legacy((0x2003, 0x5003), 0)
    paging.write(0, b"x")
    directory, page = (struct.unpack_from("<I", memory, table)[0] for table in (0x1000, 0x2000))
    assert (directory & 0xFFF, page & 0xFFF) == (0x3 | ACCESSED, 0x3 | ACCESSED | DIRTY)


@pytest.mark.parametrize(
    ("entries", "address", "physical"),
    [((0x2001, 0x3003, 0x5003), 0x123, 0x5123), ((0x2001, 0x200083), 0x1234, 0x20_1234)],
)
def test_pae_paging_finds_pages_of_4_kib_and_2_mib(entries, address, physical):
    _, paging = pae(entries)
    assert paging.translate(address, write=True) == physical


@pytest.mark.parametrize("entries", [(0x2003, 0x3003, 0x5003), (0x2001, 0x3003, 1 << 63 | 0x5003)])
def test_a_reserved_bit_in_an_entry_of_pae_is_a_fault(entries):
    _, paging = pae(entries)
    with pytest.raises(PageFault) as caught:
        paging.translate(0)
    assert caught.value.error_code == 9


def test_no_execute_is_reserved_until_efer_has_nxe():
    _, paging = pae((0x2001, 0x3003, 1 << 63 | 0x5003), efer=1 << 11)
    assert paging.translate(0) == 0x5000


@pytest.mark.parametrize(
    "entries",
    [(0x2083,), (0x2003, 0x0040_2083), (0x2003, 0x3003, 0x0020_2083), (0x2003, 0x3003, 1 << 41 | 3)],
)
def test_a_reserved_bit_in_an_entry_of_4_levels_is_a_fault(entries):
    _, paging = mapped(*entries)
    with pytest.raises(PageFault) as caught:
        paging.translate(0, write=True)
    assert caught.value.error_code == 0xB


@pytest.mark.parametrize(
    ("entries", "write", "error_code"),
    [
        ((0x2007, 0x3007, 0x4007, 0x5007), True, None),
        ((0x2003, 0x3007, 0x4007, 0x5007), False, 5),
        ((0x2007, 0x3007, 0x4007, 0x5003), False, 5),
        ((0x2007, 0x3007, 0x4007, 0x5005), True, 7),
        ((0x2007, 0x3007, 0x4007, 0), True, 6),
    ],
)
def test_user_code_reaches_user_pages_only(entries, write, error_code):
    _, paging = mapped(*entries)
    paging.use(PG, 0x1000, PAE, EFER)  # CR0.WP does not matter to it
    if error_code is None:
        assert paging.translate(0, write, user=True) == 0x5000
        return
    with pytest.raises(PageFault) as caught:
        paging.translate(0, write, user=True)
    assert caught.value.error_code == error_code
