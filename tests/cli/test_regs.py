# SPDX-License-Identifier: GPL-2.0-or-later
"""`vlapic regs` shows the rows of the register table, all of them or one."""

import json
import subprocess
import sys

import pytest

from vlapic.apic.registers import REGISTERS
from vlapic.cli import main
from vlapic.cli.regs import ROWS


def printed(capsys, *arguments):
    status = main(["regs", *arguments])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    return out


def test_every_register_is_a_line_of_the_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    lines = printed(capsys).splitlines()
    assert lines[0].split() == ["name", "offset", "MSR", "xAPIC", "x2APIC", "reset", "writable", "what"]
    assert [line.split()[0] for line in lines[1:]] == [row.name for row in ROWS]
    assert "ISR          0x100 x8 0x810 x8 ro    ro     0x0        -            in service" in lines
    assert "SELF_IPI     0x3f0    0x83f    -     wo     0x0        0xff         self IPI" in lines


@pytest.mark.parametrize("columns", ["40", "80"])
def test_a_narrow_terminal_cuts_no_number_short(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    out = printed(capsys)
    if columns == "80":
        assert "…" not in out
        assert "0x1060014" in out
    assert "LVTT" in out


@pytest.mark.parametrize("name", ["TSC_DEADLINE", "ia32_tsc_deadline", "0x6e0"])
def test_an_msr_that_is_not_of_the_page_is_a_row_without_an_offset(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "160")
    (row,) = printed(capsys, name).splitlines()[1:]
    assert row.split()[:7] == ["TSC_DEADLINE", "-", "0x6e0", "rw", "rw", "0x0", "all"]
    (found,) = json.loads(printed(capsys, name, "--json"))["registers"]
    assert (found["offset"], found["msr"], found["writable"]) == (None, 0x6E0, 2**64 - 1)


@pytest.mark.parametrize("name", ["LVTT", "lvtt"])
def test_one_register_is_one_row(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "120")
    lines = printed(capsys, name).splitlines()
    assert lines[1:] == ["LVTT 0x320  0x832 rw    rw     0x10000 0x700ff  LVT: timer"]


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("0x380", "TMICT"),
        ("0x838", "TMICT"),
        ("0X838", "TMICT"),
        ("0x270", "IRR"),
        ("0x807", None),
        ("0x6e0", "TSC_DEADLINE"),
        ("0x1B", "APIC_BASE"),
    ],
)
def test_a_register_is_found_by_its_offset_or_msr(capsys, place, name):
    if name is None:
        assert main(["regs", place]) == 2
        said = f"vlapic: no register of the local APIC is at {place}; see: vlapic regs\n"
        assert capsys.readouterr() == ("", said)
    else:
        assert printed(capsys, place).splitlines()[1].split()[0] == name


def test_json_has_every_row_with_its_numbers(capsys):
    found = json.loads(printed(capsys, "--json"))
    assert found["schema"] == "vlapic.regs/1"
    assert [each["name"] for each in found["registers"]] == [row.name for row in ROWS]
    for row, each in zip(REGISTERS, found["registers"], strict=False):
        assert each == {
            "name": row.name, "offset": row.offset, "count": row.count,
            "msr": row.msr if row.x2apic.value != "-" else None,
            "xapic": row.xapic.value, "x2apic": row.x2apic.value, "reset": row.reset,
            "writable": row.writable, "x2apic_writable": row.writable_in(True), "what": row.what,
        }  # fmt: skip


def test_json_of_one_register_is_a_list_of_one(capsys):
    (row,) = json.loads(printed(capsys, "icr", "--json"))["registers"]
    assert (row["name"], row["offset"], row["msr"]) == ("ICR", 0x300, 0x830)
    assert row["x2apic_writable"] >> 32 == 0xFFFF_FFFF


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("LVT", "unknown register 'LVT'; did you mean 'LVTT'?"),
        ("spiv", "unknown register 'spiv'; did you mean"),
        ("838", "unknown register '838'; did you mean the offset or MSR 0x838?"),
        ("800", "unknown register '800'; did you mean the offset or MSR 0x320?"),
        ("1760", "unknown register '1760'; did you mean the offset or MSR 0x6e0?"),
        ("9999", "unknown register '9999', nor is one there; see: vlapic regs"),
        ("zzz", "unknown register 'zzz'; known: APIC_BASE, APR, CMCI, "),
    ],
)
def test_an_unknown_register_is_one_line_with_the_nearest_and_status_2(capsys, name, message):
    assert main(["regs", name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"vlapic: {message}")
    assert err.count("\n") == 1


def test_json_imports_neither_rich_nor_numpy_nor_unicorn():
    program = (
        "import sys; from vlapic.cli import main; main(['regs', '--json']);"
        "sys.exit(','.join({'rich', 'numpy', 'unicorn', 'capstone'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["schema"] == "vlapic.regs/1"


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_full_disk_is_one_line_and_status_1(arguments):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vlapic", "regs", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1
