"""The geometric loss strategy against the gradient of the geometric mean (Chennupati et al., CVPRW 2019)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit.strategies import GLS


@pytest.mark.parametrize("n_tasks", [1, 2, 4])
def test_the_step_descends_on_the_geometric_mean(network, n_tasks):
    model, strategy = network(n_tasks), GLS(n_tasks)
    for _ in range(3):
        total = torch.stack(model.losses(model.encoder(model.rows))).prod() ** (1 / n_tasks)
        parameters = list(model.parameters())
        expected = torch.autograd.grad(total, parameters)
        measured = model.backward(strategy)
        for parameter, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-14)
        # Of degree 1 in the losses: the weighted losses sum to the total.
        assert float(measured.weights @ measured.losses) == pytest.approx(total.item())
        model.step()


def test_tasks_that_are_absent_are_left_out_of_the_mean(network):
    model = network(3)
    dense = model.dense([2, 0])
    expected = dense.losses.prod().sqrt() / (2 * dense.losses)
    measured = model.backward(GLS(3), [2, 0])
    torch.testing.assert_close(measured.weights, expected)
    model.assert_shared(expected @ dense.rows)
    model.assert_heads(expected, dense, [2, 0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=6), st.floats(1e-3, 1e3))
def test_the_scale_of_a_loss_changes_no_share_of_the_step(losses, factor):
    before = GLS(len(losses)).weights(torch.tensor(losses, dtype=torch.float64)).weights.numpy() * losses
    losses[0] *= factor
    after = GLS(len(losses)).weights(torch.tensor(losses, dtype=torch.float64)).weights.numpy() * losses
    np.testing.assert_allclose(after / after.sum(), before / before.sum(), rtol=1e-9)
    np.testing.assert_allclose(after.sum(), math.exp(np.mean(np.log(losses))), rtol=1e-9)


@pytest.mark.parametrize("loss", [0.0, -1.0])
def test_a_loss_that_is_not_positive_leaves_the_weights_finite(loss):
    weights = GLS(2).weights(torch.tensor([loss, 1.0], dtype=torch.float64)).weights
    np.testing.assert_allclose(weights, [0.5e10, 0.5e-10])  # as for a loss of 1e-20
