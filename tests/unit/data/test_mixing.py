"""Mixing: sources are drawn as often as the formula says, and by seed, pass and step alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mtlkit.data import Mixing

SIZES = {"large": 900.0, "medium": 90.0, "small": 10.0}
STEPS = 4000
SEEN = settings(max_examples=100, deadline=None)
any_sizes = st.dictionaries(st.text(max_size=3), st.floats(1e-3, 1e9), min_size=1, max_size=6)
ALPHAS = st.floats(0, 1)


def draws(mixing, steps=STEPS):
    return [mixing.drawn(step, step, steps) for step in range(steps)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"large": 0.9, "medium": 0.09, "small": 0.01}),
        ({"first": 0.0, "last": 0.0}, {"large": 1 / 3, "medium": 1 / 3, "small": 1 / 3}),
        # Square roots: 30, 9.4868 and 3.1623, of 42.6491 in all.
        ({"first": 0.5, "last": 0.5}, {"large": 0.703415, "medium": 0.222439, "small": 0.074146}),
    ],
    ids=["proportional", "uniform", "temperature-2"],
)
def test_sources_are_drawn_as_often_as_the_formula_says(options, expected):
    mixing = Mixing(SIZES, seed=0, **options)
    assert mixing.probabilities(7, STEPS) == pytest.approx(expected, abs=1e-6)
    counts = Counter(draws(mixing))
    total = sum(expected.values())
    observed, likely = zip(*((counts[name], STEPS * p / total) for name, p in expected.items()), strict=True)
    assert chisquare(observed, likely).pvalue > 0.01


def test_annealing_goes_from_the_sizes_to_their_fifth_roots():
    """With alpha = 1 - 0.8 (e - 1) / (E - 1), epochs being steps."""
    mixing = Mixing(SIZES, first=1.0, last=0.2, seed=0)
    for step in (0, 1, 1000, STEPS - 1):
        alpha = 1 - 0.8 * step / (STEPS - 1)
        powers = {name: size**alpha for name, size in SIZES.items()}
        expected = {name: power / sum(powers.values()) for name, power in powers.items()}
        assert mixing.probabilities(step, STEPS) == pytest.approx(expected)
    counts = Counter(draws(mixing))
    sums = Counter()
    for step in range(STEPS):
        sums.update(mixing.probabilities(step, STEPS))
    assert chisquare([counts[name] for name in SIZES], [sums[name] for name in SIZES]).pvalue > 0.01
    early, late = Counter(draws(mixing)[:500]), Counter(draws(mixing)[-500:])
    assert late["small"] > 3 * early["small"]


@SEEN
@given(any_sizes, ALPHAS, ALPHAS, st.integers(1, 50), st.data())
def test_probabilities_are_those_of_a_distribution(sizes, first, last, steps, data):
    mixing = Mixing(sizes, first=first, last=last, seed=0)
    step = data.draw(st.integers(0, steps - 1))
    found = mixing.probabilities(step, steps)
    assert list(found) == list(sizes)
    assert sum(found.values()) == pytest.approx(1)
    assert all(0 <= p <= 1 for p in found.values())
    assert mixing.drawn(step, step, steps) in sizes


def test_a_run_of_one_step_draws_as_at_the_first():
    assert Mixing(SIZES, first=1.0, last=0.2, seed=0).probabilities(0, 1)["large"] == pytest.approx(0.9)


def test_successive_draws_are_independent():
    """Pairs of draws are as frequent as the products of the probabilities."""
    mixing = Mixing({"a": 2.0, "b": 1.0}, seed=3)
    each = draws(mixing)
    pairs = Counter(zip(each[::2], each[1::2], strict=True))
    expected = {("a", "a"): 4 / 9, ("a", "b"): 2 / 9, ("b", "a"): 2 / 9, ("b", "b"): 1 / 9}
    assert chisquare([pairs[pair] for pair in expected], [STEPS / 2 * p for p in expected.values()]).pvalue > 0.01


def test_what_is_drawn_depends_on_the_number_of_the_pass_alone():
    mixing = Mixing(SIZES, seed=0)
    forwards = [mixing.drawn(number, 0, 1) for number in range(50)]
    assert [mixing.drawn(number, 0, 1) for number in reversed(range(50))] == forwards[::-1]
    assert [Mixing(SIZES, seed=1).drawn(number, 0, 1) for number in range(50)] != forwards


def test_random_state_is_neither_used_nor_changed():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draws(Mixing(SIZES, seed=0), 20)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert draws(Mixing(SIZES, seed=0), 20) == first


@pytest.mark.parametrize("sizes", [{}, {"a": 0.0}, {"a": 1.0, "b": -1.0}, {"a": float("nan")}])
def test_sizes_that_cannot_be_are_refused(sizes):
    with pytest.raises(ValueError, match="size above 0; received"):
        Mixing(sizes, seed=0)
