# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether there is memory for what would end the process if there were none.

Python and numpy raise MemoryError. Unicorn prints a line of its own and ends the process, polars aborts, and
imports fail in as many ways as there are libraries; so they are not begun without room.
"""

from __future__ import annotations

import mmap
import resource

#: With less than this, what fails in an unknown way may have failed for want of memory.
_SHORT_BYTES = 64 << 20


def is_room_for(size_bytes: int, *, executable: bool = False) -> bool:
    """Whether so much more memory could be mapped. None of it is used."""
    protection = mmap.PROT_READ | mmap.PROT_WRITE | (mmap.PROT_EXEC if executable else 0)
    try:
        mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, protection).close()
    except (OSError, MemoryError):
        return False
    return True


def is_short() -> bool:
    """Whether memory is nearly exhausted."""
    return not is_room_for(_SHORT_BYTES)


def in_words() -> str:
    """How much there is: this process's limit if it has one, and what to do about it."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return "the machine has no more; end other programs"
    return f"this process may have {limit >> 20} MiB of addresses; raise that with `ulimit -v`"
