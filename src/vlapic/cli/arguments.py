"""Types of the command line's arguments. They read text; which values make sense the library says."""

from __future__ import annotations

from collections.abc import Callable

from vlapic.errors import UsageError


def number(option: str) -> Callable[[str], int]:
    """The type of an option that takes a decimal number."""

    def read(text: str) -> int:
        try:
            return int(text)
        except ValueError:
            raise UsageError(f"{option} takes a whole number, not {text!r}") from None

    return read


def number_or_auto(option: str) -> Callable[[str], int | str]:
    """The type of an option that takes a decimal number or `auto`."""

    def read(text: str) -> int | str:
        if text == "auto":
            return text
        try:
            return int(text)
        except ValueError:
            raise UsageError(f"{option} takes 'auto' or a whole number, not {text!r}") from None

    return read


def numbers(option: str) -> Callable[[str], list[int]]:
    """The type of an option that takes decimal numbers with commas between them."""
    one = number(option)

    def read(text: str) -> list[int]:
        return [one(part) for part in text.split(",")]

    return read


def seconds(option: str) -> Callable[[str], float]:
    """The type of an option that takes a time in seconds, whole or with a fraction."""

    def read(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise UsageError(f"{option} takes a number of seconds, not {text!r}") from None

    return read
