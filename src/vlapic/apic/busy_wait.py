# SPDX-License-Identifier: GPL-2.0-or-later
"""The busy wait before an entry: how long each rule takes.

Follows `kvm/lapic.c` (`__wait_lapic_expire`) and `arch/x86/lib/delay.c` (`__delay`, `__ndelay`,
`__const_udelay`). A kernel asks for an amount, of host cycles or of ns; the machine then passes host cycles.
Like those of `advance.py` the rules are plain functions of non-negative integers.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from vlapic.kernels.rules import Wait
from vlapic.tsc import (
    U32,
    U32_BITS,
    U64,
    U64_BITS,
    GuestTsc,
    cycles_to_ns,
    divide_wide,
    multiply_wide,
    ns_to_cycles,
)

#: `__const_udelay` counts in 2^-32 of four seconds, `__ndelay` takes 5 of them for one ns.
XLOOPS_PER_NS = 20


class Kind(IntEnum):
    """Which delay a kernel asks for."""

    NONE = 0
    DELAY = 1
    NDELAY = 2


# -- amounts --


def delay_cycles(missing_cycles: int, advance_cycles: int) -> int:
    """What `__delay` is asked for: guest cycles up to the deadline, at most those of the advancement.

    The kernel then waits that many host cycles, whatever the guest's frequency is.
    """
    return min(missing_cycles, advance_cycles)


def ndelay_ns(missing_cycles: int, tsc_khz: int, advance_ns: int) -> int:
    """What `ndelay` is asked for: ns up to the deadline, cut to 32 bits, at most the advancement.

    Since Linux commit b6aa57c69cb2 ("KVM: lapic: Convert guest TSC to host time domain if necessary")
    (in v5.1).
    """
    return min(cycles_to_ns(missing_cycles, tsc_khz) & U32, advance_ns & U32)


def ndelay_cycles(ns: int, loops: int) -> int:
    """Host cycles that `ndelay(ns)` takes: about 16 % more than `ns`, and one more.

    Args:
        ns: u32.
        loops: loops of a quarter of a second (`loops_of_host`).
    """
    return (((ns * XLOOPS_PER_NS & U32) * (loops & U32)) >> U32_BITS) + 1


def loops_of_host(host_khz: int, hz: int) -> int:
    """Delay loops of a quarter of a second as the kernel counts them: loops per jiffy, times HZ / 4.

    Both divisions round down. A loop is a cycle of the host's TSC.
    """
    return host_khz * 1000 // hz * (hz // 4) & U32


def wait_steps(
    host_tsc: int,
    guest_tsc: int,
    deadline_tsc: int,
    advance_ns: int,
    step_cycles: int,
    ratio: int,
    frac_bits: int,
) -> int:
    """Steps that the 1 ns busy wait takes from `host_tsc` on, in closed form.

    The loop it stands for: while the guest TSC is below the deadline and fewer than `advance_ns` steps were
    taken, pass `step_cycles` host cycles. It ends at the first step that reaches the deadline whatever the
    guest's ratio and offset are, which is what makes it right in any time domain.

    Args:
        host_tsc, guest_tsc: when the wait begins, on both TSCs.
        step_cycles: host cycles of one step, at least 1; with `advance_ns` steps below 2^64.
        ratio, frac_bits: the guest's TSC scaling.

    Returns:
        0 (the deadline is not ahead) to `advance_ns`.
    """
    if guest_tsc >= deadline_tsc:
        return 0
    # x host cycles are (fraction + x * ratio) >> frac_bits guest cycles: `fraction` is what scaling cuts off.
    below_one = (1 << frac_bits) - 1
    _, product = multiply_wide(host_tsc, ratio)
    fraction = product & below_one
    last = deadline_tsc - guest_tsc - 1
    last_high = last >> U64_BITS - frac_bits
    if last_high >= ratio:
        return advance_ns
    last_low = (last << frac_bits) & U64 | below_one - fraction
    steps = divide_wide(last_high, last_low, ratio) // step_cycles + 1
    if steps > advance_ns:
        return advance_ns
    # A step that jumps over the deadline *and* over 2^64 reads a small guest TSC again: the loop runs to its
    # limit.
    high, low = multiply_wide(steps * step_cycles, ratio)
    if low > U64 - fraction:
        high = high + 1
    gained = (high << U64_BITS - frac_bits | ((low + fraction) & U64) >> frac_bits) & U64
    if high >> frac_bits or gained > U64 - guest_tsc:
        return advance_ns
    return steps


# -- by name --


def amount_of_delay(missing_cycles: int, advance_ns: int, tsc_khz: int, scaled: bool) -> tuple[Kind, int]:
    """`__delay`, scaled or not (v4.2 to v5.0)."""
    return Kind.DELAY, delay_cycles(missing_cycles, ns_to_cycles(advance_ns, tsc_khz))


def amount_by_scaling(missing_cycles: int, advance_ns: int, tsc_khz: int, scaled: bool) -> tuple[Kind, int]:
    """`ndelay` for scaled guests, `__delay` for others (v5.1 on)."""
    if scaled:
        return Kind.NDELAY, ndelay_ns(missing_cycles, tsc_khz, advance_ns)
    return amount_of_delay(missing_cycles, advance_ns, tsc_khz, scaled)


#: From guest cycles up to the deadline (at least 1), advancement (u32 ns), the guest's kHz and whether its
#: TSC is scaled: the delay that a kernel asks for, its kind and host cycles or ns.
AMOUNT: dict[Wait, Callable[[int, int, int, bool], tuple[Kind, int]]] = {
    Wait.DELAY: amount_of_delay,
    Wait.NDELAY_IF_SCALED: amount_by_scaling,
}


def wait_amount(
    rule: Wait, guest_tsc: int, deadline_tsc: int, advance_ns: int, tsc_khz: int, scaled: bool
) -> tuple[Kind, int]:
    """The delay that a kernel asks for before an entry: its kind, and host cycles or ns.

    Raises:
        KeyError: the rule is not a kernel's: it asks for no amount but reads the TSC.
    """
    if guest_tsc >= deadline_tsc:
        return Kind.NONE, 0
    return AMOUNT[rule](deadline_tsc - guest_tsc, advance_ns, tsc_khz, scaled)


#: From host TSC, deadline, advancement (the limit, u32 ns), the guest's TSC, host cycles of a 1 ns step and
#: the host's delay loops (`loops_of_host`): the host cycles that the wait takes, 0 if the deadline is not
#: ahead.
WaitCycles = Callable[[int, int, int, GuestTsc, int, int], int]


def _by_steps(
    host_tsc: int, deadline_tsc: int, advance_ns: int, tsc: GuestTsc, step_cycles: int, loops: int
) -> int:
    steps = wait_steps(
        host_tsc, tsc.at(host_tsc), deadline_tsc, advance_ns, step_cycles, tsc.ratio, tsc.frac_bits
    )
    return steps * step_cycles


def _by_amount(rule: Wait) -> WaitCycles:
    def wait(
        host_tsc: int, deadline_tsc: int, advance_ns: int, tsc: GuestTsc, step_cycles: int, loops: int
    ) -> int:
        kind, amount = wait_amount(rule, tsc.at(host_tsc), deadline_tsc, advance_ns, tsc.khz, tsc.scaled)
        return ndelay_cycles(amount, loops) if kind is Kind.NDELAY else amount

    return wait


WAIT_CYCLES: dict[Wait, WaitCycles] = {
    Wait.GUEST_TSC_1NS: _by_steps,
    **{rule: _by_amount(rule) for rule in AMOUNT},
}
