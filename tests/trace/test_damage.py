# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that are no traces, end too early or are damaged: never a traceback, and what is whole is read."""

import bz2
import gzip
import lzma
import random
import sys
import zlib
from collections import Counter
from typing import Any

import pytest

from tests.support.recordings import opened, path_of, text_of
from vlapic.errors import TraceError
from vlapic.events import Lost
from vlapic.trace import open_trace

zstandard = pytest.importorskip("zstandard", reason="zst is of the extra `trace`: pip install zstandard")

PACK: dict[str, Any] = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "zst": lambda data: zstandard.ZstdCompressor().compress(data),
    "two members of gz": lambda data: gzip.compress(data[:999]) + gzip.compress(data[999:]) + b"\0" * 99,
    "two frames of zst": lambda data: b"".join(
        zstandard.ZstdCompressor().compress(part) for part in (data[:999], data[999:])
    ),
    "two streams of xz": lambda data: lzma.compress(data[:999]) + lzma.compress(data[999:]),
}


def body(name="vmx-bochs27-oneshot-adaptive", lines=400):
    """The first events of a recording, without its header."""
    text = text_of(name)
    kept = [line for line in text.splitlines(keepends=True) if line[:1] == b" "]
    return b"".join(kept[:lines])


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
def test_a_packed_trace_is_read_whatever_its_name(pack, tmp_path):
    plain = list(opened(tmp_path, body(), "plain").events())
    packed = opened(tmp_path, pack(body()), "packed.txt")
    assert list(packed.events()) == plain
    assert packed.lost == []


@pytest.mark.parametrize("pack", [PACK["gz"], PACK["xz"]], ids=["gz", "xz"])
def test_a_packed_trace_that_ends_too_early_gives_what_comes_before_and_says_so(pack, tmp_path):
    plain = list(opened(tmp_path, body(), "plain").events())
    whole = pack(body()).rstrip(b"\0")
    for length in range(len(whole) // 2, len(whole) - 1, 97):
        trace = opened(tmp_path, whole[:length], "cut")
        read = [event for event in trace.events() if type(event) is not Lost]
        assert read == plain[: len(read)]
        assert trace.lost[-1].cause == "unfinished" or len(read) == len(plain)


def test_a_packed_trace_of_which_nothing_can_be_had_says_so(tmp_path):
    # zstd packs so little text as one block.
    with pytest.raises(
        TraceError, match=r"nothing can be read of .*: its packing is unfinished; copy it anew"
    ):
        opened(tmp_path, PACK["zst"](body())[:500], "cut.zst")


def test_most_of_a_large_packed_trace_is_read_up_to_where_it_ends(tmp_path):
    text = text_of("svm-shift0-adv3000")
    trace = opened(tmp_path, gzip.compress(text)[:-20_000], "cut.gz")
    assert len(list(trace.events())) > 5000
    assert [lost.cause for lost in trace.lost if lost.cause == "unfinished"]


def test_damage_inside_a_packed_trace_is_told(tmp_path):
    packed = bytearray(gzip.compress(text_of("svm-shift0-adv3000")))
    middle = len(packed) // 2
    packed[middle : middle + 64] = bytes(64)
    trace = opened(tmp_path, bytes(packed), "bad.gz")
    assert len(list(trace.events())) > 1000
    assert "damaged" in {lost.cause for lost in trace.lost}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected"),
        (b"hello\nworld\n", "is no trace: it begins with 'hello'; expected"),
        (bytes(range(256)) * 9, "is no trace: it begins with"),
        (b"\n" * 5000, "is no trace: it begins with ''"),
        (b"\x7fELF\x02\x01\x01" + bytes(5000), "is no trace: it begins with"),
        (
            bz2.compress(b"x" * 99),
            "is compressed with bzip2; gz, xz and zst are known, so unpack it with bunzip2",
        ),
        (gzip.compress(b"hello", mtime=0), "is no trace"),
        (gzip.compress(b"", mtime=0), "is no trace|is empty"),
        (b"# tracer: nop\n#\n", "has no events, only a header"),
        (b"# kernel 6.1.0\n# trace_clock x86-tsc\n", "has no events, only a header"),
        (b"cpus=4\nCPU 0 is empty\n", "has no events, only a header"),
        (b"# ========\n# captured on    : Sun Nov 22\n# ========\n#\n", "has no events, only a header"),
        (b"# A project\n\nIt does this:\n", "is no trace: it begins with '# A project'"),
        (b"#!/bin/sh\n# kernel of the host\nuname -r\n", "is no trace: it begins with '#!/bin/sh'"),
        (b"cpus=4\nand nothing\n", "is no trace: it begins with 'cpus=4'"),
        (b"PAR1\x15\x04\x15", "is no trace but a Parquet file, .*; give the trace that it was made of"),
        (
            b" CPU 0/KVM-9 [000] 1.000000: kvm_msr: write=1 ecx=1760 data=17 exception=0\n",
            "has kvm_msr as the raw fields that `trace-cmd report -R` prints, .*; print it without -R",
        ),
        (b"PERFILE2h\0\0", "the file of `perf record`; give its text: `perf script"),
    ],
)
def test_what_is_no_trace_is_refused_in_one_line(content, message, tmp_path):
    with pytest.raises(TraceError, match=message) as raised:
        opened(tmp_path, content, "file")
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_or_is_a_folder_is_refused(tmp_path):
    with pytest.raises(TraceError, match=r"cannot read the trace '.*missing': No such file or directory"):
        open_trace(tmp_path / "missing")
    with pytest.raises(TraceError, match=r"cannot read the trace .*: Is a directory"):
        open_trace(tmp_path)


def test_without_zstandard_a_zst_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(TraceError, match=r"needs the package zstandard; pip install zstandard"):
        opened(tmp_path, PACK["zst"](body()), "x.zst")


def times_apart(events):
    """Events as a multiset; VMs are numbered by who is there, so they are left out."""
    return Counter(event._replace(vm=0) for event in events if type(event) is not Lost)


@pytest.mark.parametrize("lines", [3, pytest.param(10, marks=pytest.mark.hunt)])
def test_truncated_at_any_byte_what_is_whole_is_read_and_the_rest_told(lines, tmp_path):
    text = body(lines=lines)
    plain = list(opened(tmp_path, text).events())
    first_line = text.index(b"\n") + 1
    for length in range(first_line, len(text)):
        trace = opened(tmp_path, text[:length])
        read = [event for event in trace.events() if type(event) is not Lost]
        assert read == plain[: len(read)]
        # Of an event that is passed over its name is enough.
        last = text[:length].splitlines(keepends=True)[-1]
        whole = last.endswith((b"\n", b"edge)")) or any(
            name.encode() + b":" in last for name in trace.passed_over
        )
        assert [lost.cause for lost in trace.lost] == ["unfinished"] * (not whole)


def mutated(text, number):
    """The text with one line damaged, and which: bytes changed, put in, left out or doubled."""
    chance = random.Random(number)
    lines = text.splitlines(keepends=True)
    at = chance.randrange(len(lines))
    line = bytearray(lines[at])
    for _ in range(chance.choice((1, 1, 2, 5))):
        place = chance.randrange(max(len(line) - 1, 1))
        match chance.randrange(5):
            case 0:
                line[place : place + 1] = chance.randbytes(1)
            case 1:
                line[place : place + 1] = chance.choice(
                    (b":", b" ", b"]", b"-", b"0x", b"\n", b".", b"9" * 30)
                )
            case 2:
                del line[place : place + chance.randrange(12)]
            case 3:
                line[place:place] = chance.randbytes(chance.randrange(30))
            case 4:
                line[place:place] = line[: chance.randrange(len(line) + 1)]
    if not line.endswith(b"\n"):
        line += b"\n"
    return b"".join(lines[:at]) + bytes(line) + b"".join(lines[at + 1 :]), b"".join(
        lines[:at] + lines[at + 1 :]
    )


def assert_a_damaged_line_costs_one_other_at_most(numbers, tmp_path):
    names = ("vmx-bochs27-oneshot-adaptive", "svm-shift0-adv3000", "vmx-bochs27-settsc-adaptive")
    text = b"".join(body(name, 12) for name in names)
    for number in numbers:
        damaged, others = mutated(text, number)
        trace = opened(tmp_path, damaged)
        read = times_apart(trace.events())
        # It may look like the rest of the line before it, which then is not sure, and told with it.
        missing = times_apart(opened(tmp_path, others).events()) - read
        assert missing.total() <= 1, number
        assert not missing or any(lost.events >= 2 for lost in trace.lost), number


def test_a_damaged_line_costs_one_other_at_most(tmp_path):
    assert_a_damaged_line_costs_one_other_at_most(range(25), tmp_path)


@pytest.mark.hunt
@pytest.mark.parametrize("seed", range(1, 5))
def test_a_damaged_line_costs_one_other_at_most_many_times(seed, tmp_path):
    assert_a_damaged_line_costs_one_other_at_most(range(seed * 300, (seed + 1) * 300), tmp_path)


@pytest.mark.hunt
@pytest.mark.parametrize("seed", range(8))
def test_nothing_that_a_file_can_hold_is_a_traceback(seed, tmp_path):
    chance = random.Random(seed)
    whole = text_of("vmx-bochs27-oneshot-adaptive")
    files = [whole, gzip.compress(whole), lzma.compress(whole), PACK["zst"](whole), zlib.compress(whole)]
    told = []
    for _ in range(250):
        data = bytearray(chance.choice(files))
        for _ in range(chance.choice((1, 3, 30))):
            place = chance.randrange(len(data))
            length = chance.choice((1, 1, 4, 300))
            data[place : place + length] = chance.choice(
                (chance.randbytes(length), b"", b"\n", bytes(length))
            )
        del data[chance.randrange(len(data) // 2, len(data) + 1) :]
        try:
            trace = opened(tmp_path, bytes(data), "file")
            list(trace.events())
        except TraceError as error:
            told.append(str(error))
    assert not any("\n" in message for message in told)


def test_a_file_of_one_endless_line_is_refused(tmp_path):
    with pytest.raises(TraceError, match="is no trace"):
        opened(tmp_path, b" " * 9_000_000)


def test_the_recordings_own_damage_is_none():
    trace = open_trace(path_of("svm-shift0-secondvm-adaptive"))
    assert not any(type(event) is Lost for event in trace.events())
