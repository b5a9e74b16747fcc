# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine code is what its sources say, and agrees with Python about where everything is."""

import ctypes
import random
import re
import shutil
import subprocess
from importlib.resources import files

import pytest
from unicorn.x86_const import UC_X86_REG_RIP

from vlapic.machine.engines.unicorn import blocks, device_memory, known_sites, layout, machine_code
from vlapic.machine.engines.unicorn.access_place import Place
from vlapic.machine.engines.unicorn.decode import Block, Kind, Site
from vlapic.machine.engines.unicorn.device_memory import DEVICES
from vlapic.machine.engines.unicorn.msrs import NATIVE_MSRS, UNICORN_IGNORES
from vlapic.machine.engines.unicorn.state import place

SOURCES = {
    "blocks.S": (
        machine_code.BLOCKS_CODE,
        {
            "count_block": 0,
            "stop_at_site": machine_code.SITE_OFFSET,
            "compare_code": machine_code.COMPARE_OFFSET,
        },
    ),
    "fastpath.S": (
        machine_code.FASTPATH_CODE,
        {
            "offer_site": 0,
            "offer_write": machine_code.WRITE_OFFSET,
            "offer_read": machine_code.READ_OFFSET,
        },
    ),
    "stores.S": (machine_code.STORES_CODE, {"open_stores": 0}),
}


def text(source):
    return files("vlapic.machine.engines.unicorn").joinpath(source).read_text()


@pytest.mark.parametrize("source", SOURCES)
def test_the_machine_code_is_its_source_assembled(tmp_path, source):
    if not (shutil.which("as") and shutil.which("objcopy") and shutil.which("nm")):
        pytest.skip("needs GNU as, objcopy and nm (binutils)")
    (tmp_path / source).write_text(text(source))

    def run(*command):
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)

    run("as", "--64", source, "-o", "code.o")
    run("objcopy", "-O", "binary", "-j", ".text", "code.o", "code.bin")
    code, entries = SOURCES[source]
    assert (tmp_path / "code.bin").read_bytes() == code
    symbols = {line.split()[2]: int(line.split()[0], 16) for line in run("nm", "code.o").stdout.splitlines()}
    assert {name: symbols[name] for name in entries} == entries


def test_the_pieces_have_room_in_a_page():
    assert len(machine_code.BLOCKS_CODE) <= machine_code.FASTPATH_START
    assert machine_code.FASTPATH_START + len(machine_code.FASTPATH_CODE) <= machine_code.STORES_START
    assert machine_code.STORES_START + len(machine_code.STORES_CODE) <= 4096


def constants(source):
    """What a source sets by name, where that is one number."""
    found = re.findall(r"^\s*\.set\s+(\w+),\s*(\w+)\s*(?:#.*)?$", text(source), re.MULTILINE)
    return {name: int(value, 0) for name, value in found}


@pytest.mark.parametrize("source", ["blocks.S", "fastpath.S"])
def test_the_counter_has_the_fields_that_machine_code_reads(source):
    fields = [
        "COUNT",
        "LIMIT",
        "STOPPED",
        "SPIN",
        "ROW",
        "WINDOW",
        "OPENED",
        "_TABLE",
        "_UNKNOWN",
        "_EMU_STOP",
    ]
    fields += ["STATE", "KEPT", "HERE", "PLACES", "ON_EXIT", "_ASK_SITE"]
    fields += ["ASK_MEMORY", "WRITE_REGISTER", "AT_RIP", "AT_NEXT", "ON_WINDOW"]
    fields += ["ANSWERS", "ANSWERED", "REPLAYED"]
    assert [getattr(blocks, name) for name in fields] == list(range(len(fields)))
    expected = {name.lstrip("_"): 8 * index for index, name in enumerate(fields)}
    used = constants(source)
    assert {name: value for name, value in used.items() if name in expected} == {
        name: value for name, value in expected.items() if name in used
    }
    assert {"COUNT", "STOPPED", "ROW", "STATE"} <= used.keys()


def test_the_fast_path_reads_rows_and_registers_where_python_puts_them():
    used = constants("fastpath.S")
    expected = {f"P_{name.upper()}": 8 * index for index, name in enumerate(("here", *Place._fields))}
    expected |= {f"A_{name.upper()}": 8 * index for index, name in enumerate(device_memory.ANSWER_FIELDS)}
    expected["ANSWER_BITS"] = (8 * device_memory.ANSWER_ROW).bit_length() - 1
    for name in ("COUNTER", "ROW", "LEFT", "LENGTH", "KIND"):
        expected[f"S_{name}"] = 8 * getattr(known_sites, f"_{name}")
    for name in ("READ_MSR", "WRITE_MSR", "READ_MEMORY", "WRITE_MEMORY"):
        expected[name] = getattr(known_sites, name)
    for name in ("RAX", "RCX", "RDX", "HFLAGS"):
        expected[name] = getattr(layout, name)
    expected |= {"CPL": layout.HF_CPL, "CS64": layout.HF_CS64}
    expected["CS_BASE"] = place("cs") + 8
    expected["DEVICES"] = DEVICES
    expected["UC_X86_REG_RIP"] = UC_X86_REG_RIP
    assert {name: used[name] for name in expected} == expected


def test_the_fast_path_takes_only_msrs_that_unicorn_ignores_and_nobody_else_has():
    used = constants("fastpath.S")
    taken = {used["IA32_TSC_DEADLINE"], *range(used["X2APIC"] << 8, used["X2APIC"] + 1 << 8)}
    assert taken == UNICORN_IGNORES
    assert not taken & NATIVE_MSRS


def block(address, size=2):
    return Block(address, size, 64, b"", (address,), (), 0)


def rows_in_use(table):
    return len(table._used)


def test_a_block_that_is_translated_anew_takes_one_row():
    table = machine_code.Table()
    first = table.insert(block(0x1000))
    for _ in range(1000):
        assert table.remove(0x1000, 2) == first
        assert table.insert(block(0x1000)) == first
    assert rows_in_use(table) == 1


def test_a_row_is_used_again_though_another_block_is_looked_for_behind_it():
    table = machine_code.Table()
    rows = [table.insert(block(0x1000, size)) for size in (1, 2, 3)]
    assert table.remove(0x1000, 2) == rows[1]
    assert rows_in_use(table) == 3
    assert table.insert(block(0x1000, 4)) == rows[1]
    assert table.remove(0x1000, 3) == rows[2]


def test_rows_that_nothing_is_looked_for_behind_are_empty_again():
    table = machine_code.Table()
    for size in (1, 2, 3, 4):
        table.insert(block(0xFFFF, size))  # the table's last row and its first ones
    for size in (2, 3, 1):
        table.remove(0xFFFF, size)
        assert rows_in_use(table) == 4
    table.remove(0xFFFF, 4)
    assert rows_in_use(table) == 0


def test_a_block_that_is_not_there_is_not_taken_out():
    table = machine_code.Table()
    table.insert(block(0x1000))
    assert table.remove(0x1000, 3) is None
    assert table.remove(0x2000, 2) is None
    assert rows_in_use(table) == 1


@pytest.mark.parametrize("seed", range(20))
def test_the_table_has_what_was_put_in_and_not_taken_out(seed):
    choice = random.Random(seed)
    table, there = machine_code.Table(), {}
    for _ in range(2000):
        place = 0xFFF0 + choice.randrange(24), choice.randrange(1, 4)
        if place in there:
            assert table.remove(*place) == there.pop(place)
        else:
            row = there[place] = table.insert(block(*place))
            assert list(there.values()).count(row) == 1
    for place, row in there.items():
        assert table.remove(*place) == row
    assert rows_in_use(table) == 0


def test_an_exiting_instruction_is_not_known_in_the_block_that_gets_the_row():
    sites = known_sites.KnownSites(0)
    site = Site(Kind.WRMSR, 0x1000, 2)
    row = ctypes.cast(sites.row_of(site), ctypes.POINTER(ctypes.c_uint64))
    sites.learn(site, 32, 5)
    sites.forget_block(64)
    assert row[known_sites._ROW] == 32
    sites.forget_block(32)
    assert row[known_sites._ROW] == 0
