# SPDX-License-Identifier: GPL-2.0-or-later
"""What an event's fields can be: each annotation is the width in memory, a numpy dtype.

`host_tsc`, `vm` and `vcpu` lead every event. `host_tsc` is the kernel's x86-tsc trace clock; in a trace that
was recorded with another clock it is that clock's ns (the reader's `clock` says which). `vm` and `vcpu` are
`NO_VCPU` where no vCPU's thread did it.
"""

from __future__ import annotations

from typing import Annotated

U8 = Annotated[int, "u1"]
U32 = Annotated[int, "<u4"]
U64 = Annotated[int, "<u8"]
S32 = Annotated[int, "<i4"]
S64 = Annotated[int, "<i8"]
Flag = Annotated[bool, "?"]
#: ASCII, a byte a character; longer ones are cut.
Name = Annotated[str, "S28"]
ShortName = Annotated[str, "S24"]
#: A task's name (`TASK_COMM_LEN`, without the end).
Comm = Annotated[str, "S15"]

#: `vm` and `vcpu` of an event that no vCPU's thread made.
NO_VCPU = (1 << 32) - 1
#: The CPU of an event in a batch where the trace does not say it (perf, where it was not recorded).
NO_CPU = 0xFFFF
