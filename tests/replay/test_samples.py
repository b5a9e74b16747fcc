# SPDX-License-Identifier: GPL-2.0-or-later
"""Samples in a CSV file: which numbers it may have."""

import pytest

from vlapic.errors import TraceError
from vlapic.replay.samples import OutsideSample, read_samples


def samples(tmp_path, text):
    path = tmp_path / "samples.csv"
    path.write_text(text, encoding="utf-8")
    return read_samples(path)


def test_blanks_around_a_number_are_none_of_it(tmp_path):
    text = f"index, advance_ns ,vcpu\n 1 , 1000,\n{(1 << 64) - 1},{(1 << 32) - 1},7\n"
    assert samples(tmp_path, text) == [
        OutsideSample(0, 0, None, 1, 1000),
        OutsideSample(0, 7, None, (1 << 64) - 1, (1 << 32) - 1),
    ]


@pytest.mark.parametrize("number", ["1_0", "+5", "\u0665", "9" * 5000, "0x5", "1e3", "1.0", "nan", "\u00a01"])
def test_what_is_no_number_is_refused_with_its_line(number, tmp_path):
    with pytest.raises(TraceError, match=r"samples.csv:3 is no sample") as error:
        samples(tmp_path, f"index,advance_ns\n1,1000\n{number},1000\n")
    assert len(str(error.value)) < 250


@pytest.mark.parametrize(
    "row", ["-1,1000", f"{1 << 64},1000", f"1,{1 << 32}", "1,-1"]
)  # fmt: skip
def test_a_number_out_of_range_is_refused_with_its_line(row, tmp_path):
    with pytest.raises(TraceError, match=r"samples.csv:2 has \w+ -?[0-9]+; expected 0 to"):
        samples(tmp_path, f"index,advance_ns\n{row}\n")


def test_a_column_that_stands_there_twice_is_refused(tmp_path):
    with pytest.raises(TraceError, match="has a name twice"):
        samples(tmp_path, "index,index,advance_ns\n1,2,1000\n")


def test_what_is_no_text_is_told_in_plain_words(tmp_path):
    path = tmp_path / "samples.csv"
    path.write_bytes(b"index,advance_ns\n1,\xff\n")
    with pytest.raises(TraceError, match="are no text in UTF-8; give a CSV file"):
        read_samples(path)
    path.write_text("index,advance_ns\n1," + "1" * 200_000)
    with pytest.raises(TraceError, match="a value of it is too long; give a CSV file"):
        read_samples(path)
