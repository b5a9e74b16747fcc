# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host's own work costs, in cycles of the host TSC: the only assumption a run makes.

A cost is a constant or an inverse CDF, a table of integers drawn from by a counter-based generator: the n-th
draw of a stream depends on seed, stream and n alone, so that one vCPU's draws never shift another's. No
float, no libm: the same seed gives the same cycles on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, pairwise, repeat
from typing import Any

import numpy as np
import numpy.typing as npt

_GOLDEN = 0x9E37_79B9_7F4A_7C15
_U64 = (1 << 64) - 1
#: Draws made at a time.
_BATCH = 512
#: Intervals of a table made from samples, at most.
MAX_SAMPLED_INTERVALS = 1024
#: A cost is less than this many cycles, so that interpolating between two stays within 64 bits.
COST_LIMIT = 1 << 32


def splitmix64(value: int) -> int:
    """A mix of 64 bits (Steele, Lea and Flood, "Fast splittable pseudorandom number generators")."""
    value = (value ^ value >> 30) * 0xBF58_476D_1CE4_E5B9 & _U64
    value = (value ^ value >> 27) * 0x94D0_49BB_1331_11EB & _U64
    return value ^ value >> 31


@dataclass(frozen=True)
class Cost:
    """Cycles that one piece of work takes.

    Attributes:
        quantiles: non-decreasing cycles at 2^k + 1 equally spaced probabilities from 0 to 1, k >= 0; a single
            value is a constant.
        first: cycles of the first draws, one each, before the quantiles are drawn from: a host that begins
            otherwise than it goes on.
    """

    quantiles: tuple[int, ...]
    first: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        intervals = len(self.quantiles) - 1
        if intervals < 0 or intervals & (intervals - 1):
            raise ValueError(f"a cost has 1 value or 2^k + 1 of them, got {len(self.quantiles)}")
        if any(low > high for low, high in pairwise(self.quantiles)):
            raise ValueError(f"the quantiles of a cost never fall, got {self.quantiles}")
        if not all(0 <= cycles < COST_LIMIT for cycles in (*self.quantiles, *self.first)):
            raise ValueError(f"a cost is 0 to {COST_LIMIT - 1} cycles, got {self.first + self.quantiles}")

    def at(self, probabilities: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """The quantiles at `probabilities` of 2^64, interpolated, rounded down; arrays of one shape."""
        table = np.array(self.quantiles, dtype=np.uint64)
        intervals = len(table) - 1
        if not intervals:
            return np.full_like(probabilities, table[0])
        below_index = 64 - (intervals.bit_length() - 1)
        # A shift by all 64 bits is not defined.
        index = (probabilities >> np.uint64(below_index - 1)) >> np.uint64(1)
        within = probabilities << np.uint64(64 - below_index) >> np.uint64(32)
        low: npt.NDArray[np.uint64] = table[index]
        rise: npt.NDArray[np.uint64] = (table[index + np.uint64(1)] - low) * within >> np.uint64(32)
        return low + rise


def constant(cycles: int) -> Cost:
    """A cost that never varies."""
    return Cost((cycles,))


DEFAULT_TSC_KHZ = 2_500_000
#: 3 ms: `sysctl_sched_base_slice` of Linux 6.6, 0.75 ms, times 1 + log2 of 8 CPUs
#: (`get_update_sysctl_factor`).
DEFAULT_SLICE_CYCLES = 7_500_000
#: 2 us, assumed.
DEFAULT_SWITCH = constant(5000)


def with_tail(cycles: int, spread: int, tail: int) -> Cost:
    """A cost of `cycles` on average, within `spread` of it but for one draw in 256, which reaches up to
    `tail` more.

    The body is uniform and shifted down by what the tail adds, so that the mean stays where it was asked for.
    """
    lift = tail // 512
    body = [cycles - spread - lift + 2 * spread * index // 255 for index in range(256)]
    return Cost((*body, body[-1] + tail))


#: From a published figure, see the `source` of `DEFAULT`.
DEFAULT_POSTING = with_tail(2400, spread=60, tail=4000)


def sampled(samples: Sequence[int]) -> Cost:
    """The cost that was seen to take these cycles, in any order: their quantiles, least and greatest kept.

    The table has as many intervals as there are between the samples, rounded up to a power of two, at most
    1024; between two samples it is interpolated and rounded down.
    """
    ordered = sorted(samples)
    steps = len(ordered) - 1
    if steps < 1:
        return Cost(tuple(ordered))
    intervals = min(1 << (steps - 1).bit_length(), MAX_SAMPLED_INTERVALS)
    quantiles = []
    for place in range(intervals + 1):
        below, rest = divmod(place * steps, intervals)
        rise = ordered[below + 1] - ordered[below] if rest else 0
        quantiles.append(ordered[below] + rise * rest // intervals)
    return Cost(tuple(quantiles))


@dataclass(frozen=True)
class Burst:
    """Other work that takes a physical CPU away from all vCPUs on it, over and over.

    Attributes:
        interval: from the end of one burst to the beginning of the next, 1 cycle at least.
        length: how long one lasts.
    """

    interval: Cost
    length: Cost

    def __post_init__(self) -> None:
        if self.interval.quantiles[0] < 1:
            raise ValueError(
                f"an interval between bursts is 1 cycle or more, got {self.interval.quantiles[0]}"
            )


@dataclass(frozen=True, repr=False)
class HostModel:
    """The costs of one host.

    Attributes:
        name: what reports call it.
        exits: from the moment the guest is left to the end of handling, by the exit's VMX name.
        hrtimer: from an hrtimer's expiry to its callback.
        wake_up: from the kick of a vCPU that sleeps in HLT to its thread running again.
        injection: putting a vector into the guest's entry state.
        entry: from the end of the busy wait to the guest's next instruction.
        posting: from another CPU's posting of an interrupt to the running guest having it.
        wait_step_cycles: one 1 ns step of the busy wait; 0 is 1 ns rounded up to whole cycles.
        cycles_per_insn: one guest instruction.
        preemption_timer_rate: IA32_VMX_MISC bits 4:0.
        tsc_khz: frequency of the host's TSC, unless a run asks for another one.
        source: where the figures come from.
        switch: loading another vCPU onto a physical CPU than ran there last.
        slice_cycles: how long a vCPU has a physical CPU while another one waits for it.
        min_granularity_cycles: how long it has it although another one wakes up, 0 to `slice_cycles`.
        burst: other work of the host, None for none.
    """

    name: str
    exits: dict[str, Cost]
    hrtimer: Cost
    wake_up: Cost
    injection: Cost
    entry: Cost
    wait_step_cycles: int = 0
    cycles_per_insn: int = 1
    preemption_timer_rate: int = 5
    tsc_khz: int = DEFAULT_TSC_KHZ
    source: str = ""
    posting: Cost = DEFAULT_POSTING
    switch: Cost = DEFAULT_SWITCH
    slice_cycles: int = DEFAULT_SLICE_CYCLES
    min_granularity_cycles: int = DEFAULT_SLICE_CYCLES
    burst: Burst | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_granularity_cycles <= self.slice_cycles:
            raise ValueError(
                f"min_granularity is 0 to the slice's {self.slice_cycles} cycles,"
                f" got {self.min_granularity_cycles}"
            )

    def __repr__(self) -> str:
        return f"<HostModel {self.name}>"  # its tables would fill a screen of help(vlapic.run)

    def wait_step(self, host_khz: int) -> int:
        """Host cycles of one step of the busy wait, at least 1."""
        return self.wait_step_cycles or -(-host_khz // 1_000_000)


def constant_model(
    *,
    preemption_timer: int = 1100,
    external_interrupt: int = 900,
    other_exits: int = 900,
    hrtimer: int = 1500,
    wake_up: int = 2700,
    injection: int = 300,
    entry: int = 1200,
    posting: int = 2400,
    name: str = "constant",
) -> HostModel:
    """A host without jitter: the means of the default one, each an argument, in cycles."""
    return HostModel(
        name=name,
        exits={
            "PREEMPTION_TIMER": constant(preemption_timer),
            "EXTERNAL_INTERRUPT": constant(external_interrupt),
            **{reason: constant(other_exits) for reason in OTHER_EXITS},
        },
        hrtimer=constant(hrtimer),
        wake_up=constant(wake_up),
        injection=constant(injection),
        entry=constant(entry),
        posting=constant(posting),
    )


#: Exits whose handling is no part of a timer interrupt's way.
OTHER_EXITS = (
    "MSR_READ",
    "MSR_WRITE",
    "APIC_ACCESS",
    "EPT_MISCONFIG",
    "IO_INSTRUCTION",
    "CPUID",
    "CR_ACCESS",
    "HLT",
    "INTERRUPT_WINDOW",
    "NMI_WINDOW",
    "VMCALL",
    "TRIPLE_FAULT",
)

#: An assumed 2.5 GHz Skylake server that meets the three lateness figures Linux has published.
DEFAULT = HostModel(
    name="default",
    source=(
        "the means meet the lateness figures of Linux commit 3b8a5df6c4dc (KVM: LAPIC: Tune"
        " lapic_timer_advance_ns automatically) on a Skylake server: about 5700 cycles from HLT on the"
        " hrtimer, 2600 spinning on the preemption timer, 1200 once tuned; posting: the 3293 cycles of an IPI"
        " to another vCPU and back (Linux commit a9ab13ff6e84, KVM: X86: Improve latency for single target"
        " IPI fastpath, on a Skylake server) less the 900 of the sender's exit, so with the receiver's"
        " handler, at most; 2.5 GHz, spread, tails and switch are assumed; slice: Linux 6.6,"
        " sysctl_sched_base_slice on 8 CPUs"
    ),
    exits={
        "PREEMPTION_TIMER": with_tail(1100, spread=20, tail=5000),
        "EXTERNAL_INTERRUPT": with_tail(900, spread=60, tail=5000),
        **{reason: with_tail(900, spread=60, tail=4000) for reason in OTHER_EXITS},
    },
    hrtimer=with_tail(1500, spread=40, tail=8000),
    wake_up=with_tail(2700, spread=60, tail=20_000),
    injection=constant(300),
    entry=with_tail(1200, spread=40, tail=2000),
    posting=DEFAULT_POSTING,
)


@dataclass(frozen=True)
class Draws:
    """The draws of one vCPU.

    Attributes:
        seed: of the run, 0 to 2^64-1.
        vcpu: the vCPU's number on its host; different ones draw independently.
    """

    seed: int
    vcpu: int

    def of(self, name: str, cost: Cost) -> Iterator[int]:
        """The endless draws from `cost` in the stream called `name`, which no other stream disturbs."""
        if len(cost.quantiles) == 1:
            return chain(cost.first, repeat(cost.quantiles[0])) if cost.first else repeat(cost.quantiles[0])
        key = splitmix64(self.seed ^ splitmix64(self.vcpu + 1))
        for byte in name.encode():
            key = splitmix64(key + byte + _GOLDEN & _U64)
        return chain(cost.first, chain.from_iterable(_batches(key, cost)))


def _batches(key: int, cost: Cost) -> Iterator[list[Any]]:
    """Batches of draws; the n-th, from 1, is the quantile at splitmix64(key + n * golden ratio)."""
    for first in count(1, _BATCH):
        numbers = np.arange(first, first + _BATCH, dtype=np.uint64)
        yield cost.at(_splitmix64_of(np.uint64(key) + numbers * np.uint64(_GOLDEN))).tolist()


def _splitmix64_of(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """`splitmix64` of each of an array; products wrap at 64 bits."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58_476D_1CE4_E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D0_49BB_1331_11EB)
    return values ^ values >> np.uint64(31)
