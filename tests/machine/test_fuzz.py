"""Whatever an image holds, the run ends: in a result, or in an error that says why. No signal, no hang, no
traceback.

Each image runs in a child process of its own, forked from one that has everything imported, its guest memory
between inaccessible pages. After five seconds it is interrupted as by Ctrl-C, after ten it is killed.
"""

import ctypes
import mmap
import os
import random
import signal
import time

import pytest

from vlapic import session
from vlapic.errors import VlapicError
from vlapic.machine import loader
from vlapic.machine.images.flat import HEADER, MAGIC
from vlapic.machine.programs import PROGRAMS

IMAGES = 2000
SECONDS = 5
INSTRUCTIONS = 50_000
FINE, FAILED_WELL, SLOW, TRACEBACK = 0, 1, 2, 3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork(): run it on Linux"),
]

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


def mutated(image, rng):
    """An image with some of its bytes changed, cut out, or doubled."""
    data = bytearray(image)
    for _ in range(rng.choice((1, 2, 8, 64))):
        at = rng.randrange(len(data))
        kind = rng.randrange(4)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 2 and len(data) > 64:
            del data[at : at + rng.randrange(1, 8)]
        else:
            data[at:at] = data[at : at + rng.randrange(1, 16)]
    return bytes(data)


def random_flat(rng):
    """A flat image of random code, half of it of bytes that make sense more often."""
    code = rng.randbytes(rng.randrange(1, 600))
    if rng.random() < 0.5:
        pieces = [
            b"\x0f\x30",
            b"\x0f\x32",
            b"\x0f\xa2",
            b"\xcd\x03",
            b"\x0f\x01\xd0",
            b"\x0f\x22\xc0",
            b"\x0f\x22\xd8",
        ]
        pieces += [
            b"\xf4",
            b"\xfb",
            b"\xfa",
            b"\xcf",
            b"\x48\xcf",
            b"\xee",
            b"\xec",
            b"\x0f\x0b",
            b"\xeb\xfe",
            b"\xf3\xaa",
        ]
        code = b"".join(rng.choice(pieces) + rng.randbytes(rng.randrange(4)) for _ in range(100))
    header = HEADER.pack(MAGIC, 0x10_0000, HEADER.size, 4096, 0, bytes(8))
    return header + code


def image_of(number):
    """The image of a number, the same in every run."""
    rng = random.Random(number)
    built_in = sorted(PROGRAMS)
    if number % 4 == 3:
        return random_flat(rng)
    if number % 16 == 14:
        return rng.randbytes(rng.randrange(400))
    return mutated(PROGRAMS[rng.choice(built_in)].image(), rng)


def interrupt(signum, frame):
    """Ctrl-C after five seconds, and the end after ten: a run that does not heed it hangs."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the next one kills
    raise KeyboardInterrupt


def run_in_child(number):
    """Run one image in a forked child; its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        status = TRACEBACK
        try:
            signal.signal(signal.SIGALRM, interrupt)
            signal.setitimer(signal.ITIMER_REAL, SECONDS, SECONDS)
            session.load = lambda image, **options: loader.load(image_of(number), **options)
            result = session.run(
                "deadline",
                events=20,
                instructions=INSTRUCTIONS,
                seconds=1,
                memory_mib=4,
                vcpus=1 + number % 2,
            )
            status = SLOW if result.interrupted else FINE
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


def test_no_image_crashes_hangs_or_raises(guards):
    begin = time.monotonic()
    seen = {number: run_in_child(number) for number in range(IMAGES)}
    bad = {number: status for number, status in seen.items() if status not in (FINE, FAILED_WELL, SLOW)}
    assert bad == {}, f"after {time.monotonic() - begin:.0f} s"
    assert sum(status == FINE for status in seen.values()) > IMAGES / 2
    # Code that changes itself at every step is translated anew each time, a millisecond an instruction.
    assert sum(status == SLOW for status in seen.values()) < IMAGES / 200
