# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables of CPUID and of the MSRs in docs/guests.md, made from the rows.

    python -m tests.docs.processor_page

writes them anew; read the diff.
"""

import re
from itertools import groupby
from pathlib import Path

from vlapic.machine.cpuid import FEATURES
from vlapic.machine.msrs import ABSENT, APIC_ROWS, CPU_ROWS, ROWS
from vlapic.tsc import U64

PAGE = Path(__file__).parents[2] / "docs" / "guests.md"
BETWEEN = re.compile(r"(<!-- (\w+): .*? -->\n)(.*?)(<!-- end of \w+ -->)", re.DOTALL)


def markdown(headings, rows):
    lines = [headings, ("---",) * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def features():
    by_register = groupby(FEATURES, lambda each: (each.leaf, each.register))
    return markdown(
        ("leaf", "register", "features"),
        (
            (f"{leaf:#x}", register.upper(), ", ".join(f"{each.name} ({each.bit})" for each in group))
            for (leaf, register), group in by_register
        ),
    )


def numbers(row):
    first, last = row.numbers()[0], row.numbers()[-1]
    if row.repeat == 1:
        return f"{first:#x}"
    return f"{first:#x} to {last:#x}" + (f", every {row.step}" if row.step > 1 else "")


def writes(row):
    """What a write may be, in words."""
    if row.keeps is None:
        return "#GP"
    if row.keeps | row.drops == U64 and row.keeps in (0, U64):
        said = "kept" if row.keeps else "dropped"
    else:
        dropped = f", {row.drops:#x} dropped" if row.drops else ""
        said = f"{row.keeps:#x} kept{dropped}" if row.keeps else f"0 only{dropped}"
    return f"{said}; {row.rule}" if row.rule else said


def machine():
    return markdown(
        ("MSR", "name", "at power-up", "a write"),
        (
            (
                numbers(row),
                row.name,
                "a read is #GP" if row.reset is None else f"{row.reset:#x}",
                writes(row),
            )
            for row in ROWS
        ),
    )


TABLES = {
    "features": features,
    "msrs": machine,
    "others": lambda: markdown(("MSR", "name", "what"), (*APIC_ROWS, *CPU_ROWS)),
    "absent": lambda: markdown(("MSR", "what", "why"), ABSENT),
}


def with_tables(text):
    """The page's text with the tables as they are now."""
    return BETWEEN.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[4]}", text)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
