# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments of another kind than a public function takes are refused in words."""

import pytest

import vlapic
from vlapic.errors import UsageError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"events": "10"}, "events takes a whole number, not '10'"),
        ({"events": True}, "events takes a whole number, not True"),
        ({"events": 10.0}, "events takes a whole number, not 10.0 (float)"),
        ({"events": None}, "events takes a whole number, not None"),
        ({"budgets": "p99=1us"}, "budgets takes a list of texts, not 'p99=1us'; write ['p99=1us']"),
        ({"without": 3}, "without takes a list of whole numbers, not 3 (int); write [3]"),
        ({"without": "3"}, "without takes a list of whole numbers, not '3'"),
        (
            {"tsc_khz": [2.5e6]},
            "tsc_khz takes a whole number, a list of whole numbers or None, not [2500000.0]",
        ),
        ({"host": 5}, "host takes a HostModel, text or a path, not 5 (int)"),
        ({"profile": 6.1}, "profile takes text or a Profile, not 6.1 (float)"),
        ({"apicv": 1}, "apicv takes True or False, not 1 (int)"),
        ({"seconds": "1"}, "seconds takes a number or None, not '1'"),
        ({"append": b"x"}, "append takes text, not b'x' (bytes)"),
        ({"progress": 3}, "progress takes a function or None, not 3 (int)"),
        ({"guest": None}, "guest takes text or a path, not None"),
        ({"engine": None}, "engine takes text, not None"),
        ({"observers": "x"}, "observers takes a list of functions, not 'x'"),
    ],
)
def test_run_and_compare_say_what_kind_an_argument_is_of(arguments, message):
    with pytest.raises(UsageError) as caught:
        vlapic.run(**arguments)
    assert str(caught.value) == message
    with pytest.raises(UsageError) as caught:
        vlapic.compare(**arguments, variants="timer=auto,hrtimer")
    if "progress" not in arguments:  # its own has the label, too
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vlapic.replay.replay(5), "trace takes text or a path, not 5 (int)"),  # type: ignore[arg-type]
        (lambda: vlapic.replay.replay("t", tsc_khz="1"), "tsc_khz takes a whole number or None, not '1'"),  # type: ignore[arg-type]
        (
            lambda: vlapic.replay.replay("t", start={"0.1": 3}),  # type: ignore[dict-item]
            "start takes a whole number, a mapping of tuples of 2 to whole numbers or None, not {'0.1': 3}",
        ),
        (lambda: vlapic.open_trace(3), "trace takes text, a path or an Origin, not 3 (int)"),  # type: ignore[arg-type]
        (lambda: vlapic.patches.show(1.5), "fix takes text or a whole number, not 1.5 (float)"),  # type: ignore[arg-type]
        (lambda: vlapic.compare(variants=3), "variants takes a Variants or text, not 3 (int)"),  # type: ignore[arg-type]
    ],
)
def test_so_do_the_other_public_functions(call, message):
    with pytest.raises(UsageError) as caught:
        call()
    assert str(caught.value) == message


def test_an_int_is_taken_for_a_number_and_any_sequence_for_a_list():
    assert vlapic.run(seconds=1, events=3, budgets=("max=1s",), without=range(1, 3)).profile == "series-1-2"


def test_a_name_that_there_is_not_is_python_s_own_error():
    with pytest.raises(TypeError, match="evnts"):
        vlapic.run(evnts=3)  # type: ignore[call-arg]


def test_an_argument_that_there_is_not_names_the_function():
    with pytest.raises(TypeError, match=r"^run\(\) got an unexpected keyword argument 'nosuch'"):
        vlapic.run(nosuch=3)  # type: ignore[call-arg]
