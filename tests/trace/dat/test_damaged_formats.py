# SPDX-License-Identifier: GPL-2.0-or-later
"""Formats that are damaged: their event is told as lost, and none of its fields is read as zeros."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.dat_files import Made
from tests.support.dat_ring import EVENTS, Machine, Ring
from vlapic.cli import main
from vlapic.events import Exit, Lost, Msr, WaitLapicExpire
from vlapic.trace.dat.decode import DECODINGS
from vlapic.trace.dat.formats import Format
from vlapic.trace.dat.reader import DatReader

REAL = Path(__file__).parent.parent / "data" / "svm-tscdeadline-latency.dat"
COUNT = 5
KINDS = ("v6", "none", "zlib", "zstd")


def recording(kind: str = "v6", replaced: tuple[str, str, str] = ("", "", "")) -> bytes:
    """Five each of three events; in the format of one some text is replaced by other."""
    machine = Machine()
    ring = Ring(machine)
    for number in range(COUNT):
        time = 1000 + 3 * number
        ring.add(time, machine.payload("kvm_exit", 1000, vcpu_id=1, exit_reason=12, isa=1, guest_rip=7))
        ring.add(time + 1, machine.payload("kvm_wait_lapic_expire", 1000, vcpu_id=1, delta=-20))
        ring.add(time + 2, machine.payload("kvm_msr", 1000, write=1, ecx=0x6E0, data=77))
    event, old, new = replaced
    formats = []
    for name in EVENTS:
        text = machine.format_text(name)
        if name == event:
            assert old in text
            text = text.replace(old, new, 1)
        formats.append((EVENTS[name][1], text))
    made = Made({"": [b"".join(ring.finish())]}, machine, formats=formats)
    return made.v6() if kind == "v6" else made.v7(kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("event", "event_type", "old", "new"),
    [
        ("kvm_wait_lapic_expire", WaitLapicExpire, " delta;", " deltb;"),
        ("kvm_wait_lapic_expire", WaitLapicExpire, " vcpu_id;", " vcpu_ie;"),
        ("kvm_wait_lapic_expire", WaitLapicExpire, "delta %lld", "de\0\0\0%lld"),
        ("kvm_msr", Msr, " data;", " dat`;"),
        ("kvm_msr", Msr, " write;", " wri\0e;"),
        ("kvm_msr", Msr, "size:8;", "size:z;"),
        ("kvm_msr", Msr, "size:8;", "size:7;"),
        ("kvm_msr", Msr, "u64 data;\toffset:16;", "u64 data;\toffset:12;"),
        ("kvm_exit", Exit, " exit_reason;", " axit_reason;"),
        # Not every kernel has it, but the print format speaks of it.
        ("kvm_exit", Exit, " vcpu_id;", " vcpu_id_;"),
    ],
)
def test_an_event_without_a_field_that_it_must_have_is_lost(
    kind: str, event: str, event_type: type[object], old: str, new: str
) -> None:
    whole = DatReader("x.dat", memoryview(recording(kind)))
    assert len(whole.columns(event_type)) == COUNT
    assert not whole.lost
    data = recording(kind, (event, old, new))
    reader = DatReader("x.dat", memoryview(data))
    assert len(reader.columns(event_type)) == 0
    [lost] = reader.lost
    assert (lost.tracepoint, lost.events, lost.cause) == (event, COUNT, "damaged")
    if kind in ("v6", "none"):
        assert data[lost.place :].startswith(f"name: {event}\n".encode())
    assert 0 < lost.place < len(data)
    [words] = reader.losses_in_words()
    assert words == (
        f"the format of {event} is damaged, at byte {lost.place}: {COUNT} events of it cannot be read; the"
        " rest was read"
    )
    rest = [each for each in reader.events() if not isinstance(each, Lost)]
    assert len(rest) == 2 * COUNT


def test_a_damaged_name_is_no_events_name() -> None:
    reader = DatReader("x.dat", memoryview(recording("v6", ("kvm_msr", "kvm_msr", "kvm\0msr"))))
    assert len(reader.columns(Msr)) == 0
    assert [(lost.tracepoint, lost.events) for lost in reader.lost] == [("", COUNT)]


def test_nuls_behind_a_format_are_no_damage() -> None:
    text = Machine().format_text("kvm_msr")
    found = Format.of("kvm", text + "\0\0")
    assert found is not None
    assert DECODINGS["kvm_msr"].fits(found)


def test_a_kernel_that_has_not_what_others_have_is_whole() -> None:
    """As v4.0 has them: no rip, no vcpu_id of an exit, `irq` for the vector."""
    formats = {
        "kvm_entry": ["vcpu_id"],
        "kvm_exit": ["exit_reason", "guest_rip", "isa", "info1", "info2"],
        "kvm_inj_virq": ["irq"],
        "hrtimer_start": ["hrtimer", "function", "expires", "softexpires"],
    }
    for name, fields in formats.items():
        lines = [f"name: {name}", "ID: 9", "format:"]
        lines += [
            f"\tfield:u64 {field};\toffset:{8 + 8 * at};\tsize:8;\tsigned:0;"
            for at, field in enumerate(fields)
        ]
        printed = ", ".join(f"REC->{field}" for field in fields)
        found = Format.of("kvm", "\n".join([*lines, "", f'print fmt: "%u", {printed}', ""]))
        assert found is not None
        assert DECODINGS[name].fits(found)


def test_a_recorded_files_formats_are_whole() -> None:
    reader = DatReader(str(REAL), memoryview(REAL.read_bytes()))
    formats = [Format.of(*each) for each in reader.container.formats]
    known = [each for each in formats if each is not None and each.name in DECODINGS]
    assert known
    assert all(DECODINGS[each.name].fits(each) for each in known)


def test_a_replay_of_deltas_that_cannot_be_read_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "trace.dat"
    path.write_bytes(recording("zlib", ("kvm_wait_lapic_expire", " delta;", " deltz;")))
    assert main(["replay", str(path), "--tsc-khz", "1000000", "--quiet"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "no kvm_wait_lapic_expire can be read" in said.err
    assert "the format of kvm_wait_lapic_expire is damaged, at byte" in said.err


def test_bytes_that_are_no_text_are_damage() -> None:
    text = Machine().format_text("kvm_msr").encode().replace(b"exception ?", b"exc\xff\xfetion ?")
    found = Format.of("kvm", text.decode("utf-8", "replace"))
    assert found is not None
    assert not DECODINGS["kvm_msr"].fits(found)
