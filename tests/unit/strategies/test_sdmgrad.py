"""SDMGrad against min over the simplex of 0.5 ||g_w + lambda g_0||^2 (Xiao, Ban, Ji, NeurIPS 2023)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtlkit.strategies import MGDA, SDMGrad

SEEDS = st.integers(0, 2**32 - 1)


def direction_of(gradients, lam):
    """Return (g_w + lambda g_0) / (1 + lambda): of all faces' affine minima that lie inside, the shortest."""
    held, best = lam * gradients.mean(0), None
    for size in range(1, len(gradients) + 1):
        for face in map(list, itertools.combinations(range(len(gradients)), size)):
            edges = gradients[face[1:]] - gradients[face[0]]
            steps = np.linalg.lstsq(edges.T, -gradients[face[0]] - held, rcond=None)[0]
            weights = np.array([1 - steps.sum(), *steps])
            if (weights >= -1e-12).all():
                sum_ = weights @ gradients[face] + held
                if best is None or np.linalg.norm(sum_) < np.linalg.norm(best) - 1e-13:
                    best = sum_
    return best / (1 + lam)


def random_gradients(seed, n_tasks, size=6):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_tasks, size)) * np.exp(rng.normal(size=(n_tasks, 1)))


def weights_of(gradients, lam):
    rows = torch.from_numpy(gradients)
    return SDMGrad(len(rows), lam=lam).weights(torch.ones(len(rows)).double(), rows @ rows.T).weights.numpy()


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(1, 5), st.sampled_from([0.0, 0.3, 3.0]))
def test_the_direction_is_that_of_the_minimum(seed, n_tasks, lam):
    gradients = random_gradients(seed, n_tasks)
    weights = weights_of(gradients, lam)
    np.testing.assert_allclose(weights @ gradients, direction_of(gradients, lam), atol=1e-6)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.floats(0, 10))
def test_the_conditions_of_the_minimum_hold(seed, lam):
    """KKT: g_i . (g_w + lambda g_0) is least, and equal, where w is not 0."""
    gradients = random_gradients(seed, 5)
    weights = weights_of(gradients, lam)
    products = gradients @ (weights @ gradients)
    w = (1 + lam) * weights - lam / 5
    slack = 1e-8 * (gradients**2).sum(1).max()
    assert (w >= -1e-12).all()
    np.testing.assert_allclose(products[w > 1e-6], products.min(), atol=slack)


def test_with_lambda_of_0_it_is_mgda():
    gradients = random_gradients(1, 4)
    rows = torch.from_numpy(gradients)
    expected = MGDA(4).weights(torch.ones(4).double(), rows @ rows.T).weights
    np.testing.assert_allclose(weights_of(gradients, 0.0), expected, atol=1e-9)


def test_with_a_large_lambda_it_is_the_mean_gradient():
    np.testing.assert_allclose(weights_of(random_gradients(1, 4), 1e9), 1 / 4, atol=1e-8)


@pytest.mark.parametrize("lam", [0.3, 2.0])
def test_a_run_takes_the_minimum(network, lam):
    model, strategy = network(3, seed=28), SDMGrad(3, lam=lam)
    for tasks in (None, None, [2, 0]):
        dense = model.dense(tasks)
        weights = model.backward(strategy, tasks).weights
        model.assert_shared(torch.from_numpy(direction_of(dense.rows.numpy(), lam)), rtol=1e-7, atol=1e-9)
        model.assert_heads(weights, dense, tasks)
        model.step()
