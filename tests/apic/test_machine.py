# SPDX-License-Identifier: GPL-2.0-or-later
"""Anything at all can happen to several APICs, and what `check` says holds after every step; a restored twin
has the same future to the last bit.

The bulk is a plain seeded walk, for speed; a smaller state machine of Hypothesis finds short examples.
"""

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.apic_world import a_world
from vlapic.kernels.profiles import SERIES, V5_0, V5_1, V5_2, V5_3, V5_4, V5_14, V6_1, V6_12, V6_19

KERNELS = (V5_0, V5_1, V5_2, V5_3, V5_4, V5_14, V6_1, V6_12, V6_19)
STEPS_A_WORLD = 1_000
STEPS_WITHOUT_TWIN = 100
STEPS_WITH_TWIN = 25


def walk(seed, steps, **world_of):
    """Take steps at random in one world after another, a while alone and a while beside a twin."""
    source = random.Random(seed)
    taken = 0
    while taken < steps:
        world = a_world(source, **world_of)
        history = []
        try:
            for index in range(STEPS_A_WORLD):
                place = index % (STEPS_WITHOUT_TWIN + STEPS_WITH_TWIN)
                if place == 0:
                    twin = None
                elif place == STEPS_WITHOUT_TWIN:
                    world.forget_what_was_told()
                    twin = world.twin()
                step = world.draw(source)
                history.append(step)
                answer = world.play(step)
                world.check()
                if twin is not None:
                    assert twin.play(step) == answer
                    assert twin.everything() == world.everything()
        except AssertionError as error:
            error.add_note(f"seed {seed}, after {taken} steps, kinds {world.kinds}: ... {history[-12:]}")
            raise
        taken += STEPS_A_WORLD


def test_a_short_walk_finds_nothing_amiss():
    walk(seed=2019, steps=20_000)


@pytest.mark.parametrize("apicv", [False, True], ids=["", "apicv"])
@pytest.mark.parametrize("profile", KERNELS, ids=lambda each: each.name)
def test_a_short_walk_in_any_kernel_finds_nothing_amiss(profile, apicv):
    walk(seed=2019, steps=2_000, profile=profile, apicv=apicv)


@pytest.mark.hunt
@pytest.mark.parametrize("profile", KERNELS, ids=lambda each: each.name)
def test_a_long_walk_in_any_kernel_finds_nothing_amiss(profile):
    walk(seed=5, steps=10_000, profile=profile)
    walk(seed=6, steps=10_000, profile=profile, apicv=True)


@pytest.mark.hunt
@pytest.mark.parametrize("seed", range(20))
def test_a_million_random_steps_find_nothing_amiss(seed):
    walk(seed, steps=50_000)


def test_the_same_seed_takes_the_same_steps():
    def steps():
        source = random.Random(5)
        world = a_world(source)
        return [(step := world.draw(source), world.play(step)) for _ in range(300)], world.everything()

    assert steps() == steps()


class Apics(RuleBasedStateMachine):
    """The same steps, drawn by Hypothesis."""

    randoms = st.randoms(use_true_random=False)

    def __init__(self):
        super().__init__()
        self.world = self.twin = None

    @initialize(source=randoms)
    def begin(self, source):
        self.world = a_world(source, source.choice((SERIES, *KERNELS)), source.random() < 0.3)

    @rule(source=randoms)
    def step(self, source):
        step = self.world.draw(source)
        answer = self.world.play(step)
        if self.twin is not None:
            assert self.twin.play(step) == answer
            assert self.twin.everything() == self.world.everything()

    @rule()
    def save_and_restore_beside(self):
        self.world.forget_what_was_told()
        self.twin = self.world.twin()

    @precondition(lambda self: self.twin is not None)
    @rule()
    def go_on_in_the_restored_ones(self):
        self.world, self.twin = self.twin, None

    @invariant()
    def whole_state_is_legal(self):
        if self.world is not None:
            self.world.check()


TestApics = Apics.TestCase
TestApics.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
