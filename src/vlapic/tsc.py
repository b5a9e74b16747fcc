# SPDX-License-Identifier: GPL-2.0-or-later
"""Time-stamp counter arithmetic in plain integers, with the kernel's rounding.

Follows `kvm/x86.c` (scaling, offset, `nsec_to_cycles`), `pvclock.c` (`pvclock_scale_delta`) and SDM vol. 3C
"Time-Stamp Counter Scaling". Quantities are unsigned 64-bit unless a docstring says otherwise: they wrap as
the kernel's do, and a function says which way it rounds. Units stand in the names: `_tsc` is a point on a
TSC, `_cycles` a distance on it, `_khz` its frequency, `_ns` nanoseconds.

Left out: master clock and kvm-clock, TSC catch-up on hosts without scaling.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

U32 = (1 << 32) - 1
U64 = (1 << 64) - 1
S64_SIGN = 1 << 63

VMX_FRAC_BITS = 48
SVM_FRAC_BITS = 32
#: The largest ratio either format may hold is one below this (`kvm_caps.max_tsc_scaling_ratio`).
MAX_RATIO = {VMX_FRAC_BITS: U64, SVM_FRAC_BITS: 0xFF_FFFF_FFFF}
TSC_TOLERANCE_PPM = 250
U32_BITS = 32
U64_BITS = 64
#: A TSC of `khz` counts `khz` cycles in this many ns.
NS_PER_MS = 1_000_000


def multiply_wide(first: int, second: int) -> tuple[int, int]:
    """The 128-bit product of two u64, as its upper and its lower 64 bits."""
    product = first * second
    return product >> U64_BITS, product & U64


def multiply_wide_limbs(first: int, second: int) -> tuple[int, int]:
    """The same where integers have 64 bits and wrap: from four products of 32-bit halves."""
    first_high, first_low = first >> U32_BITS, first & U32
    second_high, second_low = second >> U32_BITS, second & U32
    low = first_low * second_low
    middle = first_high * second_low + (low >> U32_BITS)
    other = first_low * second_high + (middle & U32)
    high = first_high * second_high + (middle >> U32_BITS) + (other >> U32_BITS)
    return high, (other & U32) << U32_BITS | low & U32


def divide_wide(high: int, low: int, divisor: int) -> int:
    """A 128-bit number divided by a u64, rounded down; `high` is below `divisor`, so that 64 bits hold it."""
    return (high << U64_BITS | low) // divisor


def divide_wide_limbs(high: int, low: int, divisor: int) -> int:
    """The same where integers have 64 bits: a long division, bit by bit."""
    quotient = low
    remainder = high
    for _ in range(U64_BITS):
        # The remainder is below the divisor; twice it may need a 65th bit, which then is the overflow.
        overflow = remainder >= S64_SIGN
        remainder = (remainder << 1 | quotient >> U64_BITS - 1) & U64
        quotient = (quotient << 1) & U64
        if overflow or remainder >= divisor:
            remainder = (remainder - divisor) & U64
            quotient = quotient | 1
    return quotient


def to_s64(value: int) -> int:
    """Read the low 64 bits of `value` as a signed number."""
    value &= U64
    return value - (1 << 64) if value & S64_SIGN else value


def default_ratio(frac_bits: int) -> int:
    """The scaling ratio that leaves a TSC as it is: 1.0 with `frac_bits` fraction bits."""
    return 1 << frac_bits


def needs_scaling(guest_khz: int, host_khz: int, tolerance_ppm: int = TSC_TOLERANCE_PPM) -> bool:
    """Whether a guest TSC is too far from the host's to be left unscaled (`kvm_set_tsc_khz`).

    Both limits are rounded down; a guest at a limit is within it.
    """
    low = host_khz * (1_000_000 - tolerance_ppm) // 1_000_000
    high = host_khz * (1_000_000 + tolerance_ppm) // 1_000_000
    return not low <= guest_khz <= high


def scaling_ratio(
    guest_khz: int, host_khz: int, frac_bits: int = VMX_FRAC_BITS, tolerance_ppm: int = TSC_TOLERANCE_PPM
) -> int:
    """Ratio of the guest's to the host's TSC frequency, rounded down (`set_tsc_khz`).

    Raises:
        ValueError: the ratio is 0 or does not fit the hardware's field.
    """
    if not needs_scaling(guest_khz, host_khz, tolerance_ppm):
        return default_ratio(frac_bits)
    ratio = (guest_khz << frac_bits) // host_khz
    if not 0 < ratio < MAX_RATIO[frac_bits]:
        raise ValueError(
            f"a guest TSC of {guest_khz} kHz on a host of {host_khz} kHz needs the scaling ratio {ratio:#x};"
            f" the hardware takes 1 to {MAX_RATIO[frac_bits] - 1:#x}"
        )
    return ratio


def scale(tsc: int, ratio: int, frac_bits: int) -> int:
    """Scale a TSC value: floor(tsc * ratio / 2^frac_bits), low 64 bits (`kvm_scale_tsc`)."""
    if ratio == 1 << frac_bits:
        return tsc
    high, low = multiply_wide(tsc, ratio)
    return (high << U64_BITS - frac_bits | low >> frac_bits) & U64


def unscale_cycles(cycles: int, ratio: int, frac_bits: int) -> tuple[bool, int]:
    """Guest cycles as host cycles, rounded down: the shift-and-divide of `vmx_set_hv_timer`.

    Returns:
        Whether the 128-by-64 divide fits (`u64_shl_div_u64`; else the kernel gives up with -ERANGE), and what
        it comes to, 0 if it does not fit.
    """
    high = cycles >> U64_BITS - frac_bits
    if high >= ratio:
        return False, 0
    return True, divide_wide(high, (cycles << frac_bits) & U64, ratio)


class PvclockScale(NamedTuple):
    """A conversion as shift and 32-bit multiplier (`virtual_tsc_shift`, `virtual_tsc_mult`)."""

    shift: int
    mult: int


@lru_cache(maxsize=256)
def pvclock_scale(khz: int) -> PvclockScale:
    """Shift and multiplier from ns to cycles of a TSC of `khz` (`kvm_get_time_scale`, base 10^9 Hz)."""
    base, scaled, shift = 1_000_000_000, khz * 1000, 0
    while base > 2 * scaled or base >> 32:
        base >>= 1
        shift -= 1
    while base <= scaled or scaled >> 32:
        if scaled >> 32 or base & 0x8000_0000:
            scaled >>= 1
        else:
            base = base << 1 & U32
        shift += 1
    return PvclockScale(shift, ((scaled & U32) << 32) // base & U32)


def ns_to_cycles(ns: int, khz: int) -> int:
    """Nanoseconds as guest cycles by the kernel's approximation (`nsec_to_cycles`).

    It rounds down more than a division would: 1000 ns at 2.4 GHz are 2399.

    Args:
        ns: 0 to 2^64-1; the shift wraps at 64 bits as the kernel's does.
        khz: frequency of the guest's TSC, 1 to 2^32-1.
    """
    shift, mult = pvclock_scale(khz)
    return scale_ns(ns, max(shift, 0), max(-shift, 0), mult)


def scale_ns(ns: int, left: int, right: int, mult: int) -> int:
    """Nanoseconds as cycles: shifted, of `left` and `right` one is 0, times 2^-32 `mult`, rounded down
    (`pvclock_scale_delta`)."""
    high, low = multiply_wide((ns >> right << left) & U64, mult)
    return (high << U32_BITS | low >> U32_BITS) & U64


def cycles_to_ns(cycles: int, khz: int) -> int:
    """Guest cycles as nanoseconds, rounded down after a 64-bit multiply that wraps (`do_div` in `lapic.c`).

    The product wraps from 18 446 744 073 710 cycles on (2 h 33 min at 2 GHz).
    """
    return (cycles * NS_PER_MS & U64) // khz


def cycles_as_ns(cycles: int, khz: int) -> int:
    """A measured distance in nanoseconds for a report: floor(cycles * 10^6 / khz), signed, nothing wraps."""
    return cycles * 1_000_000 // khz


def ktime_ns(host_tsc: int, host_khz: int) -> int:
    """The host's monotonic clock at a host TSC value, rounded down."""
    return host_tsc * 1_000_000 // host_khz


def tsc_at_ktime(time_ns: int, host_khz: int) -> int:
    """The first host TSC value at which `ktime_ns` has reached `time_ns` (rounds up)."""
    return -(-time_ns * host_khz // 1_000_000)


class GuestTsc:
    """The TSC one vCPU sees: host TSC, scaled, plus an offset.

    Attributes:
        khz: `virtual_tsc_khz`, what the guest counts in a millisecond.
        ratio, frac_bits: the scaling ratio and its fraction bits (48 on VMX, 32 on SVM).
        offset: added after scaling, modulo 2^64.
        adjust: IA32_TSC_ADJUST, by how much the guest has moved its TSC, modulo 2^64.
    """

    __slots__ = ("adjust", "frac_bits", "khz", "offset", "ratio")

    def __init__(self, khz: int, host_khz: int, frac_bits: int = VMX_FRAC_BITS, offset: int = 0) -> None:
        self.khz = khz
        self.frac_bits = frac_bits
        self.ratio = scaling_ratio(khz, host_khz, frac_bits)
        self.offset = offset & U64
        self.adjust = 0

    def move(self, cycles: int) -> None:
        """The guest moves its TSC by a number of its cycles (`adjust_tsc_offset_guest`)."""
        self.offset = (self.offset + cycles) & U64
        self.adjust = (self.adjust + cycles) & U64

    @property
    def scaled(self) -> bool:
        """Whether the guest's TSC runs at another speed than the host's."""
        return self.ratio != 1 << self.frac_bits

    def at(self, host_tsc: int) -> int:
        """The guest TSC at a host TSC value (`kvm_read_l1_tsc`)."""
        if self.ratio == 1 << self.frac_bits:
            return (host_tsc + self.offset) & U64
        return ((host_tsc * self.ratio >> self.frac_bits) + self.offset) & U64

    def cycles_between(self, first_host_tsc: int, last_host_tsc: int) -> int:
        """Guest cycles from one host TSC value to a later one."""
        return (self.at(last_host_tsc) - self.at(first_host_tsc)) & U64
