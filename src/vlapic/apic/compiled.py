# SPDX-License-Identifier: GPL-2.0-or-later
"""The timer's rules as machine code: compiled by numba from the very functions that are interpreted.

A rule (in `tsc.py`, `apic/advance.py`, `apic/busy_wait.py`, `apic/backends.py`) takes and returns
non-negative integers of at most 64 bits, and bools. It is compiled with every integer a `uint64`: arguments,
constants, the numbers in its text. Where a `uint64` meets an `int64` numba makes an `int64`, or a float, of
both; with one type neither is made. Two rules need 128 bits; their twins in `tsc.py` do with 64.

What a rule may be written in: module constants, other rules, tuples that are unpacked (an index would be a
`uint64` too, which numba does not take). numba comes with the extra `fast`; it is imported when something is
compiled.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np

from vlapic import tsc
from vlapic.apic import advance
from vlapic.errors import EngineError
from vlapic.kernels.profiles import Profile
from vlapic.memory import is_room_for

#: What LLVM's library takes of addresses, about.
_LLVM_BYTES = 256 << 20
#: What is compiled in the place of a rule that needs more than 64 bits.
TWINS: dict[object, Callable[..., Any]] = {
    tsc.multiply_wide: tsc.multiply_wide_limbs,
    tsc.divide_wide: tsc.divide_wide_limbs,
}


def njit(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function over columns that calls compiled rules, compiled as it stands.

    Raises:
        EngineError: numba is not installed.
    """
    try:
        import numba
    except ImportError:
        raise EngineError("compiled rules need the package numba; pip install numba") from None
    except OSError as error:  # so it ends where LLVM cannot be loaded
        if not is_room_for(_LLVM_BYTES):
            raise MemoryError from None
        raise EngineError(
            f"compiled rules need the package numba, which cannot be loaded: {error}; pip install numba anew"
        ) from None
    # No divisor is 0: a guest's frequency is at least 1 kHz, a scaling ratio and a step at least 1.
    compiled: Callable[..., Any] = numba.njit(error_model="numpy")(function)
    return compiled


class _OneIntegerType(ast.NodeTransformer):
    """Puts a name in the place of every integer in a rule's text; takes annotations and decorators away."""

    def __init__(self) -> None:
        self.constants: dict[str, np.uint64] = {}

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if type(node.value) is not int:
            return node
        name = f"uint64_{node.value}"
        self.constants[name] = np.uint64(node.value)
        return ast.Name(name, ast.Load())

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        for argument in node.args.args:
            argument.annotation = None
        node.decorator_list = []
        self.generic_visit(node)
        return node


@cache
def compiled(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A rule, compiled; its arguments are to be `uint64` and bools.

    Raises:
        EngineError: numba is not installed.
    """
    function = TWINS.get(rule, rule)
    assert isinstance(function, FunctionType)
    lines, first = inspect.getsourcelines(function)
    one_type = _OneIntegerType()
    tree = ast.fix_missing_locations(one_type.visit(ast.parse("".join(lines))))
    ast.increment_lineno(tree, first - 1)
    names: dict[str, Any] = {
        name: _translated(function.__globals__[name])
        for name in function.__code__.co_names
        if name in function.__globals__
    }
    names |= one_type.constants
    exec(compile(tree, inspect.getfile(function), "exec"), names)
    return njit(names[function.__name__])


def _translated(value: object) -> object:
    """What a rule's global is to its compiled form."""
    if isinstance(value, FunctionType):
        return compiled(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return np.uint64(value)
    return value


@cache
def _tuning(*rules: Callable[..., Any]) -> Callable[..., Any]:
    return njit(advance.tuning(*map(compiled, rules)))


def tuning(profile: Profile) -> Callable[..., tuple[int, bool]]:
    """The profile's tuning, compiled: `advance.Tune` of `uint64` and bools.

    Raises:
        EngineError: numba is not installed.
    """
    return _tuning(*advance.rules_of(profile.tuning, profile.ending, profile.overflow))


@cache
def _fold(tune: Callable[..., tuple[int, bool]]) -> Callable[..., None]:
    def fold(
        advance_ns: Any, done: Any, early: Any, distance_cycles: Any, tsc_khz: Any, after_ns: Any
    ) -> None:
        for vcpu in range(len(advance_ns)):
            value, ended, khz = advance_ns[vcpu], done[vcpu], tsc_khz[vcpu]
            for event in range(early.shape[1]):
                value, ended = tune(value, ended, early[vcpu, event], distance_cycles[vcpu, event], khz)
                after_ns[vcpu, event] = value
            advance_ns[vcpu], done[vcpu] = value, ended

    return njit(fold)


def fold(profile: Profile) -> Callable[..., None]:
    """A function that tunes vCPUs, each with an advancement of its own, with all their deltas in order.

    It takes arrays, a row for each vCPU: advancement in ns (uint64) and done flag (bool), which it brings up
    to date; early (bool) and distance in cycles (uint64) of each event; TSC frequencies in kHz (uint64); and
    one for the advancement after each event (uint64), which it fills.

    Raises:
        EngineError: numba is not installed.
    """
    return _fold(tuning(profile))
