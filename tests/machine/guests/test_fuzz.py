# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever an image holds, the run ends: in a result, or in an error that says why. No signal, no hang, no
traceback.

Each image runs in a child process of its own, forked from one that has everything imported, its guest memory
between inaccessible pages. The kernel kills it if it hangs: after minutes of processor time, which no other
work of the machine adds to.
"""

import ctypes
import mmap
import os
import random

import pytest

import vlapic
from tests.support.guest_runs import GUESTS, SOURCES
from tests.support.images import multiboot
from tests.support.limits import limit_cpu
from vlapic.errors import VlapicError
from vlapic.machine.guests import loader
from vlapic.machine.guests.images.flat import HEADER, MAGIC
from vlapic.session import spec

INSTRUCTIONS = 50_000
#: Seconds of virtual time: an instruction may make tens of exits. Each takes 0.8 us of it or more,
#: so there are 25,000 at most; where instructions are counted, one is some 25 us of processor time.
SECONDS = 0.02
FINE, FAILED_WELL, TRACEBACK = range(3)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork(): run it on Linux")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
_PROT_NONE, _PRIVATE_ANONYMOUS_NOREPLACE = 0, 0x2 | 0x20 | 0x100000


def guarded_memory(length):
    """Anonymous memory with an inaccessible page on either side."""
    crowded = []
    while True:
        memory = mmap.mmap(-1, length)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        sides = (address - mmap.PAGESIZE, address + length)
        pages = [
            _libc.mmap(side, mmap.PAGESIZE, _PROT_NONE, _PRIVATE_ANONYMOUS_NOREPLACE, -1, 0) for side in sides
        ]
        # Something else may lie next to it already; if that is a guard of ours, good.
        if all(page in (side, ctypes.c_void_p(-1).value) for page, side in zip(pages, sides, strict=True)):
            return memory
        crowded.append(memory)


#: Instructions, or beginnings of some, that do more than compute: what leaves the guest, what changes modes
#: and tables, ways into handlers and back, strings, locks; then prefixes.
_PIECES = """
    0f30 0f32 0fa2 0f31 0f01f9 0f33 0f05 0f34 480f07 480f35 0f01c1 0f01d9 ee ec ef ed e400 e680 6c
    6e f36c f36e 0f22c0 0f22d8 0f22e0 0f20c0 440f22c0 440f20c0 0f2303 0f2107 0f23f8 0f06 0f08 0f09
    0f01f0 0f01e0 0f01f8 0f01d0 0f011c24 0f011424 0f00d8 0f00d0 8ed0 8ed8 8ee0 8ee8 17 07 9d 9c 0f0b
    cc f1 cd03 cd08 cd0e cd80 cf 48cf 66cf c3 cb 48cb ca0800 ea 9a f4 fb fa ebfe f3aa f3a4 f348a5
    6a00 8703 f00103 f087030f ff33 8f03 ff13 ff23 ff1b ff2b 0fc70f 480fc70f f00fc70f 0fae00 0fae08
    0fae20 0fae28 0fae38 d9e8 db2b db3b 9b 0f7f03 f30f6f03 a1 48a1 c4e27918 62f17c48 66 67 48 4f f0
    f2 f3 2e 64 65
"""
PIECES = [bytes.fromhex(piece) for piece in _PIECES.split()]
#: Numbers with a meaning: the local APIC's page, its ICR, ends of pages and of memory.
NUMBERS = (0, 2**32 - 1, 0xFEE0_0000, 0xFEE0_0300, 0x10_0000, 0x20_0000, 0x3F_FFFF, 0x8000_0000, 0xFFFF_F000)


def changed(data, at, rng):
    """Change a place of an image in one of the ways there are."""
    kind = rng.randrange(8)
    if kind == 0:
        data[at] = rng.randrange(256)
    elif kind == 1:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 2 and len(data) > 64:
        del data[at : at + rng.randrange(1, 8)]
    elif kind == 3:
        data[at:at] = data[at : at + rng.randrange(1, 16)]
    elif kind == 4:
        data[at : at + 4] = rng.choice(NUMBERS).to_bytes(4, "little")
    elif kind == 5:
        other = rng.randrange(len(data))
        data[at : at + 16] = data[other : other + 16]
    else:
        piece = rng.choice(PIECES)
        data[at : at + (len(piece) if kind == 6 else 0)] = piece


def mutated(image, rng):
    """An image with some of its bytes changed, cut out, doubled, or made instructions."""
    data = bytearray(image)
    for _ in range(rng.choice((1, 2, 8, 64))):
        changed(data, rng.randrange(len(data)), rng)
    return bytes(data)


def random_image(rng):
    """Random code, half of it of bytes that make sense more often, as a flat or a multiboot image."""
    code = rng.randbytes(rng.randrange(1, 600))
    if rng.random() < 0.5:
        code = b"".join(rng.choice(PIECES) + rng.randbytes(rng.choice((0, 0, 1, 3))) for _ in range(100))
    if rng.random() < 0.5:
        address = rng.choice((0, 0x1000, 0x8000, 0x10_0000))
        return multiboot(1 << 16, address, address, 0, 0, address + 32) + code
    return HEADER.pack(MAGIC, 0x10_0000, HEADER.size, 4096, 0, bytes(8)) + code


def image_of(number):
    """The image of a number, the same in every run."""
    rng = random.Random(number)
    if number % 4 == 3:
        return random_image(rng)
    if number % 16 == 14:
        return rng.randbytes(rng.randrange(400))
    return mutated((GUESTS / f"{rng.choice(SOURCES)}.bin").read_bytes(), rng)


def run_in_child(number):
    """Run one image in a forked child; its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        status = TRACEBACK
        try:
            limit_cpu()
            vars(spec)["load"] = lambda image, **options: loader.load(image_of(number), **options)
            vlapic.run(
                "deadline",
                events=20,
                instructions=INSTRUCTIONS,
                seconds=SECONDS,
                memory_mib=4,
                vcpus=1 + number % 3,
            )
            status = FINE
        except VlapicError:
            status = FAILED_WELL
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.fixture
def guards(monkeypatch):
    class Memory:
        PAGESIZE = mmap.PAGESIZE
        mmap = staticmethod(lambda fd, length: guarded_memory(length))

    monkeypatch.setattr(loader, "mmap", Memory)


@pytest.mark.parametrize("images", [50, pytest.param(2000, marks=pytest.mark.hunt)])
def test_no_image_crashes_hangs_or_raises(images, guards):
    seen = {number: run_in_child(number) for number in range(images)}
    assert {number: status for number, status in seen.items() if status not in (FINE, FAILED_WELL)} == {}
    assert sum(status == FINE for status in seen.values()) > images / 2
