"""What the host's own work costs, in cycles of the host TSC: the only assumption a run makes.

A cost is a constant or an inverse CDF, a table of integers drawn from by a counter-based generator: the n-th
draw of a stream depends on seed, stream and n alone, so that one vCPU's draws never shift another's. No
float, no libm: the same seed gives the same cycles on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

_GOLDEN = 0x9E37_79B9_7F4A_7C15
_U64 = (1 << 64) - 1


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
    """

    quantiles: tuple[int, ...]

    def __post_init__(self) -> None:
        intervals = len(self.quantiles) - 1
        if intervals < 0 or intervals & (intervals - 1) or self.quantiles[0] < 0:
            raise ValueError(
                "a cost has 1 value or 2^k + 1 of them, none negative,"
                f" got {len(self.quantiles)}: {self.quantiles}"
            )
        if any(low > high for low, high in pairwise(self.quantiles)):
            raise ValueError(f"the quantiles of a cost never fall, got {self.quantiles}")

    @property
    def constant(self) -> bool:
        return len(self.quantiles) == 1

    def at(self, probability: int) -> int:
        """The quantile at `probability` of 2^64, interpolated, rounded down."""
        quantiles = self.quantiles
        if len(quantiles) == 1:
            return quantiles[0]
        width = 65 - (len(quantiles) - 1).bit_length()
        index, rest = probability >> width, probability & ((1 << width) - 1)
        low = quantiles[index]
        return low + ((quantiles[index + 1] - low) * rest >> width)


def constant(cycles: int) -> Cost:
    """A cost that never varies."""
    return Cost((cycles,))


def with_tail(cycles: int, spread: int, tail: int) -> Cost:
    """A cost of `cycles` on average, within `spread` of it but for one draw in 256, which reaches up to
    `tail` more.

    The body is uniform and shifted down by what the tail adds, so that the mean stays where it was asked for.
    """
    lift = tail // 512
    body = [cycles - spread - lift + 2 * spread * index // 255 for index in range(256)]
    return Cost((*body, body[-1] + tail))


@dataclass(frozen=True)
class HostModel:
    """The costs of one host.

    Attributes:
        exits: from the moment the guest is left to the end of handling, by the exit's VMX name.
        hrtimer: from an hrtimer's expiry to its callback.
        wake_up: from the kick of a vCPU that sleeps in HLT to its thread running again.
        injection: putting a vector into the guest's entry state.
        entry: from the end of the busy wait to the guest's next instruction.
        wait_step_cycles: one 1 ns step of the busy wait; 0 is 1 ns rounded up to whole cycles.
        cycles_per_insn: one guest instruction.
        preemption_timer_rate: IA32_VMX_MISC bits 4:0.
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
    "TRIPLE_FAULT",
)

#: An assumed 2.5 GHz Skylake server. Its means meet the three lateness figures of Linux commit 3b8a5df6c4dc
# ("KVM: LAPIC: : Tune lapic_timer_advance_ns automatically"): about 5700 cycles from HLT on the hrtimer, 2600
# spinning on the : preemption timer, and 1200 once tuned. Spread and tails are assumed.
DEFAULT = HostModel(
    name="default",
    exits={
        "PREEMPTION_TIMER": with_tail(1100, spread=60, tail=5000),
        "EXTERNAL_INTERRUPT": with_tail(900, spread=60, tail=5000),
        **{reason: with_tail(900, spread=60, tail=4000) for reason in OTHER_EXITS},
    },
    hrtimer=with_tail(1500, spread=90, tail=8000),
    wake_up=with_tail(2700, spread=150, tail=20_000),
    injection=constant(300),
    entry=with_tail(1200, spread=40, tail=2000),
)


@dataclass
class Draws:
    """The draws of one vCPU: a stream of its own for each cost.

    Attributes:
        stream: the vCPU's number on its host; distinct vCPUs draw independently.
    """

    seed: int
    stream: int
    _drawn: dict[str, int] = field(default_factory=dict)
    _keys: dict[str, int] = field(default_factory=dict)

    def cycles(self, name: str, cost: Cost) -> int:
        """The next draw from `cost`, in the stream called `name`."""
        if len(cost.quantiles) == 1:
            return cost.quantiles[0]
        key = self._keys.get(name)
        if key is None:
            key = splitmix64(self.seed ^ splitmix64(self.stream + 1))
            for byte in name.encode():
                key = splitmix64(key + byte + _GOLDEN & _U64)
            self._keys[name] = key
        count = self._drawn.get(name, 0) + 1
        self._drawn[name] = count
        return cost.at(splitmix64(key + count * _GOLDEN & _U64))
