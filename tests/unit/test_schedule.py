"""Learning-rate schedules."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtlkit.schedule import Schedule

SHAPES = ["constant", "linear", "cosine", "step"]
STEPS = st.integers(1, 500)
any_schedule = st.builds(
    Schedule,
    shape=st.sampled_from(SHAPES),
    warmup=st.floats(0, 0.9),
    final=st.floats(0, 1),
    milestones=st.lists(st.floats(0, 1, exclude_min=True, exclude_max=True), max_size=3).map(tuple),
    gamma=st.floats(0.01, 1),
)


def factors(schedule, steps):
    return [schedule.factor(step, steps) for step in range(steps)]


@given(any_schedule, STEPS)
def test_a_factor_is_above_0_and_at_most_1(schedule, steps):
    assert all(0 < factor <= 1 for factor in factors(schedule, steps))


@given(any_schedule, STEPS)
def test_it_climbs_while_warming_up_and_never_after(schedule, steps):
    warm = round(schedule.warmup * steps)
    every = factors(schedule, steps)
    assert every[:warm] == sorted(set(every[:warm]))
    after = every[warm:]
    assert all(b <= a + 1e-15 for a, b in pairwise(after))


@pytest.mark.parametrize("shape", SHAPES)
@given(steps=STEPS, warmup=st.floats(0, 0.9))
def test_it_starts_from_1_after_the_warm_up(shape, steps, warmup):
    warm = round(warmup * steps)
    if warm < steps:
        assert Schedule(shape=shape, warmup=warmup, milestones=(0.95,)).factor(warm, steps) in {1.0, 0.1}
        assert Schedule(shape=shape, warmup=warmup).factor(warm, steps) == 1.0


def test_the_warm_up_is_linear():
    assert factors(Schedule(warmup=0.4), 10) == pytest.approx([0.2, 0.4, 0.6, 0.8, *[1.0] * 6])


def test_constant():
    assert factors(Schedule(), 5) == [1.0] * 5


def test_linear_heads_for_its_final_factor():
    assert factors(Schedule(shape="linear"), 4) == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert factors(Schedule(shape="linear", final=0.5), 4) == pytest.approx([1.0, 0.875, 0.75, 0.625])


def test_cosine_heads_for_its_final_factor():
    half = math.sqrt(0.5)
    assert factors(Schedule(shape="cosine"), 4) == pytest.approx([1.0, (1 + half) / 2, 0.5, (1 - half) / 2])
    assert factors(Schedule(shape="cosine", final=0.2), 2) == pytest.approx([1.0, 0.6])


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@given(final=st.floats(0, 1), warmup=st.floats(0, 0.9), steps=STEPS)
def test_after_the_last_step_the_final_factor_is_reached(shape, final, warmup, steps):
    assert Schedule(shape=shape, final=final, warmup=warmup).factor(steps, steps) == pytest.approx(
        1.0 if round(warmup * steps) == steps else final, abs=1e-12
    )


def test_the_warm_up_comes_before_the_decline():
    assert factors(Schedule(shape="linear", warmup=0.5), 4) == pytest.approx([1 / 3, 2 / 3, 1.0, 0.5])


def test_step_drops_at_each_milestone():
    schedule = Schedule(shape="step", milestones=(0.5, 0.8), gamma=0.1)
    assert factors(schedule, 10) == pytest.approx([1.0] * 5 + [0.1] * 3 + [0.01] * 2)


@pytest.mark.parametrize("percent", range(1, 100))
def test_a_milestone_in_per_cent_drops_at_that_step_of_a_hundred(percent):
    schedule = Schedule(shape="step", milestones=(percent / 100,), gamma=0.5)
    assert schedule.factor(percent - 1, 100) == 1.0
    assert schedule.factor(percent, 100) == 0.5


def test_a_schedule_has_no_state():
    schedule = Schedule(shape="cosine", warmup=0.1)
    later = schedule.factor(70, 100)
    assert schedule.factor(3, 100) == schedule.factor(3, 100)
    assert schedule.factor(70, 100) == later
