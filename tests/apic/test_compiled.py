# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules are the same interpreted and compiled, over the whole range, and no float comes into any."""

import inspect
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import types

from vlapic import tsc
from vlapic.apic import advance, compiled
from vlapic.apic import busy_wait as waiting
from vlapic.apic.backends import hv_timer_cycles
from vlapic.errors import EngineError
from vlapic.kernels.profiles import SERIES, V5_0, V5_1, V5_3, V5_4
from vlapic.tsc import S64_SIGN, U32, U64

TUNINGS = pytest.mark.parametrize("profile", [V5_0, V5_1, V5_3, V5_4, SERIES], ids=lambda it: it.name)

#: Every rule that is a function of plain numbers.
RULES = [
    tsc.multiply_wide,
    tsc.divide_wide,
    tsc.scale,
    tsc.unscale_cycles,
    tsc.scale_ns,
    tsc.cycles_to_ns,
    *advance.EARLY.values(),
    *advance.COUNTS.values(),
    *advance.STEP.values(),
    *{*advance.ENDS.values()},
    *advance.LIMIT.values(),
    *advance.ARM.values(),
    waiting.delay_cycles,
    waiting.ndelay_ns,
    waiting.ndelay_cycles,
    waiting.wait_steps,
    hv_timer_cycles,
]

#: Where something changes: limits of rules, and of 31, 32, 48, 63 and 64 bits.
EDGES = sorted(
    {
        edge + near
        for edge in (0, 8, 100, 1000, 5000, 10_000, 1 << 31, 1 << 32, 1 << 48, S64_SIGN, U64 - 98, U64)
        for near in (-1, 0, 1)
    }
)


def number(least=0, most=U64):
    """Integers of a range, with the edges in it more often than chance would have them."""
    edges = [edge for edge in EDGES if least <= edge <= most]
    return st.integers(least, most) | st.sampled_from(edges or [least])


u64, u32 = number(), number(most=U32)
#: What an argument may be, by its name; any u64 if it is not here.
ARGUMENTS = {
    "advance_ns": u32,
    "divides_zero": st.booleans(),
    "divisor": number(1),
    "done": st.booleans(),
    "early": st.booleans(),
    "frac_bits": st.sampled_from([tsc.VMX_FRAC_BITS, tsc.SVM_FRAC_BITS]),
    "khz": number(1, U32),
    "left": st.integers(0, 31),
    "mult": u32,
    "now_ns": number(most=S64_SIGN),
    "ns": u64,
    "rate": st.integers(0, 31),
    "ratio": number(1),
    "remaining_ns": number(most=S64_SIGN - 1),
    "right": st.integers(0, 63),
    "step_cycles": number(1, U32),
    "tsc_khz": number(1, U32),
}


def widened(values):
    """Arguments as compiled rules take them."""
    return [value if isinstance(value, bool) else np.uint64(value) for value in values]


def plain(result):
    """A compiled rule's result as the interpreted one gives it."""
    return tuple(map(plain, result)) if isinstance(result, tuple) else result


def strange_numbers_in(dispatcher):
    """What is neither uint64 nor bool among the numbers of a compiled function, those in between included."""
    return [
        (signature, name, kind)
        for signature, overload in dispatcher.overloads.items()
        for name, kind in overload.type_annotation.typemap.items()
        if isinstance(kind, types.Number) and kind != types.uint64
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_is_the_same_interpreted_and_compiled_and_knows_one_kind_of_number(rule):
    machine_code = compiled.compiled(rule)
    names = list(inspect.signature(rule).parameters)

    @settings(max_examples=300, deadline=None)
    @given(st.tuples(*(ARGUMENTS.get(name, u64) for name in names)))
    def agree(values):
        if rule is tsc.divide_wide:
            high, low, divisor = values
            values = high % divisor, low, divisor
        assert plain(machine_code(*widened(values))) == rule(*values)

    agree()
    signatures: Any = machine_code.signatures  # type: ignore[attr-defined]
    assert all(len(signature) == len(names) for signature in signatures)
    # A caller that was compiled before may have asked for one with False built in.
    assert len({tuple(map(types.unliteral, signature)) for signature in signatures}) == 1
    assert strange_numbers_in(machine_code) == []


@TUNINGS
def test_tuning_is_the_same_interpreted_and_compiled_and_knows_one_kind_of_number(profile):
    machine_code = compiled.tuning(profile)

    @settings(max_examples=500, deadline=None)
    @given(u32, st.booleans(), st.booleans(), u64 | number(0, 20_000), number(1, U32))
    def agree(advance_ns, done, early, distance, khz):
        got = machine_code(*widened((advance_ns, done, early, distance, khz)))
        assert plain(got) == advance.tune(profile, advance_ns, done, early, distance, khz)

    agree()
    assert strange_numbers_in(machine_code) == []


@pytest.mark.parametrize("mixes", [lambda one: one / one, lambda one: one + 1], ids=["float", "int64"])
def test_another_kind_of_number_would_be_found(mixes):
    machine_code = compiled.njit(mixes)
    machine_code(np.uint64(1))
    assert strange_numbers_in(machine_code)


@TUNINGS
def test_a_fold_over_many_vcpus_is_tuning_one_by_one(profile):
    source = np.random.default_rng(6)
    vcpus, events = 5, 200
    early = source.random((vcpus, events)) < 0.5
    distance = source.integers(0, 12_000, (vcpus, events), np.uint64)
    khz = source.integers(1_000_000, 4_000_000, vcpus, np.uint64)
    value, done = np.full(vcpus, 1000, np.uint64), np.zeros(vcpus, bool)
    after = np.zeros((vcpus, events), np.uint64)
    fold = compiled.fold(profile)
    fold(value, done, early, distance, khz, after)
    assert [kind for _, _, kind in strange_numbers_in(fold) if isinstance(kind, types.Float)] == []
    for vcpu in range(vcpus):
        state, expected = (1000, False), []
        for event in range(events):
            state = advance.tune(
                profile, *state, bool(early[vcpu, event]), int(distance[vcpu, event]), int(khz[vcpu])
            )
            expected.append(state[0])
        assert after[vcpu].tolist() == expected
        assert (int(value[vcpu]), bool(done[vcpu])) == state


def test_without_numba_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(EngineError, match=r"need the package numba; pip install numba"):
        compiled.njit(advance.keep)


def test_numba_is_imported_only_when_something_is_compiled():
    seen = "import sys, vlapic.apic.compiled, vlapic.apic.advance; print('numba' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", seen], text=True) == "False\n"
