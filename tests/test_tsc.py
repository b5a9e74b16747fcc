# SPDX-License-Identifier: GPL-2.0-or-later
"""TSC arithmetic is the kernel's, to the bit."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vlapic import tsc as t

khz = st.integers(1, t.U32)
u64 = st.integers(0, t.U64)


# kvm-lapic-timer facts: khz -> shift, mult and the conversions of 1, 7, 500, 1000, 5000 and 10^6 ns.
NS_TO_CYCLES = [
    (1_000_000, 1, 2147483648, (1, 7, 500, 1000, 5000, 1000000)),
    (2_000_000, 2, 2147483648, (2, 14, 1000, 2000, 10000, 2000000)),
    (2_400_000, 2, 2576980377, (2, 16, 1199, 2399, 11999, 2399999)),
    (2_900_000, 2, 3113851289, (2, 20, 1449, 2899, 14499, 2899999)),
    (3_000_000, 2, 3221225472, (3, 21, 1500, 3000, 15000, 3000000)),
    (3_500_000, 2, 3758096384, (3, 24, 1750, 3500, 17500, 3500000)),
    (4_000_000, 3, 2147483648, (4, 28, 2000, 4000, 20000, 4000000)),
    (1_999_999, 1, 4294965148, (1, 13, 999, 1999, 9999, 1999998)),
]


@pytest.mark.parametrize(("khz", "shift", "mult", "cycles"), NS_TO_CYCLES)
def test_pvclock_conversion_has_the_kernels_rounding(khz, shift, mult, cycles):
    assert t.pvclock_scale(khz) == (shift, mult)
    assert tuple(t.ns_to_cycles(ns, khz) for ns in (1, 7, 500, 1000, 5000, 1_000_000)) == cycles


@given(khz)
def test_pvclock_multiplier_is_normalised_to_32_bits(khz):
    shift, mult = t.pvclock_scale(khz)
    assert 0 < mult <= t.U32
    assert -64 < shift < 64


@given(khz, st.integers(0, 10_000_000))
def test_ns_to_cycles_is_below_the_exact_product_by_less_than_its_multiplier_allows(khz, ns):
    exact = ns * khz // 1_000_000
    got = t.ns_to_cycles(ns, khz)
    # 31 significant bits of the multiplier: an error of 2^-31 of the value, and one of rounding; a slow
    # TSC (negative shift) loses the low bits of ns too.
    shift = t.pvclock_scale(khz).shift
    lost_ns = (1 << -shift) if shift < 0 else 0
    assert exact - (exact >> 30) - 1 - (lost_ns * khz // 1_000_000 + 1) <= got <= exact + (exact >> 30) + 1


def test_cycles_to_ns_wraps_where_the_kernels_multiply_does():
    assert t.cycles_to_ns(18_446_744_073_709, 2_000_000) == 9_223_372_036_854
    assert t.cycles_to_ns(18_446_744_073_710, 2_000_000) == 0


@given(st.integers(0, 18_446_744_073_709), khz)
def test_cycles_to_ns_rounds_down_below_the_wrap(cycles, khz):
    assert t.cycles_to_ns(cycles, khz) == cycles * 1_000_000 // khz


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_to_s64_reads_two_s_complement(value):
    assert t.to_s64(value & t.U64) == value


@pytest.mark.parametrize(
    ("guest_khz", "scaled"), [(1_999_499, True), (1_999_500, False), (2_000_500, False), (2_000_501, True)]
)
def test_scaling_begins_outside_250_ppm(guest_khz, scaled):
    assert t.needs_scaling(guest_khz, 2_000_000) is scaled
    assert (t.scaling_ratio(guest_khz, 2_000_000) != 1 << 48) is scaled


def test_scaling_ratio_is_the_rounded_down_quotient():
    assert t.scaling_ratio(1_000_000, 2_000_000) == 0x8000_0000_0000
    assert t.scaling_ratio(3_000_000, 2_000_000) == 0x1_8000_0000_0000
    assert t.scaling_ratio(1_000_000, 3_000_000, t.SVM_FRAC_BITS) == (1 << 32) // 3


def test_a_ratio_the_hardware_cannot_hold_is_refused_with_both_frequencies():
    with pytest.raises(ValueError, match=r"4000000000 kHz on a host of 1000 kHz .* hardware takes 1 to 0x"):
        t.scaling_ratio(4_000_000_000, 1000)
    with pytest.raises(ValueError, match="hardware takes"):
        t.scaling_ratio(300 * 1_000_000, 1_000_000, t.SVM_FRAC_BITS)


@given(u64, st.integers(1, t.U64), st.sampled_from([32, 48]))
def test_scale_is_a_128_bit_product_shifted(value, ratio, frac_bits):
    assert t.scale(value, ratio, frac_bits) == (value * ratio // (1 << frac_bits)) % (1 << 64)


@given(u64, st.integers(1, t.U64), st.sampled_from([32, 48]))
@example(1 << 16, 1, 48)
def test_unscale_fails_exactly_where_its_quotient_leaves_64_bits(cycles, ratio, frac_bits):
    exact = (cycles << frac_bits) // ratio
    assert t.unscale_cycles(cycles, ratio, frac_bits) == ((True, exact) if exact <= t.U64 else (False, 0))


@given(u64, khz)
def test_tsc_at_ktime_is_the_first_cycle_that_reads_it(host_tsc, khz):
    now = t.ktime_ns(host_tsc, khz)
    first = t.tsc_at_ktime(now, khz)
    assert first <= host_tsc
    assert t.ktime_ns(first, khz) >= now
    assert first == 0 or t.ktime_ns(first - 1, khz) < now


@given(st.integers(1, 10_000_000), st.integers(1000, 5_000_000), u64, st.integers(0, 1 << 62))
def test_guest_tsc_is_scale_then_offset(guest_khz, host_khz, offset, host_tsc):
    guest = t.GuestTsc(guest_khz, host_khz, offset=offset)
    assert guest.at(host_tsc) == (t.scale(host_tsc, guest.ratio, 48) + offset) % (1 << 64)
    assert guest.scaled is t.needs_scaling(guest_khz, host_khz)


def test_cycles_between_survive_the_guest_tsc_passing_zero():
    guest = t.GuestTsc(2_000_000, 2_000_000, offset=t.U64 - 50)
    assert guest.at(100) < guest.at(0)
    assert guest.cycles_between(0, 100) == 100
