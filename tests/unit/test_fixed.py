"""The fixed strategy against sum_t alpha_t L_t, written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mtlkit import backward
from mtlkit.strategies import Fixed, Needs

POSITIVE = st.floats(1e-3, 1e3)


def losses(values):
    return torch.tensor(values, dtype=torch.float64)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=8))
def test_the_gradient_is_that_of_the_weighted_sum(pairs):
    alpha, targets = (list(column) for column in zip(*pairs, strict=True))
    point = nn.Parameter(torch.linspace(-1, 1, 5, dtype=torch.float64))
    each = [(point.square().sum() - target).square() for target in targets]

    measured = backward(each, strategy=Fixed(len(pairs), alpha=alpha))

    # d/dx (x.x - c)^2 = 4 (x.x - c) x
    square = float(point.detach().square().sum())
    slope = sum(4 * a * (square - c) for a, c in pairs)
    torch.testing.assert_close(point.grad, slope * point.detach(), rtol=1e-12, atol=1e-9)
    assert measured.weights.tolist() == alpha


def test_the_weights_are_1_unless_set():
    assert Fixed(3).weights(losses([1.0, 2.0, 3.0])).weights.tolist() == [1.0, 1.0, 1.0]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2))
def test_the_losses_change_nothing(values):
    assert Fixed(2, alpha=[0.25, 4.0]).weights(losses(values)).weights.tolist() == [0.25, 4.0]


def test_tasks_that_are_absent_are_left_out():
    answer = Fixed(3, alpha=[1.0, 2.0, 3.0]).weights(losses([0.5, 0.5]), tasks=torch.tensor([0, 2]))
    assert answer.weights.tolist() == [1.0, 3.0]


def test_what_it_answers_is_no_view_of_its_state():
    strategy = Fixed(2)
    strategy.weights(losses([1.0, 1.0])).weights.zero_()
    assert strategy.weights(losses([1.0, 1.0])).weights.tolist() == [1.0, 1.0]


def test_it_asks_for_nothing_and_learns_nothing():
    strategy = Fixed(2)
    assert strategy.needs is Needs.LOSSES
    assert strategy.over is None
    assert strategy.parameter_groups() == []


def test_a_checkpoint_brings_its_weights_back():
    restored = Fixed(2)
    restored.load_state_dict(Fixed(2, alpha=[0.1, 0.9]).state_dict())
    assert restored.weights(losses([1.0, 1.0])).weights.tolist() == [0.1, 0.9]


@pytest.mark.parametrize("alpha", [[], [1.0], [1.0, 1.0, 1.0]])
def test_one_weight_for_each_task(alpha):
    with pytest.raises(ValueError, match=rf"one weight for each of the 2 tasks; received {len(alpha)}"):
        Fixed(2, alpha=alpha)


def test_there_is_at_least_one_task():
    with pytest.raises(ValueError, match="at least 1; received 0"):
        Fixed(0)
