# SPDX-License-Identifier: GPL-2.0-or-later
"""Replay of damaged traces: an answer or one line of complaint, never anything else."""

import random
from pathlib import Path

import pytest

from tests.support.replay_text import text_of
from vlapic.errors import VlapicError
from vlapic.replay.run import replay

DAT = Path(__file__).parent.parent / "trace" / "data" / "svm-tscdeadline-latency.dat"
TEXTS = ("svm-shift0-secondvm-adaptive", "vmx-bochs27-settsc-adaptive", "vmx-bochs27-oneshot-adaptive")


def small_text(name):
    """The header and the first events of a recording, and its last ones: about 10 KiB."""
    lines = text_of(name).splitlines(keepends=True)
    comments = [line for line in lines if line.startswith("#")]
    events = [line for line in lines if not line.startswith("#")]
    return "".join([*comments[:30], *comments[-5:], *events[:60], *events[-20:]]).encode()


def damaged(chance, whole):
    """A copy with some bytes, words and numbers of it changed, and perhaps cut short."""
    data = bytearray(whole)
    for _ in range(chance.choice((1, 3, 12))):
        place = chance.randrange(len(data))
        length = chance.choice((1, 1, 2, 8, 100))
        data[place : place + length] = chance.choice(
            (
                chance.randbytes(length),
                bytes(length),
                b"",
                b"9" * 25,
                b"-",
                b"18446744073709551615",
                data[:length],
            )
        )
    if chance.random() < 0.3:
        del data[chance.randrange(len(data)) :]
    return bytes(data)


@pytest.fixture(scope="module", params=[*TEXTS, "dat"])
def whole(request):
    return DAT.read_bytes() if request.param == "dat" else small_text(request.param)


def assert_each_is_replayed_or_refused(seed, number, whole, tmp_path):
    chance = random.Random(seed)
    path = tmp_path / "trace"
    answers = 0
    refusals = []
    for _ in range(number):
        path.write_bytes(damaged(chance, whole))
        try:
            result = replay(path, tsc_khz=chance.choice((None, 1_000_000)), infer_flag=True, compiled=False)
        except VlapicError as error:
            refusals.append(str(error))
        else:
            answers += 1
            assert result.as_json()["schema"] == "vlapic.replay/1"
            for vcpu in result.vcpus:
                assert vcpu.mismatches <= vcpu.checked
                assert vcpu.advance_ns.min <= vcpu.advance_ns.final <= vcpu.advance_ns.max
    assert answers
    assert refusals
    assert not any("\n" in said for said in refusals)


def test_a_damaged_trace_is_replayed_or_refused_in_one_line(tmp_path, whole):
    assert_each_is_replayed_or_refused(0, 50, whole, tmp_path)


@pytest.mark.hunt
@pytest.mark.parametrize("seed", range(1, 4))
def test_many_damaged_traces_are_replayed_or_refused_in_one_line(seed, tmp_path, whole):
    assert_each_is_replayed_or_refused(seed, 200, whole, tmp_path)
