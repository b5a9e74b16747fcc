# SPDX-License-Identifier: GPL-2.0-or-later
"""Profiles: what each kernel is, found by name; each fix of the series is a switch."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlapic.apic import advance
from vlapic.apic import busy_wait as waiting
from vlapic.errors import UsageError
from vlapic.kernels import parameter
from vlapic.kernels.fixes import FIXES
from vlapic.kernels.profiles import PROFILES, SERIES, V5_1, V5_3, V5_4, V6_12, V6_19, find_profile
from vlapic.kernels.rules import RuleEnum

NAMES = ["series", "v5.0", "v5.1", "v5.2", "v5.3", "v5.4", "v5.14", "v6.1", "v6.12", "v6.19"]


def test_there_are_the_series_and_nine_kernels():
    assert list(PROFILES) == NAMES
    assert all(find_profile(name).name == name for name in NAMES)
    assert find_profile("6.1") is PROFILES["v6.1"]  # as uname says it


def test_each_kernel_changes_the_one_before_it():
    kernels = [PROFILES[name] for name in NAMES[1:]]
    assert [kernel.base for kernel in kernels] == ["", *NAMES[1:-1]]
    assert SERIES.base == "v5.0"


def test_every_rule_of_a_profile_is_found_in_the_table_of_who_acts_on_it():
    for profile in PROFILES.values():
        assert profile.early in advance.EARLY
        assert profile.tuning in advance.STEP
        assert profile.tuning in advance.COUNTS
        assert profile.ending in advance.ENDS
        assert profile.overflow in advance.LIMIT
        assert profile.too_short in advance.ARM
        assert profile.wait in waiting.WAIT_CYCLES
        assert profile.parameter in parameter.PARAMETERS


def test_every_rule_says_what_it_does_since_when_and_to_what_effect():
    for rule in itertools.chain.from_iterable(type(each) for each in SERIES.rules.values()):
        assert isinstance(rule, RuleEnum)
        assert rule.rule.does
        assert rule.rule.since
        assert rule.rule.effect
        assert rule.question
        assert all(letter in "0123456789abcdef" for letter in rule.rule.commit)
        assert len(rule.rule.commit) in (0, 12)


@given(st.sets(st.sampled_from(list(FIXES)), min_size=1))
def test_taking_fixes_out_changes_their_rules_and_no_others(numbers):
    less = SERIES.without(*numbers)
    expected = {name: rule for number in numbers for name, rule in FIXES[number].before.items()}
    assert {name: rule for name, (_, rule) in SERIES.changes(less).items()} == expected
    assert less.fixes == set(FIXES) - numbers
    assert less.name == "-".join(["series", *map(str, sorted(numbers))])
    assert find_profile(less.name) == less


def test_fixes_come_out_in_any_order_and_twice():
    assert SERIES.without(5, 3) == SERIES.without(3).without(5) == SERIES.without(3, 5, 5)


def test_nothing_taken_out_leaves_a_profile_as_it_is():
    assert all(profile.without() is profile for profile in PROFILES.values())


def test_each_fix_takes_the_rule_that_v5_0_had():
    v5_0 = PROFILES["v5.0"].rules
    for fix in FIXES.values():
        assert {name: v5_0[name] for name in fix.before} == fix.before


@pytest.mark.parametrize(("number", "near"), [(0, 1), (8, 7), (99, 7), (-3, 1)])
def test_an_unknown_fix_names_the_nearest_and_all(number, near):
    with pytest.raises(
        UsageError, match=rf"no fix {number} in the series; did you mean {near}\? known: 1 to 7"
    ):
        SERIES.without(number)


def test_a_kernel_has_no_fixes_to_take_out():
    with pytest.raises(UsageError, match=r"v5\.1 has no fixes to leave out; expected profile series"):
        V5_1.without(1)


@pytest.mark.parametrize(
    ("release", "hint"),
    [
        ("v5.5", "did you mean 'v5.4', the newest up to it?"),
        ("6.8.0-45-generic", "did you mean 'v6.1', the newest up to it?"),
        ("v9.0", "did you mean 'v6.19', the newest up to it?"),
        ("v4.9", "none is as old;"),
    ],
)
def test_for_a_release_without_a_profile_the_one_it_behaves_like_is_named(release, hint):
    with pytest.raises(UsageError) as refused:
        find_profile(release)
    assert f"unknown profile {release!r}; {hint} known: series, v5.0" in str(refused.value)


@pytest.mark.parametrize(("name", "near"), [("serie", "series"), ("v6.12.0", "v6.12"), ("v51", "v5.1")])
def test_an_unknown_profile_names_the_nearest_and_all(name, near):
    with pytest.raises(
        UsageError, match=rf"unknown profile '{name}'; did you mean '{near}'\? known: series, v5\.0"
    ):
        find_profile(name)
    with pytest.raises(UsageError, match=r"unknown profile .zzz.; known: series, v5\.0") as it:
        find_profile("zzz")
    assert str(it.value).count("known:") == 1


def test_from_v5_3_to_v5_4_tuning_changed_and_what_ends_it():
    assert list(V5_3.changes(V5_4)) == ["ending", "tuning"]


def test_v6_19_lacks_what_debians_builds_have_of_v7_2():
    assert list(V6_12.changes(V6_19)) == ["direct_injection"]
    assert (V6_12.hz, V6_19.hz) == (250, 1000)


def test_each_rule_can_be_read_without_the_one_before_it():
    for profile in PROFILES.values():
        for rule in profile.rules.values():
            assert "as before" not in rule.rule.does + rule.rule.effect
