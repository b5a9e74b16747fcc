# SPDX-License-Identifier: GPL-2.0-or-later
"""A host model's file says what it means, reads back as what was written, and is refused by line."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlapic.errors import UsageError, WorldError
from vlapic.machine.hostmodel.fields import FIELDS, Kind
from vlapic.machine.hostmodel.file import as_toml, parse, read
from vlapic.machine.hostmodel.model import COST_LIMIT, DEFAULT, Burst, Cost, constant, sampled, with_tail
from vlapic.machine.hostmodel.named import HOSTS
from vlapic.machine.hostmodel.toml_lines import line_of

cycles = st.integers(0, COST_LIMIT - 1)


def tables(low=0):
    sizes = st.integers(0, 8).map(lambda k: (1 << k) + 1) | st.just(1)
    values = st.integers(low, COST_LIMIT - 1)
    return sizes.flatmap(
        lambda size: st.lists(values, min_size=size, max_size=size).map(lambda q: Cost(tuple(sorted(q))))
    )


def tails():
    return st.tuples(st.integers(3000, 1 << 30), st.integers(0, 1000), st.integers(0, 1 << 20)).map(
        lambda shape: with_tail(shape[0], spread=shape[1], tail=shape[2])
    )


costs = tables() | tails()


@st.composite
def models(draw):
    longest = draw(st.integers(1, 1 << 40))
    return dataclasses.replace(
        DEFAULT,
        name=draw(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1)),
        source=draw(st.sampled_from(["", 'a "quoted" \\ source', "é"])),
        tsc_khz=draw(st.integers(1, (1 << 32) - 1)),
        entry=draw(costs),
        switch=draw(costs),
        exits=DEFAULT.exits | {"HLT": draw(costs)},
        slice_cycles=longest,
        min_granularity_cycles=draw(st.integers(0, longest)),
        wait_step_cycles=draw(st.integers(0, 100)),
        preemption_timer_rate=draw(st.integers(0, 31)),
        burst=draw(st.none() | st.builds(Burst, interval=tables(low=1), length=costs)),
    )


@given(models())
def test_a_model_that_was_written_reads_back_as_the_same(model):
    assert parse(as_toml(model), "model.toml") == model


@pytest.mark.parametrize("model", HOSTS.values(), ids=HOSTS)
def test_a_model_that_comes_with_vlapic_says_where_it_is_from_and_reads_back(model):
    assert parse(as_toml(model), "model.toml") == model
    assert "assumed" in model.source


def test_every_field_is_written_with_a_comment_above_it():
    lines = as_toml(HOSTS["noisy"]).splitlines()
    for field in FIELDS:
        (place,) = [index for index, line in enumerate(lines) if line.startswith(f"{field.name} = ")]
        assert lines[place - 1].startswith("# "), field.name


def test_an_empty_file_is_the_default_under_the_file_s_name():
    assert parse("", "here/mine.toml") == dataclasses.replace(DEFAULT, name="mine", source="")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1200", 1200),
        ('"1200 cycles"', 1200),
        ('"480 ns"', 1200),
        ('"0.48us"', 1200),
        ('"1.5 us"', 3750),
        ('"1 ms"', 2_500_000),
        # 2.5 cycles, rounded down.
        ('"1 ns"', 2),
        ('{ quantiles = [480], unit = "ns" }', 1200),
    ],
)
def test_a_time_is_in_cycles_or_has_its_unit_and_is_rounded_down(text, expected):
    assert parse(f"entry = {text}", "x").entry == constant(expected)


def test_times_go_by_the_frequency_in_force():
    text = 'tsc_khz = 1_000_000\nentry = "300 ns"\nhrtimer = 300'
    assert parse(text, "x").entry == constant(300)
    model = parse(text, "x", tsc_khz=3_000_000)
    assert (model.tsc_khz, model.entry, model.hrtimer) == (3_000_000, constant(900), constant(300))


def test_a_cost_has_four_forms():
    model = parse(
        "wake_up = { mean = 2700, spread = 60, tail = 20_000 }\n"
        'injection = { quantiles = ["100 ns", 250, 300, 500, "1 us"] }\n'
        'entry = { samples = [3, 1, 2], unit = "us" }',
        "x",
    )
    assert model.wake_up == DEFAULT.wake_up
    assert model.injection == Cost((250, 250, 300, 500, 2500))
    assert model.entry == Cost((2500, 5000, 7500))


def test_the_slice_is_also_how_long_a_turn_lasts_at_least_unless_that_is_said():
    model = parse('[pcpu]\nslice = "1 ms"', "x")
    assert (model.slice_cycles, model.min_granularity_cycles) == (2_500_000, 2_500_000)
    model = parse('[pcpu]\nslice = "1 ms"\nmin_granularity = 0', "x")
    assert (model.slice_cycles, model.min_granularity_cycles) == (2_500_000, 0)


@given(st.lists(cycles, min_size=1, max_size=50))
def test_the_quantiles_of_samples_are_between_them_and_keep_both_ends(samples):
    made, ordered = sampled(samples).quantiles, sorted(samples)
    assert (made[0], made[-1]) == (ordered[0], ordered[-1])
    if (len(samples) - 1).bit_count() == 1:
        assert list(made) == ordered


def test_many_samples_keep_their_shape():
    made = sampled(range(0, 100_000, 10)).quantiles
    assert len(made) == 1025
    assert all(abs(value - 99_990 * place / 1024) < 1 for place, value in enumerate(made))


def test_without_samples_there_is_no_cost():
    with pytest.raises(ValueError, match="got 0"):
        sampled([])


WRONG = [
    ("entrie = 1", "1: entrie: no such field; did you mean 'entry'?"),
    ("[exits]\n\nHTL = 3", "3: exits.HTL: no such field; did you mean 'HLT'?"),
    ("[brust]\nlength = 3", "1: brust: no such field; did you mean 'burst'?"),
    ("exits = 3", "1: exits: 3 is no table; expected [exits] and its fields"),
    ("# a\nentry = 1.5", "2: entry: 1.5 is no time; expected whole cycles, or a text like"),
    ("entry = 2020-01-02", "1: entry: 2020-01-02 is no time; expected"),
    ('name = ""', "1: name: '' is no name; leave it out, and it is the file's"),
    ("entry = true", "1: entry: true is no time; expected"),
    ("entry = -1", "1: entry: -1 cycles are out of range; it takes 0 to 4294967295 cycles"),
    ('entry = "3 parsec"', "1: entry: unknown unit 'parsec'; known: cycles, ms, ns, s, us"),
    ('entry = "2.5 cycles"', "1: entry: '2.5 cycles' is no whole number of cycles"),
    ('entry = "2 s"', "1: entry: 5000000000 cycles are out of range; it takes 0 to 4294967295 cycles"),
    ("entry = { quantiles = [1, 3, 2] }", "1: entry: quantiles fall from 3 to 2 cycles at value 3; expected"),
    ("entry = { quantiles = [1, 2, 3, 4] }", "1: entry: 4 quantiles; expected 1, 2, 3, 5, 9, 17 ... 2^k + 1"),
    ("entry = { quantiles = [] }", "1: entry: quantiles []; expected a list of times"),
    ("entry = { samples = 3 }", "1: entry: samples 3; expected a list of times"),
    ("entry = { meen = 3 }", "1: entry: no such part of a cost: 'meen'; did you mean 'mean'?"),
    (
        "entry = { mean = 3, tail = 3 }",
        "1: entry: { mean, tail } is no cost; expected { mean, spread, tail }",
    ),
    ("entry = { mean = 9, spread = 10, tail = 0 }", "1: entry: a mean of 9 cycles with a spread of 10"),
    ('entry = { mean = 9, spread = 1, tail = 0, unit = "us/s" }', "1: entry: unknown unit 'us/s'"),
    ("entry = { samples = [1, 4294967296] }", "1: entry: 4294967296 cycles are out of range; it takes 0 to"),
    (
        "entry = { mean = 4294967295, spread = 1, tail = 0 }",
        "1: entry: up to 4294967296 cycles; a cost is less",
    ),
    ("tsc_khz = 0", "1: tsc_khz: 0 is out of range; it takes 1 to 4294967295"),
    ('tsc_khz = "1 GHz"', "1: tsc_khz: '1 GHz' is no whole number; expected 1 to 4294967295"),
    ("preemption_timer_rate = 32", "1: preemption_timer_rate: 32 is out of range; it takes 0 to 31"),
    ("name = 3", "1: name: 3 is no text on one line"),
    ('name = "a\\nb"', "1: name: 'a\\nb' is no text on one line"),
    ("[pcpu]\nslice = 0", "2: pcpu.slice: 0 cycles is out of range; it takes 1 to"),
    (
        "[pcpu]\nslice = 5\nmin_granularity = 6",
        "3: pcpu.min_granularity: min_granularity is 0 to the slice's 5",
    ),
    ("[burst]\nlength = 1", "1: burst: no interval; expected interval and length"),
    ("[burst]\ninterval = 0\nlength = 1", "2: burst.interval: an interval between bursts is 1 cycle or more"),
    ("entry = 1\nentry = 2", "2: Cannot overwrite a value; expected TOML"),
    ("entry 1", "1: Expected '=' after a key in a key/value pair; expected TOML"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_wrong_file_is_refused_in_one_line_that_names_the_place(text, message):
    with pytest.raises(UsageError) as caught:
        parse(text, "mine.toml")
    said = str(caught.value)
    assert said.startswith(f"mine.toml:{message}")
    assert "\n" not in said
    assert len(said) < 250


def test_a_long_list_is_named_by_the_line_where_it_begins():
    samples = ",\n".join(["  7"] * 2000)
    with pytest.raises(UsageError, match=r"^m:3: entry: 'x' is no time"):
        parse(f'# a\n\nentry = {{ samples = [\n{samples},\n"x"] }}\n', "m")


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("a = 1\nb = 2", ("b",), 2),
        ('a = """\nb = 3\n"""\nb = 2', ("b",), 4),
        ("a = [\n[1],\n[2]]\n[t]\nb = 2", ("t", "b"), 5),
        ("[u]\nb = 1\n[t]\nb = 2", ("t", "b"), 4),
        ("t.b = 2", ("t", "b"), 1),
        ("t = { b = 2 }", ("t", "b"), 1),
        ('[ "t" ]\n "b" = 2', ("t", "b"), 2),
        ("x = 1\n[t]\nc = 1", ("t",), 2),
        ("a = 1", ("z",), None),
    ],
)
def test_a_key_is_found_where_it_stands(text, path, line):
    assert line_of(text, path) == line


def test_a_file_that_is_not_there_or_no_text_says_so(tmp_path):
    with pytest.raises(WorldError, match=r"cannot read the host model .*No such file.*try --print-host"):
        read(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="no host model; expected TOML text in UTF-8"):
        read(tmp_path / "binary.toml")


def test_the_ranges_of_the_table_are_those_of_the_kinds():
    assert all(field.low < field.high for field in FIELDS if field.kind in (Kind.NUMBER, Kind.DURATION))


def test_a_file_of_before_a_field_takes_that_of_the_default():
    older = "\n".join(line for line in as_toml(DEFAULT).splitlines() if not line.startswith("posting"))
    assert parse(older, "older.toml") == DEFAULT
    assert parse('posting = "1 us"', "mine.toml").posting == constant(2500)
