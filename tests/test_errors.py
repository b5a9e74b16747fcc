# SPDX-License-Identifier: GPL-2.0-or-later
"""A message says what was seen and what to try; each error knows its exit status."""

import pytest

from vlapic import errors
from vlapic.kernels.profiles import find_profile


def test_a_missing_name_offers_the_nearest():
    assert str(errors.unknown_name("guest", "dedline", ["deadline", "deadline-hlt"])) == (
        "unknown guest 'dedline'; did you mean 'deadline'?"
    )


def test_a_name_like_nothing_known_lists_them_all():
    assert str(errors.unknown_name("guest", "zzz", ["b", "a"])) == "unknown guest 'zzz'; known: a, b"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.UsageError, 2),
        (errors.WorldError, 1),
        (errors.ImageError, 1),
        (errors.OutputError, 1),
        (errors.EngineError, 1),
    ],
)
def test_each_error_knows_its_exit_status(error, status):
    assert issubclass(error, errors.VlapicError)
    assert error.exit_status == status


def test_a_guest_failure_says_what_and_where():
    assert str(errors.GuestFailure("halted", 0x1000)) == "the guest halted at rip 0x1000"
    assert str(errors.GuestFailure("shut down")) == "the guest shut down"


def test_an_unknown_profile_is_a_usage_error():
    assert find_profile("series").name == "series"
    with pytest.raises(errors.UsageError, match="unknown profile 'serie'; did you mean 'series'"):
        find_profile("serie")
