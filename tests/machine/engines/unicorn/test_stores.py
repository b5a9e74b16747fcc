# SPDX-License-Identifier: GPL-2.0-or-later
"""Stores go at full speed to pages without code, and code that is stored is the code that runs."""

import random
import struct

import pytest

from tests.support.bare_unicorn import DIRECTORIES, MIB, PDPT, SCRATCH, Bare
from vlapic.machine.engines import contract as e
from vlapic.machine.engines.unicorn import stores
from vlapic.machine.engines.unicorn.machine_code import native_counting
from vlapic.machine.engines.unicorn.stores import Stores, find_tlbs_offset

pytestmark = pytest.mark.skipif(not native_counting(), reason="needs machine code that runs here")

#: The same memory once more, from here on.
ALIAS = 1 << 30
#: Where functions stand: `mov $NUMBER, %eax; ret`. Two in a page, pages that also hold data, one page apart.
FUNCTIONS = [2 * MIB + 0x1_0000 + page * 0x1000 + place for page in range(6) for place in (0x10, 0x800)]
#: A page of another TLB entry than the program's.
PAGE = SCRATCH + 0x1000
DATA = [2 * MIB + 0x1_0000 + page * 0x1000 + 0xF00 for page in range(12)]


@pytest.fixture
def opened(monkeypatch):
    """Looks at the TLB every few instructions; how many entries each opened."""
    monkeypatch.setattr(stores, "FIRST_PACE", 20)
    monkeypatch.setattr(stores, "LAST_PACE", 20)
    monkeypatch.setattr(stores, "PACE_OF_ENTRY", 0)
    made, counts = Stores.__init__, []

    def make(self, *arguments):
        made(self, *arguments)
        ours = self._open
        self._open = lambda *call: counts.append(ours(*call)) or counts[-1]

    monkeypatch.setattr(Stores, "__init__", make)
    return counts


def guest(program):
    made = Bare(program)
    made.memory[PDPT + 8 : PDPT + 16] = struct.pack("<Q", DIRECTORIES | 3)  # instead of the second GiB
    return made


def test_unicorn_tells_where_its_tlbs_are():
    assert find_tlbs_offset() is not None


def test_a_page_of_data_is_opened_and_one_with_code_never(opened):
    # mov $1000, %ecx; 1: mov %ecx, PAGE; mov %ecx, 2f; dec %ecx; jnz 1b; hlt; 2: (in the same page)
    body = "b9 e8 03 00 00 89 0c 25 00 10 20 00 89 0d 05 00 00 00 ff c9 75 ef f4"
    made = guest(bytes.fromhex(body) + bytes(16))
    held = made.engine._stores
    assert isinstance(made.run(), e.Hlt)
    assert sum(count >> 32 & 0x7FFF_FFFF for count in opened) == 1
    assert held._bits[(MIB >> 12) // 8] & 1
    assert not held._bits[(PAGE >> 12) // 8] & 2


class Writer:
    """A program of calls and stores, and what it leaves in EBX."""

    def __init__(self, choice):
        self.program = bytes.fromhex("31 db")  # xor %ebx, %ebx
        self.numbers = dict.fromkeys(FUNCTIONS, 0)
        self.sum = 0
        self.choice = choice

    def place(self, address):
        return address + self.choice.choice((0, ALIAS))

    def call(self, address):
        """mov $ADDRESS, %edx; call *%rdx; imul $31, %ebx, %ebx; add %eax, %ebx"""
        self.program += struct.pack("<BI", 0xBA, self.place(address)) + bytes.fromhex("ff d2 6b db 1f 01 c3")
        self.sum = self.sum * 31 + self.numbers[address] & 0xFFFF_FFFF

    def number(self, address, number):
        """movl $NUMBER, ADDRESS + 1"""
        self.numbers[address] = number
        self.program += bytes.fromhex("c7 04 25") + struct.pack("<II", self.place(address + 1), number)

    def store(self, address):
        """movl $0, ADDRESS"""
        self.program += bytes.fromhex("c7 04 25") + struct.pack("<II", self.place(address), 0)


@pytest.mark.parametrize("seed", range(30))
def test_stored_code_runs_whatever_address_it_is_stored_by(opened, seed):
    choice = random.Random(seed)
    written = Writer(choice)
    for _ in range(600):
        kind = choice.random()
        if kind < 0.4:
            written.call(choice.choice(FUNCTIONS))
        elif kind < 0.7:
            written.number(choice.choice(FUNCTIONS), choice.randrange(1 << 32))
        else:
            written.store(choice.choice(DATA))
    written.program += bytes.fromhex("89 1c 25 00 00 20 00 f4")  # mov %ebx, SCRATCH; hlt
    made = guest(written.program)
    for address in FUNCTIONS:
        made.put(address, bytes.fromhex("b8 00 00 00 00 c3"))
    until = 0
    while not isinstance(made.run(until), e.Hlt):  # stops anywhere, so that blocks are met and not run
        until = made.now + choice.randrange(1, 40)
    assert made.u32(SCRATCH) == written.sum
    assert sum(count >> 32 & 0x7FFF_FFFF for count in opened) > 3


def test_a_crowded_tlb_is_made_larger(opened):
    # mov $1000, %ebp; 2: mov $0, %ecx; 1: mov %ecx, 0x200000(%rcx); add $0x1000, %ecx
    body = "bd e8 03 00 00 b9 00 00 00 00 89 89 00 00 20 00 81 c1 00 10 00 00"
    # cmp $0x100000, %ecx; jb 1b; dec %ebp; jnz 2b; hlt
    made = guest(bytes.fromhex(body + "81 f9 00 00 10 00 72 ec ff cd 75 e3 f4"))
    assert isinstance(made.run(), e.Hlt)
    entries = [count & 0xFFFF_FFFF for count in opened]
    assert entries[0] == 3 * 256
    assert entries[-1] > entries[0]
