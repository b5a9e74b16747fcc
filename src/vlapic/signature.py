# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments held against the annotations of the function they are given to.

A user's `events="10"` is answered with the words that the command line would use, before anything runs,
instead of with a TypeError out of the depths.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from inspect import Signature, signature, unwrap
from types import NoneType, UnionType
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from vlapic.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")

#: Kinds of a single value, as people call them, one and several.
_WORDS: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "of True and False"),
    str: ("text", "texts"),
    os.PathLike: ("a path", "paths"),
    NoneType: ("None", "of None"),
    tuple: ("a tuple", "tuples"),
}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function refuse arguments of another kind than its annotations say.

    A bool is no number, a str is no sequence of texts, and an int is taken for a float.

    Raises:
        UsageError: from the function, for the first such argument; it names what is expected.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        check(function, *args, **kwargs)
        return function(*args, **kwargs)

    return call


def check(function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Hold some of a function's arguments, maybe not all that it needs, against its annotations.

    Raises:
        UsageError: one is of another kind.
        TypeError: the function has no such argument.
    """
    said, hints = _annotations(unwrap(function))
    try:
        bound = said.bind_partial(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{function.__name__}() {error}") from None
    for name, value in bound.arguments.items():
        hint = hints.get(name, Any)
        kind = said.parameters[name].kind
        if kind in (kind.POSITIONAL_OR_KEYWORD, kind.KEYWORD_ONLY) and not _is(value, hint):
            instead = f"; write [{value!r}]" if _is([value], hint) else ""
            raise UsageError(f"{name} takes {_words(hint)}, not {_shown(value)}{instead}")


@cache
def _annotations(function: Callable[..., Any]) -> tuple[Signature, dict[str, Any]]:
    return signature(function), get_type_hints(function)


def _is(value: Any, hint: Any) -> bool:
    """Whether a value is what an annotation says."""
    origin, parts = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        return any(_is(value, part) for part in parts)
    if origin is Any:
        return True
    if origin is Callable:
        return callable(value)
    if isinstance(value, bool) and origin in (int, float):
        return False
    if origin is float:
        return isinstance(value, int | float)
    if origin is Sequence:
        return (
            isinstance(value, Sequence)
            and not isinstance(value, str | bytes)
            and all(_is(each, parts[0]) for each in value)
        )
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _is(key, parts[0]) and _is(each, parts[1]) for key, each in value.items()
        )
    if origin is tuple:
        return (
            isinstance(value, tuple)
            and len(value) == len(parts)
            and all(_is(each, part) for each, part in zip(value, parts, strict=True))
        )
    return isinstance(value, origin)


def _words(hint: Any, several: bool = False) -> str:
    """An annotation as people say it, of one value or of several."""
    origin, parts = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        words = [_words(part, several) for part in parts]
        return f"{', '.join(words[:-1])} or {words[-1]}"
    if origin is Callable:
        return "functions" if several else "a function"
    if origin is Sequence:
        return f"a list of {_words(parts[0], several=True)}"
    if origin is Mapping:
        return f"a mapping of {_words(parts[0], several=True)} to {_words(parts[1], several=True)}"
    if origin is tuple:
        return f"{'tuples' if several else 'a tuple'} of {len(parts)}"
    if origin in _WORDS:
        return _WORDS[origin][several]
    return f"{'an' if origin.__name__[0] in 'AEIOU' else 'a'} {origin.__name__}"


def _shown(value: Any) -> str:
    """A value as it was given, cut short, with its type where that is not plain to see."""
    shown = repr(value)
    if len(shown) > 40:
        shown = f"{shown[:37]}..."
    return (
        shown if isinstance(value, str | list | dict | bool | None) else f"{shown} ({type(value).__name__})"
    )
