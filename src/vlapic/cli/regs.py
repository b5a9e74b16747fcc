# SPDX-License-Identifier: GPL-2.0-or-later
"""`vlapic regs`: the register table of the local APIC, as the device has it."""

from __future__ import annotations

import re

import click

from vlapic.apic.registers import MSRS, REGISTERS, Access, Msr, Register
from vlapic.cli.arguments import json_option
from vlapic.cli.output import console, emit, print_json
from vlapic.errors import STATUS_OK, UsageError, nearest
from vlapic.numerals import shown

SCHEMA = "vlapic.regs/1"

#: What the table shows.
Row = Register | Msr
ROWS: tuple[Row, ...] = (*REGISTERS, *MSRS)


@click.command("regs")
@click.argument("name", required=False)
@json_option("Print the rows as JSON.")
def command(name: str | None, as_json: bool) -> int:
    """Show the local APIC's registers, or the one of this NAME, offset (0x380) or MSR (0x838, 0x6e0).

    Access is ro, wo or rw in xAPIC mode (the memory-mapped page) and in x2APIC mode (MSRs); - is none at all.
    Writable are bits in xAPIC mode; in x2APIC mode ICR, EOI and ESR take others (--json: x2apic_writable).
    """
    rows = ROWS if name is None else (_find(name),)
    emit(lambda: _print(rows, as_json))
    return STATUS_OK


def _find(name: str) -> Row:
    by_name = {row.name: row for row in ROWS}
    asked = name.upper().removeprefix("IA32_")
    if asked in by_name:
        return by_name[asked]
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,8}", name):
        row = _at(int(name, 16))
        if row is None:
            raise UsageError(f"no register of the local APIC is at {name}; see: vlapic regs")
        return row
    if re.fullmatch(r"[0-9a-fA-F]{2,8}", name):
        meant = [int(name, 16), *([int(name)] if name.isdecimal() else [])]
        there = [f"{place:#x}" for place in meant if _at(place) is not None]
        if there:
            raise UsageError(
                f"unknown register {name!r}; did you mean the offset or MSR {' or '.join(there)}?"
            )
    if re.fullmatch(r"[0-9]+", name):
        raise UsageError(f"unknown register {shown(name)}, nor is one there; see: vlapic regs")
    raise UsageError(f"unknown register {shown(name)}; {nearest(asked, by_name)}")


def _at(place: int) -> Row | None:
    """The row of an offset or an MSR."""
    for row in REGISTERS:
        # Registers of a bank are 16 bytes apart, and so many MSRs.
        if place in range(row.offset, row.offset + 16 * row.count, 16):
            return row
        if row.x2apic.value != "-" and place in range(row.msr, row.msr + row.count):
            return row
    return next((msr for msr in MSRS if place == msr.number), None)


def as_json_object(row: Row) -> dict[str, object]:
    """A row as JSON has it: numbers are numbers, an offset or MSR that is not there is null."""
    if isinstance(row, Msr):
        return {
            "name": row.name,
            "offset": None,
            "count": 1,
            "msr": row.number,
            "xapic": Access.READ_WRITE.value,
            "x2apic": Access.READ_WRITE.value,
            "reset": row.reset,
            "writable": row.writable,
            "x2apic_writable": row.writable,
            "what": row.what,
        }
    return {
        "name": row.name,
        "offset": row.offset,
        "count": row.count,
        "msr": row.msr if row.x2apic.value != "-" else None,
        "xapic": row.xapic.value,
        "x2apic": row.x2apic.value,
        "reset": row.reset,
        "writable": row.writable,
        "x2apic_writable": row.writable_in(x2apic=True),
        "what": row.what,
    }


def columns(row: Row) -> tuple[str, ...]:
    """A row as people read it; of a bank, the first register and how many there are."""
    if isinstance(row, Msr):
        access = Access.READ_WRITE.value
        writable = "all" if row.writable == (1 << 64) - 1 else f"{row.writable:#x}"
        return row.name, "-", f"{row.number:#x}", access, access, f"{row.reset:#x}", writable, row.what
    several = f" x{row.count}" if row.count > 1 else ""
    return (
        row.name,
        f"{row.offset:#x}{several}",
        f"{row.msr:#x}{several}" if row.x2apic.value != "-" else "-",
        row.xapic.value,
        row.x2apic.value,
        f"{row.reset:#x}",
        f"{row.writable:#x}" if row.xapic.writable or row.x2apic.writable else "-",
        row.what,
    )


#: Headings of `columns`.
HEADINGS = ("name", "offset", "MSR", "xAPIC", "x2APIC", "reset", "writable", "what")


def _print(rows: tuple[Row, ...], as_json: bool) -> None:
    if as_json:
        found = {"schema": SCHEMA, "registers": [as_json_object(row) for row in rows]}
        print_json(found)
        return
    from rich.table import Table

    from vlapic.report.tables import whole

    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for heading in HEADINGS:
        # Only what a register is for may take several lines.
        table.add_column(heading, no_wrap=heading != HEADINGS[-1])
    for row in rows:
        table.add_row(*columns(row))
    # Rich would end the program where the reader of stdout went away.
    on = console()
    with on.capture() as printed:
        on.print(whole(table, on))
    print("\n".join(line.rstrip() for line in printed.get().split("\n")), end="")
