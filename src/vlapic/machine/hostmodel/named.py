# SPDX-License-Identifier: GPL-2.0-or-later
"""The host models that come with vlapic, by name, and how a user's word becomes one.

`default` stands in `hostmodel.py`. The others show what a timer meets elsewhere; no machine was measured for
them, and `source` says so.
"""

from __future__ import annotations

import os
from pathlib import Path

from vlapic.errors import unknown_name
from vlapic.machine.hostmodel import file as hostfile
from vlapic.machine.hostmodel.model import DEFAULT, OTHER_EXITS, Burst, Cost, HostModel, constant, with_tail
from vlapic.machine.hostmodel.names import HOST_NAMES

#: The host is itself a guest: what is one exit here is many for the hypervisor under it.
NESTED = HostModel(
    name="nested",
    source=(
        "assumed, after no machine: a hypervisor in a virtual machine, each of whose exits costs the"
        " hypervisor under it several; chosen so that a timer interrupt comes 200 us late or more"
    ),
    exits={
        "PREEMPTION_TIMER": with_tail(420_000, spread=40_000, tail=2_000_000),
        "EXTERNAL_INTERRUPT": with_tail(300_000, spread=30_000, tail=2_000_000),
        **{reason: with_tail(60_000, spread=6_000, tail=500_000) for reason in OTHER_EXITS},
    },
    hrtimer=with_tail(180_000, spread=20_000, tail=1_000_000),
    wake_up=with_tail(250_000, spread=30_000, tail=2_000_000),
    injection=with_tail(90_000, spread=8_000, tail=400_000),
    entry=with_tail(100_000, spread=10_000, tail=800_000),
    # The hypervisor under it posts for it, which takes an exit and an entry there.
    posting=with_tail(160_000, spread=15_000, tail=800_000),
    switch=constant(60_000),
)

#: A CPU of its own for each vCPU, nothing else on it.
REALTIME = HostModel(
    name="realtime",
    source=(
        "assumed, after no machine: a 2.5 GHz server with the vCPU alone on an isolated CPU (isolcpus,"
        " nohz_full, idle=poll), so hardly any tails and a short wake-up; slice: Linux, RR_TIMESLICE, 100 ms"
    ),
    exits={
        "PREEMPTION_TIMER": with_tail(1000, spread=15, tail=500),
        "EXTERNAL_INTERRUPT": with_tail(850, spread=20, tail=500),
        **{reason: with_tail(850, spread=20, tail=500) for reason in OTHER_EXITS},
    },
    hrtimer=with_tail(1200, spread=25, tail=800),
    wake_up=with_tail(1500, spread=40, tail=1500),
    injection=constant(280),
    entry=with_tail(1150, spread=20, tail=400),
    posting=with_tail(2300, spread=30, tail=800),
    slice_cycles=250_000_000,
    min_granularity_cycles=250_000_000,
)

#: Other work takes the CPU away, about 2 % of the time.
NOISY = HostModel(
    name="noisy",
    source=(
        "assumed, after no machine: the default host beside other work; bursts come as if by chance, about"
        " 11 ms from one to the next, and last from 20 us to 2 ms; exits and wake-ups with longer tails"
    ),
    exits={
        "PREEMPTION_TIMER": with_tail(1150, spread=100, tail=40_000),
        "EXTERNAL_INTERRUPT": with_tail(950, spread=120, tail=40_000),
        **{reason: with_tail(950, spread=120, tail=40_000) for reason in OTHER_EXITS},
    },
    hrtimer=with_tail(1700, spread=150, tail=100_000),
    wake_up=with_tail(3500, spread=600, tail=250_000),
    injection=constant(300),
    entry=with_tail(1250, spread=80, tail=20_000),
    posting=with_tail(2600, spread=150, tail=40_000),
    burst=Burst(
        # -ln(1 - p) times 10 ms at p = 1/8 ... 7/8, from 0.1 to 60 ms, in cycles of 2.5 GHz.
        interval=Cost(
            (
                250_000,
                3_338_000,
                7_192_000,
                11_750_000,
                17_329_000,
                24_521_000,
                34_657_000,
                51_986_000,
                150_000_000,
            )
        ),
        length=Cost((50_000, 75_000, 100_000, 150_000, 200_000, 300_000, 500_000, 1_000_000, 5_000_000)),
    ),
)

HOSTS = dict(zip(HOST_NAMES, (DEFAULT, NESTED, REALTIME, NOISY), strict=True))


def find_model(model: HostModel | str | os.PathLike[str], tsc_khz: int | None = None) -> HostModel:
    """The host model a user means: one, a name, or what looks like the path of a model file.

    Args:
        tsc_khz: frequency of the host's TSC to read a file's times with, None for the file's own.

    Raises:
        UsageError: no such name, where the nearest one is offered; or the file's content is wrong.
        WorldError: the file cannot be read.
    """
    if isinstance(model, HostModel):
        return model
    name = os.fspath(model)
    if name in HOSTS:
        return HOSTS[name]
    if "/" in name or "." in name or Path(name).exists():
        return hostfile.read(name, tsc_khz)
    raise unknown_name("host", name, HOSTS)
