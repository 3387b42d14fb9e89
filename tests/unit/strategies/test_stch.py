"""Smooth Tchebycheff scalarisation against equation 10 of Lin et al. (ICML 2024), by autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit.strategies import STCH


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def objective(losses, ideal, preference, mu):
    """Return mu log sum_i exp(lambda_i (L_i - z_i) / mu)."""
    return mu * (preference * (losses - ideal) / mu).exp().sum().log()


@pytest.mark.parametrize("mu", [0.1, 1.0])
@pytest.mark.parametrize("preference", [None, [1.0, 0.5, 2.0]])
def test_after_the_warm_up_the_step_descends_on_the_smooth_maximum(network, mu, preference):
    model, strategy = network(3), STCH(3, mu=mu, preference=preference, warmup=3)
    parameters, best = list(model.parameters()), torch.full((3,), math.inf, dtype=torch.float64)
    lam = vector(*(preference or [1.0] * 3))
    for step in range(6):
        losses = torch.stack(model.losses(model.encoder(model.rows)))
        if step < 3:
            best = torch.minimum(best, losses.detach())
            total = losses.sum()
        else:
            total = 3 * objective(losses, best, lam, mu)
        expected = torch.autograd.grad(total, parameters)
        measured = model.backward(strategy)
        for parameter, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-13)
        if preference is None:
            assert measured.weights.sum().item() == pytest.approx(3)
        model.step(0.1)
    torch.testing.assert_close(strategy.ideal, best)


def test_the_ideal_point_is_the_least_loss_of_the_warm_up():
    strategy = STCH(2, warmup=3)
    for losses in ((2.0, 5.0), (1.0, 6.0), (4.0, 3.0), (0.1, 0.1)):
        strategy.weights(vector(*losses))
    assert strategy.ideal.tolist() == [1.0, 3.0]


@settings(max_examples=40, deadline=None)
@given(losses=st.lists(st.floats(0, 50), min_size=2, max_size=5), mu=st.floats(0.05, 10))
def test_without_a_warm_up_the_ideal_point_is_0(losses, mu):
    weights = STCH(len(losses), mu=mu, warmup=0).weights(vector(*losses)).weights.numpy()
    powers = np.exp((np.array(losses) - max(losses)) / mu)
    np.testing.assert_allclose(weights, len(losses) * powers / powers.sum(), rtol=1e-9, atol=1e-300)


def test_with_little_smoothing_the_largest_term_alone_counts():
    weights = STCH(3, mu=1e-3, preference=[1.0, 4.0, 1.0], warmup=0).weights(vector(2.0, 1.0, 3.0)).weights
    assert weights.tolist() == [0.0, 12.0, 0.0]  # lambda_i L_i = 2, 4 and 3


def test_each_task_has_a_warm_up_of_its_own(network):
    model, strategy = network(3), STCH(3, warmup=2)
    for tasks in ([0, 1], [0, 1]):
        assert model.backward(strategy, tasks).weights.tolist() == [1.0, 1.0]
        model.step()
    assert strategy.ideal[2] == math.inf
    assert model.backward(strategy).weights.tolist() == [1.0, 1.0, 1.0]  # task 2 is still new
    dense = model.dense([1, 0])
    powers = (dense.losses - strategy.ideal[[1, 0]]).exp()
    expected = 2 * powers / powers.sum()
    model.backward(strategy, [1, 0])
    model.assert_shared(expected @ dense.rows)
    model.assert_heads(expected, dense, [1, 0])


def test_evaluation_counts_for_no_warm_up():
    strategy = STCH(2, warmup=1).eval()
    strategy.weights(vector(1.0, 1.0))
    assert strategy.steps.tolist() == [0.0, 0.0]
    assert strategy.ideal.tolist() == [math.inf, math.inf]


def test_one_preference_for_each_task():
    with pytest.raises(ValueError, match="one number for each of the 2 tasks; received 3"):
        STCH(2, preference=[1.0, 1.0, 1.0])
